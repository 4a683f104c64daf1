"""Folders in Pascal VOC's layout (spec 4.2): ``JPEGImages``, ``SegmentationClass``, ``ImageSets/Segmentation``, and
optionally ``classes.txt`` with one class name a line.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from attrs import frozen
from PIL import Image

from cl_kernel import Asset, BadInput, MissingAsset, Resources, Stream, fingerprint, load_tree, save_tree
from cl_plugin_recall.data.files import decode_png
from cl_plugin_recall.data.steps import build_stream, presence
from cl_plugin_recall.experiments import VOC_CLASSES
from cl_plugin_recall.settings import Voc

LAYOUT = ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation")
VOC_ORIGIN = (
    "host.robots.ox.ac.uk/pascal/VOC/voc2012 (VOCtrainval_11-May-2012.tar), for the 10,582 training images also "
    "the SBD labels as SegmentationClassAug and ImageSets/Segmentation/trainaug.txt"
)
ASSET = Asset(
    name="VOC2012", summary="Pascal VOC 2012 segmentation, or any folder in its layout", files=LAYOUT, origin=VOC_ORIGIN
)


@frozen
class VocFolder:
    """A tree in VOC's layout."""

    root: Path

    def names(self, listing: str) -> list[str]:
        """Image names of a list.

        :raises MissingAsset: when the list does not exist.
        """
        path = self.root / "ImageSets" / "Segmentation" / f"{listing}.txt"
        if not path.is_file():
            known = sorted(p.stem for p in path.parent.glob("*.txt"))
            raise MissingAsset(
                f"image list {listing!r} is missing", where=str(path), fix=f"lists here: {', '.join(known)}"
            )
        names = path.read_text().split()
        if not names:
            raise BadInput("image list is empty", where=str(path))
        if twice := sorted({name for name in names if names.count(name) > 1}) if len(names) < 20_000 else []:
            raise BadInput(f"image {twice[0]!r} is listed twice", where=str(path))
        return names

    def training_list(self, wish: str) -> str:
        """``wish``, or the largest list there is of trainaug and train."""
        if wish:
            return wish
        return "trainaug" if (self.root / "ImageSets/Segmentation/trainaug.txt").is_file() else "train"

    def classes(self) -> tuple[str, ...]:
        """Class names; label k is line k."""
        path = self.root / "classes.txt"
        if not path.is_file():
            return VOC_CLASSES
        names = [line.strip() for line in path.read_text().splitlines() if line.strip()]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise BadInput(f"class {twice[0]!r} is named twice", where=str(path))
        if not 1 <= len(names) <= 254:
            raise BadInput(f"{len(names)} classes; labels allow 1 to 254", where=str(path))
        return tuple(names)

    def image(self, name: str) -> Path:
        """JPEG of an image."""
        return self.root / "JPEGImages" / f"{name}.jpg"

    def label(self, name: str) -> Path:
        """PNG of an image, SBD's augmented labels where VOC has none."""
        own = self.root / "SegmentationClass" / f"{name}.png"
        aug = self.root / "SegmentationClassAug" / f"{name}.png"
        return aug if not own.is_file() and aug.is_file() else own

    def samples(self, names: Sequence[str]) -> VocFiles:
        """Lazy samples of named images."""
        return VocFiles([self.image(name) for name in names], [self.label(name) for name in names])


@frozen
class VocFiles:
    """Image and label files, read when asked for."""

    images: Sequence[Path]
    labels: Sequence[Path]

    def __len__(self) -> int:
        return len(self.images)

    def encoded(self, row: int) -> tuple[bytes, bytes]:
        """JPEG and PNG bytes."""
        return self.images[row].read_bytes(), self.labels[row].read_bytes()

    def where(self, row: int) -> str:
        """Image file."""
        return str(self.images[row])


def check_pair(image: Path, label: Path) -> np.ndarray:
    """The label map of an image, both decoded once to be sure.

    :raises BadInput: for a missing or undecodable file, or different sizes.
    """
    for path, what in ((image, "image"), (label, "label")):
        if not path.is_file():
            other = label if what == "image" else image
            raise BadInput(
                f"{what} is missing for {other.name}", where=str(path), fix="add the file, or take it off the list"
            )
    mask = decode_png(label.read_bytes(), str(label))
    data = image.read_bytes()
    try:
        with Image.open(io.BytesIO(data)) as picture:
            if picture.format != "JPEG":
                raise BadInput(f"image is {picture.format}, not JPEG", where=str(image))
            picture.load()
            size = (picture.height, picture.width)
    except (OSError, SyntaxError) as error:
        raise BadInput(
            f"image cannot be decoded: {error}", where=str(image), fix="replace the file, or --on-bad-sample skip"
        ) from error
    if size != mask.shape:
        raise BadInput(f"image is {size[1]}x{size[0]}, its label {mask.shape[1]}x{mask.shape[0]}", where=str(image))
    return mask


