"""Image folders in the ImageNet layout, class orders and label files.

``train/<class>/*`` and ``val/<class>/*``; labels are the alphabetical numbers of the classes everywhere. A class order
is a text file with one class a line; a label file holds the rank in that order of each sample's class.

Shapes: N samples, n a batch, S side of the images.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from attrs import define, field
from torch.nn import functional

from cl_kernel import BadInput, Field, MissingAsset, Resources, Stage, Stream, subset
from cl_kernel.library.pictures import eight_bits, is_picture, open_picture
from cl_plugin_remind.method.augment import Drawn

if TYPE_CHECKING:
    from cl_plugin_remind.settings import ImageNet

DECODING = 2
"""Raised when the same file gives other pixels than before."""
JPEG, HEAD, ORIENTATION = b"\xff\xd8", 1 << 17, 0x0112
MOST_PIXELS = 1 << 26
"""Of what is decoded without Pillow, which has its own limit."""

KEEP_BYTES = 1 << 28
"""Decoded images of folders up to this size are kept."""


def decoded_jpeg(content: bytes) -> np.ndarray | None:
    """A whole JPEG as uint8 [H, W, 3] by simplejpeg, where that is installed; pixels equal those Pillow gives.

    :return: None for anything else - other formats, CMYK, turned and damaged pictures - which the common reader reads
        or names.
    """
    if content[:2] != JPEG or (library := _simplejpeg()) is None or _turned(content):
        return None
    try:
        height, width, colours, _ = library.decode_jpeg_header(content)
        if colours not in ("YCbCr", "Gray") or height * width > MOST_PIXELS:
            return None
        pixels: np.ndarray = library.decode_jpeg(content, "RGB")
    except (ValueError, RuntimeError):
        return None
    return pixels


def resized(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """A picture uint8 [H, W, 3] at another size: Pillow's bilinear filter, within a level, in half its time.

    torch has the filter vectorised for bytes (https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.interpolate).
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    batch = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)  # channels last: the colours of a pixel side by side
    return (
        functional.interpolate(batch, (height, width), mode="bilinear", antialias=True).permute(0, 2, 3, 1)[0].numpy()
    )


def _turned(content: bytes) -> bool:
    """Whether the camera says that the picture is to be turned; most files say nothing."""
    if b"Exif\0" not in content[:HEAD]:
        return False
    from PIL import Image

    try:
        with Image.open(BytesIO(content)) as picture:
            return bool(picture.getexif().get(ORIENTATION, 1) != 1)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return True


@functools.cache
def _simplejpeg() -> Any:
    try:
        return importlib.import_module("simplejpeg")
    except ImportError:
        return None


def rank_labels(
    classes: Sequence[str], labels: np.ndarray, order: Sequence[str], where: str = "class order"
) -> np.ndarray:
    """Rank in the class order of each sample's class.

    :param classes: folder names in alphabetical order. :param labels: int [N], index into ``classes``.
    :return: int64 [N].
    :raises BadInput: for unknown, repeated or missing classes in the order.
    """
    check_order(classes, order, where)
    rank = {name: position for position, name in enumerate(order)}
    return np.array([rank[name] for name in classes], np.int64)[labels]


def rows_of_ranks(ranks: np.ndarray, first: int, end: int) -> np.ndarray:
    """Samples of the classes with rank in [first, end), in increasing index."""
    return np.flatnonzero((ranks >= first) & (ranks < end))


def check_order(classes: Sequence[str], order: Sequence[str], where: str) -> None:
    """:raises BadInput: naming unknown, repeated and missing classes with their lines."""
    known, lines = set(classes), {}
    problems = []
    for number, name in enumerate(order, 1):
        if name in lines:
            problems.append(f"line {number}: class {name!r} was already on line {lines[name]}")
        elif name not in known:
            problems.append(f"line {number}: unknown class {name!r}")
        lines.setdefault(name, number)
    if missing := sorted(known - set(lines)):
        problems.append(
            f"missing: {', '.join(missing[:8])}{f' and {len(missing) - 8} more' if len(missing) > 8 else ''}"
        )
    if problems:
        raise BadInput(
            "the class order does not fit the folders\n  " + "\n  ".join(problems[:12]),
            where=where,
            fix="one folder name a line, each class once",
        )


