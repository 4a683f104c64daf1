"""The segmentation networks: a frozen-able encoder and small decoders on top of it.

Plain ``tf.Module`` variables under the reference's names, ``tf.nn`` functions, no Keras layers.
Shapes: B batch, H W image, h w feature grid, C channels or classes; NHWC images, HWIO kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from attrs import field, frozen

from cl_kernel import Resources
from cl_plugin_recall.backend import tf
from cl_plugin_recall.settings import Deeplab, Small

CAFFE_MEAN = (104.00698793, 116.66876762, 122.67891434)
"""Mean colour of the Caffe-style weights, in B G R order."""


@frozen(kw_only=True)
class InputSpec:
    """What a set of weights expects to see: a property of the weight source (spec 3.3).

    :param mean: subtracted channel by channel, in the order given by ``order``, of values 0..255.
    :param std: divided by afterwards; ones for Caffe-style weights.
    :param order: ``"rgb"`` or ``"bgr"``, the channel order of the network's input.
    """

    mean: tuple[float, float, float] = CAFFE_MEAN
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    order: str = "bgr"

    def apply(self, rgb: tf.Tensor) -> tf.Tensor:
        """Decoded RGB, any leading shape, -> what the network reads, float32."""
        x = tf.cast(rgb, tf.float32)
        if self.order == "bgr":
            x = tf.reverse(x, [-1])
        x = x - tf.constant(self.mean, tf.float32)
        return x if self.std == (1.0, 1.0, 1.0) else x / tf.constant(self.std, tf.float32)


LEGACY_INPUT = InputSpec(order="rgb")
"""The reference's input: RGB images minus a mean meant for BGR (pitfall 3)."""


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


def conv(x: tf.Tensor, kernel: tf.Tensor, *, stride: int = 1, dilation: int = 1, padding: str = "same") -> tf.Tensor:
    """Convolution without bias; ``padding`` as in :class:`ResNetSpec`."""
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
    """Normalise with the given statistics over the last axis."""
    return tf.nn.batch_normalization(x, mean, variance, beta, gamma, epsilon)


def aspp(x: tf.Tensor, kernels: Sequence[tf.Tensor], biases: Sequence[tf.Tensor], rates: Sequence[int]) -> tf.Tensor:
    """Sum of parallel dilated 3x3 convolutions with bias, [B, h, w, C] (DeepLab-v2)."""
    branches = [conv(x, k, dilation=r) + b for k, b, r in zip(kernels, biases, rates, strict=True)]
    return tf.add_n(branches)


def resize_logits(x: tf.Tensor, size: tf.Tensor | tuple[int, int]) -> tf.Tensor:
    """Bilinear, legacy corners: row i samples i * h_src / h_out, no half-pixel shift, clamped at the edge."""
    return tf.raw_ops.ResizeBilinear(images=x, size=size, align_corners=False, half_pixel_centers=False)


