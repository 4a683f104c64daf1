"""Label pictures as class numbers: index values through a table, or colours through a palette.

Shapes: H W image. In the plugin 0 is background, 255 void, classes count from 1.
"""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from attrs import field, frozen
from PIL import Image

from cl_kernel import BadInput
from cl_plugin_recall.data.files import decode_png

VOID = 255
Colour = tuple[int, int, int]


@frozen
class Indexed:
    """Pictures whose values are label numbers.

    :param table: stored value -> label, uint8 [256]; None where they are the same.
    :param unknown: stored values that mean nothing here; they are refused.
    """

    table: np.ndarray | None = field(default=None, eq=False)
    unknown: np.ndarray | None = field(default=None, eq=False)

    def read(self, data: bytes, where: str) -> np.ndarray:
        """Encoded picture -> uint8 [H, W].

        :raises BadInput: for another kind of picture, or a value without meaning.
        """
        mask = decode_png(data, where)
        if self.unknown is not None and self.unknown[mask].any():
            value = int(mask[self.unknown[mask]][0])
            raise BadInput(
                f"label value {value} belongs to no class", where=where, fix="check classes.txt, or the data set's kind"
            )
        return mask if self.table is None else self.table[mask]

    def describe(self) -> object:
        """What reading depends on."""
        return None if self.table is None else self.table.tolist()


@frozen
class Coloured:
    """Pictures whose colours are classes.

    :param palette: colour R G B -> label; colours that are not in it are refused, but for black and white, which are
        background and void unless the palette says otherwise.
    """

    palette: Mapping[Colour, int]
    _codes: np.ndarray = field(init=False, eq=False)
    _labels: np.ndarray = field(init=False, eq=False)

    def __attrs_post_init__(self) -> None:
        full = {(0, 0, 0): 0, (255, 255, 255): VOID} | dict(self.palette)
        codes = {(r << 16) | (g << 8) | b: label for (r, g, b), label in full.items()}
        ordered = sorted(codes)
        object.__setattr__(self, "_codes", np.array(ordered, np.int64))
        object.__setattr__(self, "_labels", np.array([codes[code] for code in ordered], np.uint8))

    def read(self, data: bytes, where: str) -> np.ndarray:
        """Encoded picture -> uint8 [H, W].

        :raises BadInput: naming the first colour outside the palette, and how many pixels have such colours.
        """
        try:
            with Image.open(io.BytesIO(data)) as picture:
                rgb = np.asarray(picture.convert("RGB"), np.int64)
        except (OSError, SyntaxError) as error:
            raise BadInput(f"label image cannot be decoded: {error}", where=where) from error
        code = (rgb[..., 0] << 16) | (rgb[..., 1] << 8) | rgb[..., 2]
        at = np.minimum(np.searchsorted(self._codes, code), len(self._codes) - 1)
        if (outside := self._codes[at] != code).any():
            r, g, b = rgb[outside][0].tolist()
            raise BadInput(
                f"colour {r} {g} {b} is in no line of the palette ({int(outside.sum())} pixels of such colours)",
                where=where,
                fix="add the colour to classes.txt (name R G B), or save label pictures as PNG without smoothing",
            )
        return self._labels[at]

    def describe(self) -> object:
        """What reading depends on."""
        return [self._codes.tolist(), self._labels.tolist()]
