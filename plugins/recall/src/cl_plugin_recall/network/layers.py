"""Convolution, pooling, batch normalisation and resizing as the published networks do them, and named variables.

Plain ``tf.Module`` variables under the reference's names, ``tf.nn`` functions, no Keras layers.
Shapes: B batch, H W image, h w feature grid, C channels or classes; NHWC images, HWIO kernels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cl_plugin_recall.backend import tf


def conv(x: tf.Tensor, kernel: tf.Tensor, *, stride: int = 1, dilation: int = 1, padding: str = "same") -> tf.Tensor:
    """Convolution without bias, in the type of ``x``; ``padding`` as in the network's specification."""
    kernel = tf.cast(kernel, x.dtype)
    if padding == "symmetric" and int(kernel.shape[0]) > 1:
        reach = dilation * (int(kernel.shape[0]) - 1) // 2
        if stride == 1:
            return conv(x, kernel, dilation=dilation)
        x = tf.pad(x, [[0, 0], [reach, reach], [reach, reach], [0, 0]])
        return tf.nn.conv2d(x, kernel, strides=stride, padding="VALID")
    if dilation > 1 and not tf.config.list_physical_devices("GPU"):
        # the CPU has no filter gradient for a dilated convolution; this form (space to batch) has
        return tf.nn.atrous_conv2d(x, kernel, dilation, "SAME")
    return tf.nn.conv2d(x, kernel, strides=stride, padding="SAME", dilations=dilation)


def max_pool(x: tf.Tensor, padding: str = "same") -> tf.Tensor:
    """3x3 maximum, stride 2."""
    if padding == "symmetric":
        x = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], constant_values=float("-inf"))
        return tf.nn.max_pool2d(x, 3, 2, "VALID")
    return tf.nn.max_pool2d(x, 3, 2, "SAME")


def batch_norm(
    x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor, epsilon: float = 1e-3
) -> tf.Tensor:
    """Normalise with the given statistics over the last axis, in the type of ``x``."""
    if x.dtype == tf.float32:
        return tf.nn.batch_normalization(x, mean, variance, beta, gamma, epsilon)
    factor = gamma * tf.math.rsqrt(variance + epsilon)
    return x * tf.cast(factor, x.dtype) + tf.cast(beta - mean * factor, x.dtype)


def aspp(x: tf.Tensor, kernels: Sequence[tf.Tensor], biases: Sequence[tf.Tensor], rates: Sequence[int]) -> tf.Tensor:
    """Sum of parallel dilated 3x3 convolutions with bias, [B, h, w, C] (DeepLab-v2)."""
    branches = [conv(x, k, dilation=r) + tf.cast(b, x.dtype) for k, b, r in zip(kernels, biases, rates, strict=True)]
    return tf.add_n(branches)


def resize_logits(x: tf.Tensor, size: tf.Tensor | tuple[int, int]) -> tf.Tensor:
    """Bilinear, float32, legacy corners: row i samples i * h_src / h_out, no half-pixel shift, clamped at the edge."""
    x = tf.cast(x, tf.float32)
    return tf.raw_ops.ResizeBilinear(images=x, size=size, align_corners=False, half_pixel_centers=False)


def glorot(shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Glorot-uniform draw, also for vectors: a bias of length C gets U(-sqrt(3/C), sqrt(3/C))."""
    shape = tuple(shape)
    receptive = int(np.prod(shape[:-2])) if len(shape) > 2 else 1
    fan_in, fan_out = (shape[-2] * receptive, shape[-1] * receptive) if len(shape) > 1 else (shape[0], shape[0])
    limit = np.sqrt(6.0 / (fan_in + fan_out))
    return rng.uniform(-limit, limit, shape).astype(np.float32)


def initial_value(name: str, shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Value of a variable that no checkpoint supplies."""
    leaf = name.rsplit("/", 1)[-1]
    if leaf in ("gamma", "moving_variance"):
        return np.ones(shape, np.float32)
    if leaf in ("beta", "moving_mean"):
        return np.zeros(shape, np.float32)
    return glorot(shape, rng)


class Part(tf.Module):
    """Named variables; encoder and decoder are parts."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], rng: np.random.Generator) -> None:
        super().__init__()
        self.named: dict[str, tf.Variable] = {
            name: tf.Variable(
                initial_value(name, shape, rng), trainable="/moving_" not in name, name=name.replace("/", "_")
            )
            for name, shape in shapes.items()
        }

    @property
    def kernels(self) -> list[tf.Variable]:
        """Convolution kernels, the only variables under weight decay."""
        return [v for n, v in self.named.items() if n.endswith("/weights")]

    @property
    def learnt(self) -> list[tf.Variable]:
        """Everything but the moving statistics: kernels, biases and also gamma and beta."""
        return [v for n, v in self.named.items() if "/moving_" not in n]

    def values(self) -> dict[str, np.ndarray]:
        """Name -> array."""
        return {name: variable.numpy() for name, variable in self.named.items()}

    def assign(self, values: Mapping[str, Any]) -> None:
        """Take over arrays by name.

        :raises KeyError: when a name is missing.
        """
        for name, variable in self.named.items():
            variable.assign(values[name])


def bn_shapes(scope: str, channels: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of one batch normalisation."""
    return {f"{scope}/BatchNorm/{leaf}": (channels,) for leaf in ("gamma", "beta", "moving_mean", "moving_variance")}
