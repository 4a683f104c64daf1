"""The steps of CRUMB: what one batch does to head and codebook."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cl_plugin_crumb.method.losses import Weights, cross_entropy

CLAMP = 10.0
"""Bound of every element of the gradient."""


def descend(loss: Tensor, optimizer: torch.optim.Optimizer, clamp: float = CLAMP) -> None:
    """Backward, clamp every gradient element, step."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    torch._foreach_clamp_min_(gradients, -clamp)
    torch._foreach_clamp_max_(gradients, clamp)
    optimizer.step()


def step_new(
    head: nn.Module,
    rebuild: nn.Module | None,
    optimizer: torch.optim.Optimizer,
    features: Tensor,
    labels: Tensor,
    n_active: int,
    weights: Weights,
    clamp: float = CLAMP,
) -> dict[str, Tensor]:
    """One step on a new batch. A loss of weight zero is not computed, so its dropout mask is not drawn either.

    :param rebuild: the codebook; None when examples are kept as they are, and ``out`` is then ``direct``.
    :param features: maps [B, C, h, w].
    :return: the losses computed, detached.
    """
    losses: dict[str, Tensor] = {}
    total: Tensor | None = None
    if weights.direct or rebuild is None:
        losses["direct"] = cross_entropy(head(features), labels, n_active)
        total = losses["direct"] * (weights.direct if rebuild is not None else weights.direct + weights.out)
    if weights.out and rebuild is not None:
        losses["out"] = cross_entropy(head(rebuild(features)), labels, n_active)
        total = losses["out"] * weights.out if total is None else total + losses["out"] * weights.out
    if total is None:
        raise ValueError("both losses have weight zero")
    descend(total, optimizer, clamp)
    return {name: loss.detach() for name, loss in losses.items()}


def step_replay(
    head: nn.Module,
    optimizer: torch.optim.Optimizer,
    maps: Tensor,
    labels: Tensor,
    n_active: int,
    coefficient: float,
    clamp: float = CLAMP,
) -> Tensor:
    """One step of its own on replayed maps, already decoded with the current codebook."""
    loss = cross_entropy(head(maps), labels, n_active)
    descend(coefficient * loss, optimizer, clamp)
    return loss.detach()
