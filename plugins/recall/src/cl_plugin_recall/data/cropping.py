"""Scale, flip and crop of a training image, worked out first, so that only what ends in the crop is decoded and scaled.

What comes out is what :func:`cl_plugin_recall.data.images.augment` gives, image values up to rounding (below 0.001 of
255), labels exactly. Only the JPEG decoder is TensorFlow's: interpolation along columns, colour order and flip are one
look-up here, along rows another, in less time than its operations take. Shapes: H W image, h w the part of it that is
needed, S crop side.
"""

from __future__ import annotations

import numpy as np
from attrs import frozen

from cl_plugin_recall.backend import tf
from cl_plugin_recall.data.images import VOID, decode_image
from cl_plugin_recall.data.rooms import room
from cl_plugin_recall.network.inputs import InputSpec


@frozen
class Axis:
    """Rows (or columns) of a crop, and where they lie in the image.

    :param first: first row of the image that is needed, of ``count``.
    :param low: row below each row of the crop, counted from ``first``, int64; ``high`` the one above, and ``part`` how
        far it lies between them, float32; None where rows of the crop are rows of the image.
    """

    first: int
    count: int
    low: np.ndarray
    high: np.ndarray
    part: np.ndarray | None


@frozen
class Window:
    """Where a crop comes from; what the image does not cover is padding."""

    rows: Axis
    columns: Axis
    size: int

    @property
    def source(self) -> tuple[int, int, int, int]:
        """Top, left, height and width of the part of the image that is needed."""
        return self.rows.first, self.columns.first, self.rows.count, self.columns.count

    @property
    def inside(self) -> tuple[slice, slice]:
        """The part of the crop that the image covers."""
        return slice(len(self.rows.low)), slice(len(self.columns.low))

    def label(self, table: np.ndarray, mask: np.ndarray, out: np.ndarray) -> None:
        """Fill a label crop, uint8 [S, S], from a label map [H, W], through a table."""
        rows, columns = self.rows.first + self.rows.low, self.columns.first + self.columns.low
        out.fill(VOID)
        out[self.inside] = table.take(mask.take(rows, 0).take(columns, 1))

    def image(self, part: np.ndarray, spec: InputSpec, out: np.ndarray) -> None:
        """Fill a crop as network input, float32 [S, S, 3], padding 0, from a part uint8 [h, w, 3]."""
        rows, width = self.rows, 3 * len(self.columns.low)
        wide = _columns(part, self.columns, spec)
        out.fill(0)
        crop = out.reshape(self.size, -1)[: len(rows.low), :width]
        if rows.part is None:
            crop[:] = wide[rows.low[0] : rows.low[-1] + 1]
            return
        low = wide.take(rows.low, 0, room("low row", np.float32, (len(rows.low), width)), "clip")
        high = wide.take(rows.high, 0, room("high row", np.float32, low.shape), "clip")
        high -= low
        high *= rows.part[:, None]
        np.add(low, high, crop)


def _columns(part: np.ndarray, axis: Axis, spec: InputSpec) -> np.ndarray:
    """Columns of a part as network input, float32 [h, 3 * columns]; valid until the thread asks again."""
    order = np.array((2, 1, 0) if spec.order == "bgr" else (0, 1, 2))
    flat = part.reshape(len(part), -1)
    shape = (len(part), 3 * len(axis.low))
    found = room("columns", np.float32, shape)
    low = flat.take((axis.low[:, None] * 3 + order).ravel(), 1, room("low", np.uint8, shape), "clip")
    if axis.part is None:
        found[:] = low
    else:
        high = flat.take((axis.high[:, None] * 3 + order).ravel(), 1, room("high", np.uint8, shape), "clip")
        np.subtract(high, low, found, dtype=np.float32)
        found *= np.repeat(axis.part, 3)
        found += low
    found -= np.tile(np.float32(spec.mean), len(axis.low))
    if spec.std != (1.0, 1.0, 1.0):
        found /= np.tile(np.float32(spec.std), len(axis.low))
    return found


def choose_window(shape: tuple[int, ...], scale: np.float32, draws: np.ndarray, size: int) -> Window:
    """The window of an image for a scale and three draws in [0, 1): flip, and offset of the crop.

    :param shape: of the image, (H, W).
    """
    flip = bool(draws[0] < 0.5)
    rows, columns = (
        _axis(side, scale, draw, size, flip=flip and at == 1)
        for at, (side, draw) in enumerate(zip(shape[:2], draws[1:], strict=True))
    )
    return Window(rows, columns, size)


def _axis(side: int, scale: np.float32, draw: np.float32, size: int, *, flip: bool) -> Axis:
    scaled = int(np.float32(side) * scale)
    room = max(scaled - size, 0)
    offset = min(int(np.float32(draw) * np.float32(room + 1)), room)
    places = np.arange(offset, offset + min(scaled, size))
    if flip:
        places = scaled - 1 - places
    at = places.astype(np.float32) * (np.float32(side) / np.float32(scaled))
    low = np.minimum(at.astype(np.int64), side - 1)
    high = np.minimum(low + 1, side - 1)
    first = int(low.min())
    part = None if scaled == side else at - low.astype(np.float32)
    return Axis(first, int(high.max()) - first + 1, low - first, high - first, part)


def decode_window(data: bytes | np.ndarray, window: Window, where: str) -> np.ndarray:
    """The part of an image that a window needs, uint8 [h, w, 3]; of a JPEG, only that part is decoded.

    :param data: encoded, or decoded [H, W, 3].
    :raises BadInput: naming ``where`` for an image that cannot be decoded.
    """
    top, left, height, width = window.source
    if isinstance(data, bytes) and data[:2] == b"\xff\xd8":
        try:
            part = tf.raw_ops.DecodeAndCropJpeg(
                contents=data, crop_window=window.source, channels=3, fancy_upscaling=False
            )
        except tf.errors.InvalidArgumentError:
            decode_image(data, where)
            raise
        return np.asarray(memoryview(part))
    image = decode_image(data, where) if isinstance(data, bytes) else data
    return np.ascontiguousarray(image[top : top + height, left : left + width], np.uint8)
