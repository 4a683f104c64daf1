"""One reader of pictures for every plugin: any common form of a picture becomes the same eight bits a channel.

Pillow is imported when the first picture is read. Its own ``convert("RGB")`` is not enough: it clips sixteen bits to
white and leaves a camera's turned pictures lying. Transparency is dropped, as by torchvision and TensorFlow.
Forms of pictures: https://pillow.readthedocs.io/en/stable/handbook/concepts.html
Shapes: H, W height and width as shown.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cl_kernel.contract.errors import BadInput

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
"""Endings of picture files, lower case."""

_DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")


def is_picture(path: str | Path) -> bool:
    """Whether a file's name says that it holds a picture."""
    return os.fspath(path).lower().endswith(SUFFIXES)


def read_picture(source: str | Path | bytes, *, grey: bool = False, name: str = "") -> np.ndarray:
    """A picture as uint8 [H, W, 3], or [H, W] for ``grey``.

    Grey, palette and CMYK pictures become RGB; an alpha channel is dropped; sixteen bits are scaled to eight (v / 257,
    rounded); a camera's orientation is applied; of several frames the first is taken.

    :param source: a path, or the bytes of a file.
    :param name: for the message, when ``source`` is bytes.
    :raises BadInput: naming the picture that cannot be decoded.
    """
    return np.asarray(open_picture(source, grey=grey, name=name), np.uint8)


def open_picture(source: str | Path | bytes, *, grey: bool = False, name: str = "") -> Image:
    """As :func:`read_picture`, as a picture of Pillow in mode ``RGB`` or ``L``, to be resized or cut there."""
    from PIL import Image

    where = name or (os.fspath(source) if not isinstance(source, bytes) else "bytes of a picture")
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            return eight_bits(image, grey=grey)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error
        raise BadInput(f"picture cannot be decoded: {reason}", where=where, fix="--on-bad-sample skip") from error


def eight_bits(image: Any, *, grey: bool = False) -> Image:
    """An opened picture of any mode, upright, in mode ``RGB`` or ``L``."""
    from PIL import ImageOps

    form = image.format
    image = ImageOps.exif_transpose(image) or image
    if image.mode in _DEEP:
        image = _scaled(image, form)
    wanted = "L" if grey else "RGB"
    return image if image.mode == wanted else image.convert(wanted)


def _scaled(image: Any, form: str | None) -> Any:
    """Sixteen bits to eight; releases of Pillow differ in the mode of sixteen-bit files, but not in the values."""
    from PIL import Image

    if image.mode == "F" or (image.mode == "I" and form not in ("PNG", "PPM")):
        raise ValueError("its pixels are 32-bit numbers, for which no range is agreed; save it with 8 or 16 bits")
    values = np.asarray(image).astype(np.uint32)
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))
