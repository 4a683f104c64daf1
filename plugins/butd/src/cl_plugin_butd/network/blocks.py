"""Building blocks of the counter-stream network: filters, norms, gates and the lateral combination.

Filters and norms are kept apart, because the two bottom-up passes share the former and not the latter.

Shapes: B batch, C channels, H W map.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORMS = ("batch", "batch-no-stats", "instance", "group", "none")
Modulate = Callable[[Tensor], Tensor]


class SeparableConv(nn.Module):
    """Depthwise k x k convolution followed by a pointwise one, both without bias."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(c_in, c_in, kernel, stride, kernel // 2, groups=c_in, bias=False)
        self.pointwise = nn.Conv2d(c_in, c_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> [B, c_out, ceil(H / stride), ceil(W / stride)]."""
        return self.pointwise(self.depthwise(x))


def conv(c_in: int, c_out: int, kernel: int, stride: int = 1, *, separable: bool) -> nn.Module:
    """A k x k convolution without bias that keeps the size up to the stride; separable in the first generation."""
    if separable:
        return SeparableConv(c_in, c_out, kernel, stride)
    return nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False)


def modulated_weight(layer: nn.Module) -> Tensor:
    """The weight a modulation acts on: the filter itself, or the pointwise part of a separable one."""
    return layer.pointwise.weight if isinstance(layer, SeparableConv) else layer.weight


def convolve(layer: nn.Module, x: Tensor, modulate: Modulate | None) -> Tensor:
    """Apply a convolution with its weight passed through ``modulate`` first."""
    if modulate is None:
        return layer(x)
    if isinstance(layer, SeparableConv):
        return F.conv2d(layer.depthwise(x), modulate(layer.pointwise.weight))
    return F.conv2d(x, modulate(layer.weight), None, layer.stride, layer.padding)


class Norm(nn.Module):
    """A normalisation over maps [B, C, H, W] or vectors [B, C], optionally with running statistics per task.

    In training mode batch norm is the usual one. In evaluation, when a task is given and its statistics were
    stored, row ``task`` of the tables is used instead of the shared running statistics; the tables are buffers and
    are written in place, so a checkpoint always holds what evaluation uses.

    :param kind: one of :data:`NORMS`. Instance norm learns nothing and leaves alone what has no space to average over.
    :param groups: of group norm; 0 for the largest that divides both the channels and 32.
    :param n_tasks: rows of the tables; 0 keeps none.
    """

    task_mean: Tensor
    task_var: Tensor
    task_stored: Tensor

    def __init__(
        self,
        channels: int,
        kind: str = "batch",
        *,
        eps: float = 1e-5,
        momentum: float = 0.1,
        n_tasks: int = 0,
        groups: int = 0,
    ) -> None:
        super().__init__()
        if kind not in NORMS:
            raise ValueError(f"norm {kind!r} is none of {', '.join(NORMS)}")
        self.kind, self.channels, self.eps, self.momentum, self.n_tasks = kind, channels, eps, momentum, n_tasks
        self.groups = groups or math.gcd(channels, 32)
        if channels % self.groups:
            raise ValueError(f"{channels} channels do not divide into {self.groups} groups")
        if kind in ("none", "instance"):
            return
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        if kind == "batch":
            self.register_buffer("running_mean", torch.zeros(channels))
            self.register_buffer("running_var", torch.ones(channels))
            if n_tasks:
                self.register_buffer("task_mean", torch.zeros(n_tasks, channels))
                self.register_buffer("task_var", torch.ones(n_tasks, channels))
                self.register_buffer("task_stored", torch.zeros(n_tasks, dtype=torch.bool))

    def forward(self, x: Tensor, task: int | Tensor | None = None) -> Tensor:
        """Normalise.

        :param task: row of the tables, or one row a sample as int64 [B]; only evaluation looks at it.
        """
        match self.kind:
            case "none":
                return x
            case "instance":
                space = x.dim() == 4 and x.shape[2] * x.shape[3] > 1
                return F.instance_norm(x, eps=self.eps) if space else x
            case "group":
                return F.group_norm(x, self.groups, self.weight, self.bias, self.eps)
            case "batch-no-stats":
                return F.batch_norm(x, None, None, self.weight, self.bias, True, self.momentum, self.eps)
        if self.training:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, True, self.momentum, self.eps
            )
        if task is None or not self.n_tasks:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, self.momentum, self.eps
            )
        if isinstance(task, int):
            return F.batch_norm(
                x, self.task_mean[task], self.task_var[task], self.weight, self.bias, False, self.momentum, self.eps
            )
        shape = (-1, self.channels, *([1] * (x.dim() - 2)))
        scale = self.weight / torch.sqrt(self.task_var[task] + self.eps)  # (B, C)
        shift = self.bias - self.task_mean[task] * scale
        return x * scale.view(shape) + shift.view(shape)

    def store(self, task: int) -> None:
        """Copy the running statistics into row ``task`` of the tables."""
        if self.kind == "batch" and self.n_tasks:
            self.task_mean[task] = self.running_mean
            self.task_var[task] = self.running_var
            self.task_stored[task] = True

    def recall(self, task: int) -> None:
        """Make row ``task`` the running statistics again (a copy: training on must not reach the table)."""
        if self.kind == "batch" and self.n_tasks:
            self.running_mean.copy_(self.task_mean[task])
            self.running_var.copy_(self.task_var[task])


def rectified(x: Tensor, norm: Norm, task: int | Tensor | None = None) -> Tensor:
    """``ReLU(norm(x))``, in place where the norm made a tensor of its own."""
    return F.relu(norm(x, task), inplace=norm.kind not in ("none", "instance"))


class Gate(nn.Module):
    """One factor per channel, shared over space."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, 1))
        nn.init.xavier_uniform_(self.weight)  # fan_in 1, fan_out C for this shape

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape."""
        return x * self.weight


def combine(
    x: Tensor, lateral: Tensor, gate: Gate, norm: Norm, *, inner_relu: bool = True, task: int | Tensor | None = None
) -> Tensor:
    """Let a lateral into a stream: ``ReLU(x + ReLU(BN(gate * lateral)))``.

    :param inner_relu: False for the original-ReLU layout, which drops the inner one.
    """
    side = rectified(gate(lateral), norm, task) if inner_relu else norm(gate(lateral), task)
    return F.relu(x + side, inplace=True)


def initialise(module: nn.Module) -> None:
    """Kaiming-normal filters (fan in), Xavier-uniform linear layers with zero bias."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
        elif isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
