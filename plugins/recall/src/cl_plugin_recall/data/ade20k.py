"""ADE20K as the scene parsing benchmark publishes it: 150 classes, label 0 for what belongs to none.

Layout: ``images/{training,validation}``, ``annotations/{training,validation}``, ``objectInfo150.txt``
(github.com/CSAILVision/sceneparsing). As in MiB (arXiv 2002.00718), what belongs to no class is background while
training and void in validation.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cl_kernel import Asset, BadInput
from cl_plugin_recall.data.files import stems
from cl_plugin_recall.data.masks import VOID, Indexed
from cl_plugin_recall.data.pairs import IMAGES, FilePairs
from cl_plugin_recall.data.voc import read_lines

N_CLASSES = 150
ASSET = Asset(
    name="ADEChallengeData2016",
    summary="ADE20K, scene parsing benchmark",
    files=("images/training", "images/validation", "annotations/training", "annotations/validation"),
    origin="data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
)


def class_names(root: Path) -> tuple[str, ...]:
    """First word of each class of ``objectInfo150.txt``, or numbers without the file.

    :raises BadInput: when it does not name 150 classes.
    """
    path = root / "objectInfo150.txt"
    if not path.is_file():
        return tuple(f"class {k}" for k in range(1, N_CLASSES + 1))
    rows = [line.split("\t") for line in read_lines(path)]
    names = {int(row[0]): row[-1].split(",")[0].strip() for row in rows if row[0].strip().isdigit()}
    if sorted(names) != list(range(1, N_CLASSES + 1)):
        raise BadInput(
            f"expected the classes 1 to {N_CLASSES} in its first column, found {len(names)}",
            where=str(path),
            fix="columns Idx, Ratio, Train, Val, Stuff, Name, parted by tabs",
        )
    seen: dict[str, int] = {}
    unique = []
    for k in range(1, N_CLASSES + 1):
        seen[names[k]] = seen.get(names[k], 0) + 1
        unique.append(names[k] if seen[names[k]] == 1 else f"{names[k]} {seen[names[k]]}")
    return tuple(unique)


def pairs(root: Path, part: str) -> FilePairs:
    """Images and annotations of ``training`` or ``validation``.

    :raises BadInput: for an image without annotation.
    """
    images, labels = stems(root / "images" / part, IMAGES), stems(root / "annotations" / part, (".png",))
    if not images:
        raise BadInput("no images", where=str(root / "images" / part))
    if missing := [name for name in images if name not in labels]:
        raise BadInput(
            f"{len(missing)} image(s) without annotation, as {missing[0]!r}", where=str(root / "annotations")
        )
    table = np.arange(256, dtype=np.uint8)
    if part == "validation":
        table[0] = VOID
    return FilePairs(list(images.values()), [labels[name] for name in images], Indexed(table))
