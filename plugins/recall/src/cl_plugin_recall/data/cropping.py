"""Scale, flip and crop of a training image, worked out first, so that only what ends in the crop is decoded and scaled.

What comes out is what :func:`cl_plugin_recall.data.images.augment` gives, image values up to rounding (below 0.01 of
255), labels exactly. Shapes: H W image, S crop side.
"""

from __future__ import annotations

import numpy as np
from attrs import frozen

from cl_plugin_recall.backend import tf
from cl_plugin_recall.network.inputs import InputSpec

VOID = 255


@frozen
class Window:
    """Where a crop comes from.

    :param source: top, left, height, width of the part of the image that is needed, int32 [4].
    :param boxes: rows of that part on which the first and last row of the crop lie, then columns; float32 [4]. Columns
        run backwards for a flipped crop.
    :param inside: rows and columns of the crop that the image covers; the rest is padding.
    :param rows: row of the image for every covered row of the crop, for labels; likewise ``columns``.
    """

    source: np.ndarray
    boxes: np.ndarray
    inside: tuple[int, int]
    rows: np.ndarray
    columns: np.ndarray
    size: int

    def label(self, table: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """The label crop uint8 [S, S], through a table."""
        found = np.full((self.size, self.size), VOID, np.uint8)
        found[: self.inside[0], : self.inside[1]] = table[mask[self.rows[:, None], self.columns]]
        return found


def choose_window(shape: tuple[int, ...], scale: np.float32, draws: np.ndarray, size: int) -> Window:
    """The window of an image for a scale and three draws in [0, 1): flip, and offset of the crop.

    :param shape: of the image, (H, W).
    """
    scaled = [int(np.float32(side) * scale) for side in shape[:2]]
    room = [max(side - size, 0) for side in scaled]
    offset = [
        min(int(np.float32(draw) * np.float32(free + 1)), free) for draw, free in zip(draws[1:], room, strict=True)
    ]
    inside = [min(side, size) for side in scaled]
    flip = bool(draws[0] < 0.5)
    places = []
    for axis in (0, 1):
        places.append(np.arange(offset[axis], offset[axis] + inside[axis]))
    if flip:
        places[1] = scaled[1] - 1 - places[1]
    source, boxes, nearest = [], [], []
    for axis, place in enumerate(places):
        step = np.float32(shape[axis]) / np.float32(scaled[axis])
        at = place.astype(np.float32) * step
        last = shape[axis] - 1
        first = int(at.min())
        end = min(int(at.max()) + 1, last)
        source.append((first, end - first + 1))
        boxes += [at[0] - first, at[-1] - first]
        nearest.append(np.minimum(np.floor(at).astype(np.int64), last))
    (top, height), (left, width) = source
    return Window(
        np.array([top, left, height, width], np.int32),
        np.array(boxes, np.float32),
        (inside[0], inside[1]),
        nearest[0],
        nearest[1],
        size,
    )


def decode_window(data: tf.Tensor, source: tf.Tensor) -> tf.Tensor:
    """A part of an encoded image, uint8 [h, w, 3]; of a JPEG, only that part is decoded, without fancy upsampling."""
    return tf.cond(
        tf.strings.substr(data, 0, 2) == b"\xff\xd8",
        lambda: tf.image.decode_and_crop_jpeg(data, source, channels=3, fancy_upscaling=False),
        lambda: tf.slice(tf.io.decode_png(data, channels=3), [source[0], source[1], 0], [source[2], source[3], 3]),
    )


def cut(
    part: tf.Tensor, box: tf.Tensor, inside: tf.Tensor, size: int, spec: InputSpec, *, scaled: bool = True
) -> tf.Tensor:
    """The crop as network input, float32 [S, S, 3], padding 0.

    :param part: uint8 [h, w, 3]; its outer rows and columns are repeated, as a legacy resize does at the end.
    :param scaled: whether there is any scaling; without, pixels are taken as they are.
    """
    if scaled:
        crop = _sampled(part, box + 1.0, inside)
    else:
        crop = part[: inside[0], : inside[1]]
        crop = tf.cond(box[2] > box[3], lambda: tf.reverse(crop, [1]), lambda: crop)
    missing = size - inside
    return tf.pad(spec.apply(crop), [[0, missing[0]], [0, missing[1]], [0, 0]])


def _sampled(part: tf.Tensor, box: tf.Tensor, inside: tf.Tensor) -> tf.Tensor:
    part = tf.concat([part[:1], part, part[-1:]], 0)
    part = tf.concat([part[:, :1], part, part[:, -1:]], 1)
    height, width = (tf.cast(tf.shape(part)[axis] - 1, tf.float32) for axis in (0, 1))
    boxes = tf.stack([box[0] / height, box[2] / width, box[1] / height, box[3] / width])[None]
    return tf.image.crop_and_resize(part[None], boxes, [0], inside, method="bilinear")[0]