def scan(folder: VocFolder, names: Sequence[str], n_classes: int, resources: Resources) -> tuple[list[str], np.ndarray]:
    """Check every pair once and say which classes each image shows; remembered until a file changes.

    :return: usable names, and bool [N, K + 1].
    :raises BadInput: for the first bad pair, under ``--on-bad-sample fail``.
    """

    def stamp(path: Path) -> list[int]:
        try:
            status = path.stat()
        except OSError:
            return [0, 0]
        return [status.st_size, status.st_mtime_ns]

    inputs = {
        "folder": str(folder.root.resolve()),
        "classes": n_classes,
        "names": list(names),
        "skip": resources.on_bad_sample,
        "files": [[*stamp(folder.image(name)), *stamp(folder.label(name))] for name in names],
    }
    if (known := resources.cache.place("recall-scan", inputs) / "scan.tree").is_file():
        tree = load_tree(known)
        for what, reason in tree["skipped"].items():
            resources.bad_sample(what, reason)
        return list(tree["names"]), tree["present"]

    def check(name: str) -> np.ndarray | BadInput:
        try:
            mask = check_pair(folder.image(name), folder.label(name))
            return presence([mask], n_classes, [str(folder.label(name))])[0]
        except BadInput as error:
            return error

    with ThreadPoolExecutor(max(1, resources.n_workers)) as pool:
        results = list(pool.map(check, names))
    good, rows, skipped = [], [], {}
    for name, result in zip(names, results, strict=True):
        if isinstance(result, BadInput):
            if resources.on_bad_sample != "skip":
                raise result
            resources.bad_sample(result.where, result.what)
            skipped[result.where] = result.what
        else:
            good.append(name)
            rows.append(result)
    if not good:
        raise BadInput("no image is left", where=str(folder.root))
    present = np.stack(rows)
    resources.cache.make("recall-scan", inputs, lambda place: _save_scan(place, good, present, skipped))
    return good, present


def _save_scan(place: Path, names: list[str], present: np.ndarray, skipped: dict[str, str]) -> None:
    save_tree(place / "scan.tree", {"names": names, "present": present, "skipped": skipped})


def locate(settings: Voc, resources: Resources) -> VocFolder:
    """The tree that the settings or the data roots name.

    :raises MissingAsset: when there is none.
    """
    if settings.folder:
        root = Path(settings.folder).expanduser()
        for part in LAYOUT:
            if not (root / part).is_dir():
                raise MissingAsset(f"{part} is missing: the folder is not in VOC's layout", where=str(root))
        return VocFolder(root)
    for root in resources.roots:
        for place in (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012"):
            if all((place / part).is_dir() for part in LAYOUT):
                return VocFolder(place)
    return VocFolder(resources.locate(ASSET))


def build(settings: Voc, resources: Resources) -> Stream:
    """Stream over a VOC tree, or over the tfrecords prepared from one.

    :raises MissingAsset: without data; :raises BadInput: naming the bad file.
    """
    if settings.prepared:
        from cl_plugin_recall.data.prepare import build_prepared

        return build_prepared(settings, resources)
    folder = locate(settings, resources)
    classes = folder.classes()
    train, train_present = scan(
        folder, folder.names(folder.training_list(settings.train_list)), len(classes), resources
    )
    val, val_present = scan(folder, folder.names(settings.val_list), len(classes), resources)
    if both := set(train) & set(val):
        raise BadInput(
            f"{len(both)} image(s) are in both lists, as {sorted(both)[0]!r}",
            where=str(folder.root),
            fix="give disjoint lists with dataset.train_list and dataset.val_list",
        )
    sizes = [folder.image(name).stat().st_size for name in (*train, *val)]
    digest = fingerprint(classes, train, val, sizes, train_present, val_present)
    return build_stream(
        folder.root.resolve().name,
        train=folder.samples(train),
        val=folder.samples(val),
        train_present=train_present,
        val_present=val_present,
        class_names=classes,
        settings=settings,
        digest=digest,
    )
