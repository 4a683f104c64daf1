"""Gradients as vectors.

Shapes: P parameters in all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from cl_kernel.methods.lazy import F, torch

if TYPE_CHECKING:
    from torch import Tensor, nn


def flat_gradient(parameters: Iterable[nn.Parameter]) -> Tensor:
    """All gradients in one vector [P]; zeros where a parameter has none."""
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in parameters])


def set_gradient(parameters: Iterable[nn.Parameter], gradient: Tensor) -> None:
    """Write one vector [P] back into the gradients."""
    at = 0
    for p in parameters:
        part = gradient[at : at + p.numel()].view_as(p)
        p.grad = part.clone() if p.grad is None else p.grad.copy_(part)
        at += p.numel()


def gradient_of(loss: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    """Gradient [P] of a loss, nothing accumulated; zeros where a parameter has no part in it."""
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return torch.cat(
        [(torch.zeros_like(p) if g is None else g).reshape(-1) for p, g in zip(parameters, gradients, strict=True)]
    )


def reference_gradient(model: nn.Module, memory: Sequence[tuple[Tensor, Tensor]], n_active: int, size: int) -> Tensor:
    """Gradient [P] of the sum of mean losses over mini-batches of the memory.

    :param memory: inputs and score columns of each stage.
    :param n_active: score columns of the classes seen.
    :param size: of a mini-batch.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    inputs, labels = torch.cat([x for x, _ in memory]), torch.cat([y for _, y in memory])
    total = torch.zeros((), device=inputs.device)
    for x, y in zip(inputs.split(size), labels.split(size), strict=True):
        total = total + F.cross_entropy(model(x)[:, :n_active], y)
    return gradient_of(total, parameters)
