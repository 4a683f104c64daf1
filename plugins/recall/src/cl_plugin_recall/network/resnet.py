"""ResNet v1 with bottlenecks, at output stride 8.

Shapes: B batch, H W image, C channels; NHWC images, HWIO kernels.
"""

from __future__ import annotations

import numpy as np
from attrs import frozen

from cl_plugin_recall.backend import tf
from cl_plugin_recall.network.layers import Part, batch_norm, bn_shapes, conv, max_pool


@frozen(kw_only=True)
class ResNetSpec:
    """Shape of the ResNet encoder; the defaults are the paper's.

    :param divisor: every width is divided by it (16 gives the small network of the reference vectors).
    :param epsilon: added to the variance in batch normalisation.
    :param stride_place: where the third halving sits: ``"conv1"`` first 1x1 of block2 (reference), ``"conv2"`` its 3x3
        (torchvision), ``"slim"`` 3x3 of the last unit of block1 (tf-slim).
    :param padding: ``"same"`` as TensorFlow (asymmetric), ``"symmetric"`` as torchvision.
    :param lagged_dilation: unit_1 of a dilated block keeps the rate of the block before (torchvision's DeepLab).
    """

    divisor: int = 1
    units: tuple[int, ...] = (3, 4, 23, 3)
    epsilon: float = 1e-3
    stride_place: str = "conv1"
    padding: str = "same"
    lagged_dilation: bool = False
    scope: str = "resnet_v1_101"


def resnet_shapes(spec: ResNetSpec) -> dict[str, tuple[int, ...]]:
    """Every variable of the encoder, name -> shape (520 of them at the paper's size)."""
    stem = 64 // spec.divisor
    shapes: dict[str, tuple[int, ...]] = {f"{spec.scope}/conv1/weights": (7, 7, 3, stem)}
    shapes |= bn_shapes(f"{spec.scope}/conv1", stem)
    wide = stem
    for block, n_units in enumerate(spec.units, 1):
        depth = (256 << (block - 1)) // spec.divisor
        for unit in range(1, n_units + 1):
            scope = f"{spec.scope}/block{block}/unit_{unit}/bottleneck_v1"
            layers = {
                "conv1": (1, 1, wide, depth // 4),
                "conv2": (3, 3, depth // 4, depth // 4),
                "conv3": (1, 1, depth // 4, depth),
            }
            if unit == 1:
                layers = {"shortcut": (1, 1, wide, depth), **layers}
            for layer, shape in layers.items():
                shapes[f"{scope}/{layer}/weights"] = shape
                shapes |= bn_shapes(f"{scope}/{layer}", shape[-1])
            wide = depth
    return shapes


class ResNet(Part):
    """ResNet-101 v1 at output stride 8; batch normalisation always uses the stored statistics."""

    def __init__(self, spec: ResNetSpec, rng: np.random.Generator) -> None:
        super().__init__(resnet_shapes(spec), rng)
        self.spec = spec
        self.depth = (256 << (len(spec.units) - 1)) // spec.divisor

    def _layer(self, x: tf.Tensor, scope: str, *, relu: bool = True, **conv_options: int) -> tf.Tensor:
        v = self.named
        slim = self.spec.stride_place == "slim"  # pads every strided convolution by itself, on both sides
        x = conv(x, v[f"{scope}/weights"], padding="symmetric" if slim else self.spec.padding, **conv_options)
        bn = f"{scope}/BatchNorm"
        x = batch_norm(
            x, v[f"{bn}/gamma"], v[f"{bn}/beta"], v[f"{bn}/moving_mean"], v[f"{bn}/moving_variance"], self.spec.epsilon
        )
        return tf.nn.relu(x) if relu else x

    def _unit(self, x: tf.Tensor, block: int, unit: int) -> tf.Tensor:
        spec = self.spec
        scope = f"{spec.scope}/block{block}/unit_{unit}/bottleneck_v1"
        rate = {3: 2, 4: 4}.get(block, 1)
        if spec.lagged_dilation and unit == 1 and rate > 1:
            rate //= 2
        at_block2 = block == 2 and unit == 1
        at_end_of_block1 = block == 1 and unit == spec.units[0]
        first = 2 if spec.stride_place == "conv1" and at_block2 else 1
        middle = (
            2
            if (spec.stride_place == "conv2" and at_block2) or (spec.stride_place == "slim" and at_end_of_block1)
            else 1
        )
        shortcut = (
            x[:, :: middle * first, :: middle * first]
            if unit != 1
            else self._layer(x, f"{scope}/shortcut", relu=False, stride=first * middle)
        )
        y = self._layer(x, f"{scope}/conv1", stride=first)
        y = self._layer(y, f"{scope}/conv2", stride=middle, dilation=rate)
        y = self._layer(y, f"{scope}/conv3", relu=False)
        return tf.nn.relu(y + shortcut)

    def endpoints(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        """``start`` (after the pool) and the output of every block, by name."""
        x = max_pool(self._layer(x, f"{self.spec.scope}/conv1", stride=2), self.spec.padding)
        outputs = {"start": x}
        for block, n_units in enumerate(self.spec.units, 1):
            for unit in range(1, n_units + 1):
                x = self._unit(x, block, unit)
            outputs[f"block{block}"] = x
        return outputs

    def __call__(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Input [B, H, W, 3] -> features [B, H/8, W/8, depth]; ``training`` changes nothing here."""
        return self.endpoints(x)[f"block{len(self.spec.units)}"]

    def stages(self, x: tf.Tensor, training: bool = False) -> list[tf.Tensor]:
        """Output of every block."""
        return list(self.endpoints(x).values())[1:]
