"""Streams: images on disk or in memory, in the order that task lists give.

Shapes: N images, n a batch, S side of the square images.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from attrs import define, field
from PIL import Image

from cl_kernel import (
    ArraySamples,
    BadInput,
    BadSetting,
    Field,
    MissingAsset,
    Resources,
    Samples,
    Stage,
    Stream,
    fingerprint,
    subset,
)
from cl_plugin_crumb import settings as choices
from cl_plugin_crumb import standin
from cl_plugin_crumb.data import dirmap, lists

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".JPEG", ".JPG", ".PNG")


def read_image(path: Path, size: int) -> np.ndarray:
    """An image as uint8 [S, S, 3], resized bilinearly without keeping its aspect (spec 4.1).

    :raises BadInput: naming the file that cannot be read.
    """
    try:
        with Image.open(path) as image:
            rgb = image.convert("RGB")
            if rgb.size != (size, size):
                rgb = rgb.resize((size, size), Image.Resampling.BILINEAR)
            return np.asarray(rgb)
    except (OSError, SyntaxError, ValueError) as error:
        raise BadInput(
            f"cannot read the image: {error}",
            where=str(path),
            fix="mend the file, or go on without it: --on-bad-sample skip",
        ) from error


@define
class ImageFiles:
    """Images on disk with their labels, decoded when a batch is taken."""

    root: Path
    paths: Sequence[str]
    labels: np.ndarray
    size: int
    n_classes: int
    n_workers: int = 0
    _pool: ThreadPoolExecutor | None = field(default=None, init=False, repr=False)

    @property
    def spec(self) -> Mapping[str, Field]:
        """``image`` uint8 [S, S, 3] and ``class``."""
        return image_fields(self.size, self.n_classes)

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, rows: np.ndarray, fields: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """A batch; images are decoded side by side. Labels alone touch no file."""
        out: dict[str, np.ndarray] = {}
        for name in fields or ("image", "class"):
            out[name] = self.labels[rows] if name == "class" else self._images(rows)
        return out

    def _images(self, rows: np.ndarray) -> np.ndarray:
        if not len(rows):
            return np.zeros((0, self.size, self.size, 3), np.uint8)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(max(1, self.n_workers or min(4, os.cpu_count() or 1)))
        paths = [self.root / self.paths[row] for row in rows]
        return np.stack(list(self._pool.map(read_image, paths, [self.size] * len(paths))))


def styled(samples: Samples, folder: str) -> ImageFiles:
    """The same images in another style: a parallel tree of ``.png`` files, like Stylized-ImageNet's.

    :raises BadSetting: when the images are no files. :raises MissingAsset: naming the first one without its pair.
    """
    root = Path(folder).expanduser()
    rows = getattr(samples, "rows", np.arange(len(samples)))
    files = getattr(samples, "base", samples)
    if not isinstance(files, ImageFiles):
        raise BadSetting(
            "only images read from files have a pair in another style",
            where="learner.style",
            fix="dataset.in_memory=false",
        )
    paths = [str(Path(files.paths[row]).with_suffix(".png")) for row in rows]
    if absent := [path for path in paths if not (root / path).is_file()]:
        raise MissingAsset(
            f"{len(absent)} of {len(paths)} test images have no pair, the first: {absent[0]}",
            where=str(root),
            fix="lay the stylised images out under the same names, ending in .png",
        )
    return ImageFiles(root, paths, files.labels[rows], files.size, files.n_classes, files.n_workers)


def image_fields(size: int, n_classes: int) -> dict[str, Field]:
    """Fields of labelled square images."""
    return {
        "image": Field(shape=(size, size, 3), dtype="uint8", kind="image"),
        "class": Field(shape=(), dtype="int64", kind="class", n=n_classes),
    }


def of_lists(
    name: str,
    made: lists.Lists,
    images: Samples,
    rows_of: Mapping[str, int],
    class_names: Mapping[object, str],
    digest: str,
    info: Mapping[str, object],
) -> Stream:
    """A stream in the order of task lists; test set j holds the classes that task j brings.

    :param images: all images with the labels of these lists; ``rows_of``: path -> row of it.
    """
    stages, test_sets, seen = [], {}, set()
    test_labels = made.test["label"].to_numpy()
    test_rows = np.array([rows_of[path] for path in made.test["im_path"]], dtype=np.int64)
    for number, task in enumerate(made.tasks):
        new = tuple(c for c in dict.fromkeys(task["label"].tolist()) if c not in seen)
        seen |= set(new)
        rows = np.array([rows_of[path] for path in task["im_path"]], dtype=np.int64)
        own = "+".join(str(class_names[made.classes[c]]) for c in new[:3]) + ("..." if len(new) > 3 else "")
        stage_name = f"task {number}" + (f": {own}" if own else "")
        stages.append(Stage(index=number, name=stage_name, train=subset(images, rows), classes=new))
        if new:
            members = np.flatnonzero(np.isin(test_labels, new))
            if not len(members):
                raise BadInput(f"no test images of class {own}", where=f"data set {name!r}")
            test_sets[stage_name] = members
    names = tuple(str(class_names[c]) for c in made.classes)
    return Stream(
        name=name,
        task="image -> class",
        stages=stages,
        test=subset(images, test_rows),
        test_sets=test_sets,
        class_names=names,
        fingerprint=digest,
        info=dict(info),
    )


def build_standin(options: choices.Ministream, resources: Resources) -> Stream:
    """The embedded stream; the class order is that of ``options.order``, or of the run's seed."""
    images = standin.stream(options.data_seed, n_objects=options.n_objects)
    order = resources.seed if options.order < 0 else options.order
    made = lists.make(
        "ministream",
        images.table,
        options.scenario,
        run=order,
        offline=options.offline,
        test_sessions=standin.TEST_SESSIONS,
        n_class=options.classes_per_task,
        n_instance=options.clips_per_task,
        task_size_iid=options.images_per_task,
    )
    label_of = {c: label for label, c in enumerate(made.classes)}
    labels = images.table["class"].map(label_of).to_numpy(np.int64)
    samples = ArraySamples(image_fields(standin.SIZE, len(made.classes)), {"image": images.pixels, "class": labels})
    rows_of = {path: row for row, path in enumerate(images.table["im_path"])}
    return of_lists(
        "ministream",
        made,
        samples,
        rows_of,
        dict(enumerate(images.names)),
        fingerprint(images.pixels, options.scenario, order, options.offline),
        {"scenario": options.scenario, "offline": options.offline, "run": order},
    )


