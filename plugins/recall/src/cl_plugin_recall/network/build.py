"""The networks of the settings: weight source, input, encoder and decoder put together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen

from cl_kernel import BadCheckpoint, BadSetting, Resources
from cl_plugin_recall.network.decoder import Decoder, Network
from cl_plugin_recall.network.inputs import CAFFE_MEAN, LEGACY_INPUT, InputSpec
from cl_plugin_recall.network.resnet import ResNet, ResNetSpec
from cl_plugin_recall.network.small import TINY_LAYERS, SmallEncoder
from cl_plugin_recall.settings import Deeplab, Small
from cl_plugin_recall.weights import checkpoints
from cl_plugin_recall.weights.providers import digest, present, read_encoder


@frozen(kw_only=True)
class WeightSource:
    """What belongs to a set of weights: input form and network details."""

    input: InputSpec
    epsilon: float
    stride_place: str
    padding: str = "same"
    lagged_dilation: bool = False


SOURCES = {
    "caffe": WeightSource(input=InputSpec(mean=CAFFE_MEAN, order="bgr"), epsilon=1e-3, stride_place="conv1"),
    "slim": WeightSource(
        input=InputSpec(mean=(123.68, 116.78, 103.94), order="rgb"), epsilon=1e-5, stride_place="slim"
    ),
    "torchvision": WeightSource(
        input=InputSpec(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375), order="rgb"),
        epsilon=1e-5,
        stride_place="conv2",
        padding="symmetric",
        lagged_dilation=True,
    ),
    "keras": WeightSource(
        input=InputSpec(mean=(103.939, 116.779, 123.68), order="bgr"),
        epsilon=1.001e-5,
        stride_place="conv1",
        padding="symmetric",
    ),
}
"""By ``model.weight_source``; ``caffe`` is the reference's checkpoint and anything trained here."""


def input_spec(name: str) -> InputSpec:
    """Input form of a weight source."""
    return SOURCES[name].input


def resnet_spec(settings: Deeplab) -> ResNetSpec:
    """Network of the settings under their weight source."""
    source = SOURCES[settings.weight_source]
    return ResNetSpec(
        divisor=settings.divisor,
        units=tuple(settings.units),
        epsilon=source.epsilon,
        stride_place=source.stride_place,
        padding=source.padding,
        lagged_dilation=source.lagged_dilation,
    )


def load_encoder(encoder: ResNet, settings: Deeplab, resources: Resources) -> str:
    """Put ``settings.pretrained`` into the encoder. Returns a digest of the weights.

    :raises MissingAsset: when the file is absent; :raises BadCheckpoint: when tensors are missing or misshapen.
    """
    path = Path(settings.pretrained).expanduser()
    if not path.is_absolute() and not present(path):
        path = next((root / path for root in resources.roots if present(root / path)), path)
    values = read_encoder(path, settings.weight_source)
    expected = {name: tuple(v.shape) for name, v in encoder.named.items()}
    checkpoints.check({name: value.shape for name, value in values.items()}, expected, str(path))
    encoder.assign(values)
    check_scale(encoder, settings, str(path))
    return digest(values)


RANDOM = "random"
"""The word that asks for an encoder without pretraining."""


def check_scale(encoder: ResNet, settings: Deeplab, where: str) -> None:
    """Refuse weights that were trained on inputs of another scale.

    What the stem's batch normalisation expects, divided by the squared norm of its kernels, is about the variance of
    the input: thousands for colours of 0 to 255, about one where these are divided by their deviation.

    :raises BadCheckpoint: when the variance is far from that of the weight source.
    """
    scope = encoder.spec.scope
    kernels = encoder.named[f"{scope}/conv1/weights"].numpy()
    variance = encoder.named[f"{scope}/conv1/BatchNorm/moving_variance"].numpy()
    if (variance == 1).all():
        return
    found = float(np.median(variance / np.maximum((kernels**2).sum((0, 1, 2)), 1e-12)))
    divided = SOURCES[settings.weight_source].input.std != (1.0, 1.0, 1.0)
    if (found > 300) if divided else (found < 10):
        raise BadCheckpoint(
            f"the stem's batch statistics speak of inputs with a variance of about {found:.3g}, "
            f"but model.weight_source={settings.weight_source} feeds "
            + ("colours divided by their deviation" if divided else "colours of 0 to 255 less their mean"),
            where=where,
            fix="state who trained them: --set model.weight_source=" + ("caffe" if divided else "torchvision"),
        )


def build_deeplab(settings: Deeplab, fields: Mapping[str, Any], n_outputs: int, resources: Resources) -> Network:
    """DeepLab-v2 with a ResNet-101, from given encoder weights, or from random ones when the settings say so.

    :raises BadSetting: when they say neither; :raises ClkError: when the weights do not fit.
    """
    if not settings.pretrained:
        raise BadSetting(
            "no pretrained encoder weights: a ResNet would start from random weights, with batch statistics that "
            "training never changes",
            where="model.pretrained",
            fix="--set model.pretrained=FILE --set model.weight_source=slim|keras|torchvision|caffe, or the word: "
            f"--set model.pretrained={RANDOM}",
        )
    encoder = ResNet(resnet_spec(settings), resources.rng("recall encoder"))
    origin = RANDOM if settings.pretrained == RANDOM else load_encoder(encoder, settings, resources)
    spec = LEGACY_INPUT if settings.legacy_mean_rgb else input_spec(settings.weight_source)
    stem = "/stem 2" if settings.weight_source == "slim" else ""  # before, the stem was padded as TensorFlow does
    return Network(
        encoder=encoder,
        new_encoder=lambda rng: ResNet(encoder.spec, rng),
        new_decoder=lambda n, rng: Decoder(encoder.depth, n, rng),
        input=spec,
        n_outputs=n_outputs,
        fingerprint=f"deeplab/{settings.divisor}/{settings.units}/{settings.weight_source}/{spec}/{origin}{stem}",
    )


def build_small(settings: Small, fields: Mapping[str, Any], n_outputs: int, resources: Resources) -> Network:
    """Six convolutions and a decoder of the given dilations."""
    layers = [(max(1, width * settings.width // 16), stride, dilation) for width, stride, dilation in TINY_LAYERS]
    layers[0] = (layers[0][0], settings.stride // 4, 1)
    encoder = SmallEncoder(resources.rng("recall encoder"), layers)
    rates = tuple(settings.rates)
    return Network(
        encoder=encoder,
        new_encoder=lambda rng: SmallEncoder(rng, layers),
        new_decoder=lambda n, rng: Decoder(encoder.depth, n, rng, rates),
        input=InputSpec(),
        n_outputs=n_outputs,
        fingerprint=f"small/{settings.width}/{settings.stride}/{rates}",
    )
