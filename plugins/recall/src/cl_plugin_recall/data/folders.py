"""Any images with label pictures, index values or colours, in folders of train and val.

``images/train`` and ``masks/train`` (or ``train/images`` and ``train/masks``; masks, labels or annotations), the same
for val; or ``images`` and ``masks`` with lists ``train.txt`` and ``val.txt``. ``classes.txt`` names a class a line,
with ``R G B`` behind (or before) each name where the masks are coloured.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from attrs import frozen

from cl_kernel import BadInput, MissingAsset
from cl_plugin_recall.data.files import stems
from cl_plugin_recall.data.masks import VOID, Colour, Coloured, Indexed
from cl_plugin_recall.data.pairs import IMAGES, FilePairs
from cl_plugin_recall.data.voc import read_lines

MASKS = ("masks", "labels", "annotations", "SegmentationClass")


@frozen
class Classes:
    """Names without background, and how masks are read."""

    names: tuple[str, ...]
    reading: Indexed | Coloured


def read_classes(path: Path, background: bool) -> Classes:
    """What ``classes.txt`` says.

    :param background: whether label 0 is background, and label k line k; otherwise label k is line k + 1. A first line
        ``background`` is label 0 in any case.
    :raises BadInput: naming the line.
    """
    if not path.is_file():
        raise MissingAsset("the class names are missing", where=str(path), fix="write one class name a line")
    names: list[str] = []
    colours: list[Colour] = []
    for number, line in enumerate(read_lines(path), 1):
        name, colour = _line(line)
        if not name or name in names:
            raise BadInput(f"class {name!r} has no name or is named twice", where=f"{path}, line {number}")
        names.append(name)
        colours += [colour] if colour else []
    if colours and len(colours) != len(names):
        raise BadInput(
            f"{len(colours)} of {len(names)} classes have a colour",
            where=str(path),
            fix="give all of them R G B, or none",
        )
    named = names[0].lower() == "background" if names else False
    kept = names[1:] if named else names
    if not 1 <= len(kept) <= 254:
        raise BadInput(f"{len(kept)} classes; labels allow 1 to 254", where=str(path))
    if colours:
        if len(set(colours)) < len(colours):
            raise BadInput("two classes have the same colour", where=str(path))
        labels = range(len(names)) if named else range(1, len(names) + 1)
        return Classes(tuple(kept), Coloured(dict(zip(colours, labels, strict=True))))
    return Classes(tuple(kept), _index_reading(len(kept), shifted=not (named or background)))


def _index_reading(n: int, *, shifted: bool) -> Indexed:
    if not shifted:
        return Indexed()
    table = np.zeros(256, np.uint8)
    table[:n] = range(1, n + 1)
    table[VOID] = VOID
    unknown = np.zeros(256, bool)
    unknown[n:VOID] = True
    return Indexed(table, unknown)


def _line(text: str) -> tuple[str, Colour | None]:
    number = r"\s*[,;\s]\s*".join([r"(\d{1,3})"] * 3)
    for pattern in (rf"(?P<name>.*?)[,;\s]+{number}", rf"{number}[,;\s]+(?P<name>.*)"):
        if match := re.fullmatch(pattern, text):
            values = [int(value) for key, value in enumerate(match.groups()) if value and value.isdigit()]
            if len(values) >= 3 and max(values[-3:]) <= 255:
                r, g, b = values[-3:] if pattern.startswith("(?P") else values[:3]
                return match["name"].strip(), (r, g, b)
    return text.strip(), None


@frozen
class ImageFolder:
    """A folder of images and masks."""

    root: Path

    def pairs(self, part: str, reading: Indexed | Coloured) -> FilePairs:
        """Images and masks of ``train`` or ``val``.

        :raises MissingAsset: when there are no such folders; :raises BadInput: for an image without mask.
        """
        images, masks = self._folders(part)
        image_of, mask_of = stems(images, IMAGES), stems(masks, (".png",))
        listing = self.root / f"{part}.txt"
        names = [Path(line).stem for line in read_lines(listing)] if listing.is_file() else list(image_of)
        if not names:
            raise BadInput("no JPEG or PNG images", where=str(images))
        for name in names:
            if name not in image_of or name not in mask_of:
                what, where = ("mask", masks) if name in image_of else ("image", images)
                raise BadInput(
                    f"{name!r} has no {what}" + (f" (of {len(names)} images)" if what == "mask" else ""),
                    where=str(where),
                    fix=f"add {name}.png" if what == "mask" else f"take it off {listing.name}",
                )
        return FilePairs([image_of[n] for n in names], [mask_of[n] for n in names], reading)

    def _folders(self, part: str) -> tuple[Path, Path]:
        root = self.root
        choices = [(root / "images" / part, [root / m / part for m in MASKS])]
        choices.append((root / part / "images", [root / part / m for m in MASKS]))
        if (root / f"{part}.txt").is_file():
            choices.append((root / "images", [root / m for m in MASKS]))
            choices.append((root / "JPEGImages", [root / m for m in MASKS]))
        for images, masks in choices:
            for mask in masks:
                if images.is_dir() and mask.is_dir():
                    return images, mask
        raise MissingAsset(
            f"no images and masks of {part}",
            where=str(root),
            fix=f"images/{part} and masks/{part}, or {part}/images and {part}/masks, or images, masks and {part}.txt",
        )
