"""Decoders of any number of outputs on top of one encoder.

Shapes: B batch, H W image, h w feature grid, C classes; NHWC.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from attrs import field, frozen

from cl_plugin_recall.backend import tf
from cl_plugin_recall.network.inputs import InputSpec
from cl_plugin_recall.network.layers import Part, aspp, resize_logits


class Decoder(Part):
    """ASPP head: features -> logits on the feature grid."""

    def __init__(
        self, depth: int, n_outputs: int, rng: np.random.Generator, rates: Sequence[int] = (6, 12, 18, 24)
    ) -> None:
        shapes: dict[str, tuple[int, ...]] = {}
        for i in range(1, len(rates) + 1):
            shapes[f"decoder/aspp/conv{i}/weights"] = (3, 3, depth, n_outputs)
            shapes[f"decoder/aspp/conv{i}/biases"] = (n_outputs,)
        super().__init__(shapes, rng)
        self.rates, self.n_outputs = tuple(rates), n_outputs

    def __call__(self, features: tf.Tensor) -> tf.Tensor:
        """[B, h, w, depth] -> [B, h, w, C]."""
        branches = range(1, len(self.rates) + 1)
        return aspp(
            features,
            [self.named[f"decoder/aspp/conv{i}/weights"] for i in branches],
            [self.named[f"decoder/aspp/conv{i}/biases"] for i in branches],
            self.rates,
        )


@frozen(kw_only=True)
class Network:
    """What a learner needs of a model: one encoder, and decoders of any number of outputs.

    :param new_encoder: another encoder of the same shape, for copies of an earlier one.
    :param input: how decoded RGB becomes the encoder's input.
    :param n_outputs: logits of the main decoder, background included.
    """

    encoder: Any
    new_encoder: Callable[[np.random.Generator], Any]
    new_decoder: Callable[[int, np.random.Generator], Decoder]
    input: InputSpec
    n_outputs: int
    fingerprint: str = ""
    info: Mapping[str, Any] = field(factory=dict)


def logits(encoder: Any, decoder: Decoder, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    """Full-resolution logits [B, H, W, C] of mean-subtracted input [B, H, W, 3]."""
    return resize_logits(decoder(encoder(x, training)), tf.shape(x)[1:3])