def read_order(path: Path) -> list[str]:
    """Lines of a class-order file, with or without the byte order mark some editors write.

    :raises MissingAsset: when there is none. :raises BadInput: for a file that is no text.
    """
    if not path.is_file():
        raise MissingAsset(f"no class order {path.name}", where=str(path))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"the class order is no UTF-8 text: {error}", where=str(path), fix="save it as UTF-8") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def write_labels(root: Path, order_file: Path, folder: Path) -> list[Path]:
    """Write ``imagenet_indices/imagenet_{train,val}_labels.npy`` for an image folder and a class order.

    :param root: holds ``train/`` and ``val/``. :param folder: of the label files.
    :return: the files written.
    """
    order, written = read_order(order_file), []
    for side in ("train", "val"):
        found = ImageFiles.scan(root / side, 0, 0)
        target = folder / "imagenet_indices" / f"imagenet_{side}_labels.npy"
        target.parent.mkdir(parents=True, exist_ok=True)
        np.save(target, rank_labels(found.classes, found.labels, order, str(order_file)))
        written.append(target)
    return written


@define(eq=False, repr=False)
class ImageFiles:
    """Images of a folder, decoded when taken: short side to ``resize``, centre square of ``side``.

    :raises BadInput: when taken, for an image that cannot be read, naming the file.
    """

    root: Path
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    labels: np.ndarray
    resize: int
    side: int
    reduced: bool = False
    spec: dict[str, Field] = field(init=False)
    _kept: dict[int, np.ndarray] = field(init=False, factory=dict)  # decoded images of folders that are small

    def __attrs_post_init__(self) -> None:
        self.spec = {
            "image": Field(shape=(self.side, self.side, 3), dtype="uint8", kind="image"),
            "class": Field(shape=(), dtype="int64", kind="class", n=len(self.classes)),
        }

    @classmethod
    def scan(cls, root: Path, resize: int, side: int, *, reduced: bool = False) -> ImageFiles:
        """Classes and files in alphabetical order.

        :raises MissingAsset: when the folder is missing. :raises BadInput: for a class without images.
        """
        if not root.is_dir():
            raise MissingAsset(
                f"no image folder {root.name}", where=str(root), fix="the layout is train/<class>/*, val/<class>/*"
            )
        classes = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
        paths, labels = [], []
        for label, name in enumerate(classes):
            files = sorted(p.relative_to(root).as_posix() for p in (root / name).rglob("*") if is_picture(p))
            if not files:
                raise BadInput(f"class {name!r} has no images", where=str(root / name))
            paths += files
            labels += [label] * len(files)
        if not classes:
            raise BadInput("no class folders", where=str(root), fix="the layout is train/<class>/*, val/<class>/*")
        return cls(root, tuple(classes), tuple(paths), np.array(labels, np.int64), resize, side, reduced)

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, rows: np.ndarray, fields: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Images uint8 [n, S, S, 3] and classes int64 [n]."""
        return self._take(rows, fields or list(self.spec), self._centre)

    def identify(self, files: Any, rows: np.ndarray | None = None) -> str:
        """Digest of the rows' picture files, their classes and how they are decoded."""
        rows = np.arange(len(self)) if rows is None else rows
        pictures = files.digests([self.root / self.paths[row] for row in rows.tolist()])
        decoding = (DECODING, self.resize, self.side, self.reduced)
        return files.content(decoding, self.classes, pictures, files.array(self.labels, rows))

    def take_augmented(
        self, rows: np.ndarray, rng: np.random.Generator, fields: Sequence[str], bad: list[tuple[str, Exception]]
    ) -> dict[str, np.ndarray]:
        """Random resized crops (area 8 to 100 %) and flips of the full images; unreadable ones go to ``bad``."""
        chance = Drawn(rng, scale=(0.08, 1.0))
        images, kept = [], []
        for row in rows.tolist():
            numbers = rng.random()
            try:
                picture = self.open(row)
            except BadInput as error:
                bad.append((self.paths[row], error))
                continue
            top, left, height, width = chance.crops(1, *picture.shape[:2])[0].tolist()
            image = resized(picture[top : top + height, left : left + width], self.side, self.side)
            images.append(image[:, ::-1] if numbers < 0.5 else image)
            kept.append(row)
        if not kept:
            return {}
        return {"image": np.stack(images), "class": self.labels[kept]}

    def open(self, row: int, short: int = 0) -> np.ndarray:
        """The whole picture, uint8 [H, W, 3].

        :param short: shortest side that is needed; where ``reduced`` is set a JPEG that is at least twice as large is
            decoded at a half, a quarter or an eighth of its size. 0: the whole size.
        :raises BadInput: naming the file.
        """
        from PIL import Image

        path = self.root / self.paths[row]
        try:
            content = path.read_bytes()
            if not self.reduced:
                pixels = decoded_jpeg(content)
                return np.array(open_picture(content, name=str(path))) if pixels is None else pixels
            picture = Image.open(BytesIO(content))
            if short:
                scale = short / min(picture.size)
                picture.draft("RGB", (math.ceil(picture.width * scale), math.ceil(picture.height * scale)))
            return np.array(eight_bits(picture))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise BadInput(f"the image cannot be read: {error}", where=str(path)) from error

    def _centre(self, row: int) -> np.ndarray:
        if (image := self._kept.get(row)) is None:
            image = self._decode(row)
            if len(self.paths) * self.side**2 * 3 <= KEEP_BYTES:
                self._kept[row] = image
        return image

    def _decode(self, row: int) -> np.ndarray:
        """Short side to ``resize``, then the centre square; what lies outside a smaller picture is black."""
        picture = self.open(row, self.resize)
        short = min(picture.shape[:2])
        height, width = (
            self.resize if edge == short else max(self.resize, int(edge * self.resize / short))
            for edge in picture.shape[:2]
        )
        whole = resized(picture, height, width)
        top, left = round((height - self.side) / 2), round((width - self.side) / 2)
        if top >= 0 and left >= 0:
            return np.ascontiguousarray(whole[top : top + self.side, left : left + self.side])
        square = np.zeros((self.side, self.side, 3), np.uint8)
        seen = whole[max(top, 0) : top + self.side, max(left, 0) : left + self.side]
        square[max(-top, 0) : max(-top, 0) + seen.shape[0], max(-left, 0) : max(-left, 0) + seen.shape[1]] = seen
        return square

    def _take(
        self, rows: np.ndarray, fields: Sequence[str], read: Callable[[int], np.ndarray]
    ) -> dict[str, np.ndarray]:
        batch: dict[str, np.ndarray] = {}
        for name in fields:
            if name == "class":
                batch[name] = self.labels[rows]
            else:
                images = [read(row) for row in rows.tolist()]
                batch[name] = np.stack(images) if images else np.zeros((0, self.side, self.side, 3), np.uint8)
        return batch


