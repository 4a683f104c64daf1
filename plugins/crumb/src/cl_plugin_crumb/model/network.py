"""Networks cut at one layer: an extractor below, frozen, and a head above, which goes on learning.

Shapes: B batch, C channels, h w map at the cut, n classes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from cl_kernel import BadSetting
from cl_kernel.library.networks import Normalise, Split


class Resize(nn.Module):
    """Images in [0, 1] to a square, bilinear, aspect not kept (spec 4.1)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3 or 1, H, W] -> [B, 3, size, size]."""
        if images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        if images.shape[-2:] == (self.size, self.size):
            return images
        return F.interpolate(images, size=(self.size, self.size), mode="bilinear", align_corners=False, antialias=True)


class InParts(nn.Sequential):
    """Layers that take a batch of images in parts when nothing is learnt: maps of the first layers stay in the cache.

    Only on the CPU, and not while batch norm follows the data, whose statistics are those of whole batches.
    """

    PIXELS = 512 * 32**2

    def forward(self, images: Tensor) -> Tensor:
        """What the last layer gives for the whole batch."""
        side = getattr(self[0], "size", images.shape[-1])
        n_parts = -(-len(images) * side**2 // self.PIXELS)
        if n_parts < 2 or self.training or torch.is_grad_enabled() or images.device.type != "cpu":
            return super().forward(images)
        return torch.cat([nn.Sequential.forward(self, part) for part in images.chunk(n_parts)])


def split(
    before: Sequence[nn.Module], layers: Sequence[nn.Module], cut: int, *, frozen: bool, live_batchnorm: bool = False
) -> Split:
    """``layers`` cut before number ``cut``: frozen below, plastic above; or all of it plastic.

    :param before: what is done to images first.
    :param live_batchnorm: let the frozen part's batch norm follow the data, as the original does (Q10).
    """
    if not frozen:
        return Split(None, nn.Sequential(*before, *layers))
    network = Split(InParts(*before, *layers[:cut]), nn.Sequential(*layers[cut:]))
    if live_batchnorm:
        network.lower.train()
    return network


def last_layer(network: nn.Module) -> str:
    """Name of the layer that gives the scores: the last convolution or linear layer.

    :raises TypeError: for a network without one.
    """
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    if not names:
        raise TypeError("the network has no convolution or linear layer to take scores from")
    return names[-1]


def renew_last(network: nn.Module, n_outputs: int) -> None:
    """A fresh last layer for other classes, drawn as :func:`class_layer` draws its own."""
    name = last_layer(network)
    path, _, leaf = name.rpartition(".")
    old = network.get_submodule(name)
    device = next(old.parameters()).device
    new: nn.Module
    if isinstance(old, nn.Conv2d):
        new = _started(nn.Conv2d(old.in_channels, n_outputs, old.kernel_size, padding=old.padding))
    else:
        new = nn.Linear(old.in_features, n_outputs)
    setattr(network.get_submodule(path) if path else network, leaf, new.to(device))


def class_layer(n_in: int, n_outputs: int, *, rectified: bool = True) -> nn.Sequential:
    """CRUMB's class layer: 3x3 convolution, ReLU, average over the map (spec 3).

    :param rectified: with the ReLU, so that scores are never negative; losses on sigmoids of scores need it off.
    """
    conv = _started(nn.Conv2d(n_in, n_outputs, 3, padding=1))
    return nn.Sequential(conv, nn.ReLU() if rectified else nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _started(conv: nn.Conv2d) -> nn.Conv2d:
    """He's weights and a positive bias: a class whose scores are all cut off by the ReLU would never learn."""
    nn.init.kaiming_uniform_(conv.weight)
    nn.init.constant_(conv.bias, 0.5)
    return conv


def squeezenet(n_outputs: int, *, cut: int = 12, frozen: bool = True, size: int = 224, rectified: bool = True) -> Split:
    """SqueezeNet 1.0 with CRUMB's 3x3 class layer, cut before ``features[cut]`` (spec 3). Random weights.

    :param size: images are resized to this square first.
    :raises BadSetting: for a cut outside the 13 feature layers.
    """
    body = torchvision.models.squeezenet1_0().features
    if not 1 <= cut <= len(body):
        raise BadSetting(f"SqueezeNet cannot be cut at {cut}", where="model.cut", fix="12 (late) or 3 (early)")
    layers = [*body, nn.Sequential(nn.Dropout(0.5), *class_layer(512, n_outputs, rectified=rectified))]
    network = split([Resize(size), Normalise()], layers, cut, frozen=frozen)
    return network.to(memory_format=torch.channels_last)


