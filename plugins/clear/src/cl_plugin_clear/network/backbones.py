"""Encoders with and without their last layer."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from cl_kernel import BadSetting


class TinyEncoder(nn.Module):
    """Two convolutions for toy data: everything of a real encoder, in milliseconds."""

    def __init__(self, n_outputs: int = 128, width: int = 16, *, norm: str = "batch") -> None:
        super().__init__()
        make = nn.BatchNorm2d if norm == "batch" else lambda channels: nn.GroupNorm(4, channels)
        self.conv1 = nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False)
        self.bn1 = make(width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False)
        self.bn2 = make(2 * width)
        self.fc: nn.Module = nn.Linear(2 * width, n_outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Float [N, 3, H, W] -> [N, outputs]."""
        x = functional.relu(self.bn1(self.conv1(images)))
        x = functional.relu(self.bn2(self.conv2(x)))
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


ARCHITECTURES = ("resnet50", "resnet18", "tiny", "tiny-group")
"""``tiny-group`` has no batch statistics: several processes then compute exactly what one does."""


def encoder(arch: str, n_outputs: int) -> nn.Module:
    """A network with a final ``fc`` of ``n_outputs``, weights random.

    :raises BadSetting: for an architecture nobody knows.
    """
    if arch in ("tiny", "tiny-group"):
        return TinyEncoder(n_outputs, norm="group" if arch == "tiny-group" else "batch")
    if arch not in ARCHITECTURES:
        raise BadSetting(f"unknown architecture {arch!r}", where="arch", fix=f"one of {', '.join(ARCHITECTURES)}")
    import torchvision

    return getattr(torchvision.models, arch)(weights=None, num_classes=n_outputs)  # type: ignore[no-any-return]


def backbone(arch: str) -> tuple[nn.Module, int]:
    """The same without head, and its width d."""
    network = encoder(arch, 1)
    fc: Any = network.fc
    width = int(fc.in_features)
    network.fc = nn.Identity()
    return network, width
