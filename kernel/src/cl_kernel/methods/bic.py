"""BiC: exemplars and distillation, then two numbers that undo the bias of the scores towards the newest classes.

``L = share * L_distilled + (1 - share) * L_labels`` with ``share = old classes / classes seen`` and a distillation at a
temperature from the old network's corrected scores, over new examples and exemplars together; then ``scale * score +
shift`` for the classes that the newest stage brought, fitted on held-out examples, as many of each class. Source: Wu et
al. 2019, https://arxiv.org/abs/1905.13260.

Only the newest correction is applied, in prediction and in the teacher: the network has learnt the earlier ones from
its teacher. Differs: exemplars are herded as in ``icarl``; of the old classes only those that the stage does not bring
again count in ``share`` (the paper's stages bring none), so that a stage of old classes alone, such as a new domain, is
learnt. Variant ``crumb`` applies the corrections of all stages one beside the other, and holds out a random share of
new examples and of exemplars.

Shapes: B batch, n classes seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from attrs import field, frozen

from cl_kernel.contract.offers import doc
from cl_kernel.methods.base import (
    Remembering,
    Training,
    frozen_copy,
    pack_copy,
    positive,
    regain_copy,
    share,
    size_of,
    variant,
)
from cl_kernel.methods.exemplar_sets import ExemplarSets
from cl_kernel.methods.lazy import F, torch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from cl_kernel.contract.interfaces import Samples, Tree
    from cl_kernel.contract.stream import Stage
    from cl_kernel.running.loop import StreamContext
    from cl_kernel.running.resources import Setup
    from cl_kernel.torch.loaders import Batches


@frozen(kw_only=True)
class Settings(Remembering):
    """BiC."""

    temperature: float = field(default=2.0, validator=positive, metadata=doc("temperature of the distillation"))
    held_out: float = field(default=0.1, validator=share, metadata=doc("share of examples kept for the bias layer"))
    bias_epochs: int = field(default=200, validator=positive, metadata=doc("passes for the bias layer"))
    bias_lr: float = field(default=0.05, validator=positive, metadata=doc("learning rate of the bias layer"))
    variant: str = variant("corrections of all stages add up, the bias set is not balanced by class")


def fit_bias(scores: Tensor, columns: Tensor, n_new: int, n_epochs: int, lr: float) -> tuple[float, float]:
    """Scale and shift of the newest columns that minimise the cross-entropy, by Adam on the whole set.

    :param scores: [B, n], the newest classes last. :param columns: right ones, [B].
    """
    pair = torch.tensor([1.0, 0.0], device=scores.device, requires_grad=True)
    optimizer = torch.optim.Adam([pair], lr)
    for _ in range(n_epochs):
        corrected = torch.cat([scores[:, :-n_new], scores[:, -n_new:] * pair[0] + pair[1]], 1)
        optimizer.zero_grad()
        F.cross_entropy(corrected, columns).backward()
        optimizer.step()
    scale, shift = pair.detach().tolist()
    return scale, shift


class Bic(Training[Settings]):
    """Exemplars, distillation, a bias layer for each stage."""

    remembers: ClassVar[bool] = True
    old: nn.Module | None = None

    def __init__(self, settings: Settings, setup: Setup) -> None:
        super().__init__(settings, setup)
        self.rng = setup.resources.rng("bic")
        self.sets = ExemplarSets(self)
        self.bias: list[tuple[float, float]] = []

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """One stage on new examples and exemplars; a share held out of both sets the bias layer."""
        batches = self.begin(stage, ctx)
        if self.at_start():
            self.old = frozen_copy(self.upper) if stage.index else None
        if self.settings.variant == "paper":
            self._learn_together(batches, stage, ctx)
        else:
            self._learn_in_turn(batches, stage, ctx)

    def _learn_together(self, batches: Batches, stage: Stage, ctx: StreamContext) -> None:
        """Epochs over new examples and exemplars, the newest correction, new exemplars."""
        n_before = self.seen.n_before(stage.index)
        n_new = len(self.seen) - n_before
        rows = np.arange(len(stage.train))
        extra, aside = self._apart(batches, stage, ctx) if len(self.sets) and n_new else (self._all(stage), None)
        if aside is not None:
            rows = np.setdiff1d(rows, aside[0])
        for epoch in self.epochs(stage):
            for x, y in self.mixed_steps(batches, stage, ctx, epoch, extra, rows):
                loss = self._loss(x, y, n_before, self.seen.n_absent(stage.index))
                self.descend(loss)
                self.stepped(ctx, loss=loss.detach())
        self.bias.append((1.0, 0.0))
        if aside is not None:
            self._fit(*aside[1:], n_new)
        self.sets.herd(stage, batches, self.sets.rooms(ctx))

    def _all(self, stage: Stage) -> tuple[Tensor, Tensor] | None:
        return self.sets.all(stage) if len(self.sets) else None

    def _apart(
        self, batches: Batches, stage: Stage, ctx: StreamContext
    ) -> tuple[tuple[Tensor, Tensor], tuple[np.ndarray, Tensor, Tensor] | None]:
        """Exemplars to train on, and what sets the bias layer: as many examples of each class, old and new.

        :return: exemplars; rows of new examples held out, and inputs and labels of all that is held out. None and a
            note where a class has a single example.
        """
        kept, labels = self.sets.all(stage)
        label = labels.cpu().numpy()
        rows, given, new_labels = self.sets.whole(stage, batches)
        new = new_labels.cpu().numpy()
        before = self.seen.n_before(stage.index)
        fresh = [c for c in self.seen.order[before:] if (new == c).any()]
        sizes = [int((label == c).sum()) for c in np.unique(label)] + [int((new == c).sum()) for c in fresh]
        n = min(max(1, round(self.settings.held_out * min(sizes))), min(sizes) - 1)
        if not fresh or n < 1:
            ctx.note("no bias is fitted: a class has too few examples to hold one out")
            return (kept, labels), None
        rng = ctx.rng("bias set", stage.index)
        old_aside = np.concatenate([rng.permutation(np.flatnonzero(label == c))[:n] for c in np.unique(label)])
        new_aside = np.concatenate([rng.permutation(np.flatnonzero(new == c))[:n] for c in fresh])
        stay = torch.from_numpy(np.setdiff1d(np.arange(len(label)), old_aside)).to(kept.device)
        old_index, new_index = (torch.from_numpy(index).to(kept.device) for index in (old_aside, new_aside))
        x = torch.cat([kept[old_index], given[new_index]])
        y = torch.cat([labels[old_index], new_labels[new_index]])
        return (kept[stay], labels[stay]), (rows[new_aside], x, y)

    def _fit(self, x: Tensor, y: Tensor, n_new: int) -> None:
        """Scale and shift of the newest classes."""
        settings = self.settings
        self.network.eval()
        with torch.no_grad():
            scores = self._corrected(self.seen.scores(self.upper(x)))
        self.bias[-1] = fit_bias(scores, self.seen.columns_of(y), n_new, settings.bias_epochs, settings.bias_lr)
        self.network.train()

    def _learn_in_turn(self, batches: Batches, stage: Stage, ctx: StreamContext) -> None:
        """New examples and as many drawn exemplars; a share of both, held out at random, sets the bias layer."""
        n_old = self.seen.n_absent(stage.index)
        held = ctx.rng("held out", stage.index).random(len(stage.train)) < self.settings.held_out
        exemplars = self._exemplars(stage, ctx) if len(self.sets) else None
        for epoch in self.epochs(stage):
            for rows, inputs, labels in self.steps(batches, stage, ctx, epoch):
                new = torch.from_numpy(~held[rows]).to(inputs.device)
                x, y = inputs[new], labels[new]
                if exemplars is not None:
                    kept, kept_labels, aside = exemplars
                    picks = self._picks(~aside, len(inputs))
                    x, y = torch.cat([x, kept[picks]]), torch.cat([y, kept_labels[picks]])
                if len(x):
                    loss = self._loss(x, y, n_old, n_old)
                    self.descend(loss)
                    self.stepped(ctx, loss=loss.detach())
                else:
                    self.stepped(ctx)
        self.bias.append((1.0, 0.0))
        if exemplars is not None and bool(exemplars[2].any()) and held.any():
            self._set_bias(batches, np.flatnonzero(held), *exemplars)
        rooms = self.sets.equal_rooms()
        self.sets.trim(rooms)
        self.sets.choose(stage, batches, rooms)

    def _exemplars(self, stage: Stage, ctx: StreamContext) -> tuple[Tensor, Tensor, Tensor]:
        """All exemplars, their labels, and which of them are held out."""
        kept, labels = self.sets.all(stage)
        share = max(self.settings.held_out, 0.2)
        aside = ctx.rng("held out exemplars", stage.index).random(len(kept)) < share
        return kept, labels, torch.from_numpy(aside).to(kept.device)

    def _picks(self, allowed: Tensor, n: int) -> Tensor:
        """Rows of n of the allowed ones, drawn with replacement."""
        pool = allowed.nonzero()[:, 0]
        if not len(pool):
            return pool
        return pool[torch.from_numpy(self.rng.integers(0, len(pool), n)).to(pool.device)]

    def _loss(self, x: Tensor, y: Tensor, n_old: int, n_absent: int) -> Tensor:
        """Cross-entropy and, weighted by the share of absent classes, distillation of the corrected old scores."""
        heat = self.settings.temperature
        scores = self.seen.scores(self.upper(x))
        plain = F.cross_entropy(scores, self.seen.columns_of(y))
        if self.old is None or not n_absent:
            return plain
        with torch.no_grad():
            target = F.softmax(self._corrected(self.old(x)[:, :n_old]) / heat, 1)
        distilled = -(target * F.log_softmax(scores[:, :n_old] / heat, 1)).sum(1).mean()
        share = n_absent / len(self.seen)
        return share * distilled + (1 - share) * plain

    def _corrected(self, scores: Tensor) -> Tensor:
        """Scores of the first classes seen, the newest ones of those that have a correction corrected."""
        if self.settings.variant == "paper":
            return self._newest_corrected(scores)
        out, at = [], 0
        for classes, (scale, shift) in zip(self.seen.by_stage, self.bias, strict=False):
            out.append(scores[:, at : at + len(classes)] * scale + shift)
            at += len(classes)
        out.append(scores[:, at:])
        return torch.cat(out, 1)

    def _newest_corrected(self, scores: Tensor) -> Tensor:
        if not self.bias:
            return scores
        first, last = (self.seen.n_before(index) for index in (len(self.bias) - 1, len(self.bias)))
        scale, shift = self.bias[-1]
        return torch.cat([scores[:, :first], scores[:, first:last] * scale + shift, scores[:, last:]], 1)

    def _set_bias(self, batches: Batches, held: np.ndarray, kept: Tensor, kept_labels: Tensor, aside: Tensor) -> None:
        """Fit scale and shift of the newest classes on held-out examples, as many new as old."""
        parts = [(x, y) for _, x, y in batches(held, self.settings.predict_batch)]
        x, y = torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
        pick = torch.from_numpy(self.rng.permutation(len(x))[: max(int(aside.sum()), 1)]).to(x.device)
        x, y = torch.cat([kept[aside], x[pick]]), torch.cat([kept_labels[aside], y[pick]])
        self._fit(x, y, len(self.seen.by_stage[-1]))

    def predict(self, samples: Samples) -> Iterator[dict[str, Any]]:
        """Corrected scores over the classes seen."""
        return self.predict_with(samples, lambda x: self._corrected(self.seen.scores(self.upper(x))))

    def reserve(self) -> int:
        """The old network."""
        return size_of(self.upper)

    def kept(self) -> dict[str, Tree]:
        """Exemplars, bias layers, generator, old network."""
        from cl_kernel.torch.state import pack

        return {
            "sets": self.sets.state(),
            "bias": [list(pair) for pair in self.bias],
            "rng": pack(self.rng),
            "old": pack_copy(self.old),
        }

    def regain(self, tree: Tree) -> None:
        """Take it back."""
        from cl_kernel.torch.state import restore

        self.sets.load(tree["sets"])
        self.bias = [(float(scale), float(shift)) for scale, shift in tree["bias"]]
        restore(self.rng, tree["rng"])
        self.old = regain_copy(self.upper, tree["old"])


def build(settings: Settings, setup: Setup) -> Bic:
    """Learner ``bic``."""
    return Bic(settings, setup)
