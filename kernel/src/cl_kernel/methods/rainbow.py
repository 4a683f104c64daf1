"""Rainbow Memory: of each class, remember examples from the surest to the least sure; train with cutmix.

An example's uncertainty is ``1 - S / A``, with S the number of its A augmented views that get the most frequent
answer; of a class' candidates, its exemplars and its new samples sorted by uncertainty, each ``candidates / room``-th
is kept. Source: Bang et al. 2021, https://arxiv.org/abs/2103.17230.

Differs: views are mirrored and shifted (vectors: noise); cutmix in place of several augmentations. Variant ``crumb``:
uncertainty is the share of views whose answer is wrong, and exemplars of a class are not chosen again when it comes
again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from attrs import field, frozen

from cl_kernel.contract.offers import doc
from cl_kernel.methods.augmentation import augmented, cutmix
from cl_kernel.methods.base import Remembering, Training, positive, share, variant
from cl_kernel.methods.exemplar_sets import ExemplarSets
from cl_kernel.methods.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from cl_kernel.contract.interfaces import Tree
    from cl_kernel.contract.stream import Stage
    from cl_kernel.running.loop import StreamContext
    from cl_kernel.running.resources import Setup
    from cl_kernel.torch.loaders import Batches


@frozen(kw_only=True)
class Settings(Remembering):
    """Rainbow Memory."""

    cutmix: float = field(default=0.5, validator=share, metadata=doc("probability of cutmix"))
    n_views: int = field(default=6, validator=positive, metadata=doc("augmented views that measure uncertainty"))
    augment: bool = field(default=True, metadata=doc("mirror and shift images while training"))
    variant: str = variant("uncertainty counts wrong answers, exemplars of a class are chosen once")


def spread(uncertainty: np.ndarray, n: int) -> np.ndarray:
    """Candidates from the surest to the least sure, each (candidates / n)-th; int64 [min(n, candidates)]."""
    order = np.argsort(uncertainty, kind="stable")
    n = min(n, len(order))
    return order[np.arange(n) * len(order) // max(n, 1)]


def disagreement(answers: np.ndarray, n_classes: int) -> np.ndarray:
    """One minus the share of the most frequent answer.

    :param answers: int64 [views, n], in 0 .. n_classes - 1.
    """
    votes = np.stack([(answers == c).sum(0) for c in range(n_classes)])
    return np.asarray(1 - votes.max(0) / len(answers))


class Rainbow(Training[Settings]):
    """Replay from a memory spread over uncertainty, the rate falling along a cosine."""

    remembers: ClassVar[bool] = True

    def __init__(self, settings: Settings, setup: Setup) -> None:
        super().__init__(settings, setup)
        self.sets = ExemplarSets(self)
        self.rng = setup.resources.rng("rainbow")

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """One stage; then the memory is spread over uncertainty."""
        batches = self.begin(stage, ctx)
        total = self.n_epochs(stage) * self.n_batches(stage)
        done = self.n_done(stage)
        for epoch in self.epochs(stage):
            for _, inputs, labels in self.steps(batches, stage, ctx, epoch):
                x, y = inputs, labels
                if len(self.sets):
                    kept, kept_labels = self.sets.draw(stage, len(inputs), self.rng)
                    x, y = torch.cat([x, kept]), torch.cat([y, kept_labels])
                if self.settings.augment:
                    x = augmented(x, self.rng)
                for group in self.optimizer.param_groups:
                    group["lr"] = self.settings.lr * 0.5 * (1 + math.cos(math.pi * min(done / max(total, 1), 1)))
                loss = self._loss(x, y)
                self.descend(loss)
                done += 1
                self.stepped(ctx, loss=loss.detach())
        if self.settings.variant == "paper":
            self._choose(stage, batches, self.sets.rooms(ctx))
        else:
            self._choose_once(stage, batches)

    def _choose(self, stage: Stage, batches: Batches, rooms: Mapping[int, int]) -> None:
        """Spread every class' exemplars anew, with the new samples of those that the stage brings."""
        rows, inputs, labels = self.sets.whole(stage, batches)
        label = labels.cpu().numpy()
        chosen: list[tuple[int, np.ndarray, np.ndarray, Tensor]] = []
        for c in self.seen.order:
            mine = np.flatnonzero(label == c)
            given = inputs[torch.from_numpy(mine).to(inputs.device)]
            candidates = self.sets.candidates(stage, c, given)
            if len(candidates):
                answers = self._answers(candidates).cpu().numpy()
                chosen.append((c, spread(disagreement(answers, len(self.seen)), rooms[c]), rows[mine], given))
        for c, order, _, _ in chosen:  # what leaves makes room before anything enters
            held = self.sets.slots.get(c, np.zeros(0, np.int64))
            stay = order[order < len(held)]
            self.sets.policy.drop(np.setdiff1d(held, held[stay]))
        for c, order, new_rows, given in chosen:
            self._enter(stage, c, order, new_rows, given)

    def _enter(self, stage: Stage, c: int, order: np.ndarray, rows: np.ndarray, given: Tensor) -> None:
        held = self.sets.slots.get(c, np.zeros(0, np.int64))
        stay, new = order[order < len(held)], order[order >= len(held)] - len(held)
        self.sets.slots[c] = held[stay]
        if len(new):
            self.sets.add(stage, c, rows[new], given[torch.from_numpy(new).to(given.device)])

    def _loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy, at times of images mixed with others."""
        if x.ndim != 4 or self.rng.random() >= self.settings.cutmix:
            return self.seen.cross_entropy(self.upper(x), y)
        mixed, other, own = cutmix(x, self.rng)
        scores = self.upper(mixed)
        return own * self.seen.cross_entropy(scores, y) + (1 - own) * self.seen.cross_entropy(scores, y[other])

    def _choose_once(self, stage: Stage, batches: Batches) -> None:
        """Of each class' old and new examples keep an even spread over uncertainty."""
        share = self.memory.capacity // len(self.seen)
        self._thin(stage, share)
        parts = list(self.in_order(batches, stage))
        rows = np.concatenate([p[0] for p in parts])
        inputs, labels = torch.cat([p[1] for p in parts]), torch.cat([p[2] for p in parts])
        uncertainty = self._uncertainty(inputs, labels)
        for c in self.seen.by_stage[stage.index]:
            mine = np.flatnonzero(labels.cpu().numpy() == c)
            if not len(mine) or c in self.sets.slots:
                continue
            order = mine[np.argsort(uncertainty[mine], kind="stable")]
            places = np.linspace(0, len(order) - 1, min(share, len(order))).round().astype(int)
            chosen = order[np.unique(places)] if share else order[:0]
            self.sets.add(stage, c, rows[chosen], inputs[torch.from_numpy(chosen).to(inputs.device)])

    def _thin(self, stage: Stage, share: int) -> None:
        """Spread the exemplars of earlier classes over fewer slots."""
        for c, slots in list(self.sets.slots.items()):
            if len(slots) > share:
                order = np.argsort(self._uncertainty(*self.decoded(stage.train.spec, slots, plain=True)), kind="stable")
                keep = slots[order[np.linspace(0, len(order) - 1, share).round().astype(int)]] if share else slots[:0]
                self.sets.policy.drop(np.setdiff1d(slots, keep))
                self.sets.slots[c] = keep

    def _uncertainty(self, inputs: Tensor, labels: Tensor) -> np.ndarray:
        """Share of augmented views whose class is not the right one."""
        wrong = (self._answers(inputs) != self.seen.columns_of(labels)).cpu().numpy()
        return np.asarray(wrong.sum(0) / self.settings.n_views)

    def _answers(self, inputs: Tensor) -> Tensor:
        """Likeliest column of each view of each example, int64 [views, n]."""
        self.network.eval()
        views = []
        with torch.no_grad():
            for _ in range(self.settings.n_views):
                parts = [self.upper(augmented(part, self.rng)) for part in inputs.split(256)]
                views.append(self.seen.scores(torch.cat(parts)).argmax(1))
        self.network.train()
        return torch.stack(views)

    def kept(self) -> dict[str, Tree]:
        """What is remembered, and the generator."""
        from cl_kernel.torch.state import pack

        return {"sets": self.sets.state(), "rng": pack(self.rng)}

    def regain(self, tree: Tree) -> None:
        """Take it back."""
        from cl_kernel.torch.state import restore

        self.sets.load(tree["sets"])
        restore(self.rng, tree["rng"])


def build(settings: Settings, setup: Setup) -> Rainbow:
    """Learner ``rainbow``."""
    return Rainbow(settings, setup)
