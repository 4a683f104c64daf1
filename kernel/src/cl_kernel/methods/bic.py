"""BiC: exemplars and distillation, then two numbers that undo the bias of the scores towards the newest classes.

``L = share * L_distilled + (1 - share) * L_labels`` with ``share = old classes / classes seen`` and a distillation at a
temperature; then ``scale * score + shift`` for the newest classes, fitted on held-out examples. Source: Wu et al.
2019, https://arxiv.org/abs/1905.13260, eqs. 1 to 5.

Shapes: B batch, n classes seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from attrs import field, frozen

from cl_kernel.contract.offers import doc
from cl_kernel.methods.base import Remembering, Training, frozen_copy, pack_copy, positive, regain_copy, share
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
    bias_epochs: int = field(default=50, validator=positive, metadata=doc("passes for the bias layer"))


def fit_bias(scores: Tensor, columns: Tensor, n_new: int, n_epochs: int, lr: float = 1e-2) -> tuple[float, float]:
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
        n_old = self.seen.n_old(stage.index)
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
                    loss = self._loss(x, y, n_old)
                    self.descend(loss)
                    self.stepped(ctx, loss=loss.detach())
                else:
                    self.stepped(ctx)
        self.bias.append((1.0, 0.0))
        if exemplars is not None and bool(exemplars[2].any()) and held.any():
            self._set_bias(batches, np.flatnonzero(held), *exemplars)
        share = self.memory.capacity // len(self.seen)
        self.sets.trim(share)
        self.sets.choose(stage, batches, share)

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

    def _loss(self, x: Tensor, y: Tensor, n_old: int) -> Tensor:
        """Cross-entropy and, weighted by the share of old classes, distillation of the corrected old scores."""
        heat = self.settings.temperature
        scores = self.seen.scores(self.upper(x))
        plain = F.cross_entropy(scores, self.seen.columns_of(y))
        if self.old is None or not n_old:
            return plain
        with torch.no_grad():
            target = F.softmax(self._corrected(self.old(x)[:, :n_old]) / heat, 1)
        distilled = -(target * F.log_softmax(scores[:, :n_old] / heat, 1)).sum(1).mean()
        share = n_old / len(self.seen)
        return share * distilled + (1 - share) * plain

    def _corrected(self, scores: Tensor) -> Tensor:
        out, at = [], 0
        for classes, (scale, shift) in zip(self.seen.by_stage, self.bias, strict=False):
            out.append(scores[:, at : at + len(classes)] * scale + shift)
            at += len(classes)
        out.append(scores[:, at:])
        return torch.cat(out, 1)

    def _set_bias(self, batches: Batches, held: np.ndarray, kept: Tensor, kept_labels: Tensor, aside: Tensor) -> None:
        """Fit scale and shift of the newest classes on held-out examples, as many new as old."""
        parts = [(x, y) for _, x, y in batches(held, self.settings.predict_batch)]
        x, y = torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
        pick = torch.from_numpy(self.rng.permutation(len(x))[: max(int(aside.sum()), 1)]).to(x.device)
        x, y = torch.cat([kept[aside], x[pick]]), torch.cat([kept_labels[aside], y[pick]])
        self.network.eval()
        with torch.no_grad():
            scores = self._corrected(self.seen.scores(self.upper(x)))
        n_new = len(self.seen.by_stage[-1])
        self.bias[-1] = fit_bias(scores, self.seen.columns_of(y), n_new, self.settings.bias_epochs)
        self.network.train()

    def predict(self, samples: Samples) -> Iterator[dict[str, Any]]:
        """Corrected scores over the classes seen."""
        return self.predict_with(samples, lambda x: self._corrected(self.seen.scores(self.upper(x))))

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
