"""Labels as colours (spec 4.1), and pictures a person can judge.

Shapes: H W image.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

VOC_COLOURS = (
    (0, 0, 0),
    (128, 0, 0),
    (0, 128, 0),
    (128, 128, 0),
    (0, 0, 128),
    (128, 0, 128),
    (0, 128, 128),
    (128, 128, 128),
    (64, 0, 0),
    (192, 0, 0),
    (64, 128, 0),
    (192, 128, 0),
    (64, 0, 128),
    (192, 0, 128),
    (64, 128, 128),
    (192, 128, 128),
    (0, 64, 0),
    (128, 64, 0),
    (0, 192, 0),
    (128, 192, 0),
    (0, 64, 128),
)


def colour_table() -> np.ndarray:
    """RGB of every label value, uint8 [256, 3]: VOC's colours, white for void, black between."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(VOC_COLOURS)] = VOC_COLOURS
    table[255] = 255
    return table


def colourise(label: np.ndarray) -> np.ndarray:
    """Labels of any integer type -> RGB; a trailing axis of 1 is replaced, else one is added."""
    label = np.asarray(label)
    if label.ndim > 2 and label.shape[-1] == 1:
        label = label[..., 0]
    return colour_table()[label]


def overlay(image: np.ndarray, label: np.ndarray, strength: float = 0.55) -> np.ndarray:
    """Class colours laid over the photo; background and void stay as they are."""
    colours = colourise(label).astype(np.float32)
    shown = ((label != 0) & (label != 255))[..., None]
    mixed = np.where(shown, (1 - strength) * image + strength * colours, image)
    return mixed.astype(np.uint8)


def picture(rows: Sequence[Sequence[np.ndarray]], path: Path, gap: int = 4) -> Path:
    """A sheet of equally high pictures, one list a row, saved as PNG."""
    height = max(image.shape[0] for row in rows for image in row)
    width = max(image.shape[1] for row in rows for image in row)
    columns = max(len(row) for row in rows)
    sheet = np.full((len(rows) * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            top, left = i * (height + gap), j * (width + gap)
            sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(path)
    return path
