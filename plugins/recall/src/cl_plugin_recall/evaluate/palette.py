"""Labels as colours, and pictures a person can judge.

Shapes: H W image.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

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


def many_colours() -> np.ndarray:
    """A colour for every label, uint8 [256, 3]: those of VOC's development kit, whose bits spread over the channels."""
    label = np.arange(256)
    table = np.zeros((256, 3), np.int64)
    for bit in range(8):
        for channel in range(3):
            table[:, channel] |= ((label >> (3 * bit + channel)) & 1) << (7 - bit)
    table[255] = 255
    return table.astype(np.uint8)


def overlay(image: np.ndarray, label: np.ndarray, strength: float = 0.55) -> np.ndarray:
    """Class colours laid over the photo; background and void stay as they are."""
    colours = many_colours()[np.asarray(label)].astype(np.float32)
    shown = ((label != 0) & (label != 255))[..., None]
    mixed = np.where(shown, (1 - strength) * image + strength * colours, image)
    return mixed.astype(np.uint8)


def legend(labels: Sequence[int], names: Sequence[str], width: int) -> np.ndarray:
    """Names beside their colours, in rows, uint8 [h, width, 3]."""
    colours, line = many_colours(), 14
    probe = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    places, x, y = [], 2, 2
    for label in labels:
        wide = 16 + int(probe.textlength(names[label]))
        if x > 2 and x + wide > width:
            x, y = 2, y + line
        places.append((label, x, y))
        x += wide + 8
    sheet = Image.new("RGB", (width, y + line), "white")
    draw = ImageDraw.Draw(sheet)
    for label, x, y in places:
        draw.rectangle([x, y, x + 10, y + 10], fill=tuple(int(v) for v in colours[label]), outline="black")
        draw.text((x + 14, y - 1), names[label], fill="black")
    return np.asarray(sheet)


def picture(rows: Sequence[Sequence[np.ndarray]], path: Path, gap: int = 4) -> Path:
    """A sheet of pictures, one list a row, saved as PNG; a row of a single picture may be wider than the others."""
    heights = [max(image.shape[0] for image in row) + gap for row in rows]
    width = max(sum(image.shape[1] + gap for image in row) for row in rows) - gap
    longest = max(map(len, rows))
    cell = max(image.shape[1] for row in rows if len(row) == longest for image in row) + gap
    width = max(width, cell * max(map(len, rows)) - gap)
    sheet = np.full((sum(heights) - gap, width, 3), 255, np.uint8)
    top = 0
    for row, height in zip(rows, heights, strict=True):
        for k, image in enumerate(row):
            sheet[top : top + image.shape[0], k * cell : k * cell + image.shape[1]] = image
        top += height
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(path)
    return path
