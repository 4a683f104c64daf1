"""A stable and a plastic copy of a chain of layers, mixed level by level.

Shapes: B batch, C channels or features.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class ScaledShifted(nn.Module):
    """A frozen layer whose output channels may be scaled and shifted."""

    def __init__(self, layer: nn.Module, n_channels: int) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.scale, self.shift = nn.Parameter(torch.ones(n_channels)), nn.Parameter(torch.zeros(n_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Scaled and shifted output."""
        out: Tensor = self.layer(x)
        shape = (1, -1, *[1] * (out.ndim - 2))
        return out * self.scale.view(shape) + self.shift.view(shape)


def _stable(module: nn.Module) -> nn.Module:
    """A frozen copy with every convolution and linear layer scaled and shifted."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        return ScaledShifted(
            copy.deepcopy(module), module.out_channels if isinstance(module, nn.Conv2d) else module.out_features
        )
    out = copy.deepcopy(module).requires_grad_(False)
    for name, child in module.named_children():
        setattr(out, name, _stable(child))
    return out


class TwoBranches(nn.Module):
    """``x = a * stable(x) + (1 - a) * plastic(x)`` after each level; from level ``n_mixed`` on plastic only."""

    def __init__(self, plastic: nn.Sequential, n_mixed: int) -> None:
        super().__init__()
        self.plastic, self.n_mixed = plastic, n_mixed
        device = next(plastic.parameters()).device
        self.stable = nn.ModuleList(_stable(level) for level in plastic[: self.n_mixed]).to(device)
        self.mix = nn.Parameter(torch.zeros(self.n_mixed, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """Scores."""
        for at in range(self.n_mixed):
            a = torch.sigmoid(self.mix[at])
            x = a * self.stable[at](x) + (1 - a) * self.plastic[at](x)
        for level in self.plastic[self.n_mixed :]:
            x = level(x)
        return x
