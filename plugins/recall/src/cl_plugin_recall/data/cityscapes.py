"""Cityscapes, fine annotations: 19 classes without background, by classes or by cities.

Layout: ``leftImg8bit/{train,val}/CITY/*_leftImg8bit.png`` and ``gtFine/{train,val}/CITY/*_gtFine_labelIds.png`` or
``..._labelTrainIds.png`` (github.com/mcordts/cityscapesScripts, ``helpers/labels.py``). By cities, as in PLOP
(arXiv 2011.11390): all classes in every step, the cities of train and val together, a fifth of each for validation.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cl_kernel import Asset, BadInput
from cl_plugin_recall.data.masks import VOID, Indexed
from cl_plugin_recall.data.pairs import FilePairs

CLASSES = (
    "road",
    "sidewalk",
    "building",
    "wall",
    "fence",
    "pole",
    "traffic light",
    "traffic sign",
    "vegetation",
    "terrain",
    "sky",
    "person",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
    "motorcycle",
    "bicycle",
)
"""Train id k is entry k; the plugin's class is k + 1."""
IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Label id of each train id."""
LAST_ID = 33
CITIES = (
    *("aachen", "bremen", "darmstadt", "erfurt", "hanover", "krefeld", "strasbourg", "tubingen", "weimar", "bochum"),
    *("cologne", "dusseldorf", "hamburg", "jena", "monchengladbach", "stuttgart", "ulm", "zurich"),
    *("frankfurt", "lindau", "munster"),
)
"""PLOP's order of the cities; the last three are those of val."""
SUFFIX = "_leftImg8bit.png"
ASSET = Asset(
    name="cityscapes",
    summary="Cityscapes, finely annotated images",
    files=("leftImg8bit/train", "gtFine/train"),
    origin="cityscapes-dataset.com: leftImg8bit_trainvaltest.zip, gtFine_trainvaltest.zip",
)


def by_train_id() -> Indexed:
    """Reading of ``labelTrainIds``."""
    table = np.full(256, VOID, np.uint8)
    table[: len(CLASSES)] = range(1, len(CLASSES) + 1)
    unknown = np.zeros(256, bool)
    unknown[len(CLASSES) : VOID] = True
    return Indexed(table, unknown)


def by_id() -> Indexed:
    """Reading of ``labelIds``; ids without a train id are void."""
    table = np.full(256, VOID, np.uint8)
    table[list(IDS)] = range(1, len(CLASSES) + 1)
    unknown = np.zeros(256, bool)
    unknown[LAST_ID + 1 : VOID] = True
    return Indexed(table, unknown)


def pairs(root: Path, parts: tuple[str, ...]) -> tuple[FilePairs, list[str]]:
    """Images and labels of some of ``train`` and ``val``, and the city of each.

    :raises BadInput: for an image without label.
    """
    images = [path for part in parts for path in sorted((root / "leftImg8bit" / part).glob(f"*/*{SUFFIX}"))]
    if not images:
        raise BadInput(f"no images *{SUFFIX}", where=str(root / "leftImg8bit" / parts[0]))
    trained = [_label(root, path, "labelTrainIds") for path in images]
    plain = [_label(root, path, "labelIds") for path in images]
    labels, reading = (trained, by_train_id()) if all(path.is_file() for path in trained) else (plain, by_id())
    if missing := [path for path in labels if not path.is_file()]:
        raise BadInput(
            f"{len(missing)} of {len(images)} images have no label", where=str(missing[0]), fix=f"get {ASSET.origin}"
        )
    return FilePairs(images, labels, reading), [path.parent.name for path in images]


def _label(root: Path, image: Path, kind: str) -> Path:
    part, city = image.parent.parent.name, image.parent.name
    return root / "gtFine" / part / city / f"{image.name.removesuffix(SUFFIX)}_gtFine_{kind}.png"