def glorot(shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Glorot-uniform draw, also for vectors: a bias of length C gets U(-sqrt(3/C), sqrt(3/C)) (spec 2.9)."""
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
        """Everything but the moving statistics: kernels, biases and also gamma and beta (spec 2.4)."""
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
    """ResNet-101 v1 at output stride 8; batch normalisation always uses the stored statistics (spec 3.1)."""

    def __init__(self, spec: ResNetSpec, rng: np.random.Generator) -> None:
        super().__init__(resnet_shapes(spec), rng)
        self.spec = spec
        self.depth = (256 << (len(spec.units) - 1)) // spec.divisor

    def _layer(self, x: tf.Tensor, scope: str, *, relu: bool = True, **conv_options: int) -> tf.Tensor:
        v = self.named
        x = conv(x, v[f"{scope}/weights"], padding=self.spec.padding, **conv_options)
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
        if spec.stride_place == "slim" and middle == 2:  # tf-slim pads a strided 3x3 on both sides
            y = tf.pad(y, [[0, 0], [1, 1], [1, 1], [0, 0]])
            y = tf.nn.conv2d(y, self.named[f"{scope}/conv2/weights"], strides=2, padding="VALID")
            v, bn = self.named, f"{scope}/conv2/BatchNorm"
            y = tf.nn.relu(
                batch_norm(
                    y,
                    v[f"{bn}/gamma"],
                    v[f"{bn}/beta"],
                    v[f"{bn}/moving_mean"],
                    v[f"{bn}/moving_variance"],
                    spec.epsilon,
                )
            )
        else:
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


TINY_LAYERS = ((16, 1, 1), (32, 2, 1), (32, 1, 1), (64, 2, 1), (64, 1, 2), (64, 1, 4))
"""Width, stride, dilation of the small encoder's 3x3 convolutions (spec 4.7, second prototype)."""


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
        v = self.named
        for i, (_, stride, dilation) in enumerate(self.layers, 1):
            weights = v[f"small/conv{i}/weights"]
            gamma, beta, mean, variance = (
                v[f"small/conv{i}/BatchNorm/{leaf}"] for leaf in ("gamma", "beta", "moving_mean", "moving_variance")
            )
            if training:
                x = conv(x, weights, stride=stride, dilation=dilation)
                x, batch_mean, batch_variance = tf.compat.v1.nn.fused_batch_norm(x, gamma, beta, epsilon=1e-3)
                mean.assign_sub((1 - self.momentum) * (mean - tf.stop_gradient(batch_mean)))
                variance.assign_sub((1 - self.momentum) * (variance - tf.stop_gradient(batch_variance)))
            else:  # statistics folded into the convolution, which needs no gradient
                factor = gamma * tf.math.rsqrt(variance + 1e-3)
                x = tf.nn.conv2d(x, weights * factor, strides=stride, padding="SAME", dilations=dilation)
                x = tf.nn.bias_add(x, beta - mean * factor)
            x = tf.nn.relu(x)
        return x


class Decoder(Part):
    """ASPP head: features -> logits on the feature grid (spec 3.2)."""

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

    :param input: how decoded RGB becomes the encoder's input.
    :param n_outputs: logits of the main decoder, background included.
    """

    encoder: Any
    new_decoder: Callable[[int, np.random.Generator], Decoder]
    input: InputSpec
    n_outputs: int
    fingerprint: str = ""
    info: Mapping[str, Any] = field(factory=dict)


def logits(encoder: Any, decoder: Decoder, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    """Full-resolution logits [B, H, W, C] of mean-subtracted input [B, H, W, 3]."""
    return resize_logits(decoder(encoder(x, training)), tf.shape(x)[1:3])


# ---- builders ---------------------------------------------------------------------------------------


def build_deeplab(settings: Deeplab, fields: Mapping[str, Any], n_outputs: int, resources: Resources) -> Network:
    """DeepLab-v2 with a ResNet-101, from random or given encoder weights.

    :raises ClkError: when the weights do not fit.
    """
    from cl_plugin_recall.weights.providers import input_spec, load_encoder, resnet_spec

    encoder = ResNet(resnet_spec(settings), resources.rng("recall encoder"))
    origin = "random"
    if settings.pretrained:
        origin = load_encoder(encoder, settings, resources)
    spec = LEGACY_INPUT if settings.legacy_mean_rgb else input_spec(settings.weight_source)
    return Network(
        encoder=encoder,
        new_decoder=lambda n, rng: Decoder(encoder.depth, n, rng),
        input=spec,
        n_outputs=n_outputs,
        fingerprint=f"deeplab/{settings.divisor}/{settings.units}/{settings.weight_source}/{spec}/{origin}",
    )


def build_small(settings: Small, fields: Mapping[str, Any], n_outputs: int, resources: Resources) -> Network:
    """The stand-in's network."""
    layers = [(max(1, width * settings.width // 16), stride, dilation) for width, stride, dilation in TINY_LAYERS]
    layers[0] = (layers[0][0], settings.stride // 4, 1)
    encoder = SmallEncoder(resources.rng("recall encoder"), layers)
    rates = tuple(settings.rates)
    return Network(
        encoder=encoder,
        new_decoder=lambda n, rng: Decoder(encoder.depth, n, rng, rates),
        input=InputSpec(),
        n_outputs=n_outputs,
        fingerprint=f"small/{settings.width}/{settings.stride}/{rates}",
    )
