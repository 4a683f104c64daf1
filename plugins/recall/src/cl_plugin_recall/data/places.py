"""Where the data sets lie below a data root, in the forms in which they are published and passed on. Light."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

VOC_NAMES = ("", "VOC2012", "VOCdevkit/VOC2012", "PascalVOC12")
LISTS = ("ImageSets/Segmentation", "ImageSets/SegmentationAug", "splits")
"""Folders of image lists: VOC's own; of the augmented lists passed on with DeepLab, MiB and PLOP."""
LABELS = ("SegmentationClass", "SegmentationClassAug")


def is_voc(place: Path) -> bool:
    """Whether a folder is in VOC's layout."""
    return (
        (place / "JPEGImages").is_dir()
        and any((place / part).is_dir() for part in LABELS)
        and any((place / part).is_dir() for part in LISTS)
    )


def is_ade20k(place: Path) -> bool:
    """Whether a folder is in the layout of the scene parsing benchmark."""
    return all(
        (place / kind / part).is_dir() for kind in ("images", "annotations") for part in ("training", "validation")
    )


def is_cityscapes(place: Path) -> bool:
    """Whether a folder holds the finely annotated part of Cityscapes."""
    return all((place / kind / "train").is_dir() for kind in ("leftImg8bit", "gtFine"))


KNOWN = {
    "VOC2012": (is_voc, VOC_NAMES),
    "ADEChallengeData2016": (is_ade20k, ("", "ADEChallengeData2016", "ade/ADEChallengeData2016")),
    "cityscapes": (is_cityscapes, ("", "cityscapes", "Cityscapes")),
}
"""Asset -> how to tell it, and its folders below a root."""


def find(asset: str, roots: Sequence[Path]) -> Path | None:
    """The folder of a data set below the roots, or None."""
    if asset not in KNOWN:
        return None
    fits, names = KNOWN[asset]
    places = (root / name for root in roots for name in names)
    return next((place for place in places if fits(place)), None)