def build_dirmap(dataset: str, options: choices.Dirmap, resources: Resources) -> Stream:
    """A prepared data set: its dirmap and images below a data root.

    :raises MissingAsset: saying what is missing and how to make it. :raises BadInput: for a dirmap that cannot be used.
    """
    root, tables = _locate(dataset, options, resources)
    table = lists.prepare(dataset, tables)
    order = resources.seed if options.order < 0 else options.order
    made = lists.make(
        dataset,
        table,
        options.scenario,
        run=order,
        offline=options.offline,
        test_sessions=options.test_sessions or None,
        n_class=options.classes_per_task,
        n_instance=options.clips_per_task,
        task_size_iid=options.images_per_task,
    )
    everything = pd.concat([*_own_rows(made, options.offline), made.test]).drop_duplicates("im_path")
    paths = everything["im_path"].astype(str).tolist()
    if absent := [path for path in paths if not (root / path).is_file()][:1]:
        raise MissingAsset(
            f"an image of the dirmap is missing: {absent[0]}",
            where=str(root),
            fix=f"clk crumb check {dataset} says how many",
        )
    samples = ImageFiles(
        root, paths, everything["label"].to_numpy(np.int64), options.size, len(made.classes), resources.n_workers
    )
    names = dict(zip(table["class"], table.get("class_str", table["class"].astype(str)), strict=True))
    return of_lists(
        dataset,
        made,
        samples,
        {path: row for row, path in enumerate(paths)},
        names,
        fingerprint(dataset, options.scenario, order, options.offline, *paths),
        {"scenario": options.scenario, "offline": options.offline, "run": order},
    )


def _locate(dataset: str, options: choices.Dirmap, resources: Resources) -> tuple[Path, dict[str, pd.DataFrame]]:
    """Folder the image paths are relative to, and the dirmaps."""
    names = dataset.split("+")
    tables, root = {}, Path()
    for name in names:
        place = resources.locate(choices.ASSETS[name])
        tables[name] = dirmap.read(place / f"{name}_dirmap.csv")
        prefix = {"core50": "core50_128x128/"}.get(name, "")
        if len(names) > 1:
            prefix = f"{place.name}/{prefix}"
        tables[name] = tables[name].assign(im_path=prefix + tables[name]["im_path"].astype(str))
        root = place.parent if len(names) > 1 else place
    return root, tables


def _own_rows(made: lists.Lists, offline: bool) -> tuple[pd.DataFrame, ...]:
    """Tables that hold every training row once."""
    return made.tasks[-1:] if offline else made.tasks


def build_core50(options: choices.Dirmap, resources: Resources) -> Stream:
    """CORe50."""
    return build_dirmap("core50", options, resources)


def build_toybox(options: choices.Dirmap, resources: Resources) -> Stream:
    """Toybox."""
    return build_dirmap("toybox", options, resources)


def build_ilab(options: choices.Dirmap, resources: Resources) -> Stream:
    """iLab-2M-Light."""
    return build_dirmap("ilab2mlight", options, resources)


def build_cifar100(options: choices.Dirmap, resources: Resources) -> Stream:
    """CIFAR-100 as a folder of images."""
    return build_dirmap("cifar100", options, resources)


def build_imagenet(options: choices.Dirmap, resources: Resources) -> Stream:
    """ImageNet."""
    return build_dirmap("imagenet", options, resources)


def build_icubworld(options: choices.Dirmap, resources: Resources) -> Stream:
    """ICubWorld Transformations."""
    return build_dirmap("icubworldtransf", options, resources)


