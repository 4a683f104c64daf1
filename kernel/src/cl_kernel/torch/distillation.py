"""Learners that hold on to the old network's scores: LwF, and BiC with its bias layer.

Shapes: B batch, k classes of earlier tasks, n classes seen.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from attrs import define, field
from torch import Tensor, nn
from torch.nn import functional as F

from cl_kernel.contract.interfaces import Samples, Tree
from cl_kernel.contract.stream import Stage
from cl_kernel.torch.exemplars import ExemplarSets, lwf_loss
from cl_kernel.torch.state import pack, restore
from cl_kernel.torch.stepping import Stand, build_stand, sgd

if TYPE_CHECKING:
    from cl_kernel.running.loop import StreamContext
    from cl_kernel.running.resources import Setup


def frozen_copy(network: nn.Module) -> nn.Module:
    """The network as it is now, in evaluation mode, without gradient."""
    return copy.deepcopy(network).eval().requires_grad_(False)


def build_lwf(settings: Any, setup: Setup) -> Lwf:
    """Learning without forgetting."""
    stand = build_stand(settings, setup)
    stand.optimizer = sgd(stand.upper, settings, nesterov=settings.momentum > 0)
    return Lwf(stand)


@define(eq=False)
class Lwf:
    """One-hot targets whose old columns are the old network's sigmoids; nothing is stored (spec 2.11)."""

    stand: Stand
    old: nn.Module | None = None

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """One task."""
        stand = self.stand
        batches = stand.begin(stage, ctx)
        if stand.epoch == stand.position == 0 and stage.index:
            self.old = frozen_copy(stand.upper)
        n_old = len(stand.seen) - len(stand.seen.by_stage[stage.index])
        for epoch in stand.epochs(stage):
            for _, inputs, labels in stand.steps(batches, stage, ctx, epoch):
                with torch.no_grad():
                    old = self.old(inputs)[:, :n_old] if self.old is not None else None
                scores = stand.seen.scores(stand.upper(inputs))
                loss = lwf_loss(scores, stand.seen.columns_of(labels), old)
                stand.optimizer.zero_grad()
                loss.backward()
                stand.optimizer.step()
                stand.stepped(ctx, loss=loss.detach())

    def predict(self, samples: Samples) -> Iterator[dict[str, Any]]:
        """Scores over the classes seen."""
        return self.stand.predict(samples)

    def state(self) -> Tree:
        """The stand and the old network."""
        return {**self.stand.state(), "old": None if self.old is None else pack(self.old)}

    def load(self, tree: Tree) -> None:
        """Take over what :meth:`state` gave."""
        self.stand.load(tree)
        self.old = None
        if tree["old"] is not None:
            self.old = frozen_copy(self.stand.upper)
            restore(self.old, tree["old"])


def build_bic(settings: Any, setup: Setup) -> Bic:
    """BiC."""
    return Bic(build_stand(settings, setup, remembers=True), setup.resources.rng("bic"))