def imagenet(settings: ImageNet, resources: Resources) -> Stream:
    """An image folder, class after class in the given order, files in alphabetical order inside a class group.

    :raises BadInput: for a class order or label file that does not fit the folders.
    """
    root = _root(settings, resources)
    train = ImageFiles.scan(root / "train", settings.resize, settings.side, reduced=settings.reduced)
    test = ImageFiles.scan(root / "val", settings.resize, settings.side, reduced=settings.reduced)
    if train.classes != test.classes:
        differ = sorted(set(train.classes) ^ set(test.classes))
        raise BadInput(f"train and val have different classes: {', '.join(differ[:8])}", where=str(root))
    ranks = {side: _ranks(settings, files, side, root) for side, files in (("train", train), ("val", test))}
    n_classes = len(train.classes)
    ends = _ends(settings, n_classes)
    stages, test_sets = [], {}
    for index, (first, end) in enumerate(zip([settings.min_class, *ends], ends, strict=False)):
        rows = rows_of_ranks(ranks["train"], first, end)
        name = f"{first}-{end - 1}"
        classes = tuple(sorted(set(train.labels[rows].tolist())))
        stages.append(Stage(index=index, name=name, train=subset(train, rows), classes=classes, info={"items": rows}))
        test_sets[name] = rows_of_ranks(ranks["val"], first, end)
    return Stream(
        name="imagenet", task="image -> class", stages=stages, test=test, test_sets=test_sets, class_names=train.classes
    )


