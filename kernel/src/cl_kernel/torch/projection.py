"""Gradients turned so that they do not hurt what was learnt: GEM and A-GEM.

Shapes: P parameters in all, T earlier tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from scipy.linalg import solve_triangular
from scipy.optimize import nnls

import torch
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
