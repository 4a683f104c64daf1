"""Gradient episodic memory: the step hurts the loss on no earlier stage's memory.

The gradient ``g`` is replaced by the nearest ``g~`` with ``<g~, g_k> >= 0`` for the gradient ``g_k`` on each stage's
memory, by the dual problem ``min_v 0.5 v'GG'v + g'G'v``, ``v >= 0``, ``g~ = G'(v + margin) + g``. Source: Lopez-Paz
and Ranzato 2017, https://arxiv.org/abs/1706.08840.

Differs: what is remembered of a stage is a random share of it, taken at its end. Variant ``crumb`` solves the problem
as in the authors' release, ``v >= margin`` with a small ridge on ``GG'``.

Shapes: P parameters in all, T earlier stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from attrs import field, frozen

from cl_kernel.contract.offers import doc
from cl_kernel.methods.base import Remembering, Training, heads, not_negative, variant
from cl_kernel.methods.gradients import flat_gradient, reference_gradient, set_gradient
from cl_kernel.methods.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from cl_kernel.contract.stream import Stage
    from cl_kernel.running.loop import StreamContext
    from cl_kernel.running.resources import Setup


@frozen(kw_only=True)
class Settings(Remembering):
    """GEM."""

    heads: str = heads()
    margin: float = field(
        default=0.5,
        validator=not_negative,
        metadata=doc("added to the dual solution, the paper's gamma: steps that help earlier stages"),
    )
    variant: str = variant("the margin bounds the dual variables, a ridge of 0.001 is added to the problem")


def project(gradient: Tensor, stages: Tensor, margin: float = 0.0) -> Tensor:
    """The nearest gradient that hurts none of the earlier stages; further towards them by the margin.

    The dual problem is the non-negative least-squares problem ``min_v |G'v + g|``, solved exactly in float64.

    :param stages: gradients on the memories, [T, P].
    """
    from scipy.optimize import nnls

    if len(stages) == 0 or not bool((stages @ gradient < 0).any()):
        return gradient
    rows = stages.double().cpu().numpy()
    basis, triangle = np.linalg.qr(rows.T)
    v = nnls(triangle, -(basis.T @ gradient.double().cpu().numpy()))[0] + margin
    return torch.as_tensor(v @ rows, dtype=gradient.dtype, device=gradient.device) + gradient


def gem(gradient: Tensor, stages: Tensor, margin: float = 1.0, ridge: float = 1e-3) -> Tensor:
    """As in the authors' release: the dual variables are bounded by the margin.

    Minimises ``0.5 v'Pv - q'v`` over ``v >= margin`` with ``P = GG' + ridge I`` and ``q = -Gg``; the result is
    ``G'v + g``. Solved exactly as a non-negative least-squares problem on a Cholesky factor of P.

    :param stages: gradients on the memories, [T, P].
    """
    from scipy.linalg import solve_triangular
    from scipy.optimize import nnls

    if len(stages) == 0 or not bool((stages @ gradient < 0).any()):
        return gradient
    rows = stages.double().cpu().numpy()
    products = rows @ rows.T
    p = 0.5 * (products + products.T) + ridge * np.eye(len(rows))
    q = -(rows @ gradient.double().cpu().numpy())
    upper = np.linalg.cholesky(p).T
    target = solve_triangular(upper, q, trans="T") - upper @ np.full(len(rows), margin)
    v = nnls(upper, target)[0] + margin
    return torch.as_tensor(v @ rows, dtype=gradient.dtype, device=gradient.device) + gradient


def stage_shares(capacity: int, kept: Sequence[np.ndarray], newest: np.ndarray) -> list[np.ndarray]:
    """Equal shares of a memory over stages: older ones keep the first of theirs, the newest the first of its order."""
    n = capacity // (len(kept) + 1)
    return [rows[:n] for rows in (*kept, newest)]


def remembered(training: Training[Remembering], stage: Stage, earlier: int) -> tuple[Tensor, Tensor]:
    """Everything remembered of an earlier stage: inputs and labels, as the learning part reads them."""
    memory = training.memory
    slots = np.sort(memory.policy.draw(len(memory), np.random.default_rng(0), np.array([earlier])))
    return training.decoded(stage.train.spec, slots)


class Gem(Training[Settings]):
    """A constraint a stage, by the gradient on its memory."""

    remembers: ClassVar[bool] = True

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """One stage: projected steps; at its end an equal random share of every stage stays remembered."""
        batches = self.begin(stage, ctx)
        old = [remembered(self, stage, earlier) for earlier in range(stage.index)]
        old = [(x, self.seen.columns_of(y)) for x, y in old if len(y)]
        for epoch in self.epochs(stage):
            for _, inputs, labels in self.steps(batches, stage, ctx, epoch):
                stages = [reference_gradient(self.upper, [one], len(self.seen), len(one[1])) for one in old]
                loss = self.seen.cross_entropy(self.upper(inputs), labels)
                self.optimizer.zero_grad()
                loss.backward()
                if stages:
                    gradient = flat_gradient(self.parameters)
                    turn = gem if self.settings.variant == "crumb" else project
                    set_gradient(self.parameters, turn(gradient, torch.stack(stages), self.settings.margin))
                self.optimizer.step()
                self.stepped(ctx, loss=loss.detach())
        self.remember(stage, batches, ctx, group=stage.index)


def build(settings: Settings, setup: Setup) -> Gem:
    """Learner ``gem``."""
    return Gem(settings, setup)