@define(eq=False)
class Bic:
    """Exemplars and distillation, then two numbers that undo the bias of the scores towards the newest classes.

    :param bias: scale and shift of each task's classes.
    """

    stand: Stand
    rng: np.random.Generator
    sets: ExemplarSets = field(init=False)
    old: nn.Module | None = None
    bias: list[tuple[float, float]] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.sets = ExemplarSets(self.stand)

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """One task on new examples and exemplars; a share held out of both sets the bias layer."""
        stand, settings = self.stand, self.stand.settings
        batches = stand.begin(stage, ctx)
        if stand.epoch == stand.position == 0:
            self.old = frozen_copy(stand.upper) if stage.index else None
        n_old = len(stand.seen) - len(stand.seen.by_stage[stage.index])
        held = ctx.rng("held out", stage.index).random(len(stage.train)) < settings.held_out
        kept, kept_labels, aside = None, None, None
        if len(self.sets):
            kept, kept_labels = self.sets.all(stage)
            aside = torch.from_numpy(
                ctx.rng("held out exemplars", stage.index).random(len(kept)) < max(settings.held_out, 0.2)
            )
            aside = aside.to(kept.device)
        for epoch in stand.epochs(stage):
            for rows, inputs, labels in stand.steps(batches, stage, ctx, epoch):
                mine = torch.from_numpy(~held[rows]).to(inputs.device)
                x, y = inputs[mine], labels[mine]
                if kept is not None:
                    pool = (~aside).nonzero()[:, 0]
                    picks = (
                        pool[torch.from_numpy(self.rng.integers(0, max(len(pool), 1), len(inputs))).to(pool.device)]
                        if len(pool)
                        else pool
                    )
                    x, y = torch.cat([x, kept[picks]]), torch.cat([y, kept_labels[picks]])
                if len(x):
                    stand.optimizer.zero_grad()
                    loss = self._loss(x, y, n_old)
                    loss.backward()
                    stand.optimizer.step()
                    stand.stepped(ctx, loss=loss.detach())
                else:
                    stand.stepped(ctx)
        self.bias.append((1.0, 0.0))
        if kept is not None and bool(aside.any()) and held.any():
            rows = np.flatnonzero(held)
            parts = [(x, y) for _, x, y in batches(rows, settings.predict_batch)]
            x, y = torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
            n = int(aside.sum())
            pick = torch.from_numpy(self.rng.permutation(len(x))[: max(n, 1)]).to(x.device)
            self._set_bias(torch.cat([kept[aside], x[pick]]), torch.cat([kept_labels[aside], y[pick]]))
        share = stand.memory.capacity // len(stand.seen)
        self.sets.trim(share)
        self.sets.choose(stage, batches, share)

    def _loss(self, x: Tensor, y: Tensor, n_old: int) -> Tensor:
        """Cross-entropy and, weighted by the share of old classes, distillation of the corrected old scores."""
        stand, heat = self.stand, self.stand.settings.temperature
        scores = stand.seen.scores(stand.upper(x))
        plain = F.cross_entropy(scores, stand.seen.columns_of(y))
        if self.old is None or not n_old:
            return plain
        with torch.no_grad():
            target = F.softmax(self._corrected(self.old(x)[:, :n_old]) / heat, 1)
        distilled = -(target * F.log_softmax(scores[:, :n_old] / heat, 1)).sum(1).mean()
        share = n_old / len(stand.seen)
        return share * distilled + (1 - share) * plain

    def _corrected(self, scores: Tensor) -> Tensor:
        out, at = [], 0
        for classes, (scale, shift) in zip(self.stand.seen.by_stage, self.bias, strict=False):
            out.append(scores[:, at : at + len(classes)] * scale + shift)
            at += len(classes)
        out.append(scores[:, at:])
        return torch.cat(out, 1)

    def _set_bias(self, x: Tensor, y: Tensor) -> None:
        """Fit scale and shift of the newest classes on held-out examples of all classes alike."""
        stand = self.stand
        stand.network.eval()
        with torch.no_grad():
            scores = stand.seen.scores(stand.upper(x))
            scores = torch.cat([self._corrected(scores)], 1)
        columns = stand.seen.columns_of(y)
        n_new = len(stand.seen.by_stage[-1])
        pair = torch.tensor([1.0, 0.0], device=x.device, requires_grad=True)
        optimizer = torch.optim.Adam([pair], 1e-2)
        for _ in range(stand.settings.bias_epochs):
            corrected = torch.cat([scores[:, :-n_new], scores[:, -n_new:] * pair[0] + pair[1]], 1)
            optimizer.zero_grad()
            F.cross_entropy(corrected, columns).backward()
            optimizer.step()
        scale, shift = pair.detach().tolist()
        self.bias[-1] = (scale, shift)
        stand.network.train()

    def predict(self, samples: Samples) -> Iterator[dict[str, Any]]:
        """Corrected scores over the classes seen."""
        return self.stand.predict_with(samples, lambda x: self._corrected(self.stand.seen.scores(self.stand.upper(x))))

    def state(self) -> Tree:
        """The stand, exemplars, bias layers, old network."""
        return {
            **self.stand.state(),
            "sets": self.sets.state(),
            "bias": [list(pair) for pair in self.bias],
            "rng": pack(self.rng),
            "old": None if self.old is None else pack(self.old),
        }

    def load(self, tree: Tree) -> None:
        """Take over what :meth:`state` gave."""
        self.stand.load(tree)
        self.sets.load(tree["sets"])
        self.bias = [(float(scale), float(shift)) for scale, shift in tree["bias"]]
        restore(self.rng, tree["rng"])
        self.old = None
        if tree["old"] is not None:
            self.old = frozen_copy(self.stand.upper)
            restore(self.old, tree["old"])
