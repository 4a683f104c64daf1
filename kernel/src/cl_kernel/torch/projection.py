"""Gradients turned so that they do not hurt what was learnt: GEM and A-GEM.

Shapes: P parameters in all, T earlier tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from scipy.linalg import solve_triangular
from scipy.optimize import nnls
from torch import Tensor, nn
from torch.nn import functional as F


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


def agem(gradient: Tensor, reference: Tensor) -> Tensor:
    """A-GEM: where the gradient would raise the loss on the memory, take that direction out of it."""
    dot = gradient @ reference
    if dot >= 0:
        return gradient
    return gradient - dot / (reference @ reference) * reference


def gem(gradient: Tensor, tasks: Tensor, margin: float = 1.0, ridge: float = 1e-3) -> Tensor:
    """GEM: the nearest gradient that hurts none of the earlier tasks, by its small dual problem in float64.

    Minimises ``0.5 v'Pv - q'v`` over ``v >= margin`` with ``P = GG' + ridge I`` and ``q = -Gg``; the result is
    ``G'v + g``. Solved exactly as a non-negative least-squares problem on a Cholesky factor of P.

    :param tasks: gradients on the memories, [T, P].
    """
    if len(tasks) == 0 or not bool((tasks @ gradient < 0).any()):
        return gradient
    rows = tasks.double().cpu().numpy()
    products = rows @ rows.T
    p = 0.5 * (products + products.T) + ridge * np.eye(len(rows))
    q = -(rows @ gradient.double().cpu().numpy())
    upper = np.linalg.cholesky(p).T
    target = solve_triangular(upper, q, trans="T") - upper @ np.full(len(rows), margin)
    v = nnls(upper, target)[0] + margin
    return torch.as_tensor(v @ rows, dtype=gradient.dtype, device=gradient.device) + gradient


def task_shares(capacity: int, kept: Sequence[np.ndarray], newest: np.ndarray) -> list[np.ndarray]:
    """Equal shares of a memory over tasks: older ones keep the first of theirs, the newest the first of its order."""
    share = capacity // (len(kept) + 1)
    return [rows[:share] for rows in (*kept, newest)]


def reference_gradient(model: nn.Module, memory: Sequence[tuple[Tensor, Tensor]], n_active: int, size: int) -> Tensor:
    """A-GEM's reference: gradient [P] of the sum of mean losses over mini-batches of the memory.

    :param memory: inputs and labels of each task; ``size``: of a mini-batch.
    """
    parameters = list(p for p in model.parameters() if p.requires_grad)
    inputs, labels = torch.cat([x for x, _ in memory]), torch.cat([y for _, y in memory])
    total = sum(
        F.cross_entropy(model(x)[:, :n_active], y) for x, y in zip(inputs.split(size), labels.split(size), strict=True)
    )
    gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    return torch.cat(
        [(torch.zeros_like(p) if g is None else g).reshape(-1) for p, g in zip(parameters, gradients, strict=True)]
    )


def agem_step(parameters: Sequence[nn.Parameter], reference: Tensor | None, optimizer: torch.optim.Optimizer) -> None:
    """Step with the gradients at hand, projected against the reference where there is one."""
    if reference is not None:
        gradient = flat_gradient(parameters)
        set_gradient(parameters, agem(gradient, reference))
    optimizer.step()