def mobilenet(
    n_outputs: int, *, cut: int = 8, frozen: bool = True, size: int = 224, live_batchnorm: bool = False
) -> Split:
    """MobileNetV2 cut before ``features[cut]`` (spec 3). Random weights.

    :raises BadSetting: for a cut outside the 19 feature layers.
    """
    body = torchvision.models.mobilenet_v2().features
    if not 1 <= cut <= len(body):
        raise BadSetting(f"MobileNetV2 cannot be cut at {cut}", where="model.cut", fix="use 8")
    last = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(1280, n_outputs))
    return split([Resize(size), Normalise()], [*body, last], cut, frozen=frozen, live_batchnorm=live_batchnorm)


class Residual(nn.Module):
    """Two 3x3 convolutions with batch norm, added to a 1x1 shortcut."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(n_out),
            nn.ReLU(),
            nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(n_out),
        )
        self.shortcut = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))

    def forward(self, x: Tensor) -> Tensor:
        """ReLU of body plus shortcut."""
        return F.relu(self.body(x) + self.shortcut(x))


def tiny(n_outputs: int, *, frozen: bool = True, rectified: bool = True) -> Split:
    """The stand-in's network: a residual extractor 3x32x32 -> 64x8x8 and a three-layer head (spec 4.4)."""
    layers = [
        nn.Conv2d(3, 16, 3, 1, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        Residual(16, 32, 2),
        Residual(32, 64, 2),
        nn.Conv2d(64, 64, 3, 1, 1),
        nn.ReLU(),
        nn.Conv2d(64, 96, 3, 2, 1),
        nn.ReLU(),
        class_layer(96, n_outputs, rectified=rectified),
    ]
    return split([Resize(32), Normalise((0.45,) * 3, (0.25,) * 3)], layers, TINY_CUT, frozen=frozen)


TINY_CUT = 5


# ---- what may be done to a map ---------------------------------------------------------------

PERTURBATIONS = ("spatial", "feature", "spatial_shuffle_rows_cols", "feature_complete", "feature_swap")


def perturb(features: Tensor, kind: str, generator: torch.Generator | None = None) -> Tensor:
    """Disturb each map on its own before the head sees it (spec 2.9).

    ``spatial`` mixes all places, ``spatial_shuffle_rows_cols`` mixes rows and columns, ``feature`` zeroes half of
    the channels, ``feature_complete`` mixes all channels, ``feature_swap`` copies half of them onto others.

    :raises BadSetting: for an unknown kind.
    """
    if kind not in PERTURBATIONS:
        raise BadSetting(
            f"unknown perturbation {kind!r}", where="perturbation", fix=f"one of {', '.join(PERTURBATIONS)}"
        )
    _, channels, height, width = features.shape
    half = round(0.5 * channels)

    def order(n: int) -> Tensor:
        return torch.randperm(n, generator=generator).to(features.device)

    out = features.clone(memory_format=torch.contiguous_format)
    for one in out:
        match kind:
            case "spatial":
                one.copy_(one.flatten(1)[:, order(height * width)].view_as(one))
            case "spatial_shuffle_rows_cols":
                one.copy_(one[:, order(height)][:, :, order(width)])
            case "feature":
                one[order(channels)[:half]] = 0
            case "feature_complete":
                one.copy_(one[order(channels)])
            case "feature_swap":
                source, target = order(channels)[:half], order(channels)[:half]
                one[target] = one[source].clone()
    return out


def crop_box(
    height: int, width: int, scale: tuple[float, float], rng: random.Random, ratio: tuple[float, float] = (3 / 4, 4 / 3)
) -> tuple[int, int, int, int]:
    """A random part of a map: top, left, height, width; ten tries, then the whole map (spec 6)."""
    log_ratio = (math.log(ratio[0]), math.log(ratio[1]))
    for _ in range(10):
        area = rng.uniform(*scale) * height * width
        aspect = math.exp(rng.uniform(*log_ratio))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return rng.randint(0, height - h), rng.randint(0, width - w), h, w
    return 0, 0, height, width


def crop_scale(size: int) -> tuple[float, float]:
    """Range of the area a crop keeps, for maps of this size: ``(round(2 h / 7) / h, 1)``."""
    return round(2 * size / 7) / size, 1.0


def resized_crops(features: Tensor, rng: random.Random, scale: tuple[float, float] | None = None) -> Tensor:
    """A random resized crop of each map on its own, bilinear, corners not aligned."""
    height, width = features.shape[2:]
    scale = scale or crop_scale(height)
    out = []
    for one in features:
        top, left, h, w = crop_box(height, width, scale, rng)
        part = one[None, :, top : top + h, left : left + w]
        out.append(F.interpolate(part, size=(height, width), mode="bilinear", align_corners=False))
    return torch.cat(out)


def flip(features: Tensor, rng: random.Random, *, axis: int = 3) -> Tensor:
    """Mirror each map with probability one half: the width (axis 3), or the height as shipped (axis 2, Q13)."""
    chosen = torch.tensor([rng.random() < 0.5 for _ in range(len(features))], device=features.device)
    return torch.where(chosen[:, None, None, None], features.flip(axis), features)
