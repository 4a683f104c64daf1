"""Decoding, augmentation and 8-bit conversion of images and labels.

Shapes: H W image; labels keep a last axis of 1 inside the graph.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from cl_kernel import BadInput
from cl_plugin_recall.backend import tf
from cl_plugin_recall.network.inputs import LEGACY_INPUT, InputSpec

VOID = 255


def decode_jpeg(data: tf.Tensor) -> tf.Tensor:
    """JPEG bytes -> uint8 [H, W, 3] RGB, without fancy chroma upsampling (Pillow differs by several levels)."""
    return tf.io.decode_jpeg(data, channels=3, fancy_upscaling=False)


def decode_image(data: bytes, where: str) -> np.ndarray:
    """JPEG or PNG bytes -> uint8 [H, W, 3], with the name of the culprit when they cannot be decoded.

    :raises BadInput: naming ``where``.
    """
    try:
        if data[:2] == b"\xff\xd8":
            return decode_jpeg(tf.constant(data)).numpy()
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    except (tf.errors.InvalidArgumentError, OSError, SyntaxError) as error:
        raise BadInput(
            f"image cannot be decoded: {str(error).splitlines()[0][:120]}",
            where=where,
            fix="replace the file, or run with --on-bad-sample skip",
        ) from error


def resize_bilinear(image: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """[H, W, C] float -> ``size``, legacy corners, no antialias."""
    return tf.raw_ops.ResizeBilinear(images=image[None], size=size, align_corners=False, half_pixel_centers=False)[0]


def resize_nearest(label: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """[H, W, 1] -> ``size``; source index floor(i * h_src / h_out)."""
    return tf.raw_ops.ResizeNearestNeighbor(
        images=label[None], size=size, align_corners=False, half_pixel_centers=False
    )[0]


def scaled_size(shape: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    """trunc(scale * side) for both sides, int32 [2]."""
    return tf.cast(tf.cast(shape, tf.float32) * tf.cast(scale, tf.float32), tf.int32)


def crop_offset(shape: tf.Tensor, size: int, draws: tf.Tensor) -> tf.Tensor:
    """Uniform integer offset of the crop in the padded image, from two draws in [0, 1)."""
    room = tf.cast(tf.maximum(shape - size, 0) + 1, tf.float32)
    return tf.minimum(tf.cast(draws * room, tf.int32), tf.cast(room, tf.int32) - 1)


def augment(
    image: tf.Tensor,
    label: tf.Tensor,
    *,
    scale: tf.Tensor | None,
    flip: tf.Tensor,
    offset: tf.Tensor | None,
    size: int,
    draws: tf.Tensor | None = None,
) -> tf.Tensor:
    """Scale, flip, pad and crop a mean-subtracted image and its label together.

    :param image: float32 [H, W, 3]; padding adds 0, the mean colour.
    :param label: uint8 [H, W, 1]; padding adds 255.
    :param scale: one factor for both sides; None leaves the size alone.
    :param flip: a draw in [0, 1); below 0.5 flips left-right.
    :param offset: top-left corner of the crop in the padded image; None to take it from two ``draws`` in [0, 1).
    :return: image float32 [size, size, 3], label uint8 [size, size, 1].
    """
    if scale is not None:
        new = scaled_size(tf.shape(image)[:2], scale)
        image, label = resize_bilinear(image, new), resize_nearest(label, new)
    image, label = tf.cond(flip < 0.5, lambda: (tf.reverse(image, [1]), tf.reverse(label, [1])), lambda: (image, label))
    shape = tf.shape(image)[:2]
    missing = tf.maximum(size - shape, 0)
    image = tf.pad(image, [[0, missing[0]], [0, missing[1]], [0, 0]])
    label = tf.pad(label, [[0, missing[0]], [0, missing[1]], [0, 0]], constant_values=VOID)
    at = crop_offset(tf.shape(image)[:2], size, draws) if offset is None else offset
    image = tf.slice(image, [at[0], at[1], 0], [size, size, 3])
    label = tf.slice(label, [at[0], at[1], 0], [size, size, 1])
    return image, label


def subtract_mean(image: tf.Tensor, spec: InputSpec = LEGACY_INPUT) -> tf.Tensor:
    """uint8 RGB -> float32 network input; the default is what the reference feeds."""
    return spec.apply(image)


def generated_to_uint8(x: np.ndarray) -> np.ndarray:
    """GAN output in [-1, 1] -> 8 bit: trunc(255.5 * (x + 1) / 2)."""
    return np.clip(np.trunc(255.5 * ((np.asarray(x, np.float32) + np.float32(1)) / np.float32(2))), 0, 255).astype(
        np.uint8
    )
