"""Gradients turned so that they do not hurt what was learnt: GEM and A-GEM.

Shapes: P parameters in all, T earlier tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from attrs import define
from scipy.linalg import solve_triangular
from scipy.optimize import nnls
from torch import Tensor, nn
from torch.nn import functional as F

from cl_kernel.contract.interfaces import Samples, Tree
from cl_kernel.contract.stream import Stage
from cl_kernel.torch.stepping import Stand, build_stand

if TYPE_CHECKING:
    from cl_kernel.running.loop import StreamContext
    from cl_kernel.running.resources import Setup


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
    parameters = [p for p in model.parameters() if p.requires_grad]
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


# ---- learners --------------------------------------------------------------------------------


def build_gem(settings: Any, setup: Setup) -> ProjectedLearner:
    """GEM: a constraint a task, by its memory's gradient."""
    return ProjectedLearner(build_stand(settings, setup, remembers=True), "gem")


def build_agem(settings: Any, setup: Setup) -> ProjectedLearner:
    """A-GEM: one constraint for all that is remembered."""
    return ProjectedLearner(build_stand(settings, setup, remembers=True), "agem")


def build_naive_rehearsal(settings: Any, setup: Setup) -> RehearsalLearner:
    """Naive rehearsal: a step on what is remembered after every new one."""
    return RehearsalLearner(build_stand(settings, setup, remembers=True))


def _remembered(stand: Stand, stage: Stage, task: int) -> tuple[Tensor, Tensor]:
    """Everything remembered of a task: inputs and labels, as the learning part reads them."""
    slots = np.sort(stand.memory.policy.draw(len(stand.memory), np.random.default_rng(0), np.array([task])))
    return stand.decoded(stage, slots)


@define(eq=False)
class ProjectedLearner:
    """Training whose gradient is turned off the directions that raise the loss on what is remembered."""

    stand: Stand
    method: str

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """One task: projected steps; at its end an equal random share of every task stays remembered."""
        stand, settings = self.stand, self.stand.settings
        batches = stand.begin(stage, ctx)
        size = settings.reference_batch or settings.batch_size // 10 + 1
        old = [_remembered(stand, stage, task) for task in range(stage.index)]
        old = [(x, y) for x, y in old if len(y)]
        n_active = len(stand.seen)
        for epoch in stand.epochs(stage):
            for _, inputs, labels in stand.steps(batches, stage, ctx, epoch):
                columns = [(x, stand.seen.columns_of(y)) for x, y in old]
                if self.method == "agem":
                    reference = reference_gradient(stand.upper, columns, n_active, size) if old else None
                else:
                    tasks = [reference_gradient(stand.upper, [one], n_active, len(one[1])) for one in columns]
                loss = stand.seen.cross_entropy(stand.upper(inputs), labels)
                stand.optimizer.zero_grad()
                loss.backward()
                if self.method == "agem":
                    agem_step(stand.parameters, reference, stand.optimizer)
                else:
                    if tasks:
                        gradient = flat_gradient(stand.parameters)
                        set_gradient(stand.parameters, gem(gradient, torch.stack(tasks), settings.margin))
                    stand.optimizer.step()
                stand.stepped(ctx, loss=loss.detach())
        stand.remember(stage, batches, ctx, group=stage.index)

    def predict(self, samples: Samples) -> Iterator[dict[str, Any]]:
        """Scores over the classes seen."""
        return self.stand.predict(samples)

    def state(self) -> Tree:
        """Network, optimiser, memory, position."""
        return self.stand.state()

    def load(self, tree: Tree) -> None:
        """Take over what :meth:`state` gave."""
        self.stand.load(tree)


@define(eq=False)
class RehearsalLearner:
    """Alternate a step on new examples with one on remembered ones."""

    stand: Stand

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """One task; every pass goes once through the memory, in as many steps as there are new batches."""
        stand = self.stand
        batches = stand.begin(stage, ctx)
        n_batches = -(-len(stage.train) // stand.settings.batch_size)
        replayed = -(-len(stand.memory) // n_batches)
        for epoch in stand.epochs(stage):
            for _, inputs, labels in stand.steps(batches, stage, ctx, epoch):
                loss = self._step(inputs, labels)
                slots = stand.memory.draw(replayed) if len(stand.memory) else np.zeros(0, np.int64)
                if len(slots):
                    self._step(*stand.decoded(stage, slots))
                stand.stepped(ctx, loss=loss)
        stand.remember(stage, batches, ctx, group=stage.index)

    def _step(self, inputs: Tensor, labels: Tensor) -> Tensor:
        stand = self.stand
        loss = stand.seen.cross_entropy(stand.upper(inputs), labels)
        stand.optimizer.zero_grad()
        loss.backward()
        stand.optimizer.step()
        return loss.detach()

    def predict(self, samples: Samples) -> Iterator[dict[str, Any]]:
        """Scores over the classes seen."""
        return self.stand.predict(samples)

    def state(self) -> Tree:
        """Network, optimiser, memory, position."""
        return self.stand.state()

    def load(self, tree: Tree) -> None:
        """Take over what :meth:`state` gave."""
        self.stand.load(tree)
