"""What the continual learner adds per task: modulations of the second bottom-up pass.

All are small beside the weights they act on, and none touches them: the shared weights stay bit for bit the same.

Shapes: O I filters out and in, k kernel, f factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MODULATIONS = ("act", "weight-mul", "weight-1m", "interp", "mask")
"""act: 1 - m on activations; weight-mul: E(M) W; weight-1m: (1 - E(M)) W; interp: the same, E by interpolation;
mask: a learnt binary mask per weight."""


def expand(m: Tensor, shape: Sequence[int]) -> Tensor:
    """Repeat each entry along each axis until ``shape`` is reached (interleaved, not tiled).

    >>> expand(torch.tensor([[1., 2.]]), (2, 4)).tolist()
    [[1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 2.0, 2.0]]
    """
    for axis, size in enumerate(shape):
        if m.shape[axis] != size:
            m = m.repeat_interleave(-(-size // m.shape[axis]), dim=axis).narrow(axis, 0, size)
    return m


def interpolate(m: Tensor, shape: Sequence[int], mode: str = "bicubic") -> Tensor:
    """Stretch a modulation to a filter's shape by interpolating between its entries.

    The tensor's memory is *viewed* in reverse axis order, not permuted, as in the published code.

    :param m: [e1, e2, e3, e4].
    :param shape: (O, I, k, k).
    """
    out, inn = shape[:2]
    viewed = m.reshape(m.shape[::-1])
    corners = False if mode in ("bilinear", "bicubic") else None
    stretched = F.interpolate(viewed, size=(out, inn), mode=mode, align_corners=corners)
    return stretched.reshape(tuple(shape))


def modulation_size(shape: Sequence[int], factor: Sequence[int]) -> tuple[int, int, int, int] | None:
    """Shape of the modulation of a filter, or None where the filter is too small to be modulated.

    :param shape: (O, I, k, k).
    :param factor: (f0, f1): the modulation has 1 / (f0 f1) of the filter's numbers.
    """
    out, inn, k0, k1 = shape
    f0, f1 = factor[:2]
    whole = f0 * f1
    if out < f0:
        return (out, inn // whole, k0, k1) if inn // whole else None
    if inn < f1:
        return (out // whole, inn, k0, k1) if out // whole else None
    return (out // f0, inn // f1, k0, k1)


class _StepThrough(torch.autograd.Function):
    """1[R > tau], with the gradient passed through unchanged."""

    @staticmethod
    def forward(ctx: Any, real: Tensor, tau: float) -> Tensor:
        return (real > tau).to(real.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def binary_mask(real: Tensor, tau: float = 0.005) -> Tensor:
    """Threshold a real mask; its gradient is the mask's (straight through)."""
    return _StepThrough.apply(real, tau)


class WeightModulation(nn.Module):
    """Modulation of one filter for one task.

    :param kind: ``weight-mul``, ``weight-1m``, ``interp`` or ``mask``.
    :param factor: shrinkage per axis.
    :param init: starting value; None takes the kind's own: Kaiming-normal for weight-mul as published,
        0 for weight-1m and interp (the unmodulated filter), 0.01 for masks. ``1`` makes weight-mul start from the
        unmodulated filter.
    """

    def __init__(
        self,
        shape: Sequence[int],
        kind: str,
        factor: Sequence[int],
        *,
        init: float | None = None,
        mode: str = "bicubic",
        tau: float = 0.005,
    ) -> None:
        super().__init__()
        self.kind, self.mode, self.tau = kind, mode, tau
        if kind == "mask":
            size: Sequence[int] | None = shape
        elif kind == "weight-mul":
            factor = [*factor, 1, 1][:4]
            size = [max(1, s // f) for s, f in zip(shape, factor, strict=True)]
        else:
            size = modulation_size(shape, factor)
        self.m = nn.Parameter(torch.zeros(tuple(size))) if size is not None else None
        if self.m is not None:
            if kind == "weight-mul" and init is None:
                nn.init.kaiming_normal_(self.m)
            else:
                nn.init.constant_(self.m, init if init is not None else 0.01 if kind == "mask" else 0.0)

    def forward(self, weight: Tensor) -> Tensor:
        """The filter this task sees."""
        if self.m is None:
            return weight
        match self.kind:
            case "mask":
                return weight * binary_mask(self.m, self.tau)
            case "weight-mul":
                return weight * expand(self.m, weight.shape)
            case "weight-1m":
                return weight * (1 - expand(self.m, weight.shape))
        return weight * (1 - interpolate(self.m, weight.shape, self.mode))


class ActivationModulation(nn.Module):
    """``x (1 - pixel) (1 - channel)``, both learnt per task."""

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.channel = nn.Linear(1, channels)
        self.pixel = nn.Linear(1, height * width)
        self.size = (height, width)
        for layer in (self.channel, self.pixel):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def modulate_pixels(self, x: Tensor) -> Tensor:
        """Pixel part alone: [B, C, H, W] -> the same."""
        return x * (1 - (self.pixel.weight[:, 0] + self.pixel.bias).view(1, 1, *self.size))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same: pixels, then channels."""
        return self.modulate_pixels(x) * (1 - (self.channel.weight[:, 0] + self.channel.bias).view(1, -1, 1, 1))


class BlockModulation(nn.Module):
    """Modulations of one block for one task, by the name of the convolution they belong to."""

    def __init__(
        self,
        weights: dict[str, WeightModulation] | None = None,
        activations: dict[str, ActivationModulation] | None = None,
    ) -> None:
        super().__init__()
        self.weights = nn.ModuleDict(weights or {})
        self.activations = nn.ModuleDict(activations or {})

    def weight(self, name: str) -> WeightModulation | None:
        """The weight modulation of a convolution, if it has one."""
        return self.weights[name] if name in self.weights else None  # noqa: SIM401 - ModuleDict has no get

    def activation(self, name: str, x: Tensor) -> Tensor:
        """Modulate what comes out of a convolution, if it is modulated."""
        return self.activations[name](x) if name in self.activations else x
