"""Pascal VOC and folders in its layout: ``JPEGImages``, ``SegmentationClass`` and lists, as published and passed on.

Lists may hold a name a line, or image and label path (``/JPEGImages/x.jpg /SegmentationClassAug/x.png``), as the lists
passed on with DeepLab's training code do. ``classes.txt``, one class name a line, replaces VOC's classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

from cl_kernel import Asset, BadInput, MissingAsset, Resources
from cl_plugin_recall.data.masks import Indexed
from cl_plugin_recall.data.pairs import IMAGES, FilePairs
from cl_plugin_recall.data.places import LISTS, VOC_NAMES, find, is_voc
from cl_plugin_recall.experiments import VOC_CLASSES
from cl_plugin_recall.settings import Voc

VOC_ORIGIN = (
    "host.robots.ox.ac.uk/pascal/VOC/voc2012 (VOCtrainval_11-May-2012.tar), for the 10,582 training images also "
    "the SBD labels as SegmentationClassAug and ImageSets/Segmentation/trainaug.txt"
)
ASSET = Asset(
    name="VOC2012",
    summary="Pascal VOC 2012 segmentation, or any folder in its layout",
    files=("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"),
    origin=VOC_ORIGIN,
)
AUGMENTED = ("trainaug", "train_aug")
"""Lists of VOC's and SBD's training images together, under the names they go by."""


def read_lines(path: Path) -> list[str]:
    """Lines that hold something, without a byte order mark.

    :raises BadInput: for a file that is no UTF-8 text.
    """
    try:
        return [line.strip() for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise BadInput(f"not a text file: {error}", where=str(path)) from error


@frozen
class VocFolder:
    """A tree in VOC's layout."""

    root: Path

    def list_file(self, name: str) -> Path | None:
        """File of a list, or None."""
        places = (self.root / part / f"{name}.txt" for part in LISTS)
        return next((path for path in places if path.is_file()), None)

    def entries(self, listing: str) -> dict[str, tuple[Path, Path]]:
        """Image and label file by name, of a list or of several parted by commas.

        :raises MissingAsset: when a list does not exist; :raises BadInput: naming list and line.
        """
        found: dict[str, tuple[Path, Path]] = {}
        for part in listing.split(","):
            path = self.list_file(part.strip())
            if path is None:
                known = sorted({p.stem for place in LISTS for p in (self.root / place).glob("*.txt")})
                raise MissingAsset(
                    f"image list {part.strip()!r} is missing",
                    where=str(self.root / LISTS[0] / f"{part.strip()}.txt"),
                    fix=f"lists here: {', '.join(known)}",
                )
            lines = read_lines(path)
            if not lines:
                raise BadInput("image list is empty", where=str(path))
            counts = Counter(line.split()[0] for line in lines)
            if twice := [name for name, count in counts.items() if count > 1]:
                raise BadInput(f"image {twice[0]!r} is listed twice", where=str(path))
            for number, line in enumerate(lines, 1):
                name, image, label = self._entry(line, f"{path}, line {number}")
                found[name] = (image, label)
        return found

    def names(self, listing: str) -> list[str]:
        """Image names of a list."""
        return list(self.entries(listing))

    def _entry(self, line: str, where: str) -> tuple[str, Path, Path]:
        parts = line.split()
        if len(parts) == 1 and "/" not in line:
            return line, self.image(line), self.label(line)
        if len(parts) == 2:
            image, label = (self.root / part.lstrip("/") for part in parts)
            return image.stem, image, label
        raise BadInput(
            f"expected a name, or image and label path, got {line[:80]!r}", where=where, fix="one image a line"
        )

    def training_list(self, wish: str) -> str:
        """``wish``, or the largest list there is: the augmented one, else train."""
        return wish or next((name for name in AUGMENTED if self.list_file(name)), "train")

    def classes(self) -> tuple[str, ...]:
        """Class names; label k is line k."""
        path = self.root / "classes.txt"
        return class_list(path) if path.is_file() else VOC_CLASSES

    def image(self, name: str) -> Path:
        """Image of a name; JPEG unless there is only a PNG."""
        paths = [self.root / "JPEGImages" / f"{name}{ending}" for ending in IMAGES]
        return next((path for path in paths if path.is_file()), paths[0])

    def label(self, name: str) -> Path:
        """PNG of an image, SBD's augmented labels where VOC has none."""
        own = self.root / "SegmentationClass" / f"{name}.png"
        aug = self.root / "SegmentationClassAug" / f"{name}.png"
        return aug if not own.is_file() and aug.is_file() else own

    def pairs(self, listing: str) -> FilePairs:
        """Image and label files of a list."""
        entries = list(self.entries(listing).values())
        return FilePairs([image for image, _ in entries], [label for _, label in entries], Indexed())


def class_list(path: Path) -> tuple[str, ...]:
    """Class names of a file, one a line.

    :raises BadInput: for a name twice, or more classes than labels allow.
    """
    names = read_lines(path)
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise BadInput(f"class {twice[0]!r} is named twice", where=str(path))
    if not 1 <= len(names) <= 254:
        raise BadInput(f"{len(names)} classes; labels allow 1 to 254", where=str(path))
    return tuple(names)


def locate(settings: Voc, resources: Resources) -> VocFolder:
    """The tree that the settings or the data roots name.

    :raises MissingAsset: when there is none.
    """
    if not settings.folder:
        return VocFolder(find(ASSET.name, resources.roots) or resources.locate(ASSET))
    root = Path(settings.folder).expanduser()
    for name in VOC_NAMES:
        if is_voc(root / name):
            return VocFolder(root / name)
    absent = [part for part in ASSET.files if not (root / part).is_dir()]
    raise MissingAsset(
        f"{absent[0] if absent else 'a list of images'} is missing: the folder is not in VOC's layout", where=str(root)
    )


def both_listed(train: Sequence[Path], val: Sequence[Path], root: Path) -> None:
    """Refuse images that are in both lists."""
    if both := set(train) & set(val):
        raise BadInput(
            f"{len(both)} image(s) are in both lists, as {min(both).stem!r}",
            where=str(root),
            fix="give disjoint lists with dataset.train_list and dataset.val_list",
        )
