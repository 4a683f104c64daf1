"""Readers of labelled folders: the released layouts, old and new, and what ``clk clear build`` writes -> streams.

Every bucket has its own list, buckets in numeric order; both protocols.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import define, field, frozen
from PIL import Image

from cl_kernel import (
    ArraySamples,
    Asset,
    BadInput,
    BadSetting,
    Field,
    MissingAsset,
    Stage,
    Stream,
    fingerprint,
    open_picture,
)
from cl_plugin_clear.data.labels import LABELED_IMAGES
from cl_plugin_clear.data.members import bucket_number, load_features, members_of, read_class_names
from cl_plugin_clear.data.split import train_test, train_test_by_class

if TYPE_CHECKING:
    from cl_kernel import Resources
    from cl_plugin_clear.settings import Released


@frozen
class Item:
    """One labelled picture: path relative to the folder it was read from, class index, id, label."""

    path: str
    label: int
    id: str
    name: str


@frozen
class Part:
    """A folder with labelled pictures: ``train``, ``test`` or the whole of an old release."""

    folder: Path
    class_names: list[str]
    buckets: dict[int, list[Item]]


@frozen
class Release:
    """A labelled folder of either layout.

    :param test: the hold-out part of the new layout; None in the old one, which is split inside each bucket.
    """

    root: Path
    train: Part
    test: Part | None

    @property
    def layout(self) -> str:
        """``new`` or ``old``."""
        return "old" if self.test is None else "new"


def read_release(root: Path) -> Release:
    """Recognise the layout and read its lists.

    :raises MissingAsset: when the folder is neither. :raises BadInput: for inner contradictions.
    """
    if (root / "train" / "class_names.txt").exists():
        train = read_part(root / "train")
        test = read_part(root / "test") if (root / "test" / "class_names.txt").exists() else None
        if test is not None and test.class_names != train.class_names:
            raise BadInput("train and test have other class names", where=str(root))
        if test is not None and set(test.buckets) != set(train.buckets):
            raise BadInput(f"train has buckets {sorted(train.buckets)}, test {sorted(test.buckets)}", where=str(root))
        return Release(root, train, test)
    if (root / "class_names.txt").exists():
        return Release(root, read_part(root), None)
    raise MissingAsset(
        "no labelled folder: neither class_names.txt nor train/class_names.txt",
        where=str(root),
        fix="give the folder that holds them: --dataset folder:PATH",
    )


def read_part(folder: Path) -> Part:
    """Lists of one part, from its metadata, else from its training folder's file lists."""
    if (folder / "labeled_metadata.json").exists():
        names, members = members_of(folder)
        index = {name: i for i, name in enumerate(names)}
        # the new layout goes by class order, the old one by the metadata's own: its file lists were made that way
        by_class = folder.name in ("train", "test")
        buckets = {}
        for bucket, classes in members.items():
            order = sorted(classes, key=index.__getitem__) if by_class else list(classes)
            buckets[int(bucket)] = [
                Item(_inside(record.get("IMG_PATH", ""), bucket, label, photo, record), index[label], photo, label)
                for label in order
                for photo, record in classes[label].items()
            ]
        return Part(folder, names, dict(sorted(buckets.items())))
    names = read_class_names(folder / "class_names.txt")
    lists = folder / "training_folder" / "filelists"
    if not lists.is_dir():
        raise MissingAsset("neither labeled_metadata.json nor training_folder/filelists", where=str(folder))
    found = {}
    for path in sorted(lists.glob("*/all.txt"), key=lambda p: bucket_number(p.parent.name)):
        found[int(path.parent.name)] = _listed(path, names)
    return Part(folder, names, found)


def _listed(path: Path, names: Sequence[str]) -> list[Item]:
    items = []
    for row, line in enumerate(path.read_text().splitlines()):
        name, _, label = line.rpartition(" ")
        if not name or not label.isdigit() or int(label) >= len(names):
            raise BadInput(f"line {row + 1} reads {line!r}, not 'path class_index'", where=str(path))
        items.append(Item(name, int(label), Path(name).stem, names[int(label)]))
    return items


def _inside(path: str, bucket: str, label: str, photo: str, record: Mapping[str, Any]) -> str:
    # releases may carry absolute paths of the authors' machines: everything from labeled_images on counts
    at = path.find(f"{LABELED_IMAGES}/")
    if at >= 0:
        return path[at:]
    return f"{LABELED_IMAGES}/{bucket}/{label}/{photo}.{record.get('EXT') or 'jpg'}"


