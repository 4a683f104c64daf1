"""Pictures with frames and captions put on one board, without the cost of a plot for each.

Shapes: H W pixels.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from attrs import frozen
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

FONT, LINE, GAP = 13, 18, 8
"""Height of letters, of a line of text, and space between pictures, in pixels."""
SMALL = 40
"""Pictures of fewer pixels a side are smoothed for the eye."""
FRAME = (255, 140, 0)
RIGHT, WRONG, FAINT = (0, 0, 0), (178, 34, 34), (90, 90, 90)


@frozen
class Cell:
    """A picture uint8 [H, W] or [H, W, 3], what is framed in it (y, x, height, width), and a caption."""

    image: np.ndarray
    box: np.ndarray | None = None
    text: str = ""
    colour: tuple[int, int, int] = RIGHT


def draw_board(
    path: Path, rows: Sequence[Sequence[Cell]], *, titles: Sequence[str] = (), legend: str = "", width: int = 200
) -> None:
    """Write a board of cells, all pictures of one size.

    :param titles: of the columns.
    :param legend: above everything.
    :param width: of a picture, in pixels; of one much higher than wide it is less.
    """
    height, across = rows[0][0].image.shape[:2]
    height = round(height * width / across)
    captions = LINE if any(cell.text for row in rows for cell in row) else 0
    n_columns = max(map(len, rows))
    whole = GAP + n_columns * (width + GAP)
    said = textwrap.wrap(legend, max(20, round(whole / (FONT * 0.55)))) if legend else []
    top = GAP + LINE * (len(said) + bool(titles))
    board = Image.new("RGB", (whole, top + len(rows) * (captions + height + GAP) + GAP), "white")
    pen, font = ImageDraw.Draw(board), _font()
    for number, line in enumerate(said):
        pen.text((whole / 2, GAP / 2 + LINE * number), line, RIGHT, font, anchor="ma")
    for column, title in enumerate(titles):
        pen.text((GAP + column * (width + GAP) + width / 2, top - LINE), title, FAINT, font, anchor="ma")
    for down, row in enumerate(rows):
        y = top + down * (captions + height + GAP) + captions
        for column, cell in enumerate(row):
            x = GAP + column * (width + GAP)
            _place(board, pen, cell, (x, y), (width, height))
            pen.text((x, y - captions), cell.text, cell.colour, font)
    board.save(path)


def _place(
    board: Image.Image, pen: ImageDraw.ImageDraw, cell: Cell, at: tuple[int, int], size: tuple[int, int]
) -> None:
    image = cell.image if cell.image.ndim == 3 else np.repeat(cell.image[..., None], 3, 2)
    how = Image.Resampling.BICUBIC if min(image.shape[:2]) < SMALL else Image.Resampling.LANCZOS
    board.paste(Image.fromarray(image).resize(size, how), at)
    if cell.box is not None:
        scale = size[0] / image.shape[1]
        y, x, h, w = (float(v) * scale for v in cell.box)
        low = (max(at[0], at[0] + x), max(at[1], at[1] + y))
        high = (min(at[0] + size[0] - 1, at[0] + x + w), min(at[1] + size[1] - 1, at[1] + y + h))
        if high[0] > low[0] and high[1] > low[1]:
            pen.rectangle((low, high), outline=FRAME, width=2)


def _font() -> FreeTypeFont:
    """The letters that plots use, which know more alphabets than Pillow's own."""
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", FONT)
