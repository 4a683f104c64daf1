"""Labelled images from folders and from the library ``datasets``, as class-incremental streams.

Images stay encoded and are decoded by a few threads when asked for, unless all of them together are small.
Shapes: n a batch, S the edge of an image.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from attrs import define, field

from cl_kernel.contract.errors import BadInput, BadSetting
from cl_kernel.contract.interfaces import Contents, Samples
from cl_kernel.contract.stream import Field, Stream
from cl_kernel.data.samples import class_incremental, subset
from cl_kernel.library.datasets.folder_settings import Folder, HuggingFace, Images
from cl_kernel.library.pictures import is_picture, open_picture
from cl_kernel.running.resources import Resources
from cl_kernel.storage.cache import NotWritable

TEST_NAMES = ("test", "val", "valid", "validation")


@define(eq=False)
class EncodedImages:
    """Samples whose images are decoded when taken.

    :param read: row -> (what it is for people, the encoded image as a path or as bytes).
    :param held: digests of the encoded images of some rows.
    """

    labels: np.ndarray
    read: Callable[[int], tuple[str, Path | bytes]]
    held: Callable[[Contents, np.ndarray], Any]
    n_classes: int
    size: int
    n_workers: int = 1
    _pool: ThreadPoolExecutor | None = field(default=None, init=False)

    @property
    def spec(self) -> Mapping[str, Field]:
        """``image`` uint8 [S, S, 3] and ``class``."""
        return {
            "image": Field(shape=(self.size, self.size, 3), dtype="uint8", kind="image"),
            "class": Field(shape=(), dtype="int64", kind="class", n=self.n_classes),
        }

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray, fields: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Rows, images decoded side by side.

        :raises BadInput: naming the image that cannot be decoded.
        """
        taken: dict[str, np.ndarray] = {}
        for name in fields or self.spec:
            if name == "class":
                taken[name] = self.labels[rows]
                continue
            if self._pool is None:
                self._pool = ThreadPoolExecutor(max(1, self.n_workers))
            images = np.empty((len(rows), self.size, self.size, 3), np.uint8)
            for k, image in enumerate(self._pool.map(self.decode, np.asarray(rows).tolist())):
                images[k] = image
            taken[name] = images
        return taken

    def identify(self, files: Contents, rows: np.ndarray | None = None) -> str:
        """Digest of bytes, labels and size of the rows' images."""
        rows = np.arange(len(self)) if rows is None else rows
        return files.content(self.size, files.array(self.labels, rows), self.held(files, rows))

    def decode(self, row: int) -> np.ndarray:
        """One image, uint8 [S, S, 3].

        :raises BadInput: naming it.
        """
        name, encoded = self.read(row)
        return fit(open_picture(encoded, name=name), self.size)


