"""Networks cut at one layer: an extractor below, frozen, and a head above, which goes on learning.

Shapes: B batch, C channels, h w map at the cut, n classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from cl_kernel import BadSetting
from cl_kernel.library.networks import Normalise
from cl_kernel.torch.split import Split


class Resize(nn.Module):
    """Images in [0, 1] to a square, bilinear, aspect not kept."""

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


def side_of(network: nn.Module, default: int) -> int:
    """Side of the square images that a network takes, or ``default`` where it does not resize them itself."""
    return next((module.size for module in network.modules() if isinstance(module, Resize)), default)


def split(
    before: Sequence[nn.Module], layers: Sequence[nn.Module], cut: int, *, frozen: bool, live_batchnorm: bool = False
) -> Split:
    """``layers`` cut before number ``cut``: frozen below, plastic above; or all of it plastic.

    :param before: what is done to images first.
    :param live_batchnorm: let the frozen part's batch norm follow the data, as the original does.
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
    """CRUMB's class layer: 3x3 convolution, ReLU, average over the map.

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
    """SqueezeNet 1.0 with CRUMB's 3x3 class layer, cut before ``features[cut]``. Random weights.

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
    """MobileNetV2 cut before ``features[cut]``. Random weights.

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
    """The network of the toy data: a residual extractor 3x32x32 -> 64x8x8 and a three-layer head."""
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