@define
class Pictures:
    """Pictures decoded when taken: shorter side resized, centre crop, uint8 [n, S, S, 3]."""

    folder_of: Sequence[Path]
    items: Sequence[Item]
    size: int
    n_classes: int
    spec: Mapping[str, Field] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.spec = {
            "image": Field(shape=(self.size, self.size, 3), dtype="uint8", kind="image"),
            "class": Field(shape=(), dtype="int64", kind="class", n=self.n_classes),
        }

    def __len__(self) -> int:
        return len(self.items)

    def take(self, rows: np.ndarray, fields: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """A batch.

        :raises BadInput: naming a picture that cannot be read.
        """
        wanted = fields or tuple(self.spec)
        out: dict[str, np.ndarray] = {}
        if "image" in wanted:
            out["image"] = (
                np.stack([read_picture(self.folder_of[row] / self.items[row].path, self.size) for row in rows])
                if len(rows)
                else np.empty((0, self.size, self.size, 3), np.uint8)
            )
        if "class" in wanted:
            out["class"] = np.array([self.items[row].label for row in rows], np.int64)
        return out


def read_picture(path: Path, size: int) -> np.ndarray:
    """Resize the shorter side, crop the centre: uint8 [S, S, 3].

    :raises BadInput: when it cannot be read.
    """
    return centre_crop(open_picture(path), size)


def centre_crop(picture: Image.Image, size: int) -> np.ndarray:
    """Resize the shorter side, crop the centre: uint8 [S, S, 3]."""
    width, height = picture.size
    if width <= height:
        new = size, max(size, int(size * height / width))
    else:
        new = max(size, int(size * width / height)), size
    picture = picture.resize(new, Image.Resampling.BILINEAR)
    left, top = round((new[0] - size) / 2), round((new[1] - size) / 2)
    return np.asarray(picture.crop((left, top, left + size, top + size)))


def feature_rows(part: Part, name: str, bucket: int) -> np.ndarray:
    """float32 [n, d] of a bucket's items: from ``features/`` by id, else from the training folder's list.

    :raises MissingAsset: naming what is not there.
    """
    import torch

    from cl_kernel.torch import state

    items = part.buckets[bucket]
    folder = part.folder / "features" / name / str(bucket)
    if folder.is_dir():
        tables: dict[str, dict[str, Any]] = {}
        rows = []
        for item in items:
            if item.name not in tables:
                tables[item.name] = load_features(folder / f"{item.name}.pth")
            if item.id not in tables[item.name]:
                raise MissingAsset(f"no {name} feature of {item.id}", where=str(folder / f"{item.name}.pth"))
            rows.append(tables[item.name][item.id])
        return torch.stack(rows).float().numpy()  # type: ignore[no-any-return]
    listed = part.folder / "training_folder" / "features" / name / str(bucket) / "all.pth"
    if not listed.exists():
        known = sorted(
            {p.name for where in ("features", "training_folder/features") for p in (part.folder / where).glob("*")}
        )
        raise MissingAsset(
            f"no feature set {name!r} of bucket {bucket}; there are: {', '.join(known) or 'none'}",
            where=str(part.folder),
            fix="--set dataset.features=NAME, or clk clear features",
        )
    tensor, labels = state.read_file(listed)
    if len(tensor) != len(items) or [int(v) for v in labels] != [item.label for item in items]:
        raise BadInput(f"the feature list of bucket {bucket} does not go with its pictures", where=str(listed))
    return tensor.float().numpy()  # type: ignore[no-any-return]


def build_stream(settings: Released, root: Path, name: str) -> Stream:
    """A stream of either kind and protocol from a labelled folder."""
    release = read_release(root)
    buckets = [b for b in release.train.buckets if b not in settings.skip_buckets]
    if not buckets:
        raise BadInput(
            f"only the buckets {sorted(release.train.buckets)}, all of them left out",
            where=str(root),
            fix="--set dataset.skip_buckets=[]",
        )
    parts = [release.train] if release.test is None else [release.train, release.test]
    trains, tests = [], []
    for bucket in buckets:
        everything = [(part, i) for part in parts for i in range(len(part.buckets[bucket]))]
        if settings.protocol == "streaming":
            train = test = everything
        elif release.test is not None:
            train = [pair for pair in everything if pair[0] is release.train]
            test = [pair for pair in everything if pair[0] is release.test]
        else:
            train, test = _split(release.train, bucket, settings)
        if not train or not test:
            raise BadInput(f"bucket {bucket} has {len(train)} training and {len(test)} test pictures", where=str(root))
        trains.append((bucket, train))
        tests.append((bucket, test))
    make = _features_of(settings) if settings.features else _pictures_of(settings)
    n_classes = len(release.train.class_names)
    stages = [
        Stage(
            index=i,
            name=str(bucket),
            train=make(bucket, pairs, n_classes),
            classes=tuple(range(n_classes)) if i == 0 else (),
        )
        for i, (bucket, pairs) in enumerate(trains)
    ]
    whole = [(bucket, pair) for bucket, pairs in tests for pair in pairs]
    test_samples = _joined([make(bucket, pairs, n_classes) for bucket, pairs in tests])
    sets, at = {}, 0
    for bucket, pairs in tests:
        sets[str(bucket)] = np.arange(at, at + len(pairs))
        at += len(pairs)
    digest = fingerprint(
        settings.protocol,
        settings.features,
        [(b, p.buckets[b][i].id) for b, pairs in trains for p, i in pairs],
        [(b, p.buckets[b][i].id) for b, (p, i) in whole],
    )
    task = "vector -> class" if settings.features else "image -> class"
    return Stream(
        name=name,
        task=task,
        stages=stages,
        test=test_samples,
        test_sets=sets,
        class_names=tuple(release.train.class_names),
        fingerprint=digest,
        info={"protocol": settings.protocol, "layout": release.layout, "buckets": buckets},
    )


def _split(part: Part, bucket: int, settings: Released) -> tuple[list[tuple[Part, int]], list[tuple[Part, int]]]:
    items = part.buckets[bucket]
    ready = (
        part.folder
        / "training_folder"
        / f"testset_ratio_{settings.test_ratio:g}"
        / f"split_{settings.split_seed}"
        / str(bucket)
    )
    if not settings.stratified and (ready / "train_indices.json").exists():
        import json

        train, test = (json.loads((ready / f"{side}_indices.json").read_text()) for side in ("train", "test"))
        if sorted([*train, *test]) != list(range(len(items))):
            raise BadInput(
                "the saved split does not go with the pictures",
                where=str(ready),
                fix="remove it, or --set dataset.stratified=true",
            )
    elif settings.stratified:
        train, test = train_test_by_class([item.label for item in items], settings.test_ratio, settings.split_seed)
    else:
        train, test = train_test(len(items), settings.test_ratio, settings.split_seed)
    return [(part, row) for row in train], [(part, row) for row in test]


def _pictures_of(settings: Released) -> Any:
    def make(bucket: int, pairs: Sequence[tuple[Part, int]], n_classes: int) -> Pictures:
        return Pictures(
            [part.folder for part, _ in pairs],
            [part.buckets[bucket][i] for part, i in pairs],
            settings.image_size,
            n_classes,
        )

    return make


def _features_of(settings: Released) -> Any:
    cache: dict[tuple[int, int], np.ndarray] = {}

    def make(bucket: int, pairs: Sequence[tuple[Part, int]], n_classes: int) -> ArraySamples:
        rows = []
        for part, i in pairs:
            key = id(part), bucket
            if key not in cache:
                cache[key] = feature_rows(part, settings.features, bucket)
            rows.append(cache[key][i])
        vectors = np.stack(rows)
        spec = {
            "vector": Field(shape=(vectors.shape[1],), dtype="float32", kind="vector"),
            "class": Field(shape=(), dtype="int64", kind="class", n=n_classes),
        }
        return ArraySamples(
            spec, {"vector": vectors, "class": np.array([p.buckets[bucket][i].label for p, i in pairs], np.int64)}
        )

    return make


def _joined(parts: Sequence[Any]) -> Any:
    first = parts[0]
    if isinstance(first, Pictures):
        return Pictures(
            [f for p in parts for f in p.folder_of],
            [item for p in parts for item in p.items],
            first.size,
            first.n_classes,
        )
    return ArraySamples(first.spec, {name: np.concatenate([p.arrays[name] for p in parts]) for name in first.arrays})


def _root(settings: Released, resources: Resources, name: str) -> Path:
    if settings.path:
        path = Path(settings.path).expanduser()
        if not path.is_dir():
            raise MissingAsset(f"no folder {settings.path}", where="dataset.path")
        return path
    if name == "folder":
        raise BadSetting("which folder?", where="dataset.path", fix="--dataset clear:folder:PATH")
    from cl_plugin_clear.plugin import ORIGIN, RELEASES

    layout, summary = RELEASES[name]
    files = ("train/class_names.txt", "test/class_names.txt") if layout == "new" else ("class_names.txt",)
    return resources.locate(Asset(name=name, summary=summary, files=files, origin=ORIGIN))


def _build(settings: Released, resources: Resources, name: str, features: bool) -> Stream:
    from attrs import evolve

    if features and not settings.features:
        raise BadSetting("which feature set?", where="dataset.features", fix="--set dataset.features=moco_b0")
    settings = settings if features else evolve(settings, features="")
    return build_stream(settings, _root(settings, resources, name), f"clear:{name}{'-features' if features else ''}")


def build_pictures(settings: Released, resources: Resources) -> Stream:
    """Any labelled folder, as pictures."""
    return _build(settings, resources, "folder", False)


def build_features(settings: Released, resources: Resources) -> Stream:
    """Any labelled folder, as features."""
    return _build(settings, resources, "folder", True)


def __getattr__(name: str) -> Callable[[Released, Resources], Stream]:
    """``build_NAME`` and ``build_NAME_features`` of every published archive, see :data:`RELEASES`."""
    from cl_plugin_clear.plugin import RELEASES

    archive = name.removeprefix("build_").removesuffix("_features")
    if not name.startswith("build_") or archive not in RELEASES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return partial(_build, name=archive, features=name.endswith("_features"))