@define(eq=False)
class KeptImages:
    """Some rows of encoded images, all of them decoded when the first is asked for and kept from then on."""

    encoded: EncodedImages
    rows: np.ndarray
    _images: np.ndarray | None = field(default=None)

    in_memory: ClassVar[bool] = True

    @property
    def spec(self) -> Mapping[str, Field]:
        """As of the encoded images."""
        return self.encoded.spec

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: np.ndarray, fields: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Rows of each field: one fancy index a field, once decoded."""
        fields = list(fields or self.spec)
        if "image" in fields and self._images is None:
            self._images = self.encoded.take(self.rows, ["image"])["image"]
        return {
            name: self._images[rows] if name == "image" else self.encoded.labels[self.rows[rows]]  # type: ignore[index]
            for name in fields
        }

    def identify(self, files: Contents, rows: np.ndarray | None = None) -> str:
        """As of the encoded images."""
        return self.encoded.identify(files, self.rows if rows is None else self.rows[rows])


def fit(image: Any, size: int) -> np.ndarray:
    """An RGB picture, shorter side to ``size``, then the centre: uint8 [S, S, 3]."""
    from PIL import Image

    scale = size / min(image.size)
    width, height = (max(size, round(edge * scale)) for edge in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)), np.uint8)


def build_folder(settings: Folder, resources: Resources) -> Stream:
    """A folder with one folder of images a class, below ``train`` and ``val`` or ``test``, or at its top.

    :raises BadInput: naming the folder that is missing, empty or unknown.
    """
    if not settings.path:
        raise BadSetting("no folder named", where="--dataset folder", fix="--dataset folder:PATH")
    root = Path(settings.path).expanduser()
    if not root.is_dir():
        raise BadInput(f"{root} is no folder", where="--dataset folder:PATH")
    train_root = root / "train" if (root / "train").is_dir() else root
    names = sorted(path.name for path in train_root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not names:
        raise BadInput("no folder of a class", where=str(train_root), fix="one folder a class: train/<class>/*.jpg")
    train_files, train_labels = _files(train_root, names)
    test_root = next((root / name for name in TEST_NAMES if train_root != root and (root / name).is_dir()), None)
    test = None
    if test_root is not None:
        unknown = sorted(p.name for p in test_root.iterdir() if p.is_dir() and p.name not in names)
        if unknown:
            raise BadInput(f"classes without training images: {', '.join(unknown)}", where=str(test_root))
        test = _files(test_root, names)
    return _stream(
        settings,
        resources,
        root.name,
        names,
        _side(train_files, train_labels),
        None if test is None else _side(*test),
        shuffled_as="folder",
    )


def _side(paths: Sequence[Path], labels: np.ndarray) -> Side:
    return (
        labels,
        lambda row: (str(paths[row]), paths[row]),
        lambda files, rows: files.digests([paths[row] for row in rows]),
    )


def _files(root: Path, names: Sequence[str]) -> tuple[list[Path], np.ndarray]:
    files, labels = [], []
    for label, name in enumerate(names):
        found = sorted(path for path in (root / name).glob("**/*") if is_picture(path))
        files += found
        labels += [label] * len(found)
    return files, np.array(labels, np.int64)


def build_hugging_face(settings: HuggingFace, resources: Resources) -> Stream:
    """A data set of the library ``datasets`` with an image column and a class column.

    :raises BadInput: naming the split or column that is missing.
    """
    import datasets

    if not settings.path:
        raise BadSetting("no data set named", where="--dataset hf", fix="--dataset hf:NAME")
    local = Path(settings.path).expanduser()
    try:
        if (local / "dataset_dict.json").exists():
            splits = datasets.load_from_disk(str(local))
        else:
            splits = datasets.load_dataset(settings.path, settings.config or None)
    except (FileNotFoundError, ConnectionError, ValueError) as error:
        raise BadInput(
            f"datasets cannot load {settings.path!r}: {error}",
            where="--dataset hf:NAME",
            fix="without a network: hf:FOLDER that its save_to_disk wrote, or folder:PATH with a folder a class",
        ) from error
    test_name = settings.test or next((name for name in TEST_NAMES if name in splits), "")
    for name in (settings.train, *([settings.test] if settings.test else [])):
        if name not in splits:
            raise BadInput(f"no split {name!r}; there are {', '.join(splits)}", where=f"hf:{settings.path}")
    columns = splits[settings.train].features
    image = settings.image or _column(columns, datasets.Image, "image", settings.path)
    label = settings.label or _column(columns, datasets.ClassLabel, "label", settings.path)
    for name in (image, label):
        if name not in columns:
            raise BadInput(f"no column {name!r}; there are {', '.join(columns)}", where=f"hf:{settings.path}")
    if isinstance(columns[label], datasets.ClassLabel):
        names = list(columns[label].names)
        codes = {code: code for code in range(len(names))}
    else:
        values = sorted(set(splits[settings.train][label]))
        names, codes = [str(value) for value in values], {value: code for code, value in enumerate(values)}

    def side(name: str) -> Side:
        rows = splits[name].cast_column(image, datasets.Image(decode=False))
        try:
            labels = np.array([codes[value] for value in rows[label]], np.int64)
        except KeyError as error:
            raise BadInput(f"split {name} has the unknown label {error}", where=f"hf:{settings.path}") from error

        def read(row: int) -> tuple[str, Path | bytes]:
            stored = rows[row][image]
            return f"hf:{settings.path} {name} row {row}", stored["bytes"] or Path(stored["path"])

        def held(files: Contents, chosen: np.ndarray) -> Any:
            if len(rows) and rows[0][image]["bytes"] is None:
                return files.digests([rows[int(row)][image]["path"] for row in chosen])
            stored = [Path(file["filename"]) for file in rows.cache_files]
            return files.digests(stored) if stored else "", rows._fingerprint, files.array(np.asarray(chosen))

        return labels, read, held

    train, test = side(settings.train), side(test_name) if test_name else None
    return _stream(settings, resources, local.name, names, train, test)


def _column(columns: Mapping[str, Any], wanted: type, setting: str, name: str) -> str:
    found = [column for column, feature in columns.items() if isinstance(feature, wanted)]
    if not found:
        raise BadInput(
            f"no column of type {wanted.__name__}; there are {', '.join(columns)}",
            where=f"hf:{name}",
            fix=f"--set dataset.{setting}=COLUMN",
        )
    return found[0]


Side = tuple[np.ndarray, Callable[[int], tuple[str, Path | bytes]], Callable[[Contents, np.ndarray], Any]]
"""Labels, how to read the image of a row, and the digests of the images of rows."""


def _stream(
    settings: Images,
    resources: Resources,
    name: str,
    names: Sequence[str],
    train: Side,
    test: Side | None,
    *,
    shuffled_as: str = "",
) -> Stream:
    """:param shuffled_as: name of the random order of samples, which does not depend on what a folder is called."""

    def samples(side: Side) -> Samples:
        side = _limited(side, settings.limit) if settings.limit else side
        encoded = EncodedImages(side[0], side[1], side[2], len(names), settings.size, resources.n_workers)
        return _readable(encoded, resources, settings.keep_mb * 1e6)

    learnt = samples(train)
    if test is None:
        labels = learnt.take(np.arange(len(learnt)), ["class"])["class"]
        held = np.zeros(len(labels), bool)
        for label in range(len(names)):
            rows = np.random.default_rng(label).permutation(np.flatnonzero(labels == label))
            if len(rows) < 2:
                raise BadInput(
                    f"class {names[label]} has {len(rows)} image{'' if len(rows) == 1 else 's'}: one to learn from and "
                    "one to test on are needed",
                    where=f"--dataset {name}",
                    fix="more images of it; or folders train/<class>/ and val/<class>/ that say which are for testing",
                )
            held[rows[: max(1, round(settings.test_share * len(rows)))]] = True
        learnt, tested = subset(learnt, np.flatnonzero(~held)), subset(learnt, np.flatnonzero(held))
    else:
        tested = samples(test)
    return class_incremental(
        name,
        learnt,
        tested,
        names,
        n_stages=settings.n_stages,
        sizes=settings.stage_sizes or None,
        order=settings.order or None,
        shuffle=resources.rng(shuffled_as or name, "order"),
    )


def _limited(side: Side, limit: int) -> Side:
    """The first ``limit`` images of each class."""
    labels, read, held = side
    kept = np.sort(np.concatenate([np.flatnonzero(labels == label)[:limit] for label in np.unique(labels)]))
    return labels[kept], lambda row: read(int(kept[row])), lambda files, rows: held(files, kept[rows])


def _readable(encoded: EncodedImages, resources: Resources, limit: float) -> Samples:
    """All images decoded now when they are small; under ``skip`` those that cannot be read are left out.

    Which of them can be read is remembered in the cache: a run that finds features of theirs need not decode them.
    """
    small = len(encoded) * encoded.size**2 * 3 <= limit
    if not small and resources.on_bad_sample != "skip":
        return encoded
    known = resources.artefact("readable-pictures", size=encoded.size, images=encoded)
    if (found := known.found()) is not None and len(rows := np.load(found / "rows.npy")) == len(encoded):
        return KeptImages(encoded, rows) if small else encoded
    rows, images = _decoded(encoded, resources, keep=small)
    with contextlib.suppress(NotWritable):
        known.make(lambda folder: np.save(folder / "rows.npy", rows))
    if not small:
        return subset(encoded, rows)
    empty = np.empty((0, encoded.size, encoded.size, 3), np.uint8)
    return KeptImages(encoded, rows, images=np.stack(images) if images else empty)


def _decoded(encoded: EncodedImages, resources: Resources, *, keep: bool) -> tuple[np.ndarray, list[np.ndarray]]:
    """Rows of images that can be read, and the images themselves if they are to be kept."""
    kept, images = [], []

    def attempt(row: int) -> np.ndarray | BadInput:
        try:
            image = encoded.decode(row)
            return image if keep else image[:0]
        except BadInput as error:
            return error

    with ThreadPoolExecutor(max(1, resources.n_workers)) as pool:
        for row, image in enumerate(pool.map(attempt, range(len(encoded)))):
            if isinstance(image, BadInput):
                resources.bad_sample(image.where, image.what)
                continue
            kept.append(row)
            if keep:
                images.append(image)
    return np.array(kept, np.int64), images