def _root(settings: ImageNet, resources: Resources) -> Path:
    if settings.images:
        return Path(settings.images).expanduser()
    for root in resources.roots:
        for place in (root, root / "imagenet"):
            if (place / "train").is_dir() and (place / "val").is_dir():
                return place
    raise MissingAsset(
        "no image folder with train/ and val/",
        where=", ".join(map(str, resources.roots)) or "no data root given",
        fix="--data-root DIR, or --set dataset.images=DIR",
    )


def _ranks(settings: ImageNet, files: ImageFiles, side: str, root: Path) -> np.ndarray:
    """Rank of each sample's class, from a label file, a class-order file, or the alphabet."""
    if settings.label_dir:
        path = Path(settings.label_dir).expanduser()
        for place in (path / "imagenet_indices", path):
            if (target := place / f"imagenet_{side}_labels.npy").is_file():
                return check_labels(np.load(target, allow_pickle=False), files, str(target))
        raise MissingAsset(
            f"no label file imagenet_{side}_labels.npy",
            where=str(path),
            fix="clk remind label-files --images DIR --order FILE --output DIR",
        )
    if settings.class_order:
        path = Path(settings.class_order).expanduser()
        return rank_labels(files.classes, files.labels, read_order(path), str(path))
    del root
    return files.labels


def check_labels(ranks: np.ndarray, files: ImageFiles, where: str) -> np.ndarray:
    """A label file that fits the folder.

    :raises BadInput: for another length, type, or ranks that are no renaming of the classes.
    """
    if ranks.shape != (len(files),) or not np.issubdtype(ranks.dtype, np.integer):
        raise BadInput(
            f"the label file holds {ranks.dtype} {list(ranks.shape)}, the folder has {len(files)} images",
            where=where,
            fix="write it anew: clk remind label-files --images DIR --order FILE --output DIR",
        )
    per_class = [np.unique(ranks[files.labels == label]) for label in range(len(files.classes))]
    for name, found in zip(files.classes, per_class, strict=True):
        if len(found) != 1:
            raise BadInput(f"the label file gives class {name!r} the ranks {found.tolist()[:5]}", where=where)
    flat = np.concatenate(per_class)
    if sorted(flat.tolist()) != list(range(len(flat))):
        raise BadInput(f"the ranks of the label file are not 0 to {len(flat) - 1}, each for one class", where=where)
    return ranks.astype(np.int64)


def _ends(settings: ImageNet, n_classes: int) -> list[int]:
    last = min(settings.max_class or n_classes, n_classes)
    if not settings.min_class < settings.min_class + settings.base_classes <= last:
        raise BadInput(
            f"{settings.base_classes} base classes from {settings.min_class} on do not fit {last} classes",
            where="dataset.base_classes",
            fix=f"the folder has {n_classes} classes",
        )
    first = settings.min_class + settings.base_classes
    ends = [first, *range(first + settings.increment, last, settings.increment)]
    return ends if ends[-1] == last else [*ends, last]