def build_combined(options: choices.Dirmap, resources: Resources) -> Stream:
    """iLab-2M-Light, then CORe50."""
    return build_dirmap(lists.COMBINED, options, resources)


def folder_table(root: Path) -> pd.DataFrame:
    """Dirmap of the ImageNet layout ``train|val/<class>/*``: session 0 for training, 1 for test.

    :raises MissingAsset: without such folders. :raises BadInput: for a class without images on one side.
    """
    sides = {"train": 0, "val": 1}
    if not (root / "val").is_dir() and (root / "test").is_dir():
        sides = {"train": 0, "test": 1}
    if missing := [side for side in sides if not (root / side).is_dir()]:
        raise MissingAsset(
            f"no folder {' or '.join(missing)}",
            where=str(root),
            fix="lay the images out as train/CLASS/*.jpg and val/CLASS/*.jpg",
        )
    classes = sorted(path.name for path in (root / "train").iterdir() if path.is_dir())
    rows = []
    for side, session in sides.items():
        for name in classes:
            files = sorted(p for p in (root / side / name).glob("*") if p.suffix in IMAGE_ENDINGS)
            if not files:
                raise BadInput(
                    f"class {name} has no images in {side}/",
                    where=str(root / side / name),
                    fix="add images, or leave the class out on both sides",
                )
            rows += [
                (name, 0, session, number, path.relative_to(root).as_posix()) for number, path in enumerate(files, 1)
            ]
    if not rows:
        raise BadInput("no classes below train/", where=str(root))
    return pd.DataFrame(rows, columns=["class", "object", "session", "im_num", "im_path"])


def read_classes(root: Path, size: int, skip: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """All images of a folder ``CLASS/*``, the first ``skip`` of each class (by name) left out.

    :return: uint8 [N, S, S, 3] and int64 [N], class after class.
    :raises MissingAsset: without such a folder. :raises BadInput: for a class without images left.
    """
    classes = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    if not classes:
        raise MissingAsset(
            f"no folder {root} with CLASS/* in it", where="model.base, learner.base", fix="name a folder of classes"
        )
    pixels: list[np.ndarray] = []
    labels: list[int] = []
    for label, place in enumerate(classes):
        files = sorted(p for p in place.glob("*") if p.suffix in IMAGE_ENDINGS)[skip:]
        if not files:
            raise BadInput(
                f"class {place.name} has no images after the first {skip}",
                where=str(place),
                fix="a smaller base_skip, or leave the class out",
            )
        pixels += [read_image(path, size) for path in files]
        labels += [label] * len(files)
    return np.stack(pixels), np.array(labels, np.int64)


def build_folder(options: choices.Folder, resources: Resources) -> Stream:
    """Any images in the ImageNet layout, below the first data root or ``--dataset crumb:folder:PATH``."""
    root = Path(options.path).expanduser() if options.path else None
    if root is None or not root.is_dir():
        candidates = [r / options.path if options.path else r for r in resources.roots]
        root = next((c for c in candidates if (c / "train").is_dir()), None)
        if root is None:
            raise MissingAsset(
                f"no folder with train/CLASS/ and val/CLASS/ in it ({options.path or 'no path given'})",
                where=", ".join(map(str, resources.roots)) or "no data root given",
                fix="--dataset crumb:folder:PATH, or --data-root DIR",
            )
    table = folder_table(root)
    dirmap.check(table, str(root))
    if options.limit:
        keep = table.groupby(["class", "session"]).cumcount() < options.limit
        table = table[keep]
    order = resources.seed if options.order < 0 else options.order
    made = lists.make(
        "folder",
        table,
        options.scenario,
        run=order,
        test_sessions=(1,),
        offline=options.offline,
        n_class=options.classes_per_task,
    )
    everything = pd.concat([*_own_rows(made, options.offline), made.test])
    paths, labels = everything["im_path"].tolist(), everything["label"].to_numpy(np.int64)
    files = ImageFiles(root, paths, labels, options.size, len(made.classes), resources.n_workers)
    samples: Samples = files
    if options.in_memory:
        good, images = _read_all(files, resources)
        paths = [paths[row] for row in good]
        samples = ArraySamples(files.spec, {"image": images, "class": labels[good]})
        kept = set(paths)
        made = lists.Lists(
            tasks=tuple(t[t["im_path"].isin(kept)] for t in made.tasks),
            test=made.test[made.test["im_path"].isin(kept)],
            classes=made.classes,
        )
    return of_lists(
        root.resolve().name,
        made,
        samples,
        {path: row for row, path in enumerate(paths)},
        {c: str(c) for c in made.classes},
        fingerprint(options.scenario, order, options.size, *paths),
        {"scenario": options.scenario, "offline": options.offline, "run": order},
    )


def _read_all(files: ImageFiles, resources: Resources) -> tuple[list[int], np.ndarray]:
    """All images that can be read; the others follow ``--on-bad-sample``."""
    good, images = [], []
    for row, path in enumerate(files.paths):
        try:
            images.append(read_image(files.root / path, files.size))
            good.append(row)
        except BadInput as error:
            resources.bad_sample(path, error.what)
    return good, np.stack(images)
