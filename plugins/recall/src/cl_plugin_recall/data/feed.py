"""Batches for training: rows picked by plain arithmetic, decoded and augmented in a ``tf.data`` pipeline.

Only what ends in the crop is decoded and scaled. Nothing depends on how many threads there are, and a pipeline can
start at any step, so a run resumes in the middle of a phase. What waits in the pipeline is a few batches of encoded
images, never a decoded shuffle buffer.
Shapes: B batch, H W image, S crop side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
from attrs import frozen

from cl_kernel import BadInput, Samples
from cl_plugin_recall.backend import tf
from cl_plugin_recall.data.cropping import choose_window, cut, decode_window
from cl_plugin_recall.data.images import decode_image
from cl_plugin_recall.network.inputs import InputSpec

PREFETCH = 4


class Schedule(Protocol):
    """Which rows make up batch ``t``; see :mod:`cl_plugin_recall.method.interleave`."""

    def batch(self, t: int) -> list[tuple[bool, int]]:
        """(is replayed, row) of every member."""


@frozen(kw_only=True)
class Augmentation:
    """How training images are varied.

    :param scale: range of the random scale of both sides; equal ends switch it off.
    :param size: side of the crop.
    """

    scale: tuple[float, float]
    size: int


def pick(
    members: list[tuple[bool, int]], new: Samples, old: Samples | None
) -> tuple[list[bytes | np.ndarray], list[np.ndarray]]:
    """Images (encoded, or arrays) and label maps of a batch, in its order."""
    images: list[Any] = [None] * len(members)
    masks: list[Any] = [None] * len(members)
    for samples, flag in ((new, False), (old, True)):
        at = [k for k, (is_old, _) in enumerate(members) if is_old == flag]
        if not at:
            continue
        assert samples is not None
        batch = samples.take(np.array([members[k][1] for k in at], np.int64), ["image", "mask"])
        for k, image, mask in zip(at, batch["image"], batch["mask"], strict=True):
            images[k], masks[k] = image, mask
    return images, masks


def _bytes(image: bytes | np.ndarray) -> bytes:
    return image if isinstance(image, bytes) else np.ascontiguousarray(image, np.uint8).tobytes()


def batches(
    schedule: Schedule,
    new: Samples,
    old: Samples | None,
    *,
    start: int,
    stop: int,
    table: np.ndarray,
    augmentation: Augmentation,
    spec: InputSpec,
    draws: Callable[[int, int], np.ndarray],
    n_parallel: int = 2,
) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
    """Network input float32 [B, S, S, 3] and labels uint8 [B, S, S] of steps ``start`` to ``stop``.

    :param table: uint8 [256], applied to every label: a helper's numbering, or nothing.
    :param draws: (step, images) -> uniform draws [images, 4]: scale, flip, crop.
    :raises BadInput: for an image that cannot be decoded, naming it.
    """

    low, high = augmentation.scale
    size = augmentation.size

    def generate() -> Iterator[tuple[Any, ...]]:
        for t in range(start, stop):
            images, masks = pick(schedule.batch(t), new, old)
            windows, labels = [], []
            for mask, draw in zip(masks, draws(t, len(images)).astype(np.float32), strict=True):
                scale = np.float32(1) if low == high == 1 else np.float32(low) + np.float32(high - low) * draw[0]
                window = choose_window(mask.shape, scale, draw[1:], size)
                windows.append(window)
                labels.append(window.label(table, mask).tobytes())
            yield (
                np.array([_bytes(image) for image in images], object),
                np.array([[0, 0] if isinstance(image, bytes) else image.shape[:2] for image in images], np.int32),
                np.array(labels, object),
                np.stack([window.source for window in windows]),
                np.stack([window.boxes for window in windows]),
                np.array([window.inside for window in windows], np.int32),
            )

    def one(element: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, tf.Tensor]:
        data, shape, label, source, box, inside = element
        rgb = tf.cond(
            shape[0] == 0,
            lambda: decode_window(data, source),
            lambda: tf.slice(
                tf.reshape(tf.io.decode_raw(data, tf.uint8), tf.concat([shape, [3]], 0)),
                [source[0], source[1], 0],
                [source[2], source[3], 3],
            ),
        )
        image = cut(rgb, box, inside, size, spec, scaled=not low == high == 1)
        return tf.ensure_shape(image, [size, size, 3]), tf.reshape(tf.io.decode_raw(label, tf.uint8), [size, size])

    signature = (
        tf.TensorSpec([None], tf.string),
        tf.TensorSpec([None, 2], tf.int32),
        tf.TensorSpec([None], tf.string),
        tf.TensorSpec([None, 4], tf.int32),
        tf.TensorSpec([None, 4], tf.float32),
        tf.TensorSpec([None, 2], tf.int32),
    )
    out = (tf.TensorSpec([size, size, 3], tf.float32), tf.TensorSpec([size, size], tf.uint8))
    dataset = tf.data.Dataset.from_generator(generate, output_signature=signature)
    dataset = dataset.map(
        tf.autograph.experimental.do_not_convert(
            lambda *element: tf.map_fn(one, element, fn_output_signature=out, parallel_iterations=4)
        ),
        num_parallel_calls=max(1, n_parallel),
        deterministic=True,
    ).prefetch(PREFETCH)
    position = start
    try:
        for x, y in dataset:
            yield x, y
            position += 1
    except tf.errors.InvalidArgumentError as error:
        raise _culprit(schedule, new, old, position, stop, error) from error


def _culprit(
    schedule: Schedule, new: Samples, old: Samples | None, start: int, stop: int, error: Exception
) -> BadInput:
    for t in range(start, min(stop, start + PREFETCH + 4)):
        for is_old, row in schedule.batch(t):
            samples = old if is_old else new
            assert samples is not None
            (image,) = samples.take(np.array([row]), ["image"])["image"]
            where = getattr(samples, "where", lambda r: f"row {r}")(row)
            if isinstance(image, bytes):
                try:
                    decode_image(image, where)
                except BadInput as culprit:
                    return culprit
    return BadInput(f"a training image cannot be used: {str(error).splitlines()[0][:160]}")
