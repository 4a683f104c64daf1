"""A small encoder that learns in seconds.

Shapes: B batch, H W image; NHWC images, HWIO kernels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cl_plugin_recall.backend import tf
from cl_plugin_recall.network.layers import Part, bn_shapes, conv

TINY_LAYERS = ((16, 1, 1), (32, 2, 1), (32, 1, 1), (64, 2, 1), (64, 1, 2), (64, 1, 4))
"""Width, stride, dilation of the small encoder's 3x3 convolutions."""


class SmallEncoder(Part):
    """Convolutions at output stride 4 with batch normalisation that does learn its statistics in step 0."""

    def __init__(
        self, rng: np.random.Generator, layers: Sequence[tuple[int, int, int]] = TINY_LAYERS, momentum: float = 0.9
    ) -> None:
        shapes: dict[str, tuple[int, ...]] = {}
        wide = 3
        for i, (width, _, _) in enumerate(layers, 1):
            shapes[f"small/conv{i}/weights"] = (3, 3, wide, width)
            shapes |= bn_shapes(f"small/conv{i}", width)
            wide = width
        super().__init__(shapes, rng)
        self.layers, self.momentum, self.depth = tuple(layers), momentum, wide

    def __call__(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Input [B, H, W, 3] -> features [B, H/4, W/4, depth]."""
        return self.stages(x, training)[-1]

    def stages(self, x: tf.Tensor, training: bool = False) -> list[tf.Tensor]:
        """Output of every layer."""
        found = []
        for i, (_, stride, dilation) in enumerate(self.layers, 1):
            x = self._layer(x, i, stride, dilation, training)
            found.append(x)
        return found

    def _layer(self, x: tf.Tensor, i: int, stride: int, dilation: int, training: bool) -> tf.Tensor:
        weights = self.named[f"small/conv{i}/weights"]
        gamma, beta, mean, variance = (
            self.named[f"small/conv{i}/BatchNorm/{leaf}"]
            for leaf in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        if training:
            x = conv(x, weights, stride=stride, dilation=dilation)
            wide = tf.cast(x, tf.float32)
            y, batch_mean, batch_variance = tf.compat.v1.nn.fused_batch_norm(wide, gamma, beta, epsilon=1e-3)
            mean.assign_sub((1 - self.momentum) * (mean - tf.stop_gradient(batch_mean)))
            variance.assign_sub((1 - self.momentum) * (variance - tf.stop_gradient(batch_variance)))
            return tf.nn.relu(tf.cast(y, x.dtype))
        # statistics folded into the convolution, which needs no gradient
        factor = gamma * tf.math.rsqrt(variance + 1e-3)
        kernel = tf.cast(weights * factor, x.dtype)
        x = tf.nn.conv2d(x, kernel, strides=stride, padding="SAME", dilations=dilation)
        return tf.nn.relu(tf.nn.bias_add(x, tf.cast(beta - mean * factor, x.dtype)))
