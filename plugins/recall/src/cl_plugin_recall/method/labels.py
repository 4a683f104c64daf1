"""Labels by prediction: background inpainting and pseudo-labels of replay images.

Shapes: B batch, H W image, C logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from cl_plugin_recall.backend import tf
from cl_plugin_recall.data.images import decode_image
from cl_plugin_recall.network.decoder import Decoder, logits
from cl_plugin_recall.network.inputs import InputSpec

PIXELS_AT_ONCE = 300_000
"""Images of one size are predicted together up to this many pixels."""


def argmax(logits_BHWC: tf.Tensor) -> tf.Tensor:
    """Most likely label per pixel, over every channel, learnt or not."""
    return tf.argmax(logits_BHWC, -1, output_type=tf.int32)


def inpaint(label: np.ndarray, prediction: np.ndarray, *, void_too: bool = True) -> np.ndarray:
    """The step's label where it names a class, else the prediction of the model before the step, uint8 [H, W].

    :param void_too: also replace 255, as the reference does.
    """
    open_ground = (label == 0) | (label == 255) if void_too else label == 0
    return np.where(open_ground, prediction, label).astype(np.uint8)


def same_sized(images: Sequence[np.ndarray]) -> Iterator[list[int]]:
    """Groups of positions with equal image size, small enough to predict at once, in order of first appearance."""
    by_size: dict[tuple[int, ...], list[int]] = {}
    for at, image in enumerate(images):
        by_size.setdefault(image.shape, []).append(at)
    for shape, members in by_size.items():
        n = max(1, PIXELS_AT_ONCE // (shape[0] * shape[1]))
        for start in range(0, len(members), n):
            yield members[start : start + n]


class Predictor:
    """Encoder and decoder at full resolution, from decoded images or their bytes to label maps.

    :param spec: how images become network input; None feeds raw RGB.
    """

    def __init__(self, encoder: Any, decoder: Decoder, spec: InputSpec | None) -> None:
        def forward(rgb: tf.Tensor) -> tf.Tensor:
            x = tf.cast(rgb, tf.float32) if spec is None else spec.apply(rgb)
            return tf.cast(argmax(logits(encoder, decoder, x)), tf.uint8)

        self._forward = tf.function(
            forward, input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)], autograph=False
        )

    def arrays(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """uint8 [H, W, 3] each -> uint8 [H, W] each."""
        out: list[np.ndarray] = [np.empty(0, np.uint8)] * len(images)
        for members in same_sized(images):
            predicted = self._forward(tf.constant(np.stack([images[at] for at in members]))).numpy()
            for at, label in zip(members, predicted, strict=True):
                out[at] = label
        return out

    def __call__(
        self, encoded: Sequence[bytes], where: Callable[[int], str] = lambda at: f"image {at}"
    ) -> list[np.ndarray]:
        """JPEG bytes each -> uint8 [H, W] each."""
        return self.arrays([decode_image(data, where(at)) for at, data in enumerate(encoded)])


def predictor(encoder: Any, decoder: Decoder, spec: InputSpec | None) -> Predictor:
    """See :class:`Predictor`."""
    return Predictor(encoder, decoder, spec)
