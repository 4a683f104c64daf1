"""GSS-greedy: remember examples whose gradients point elsewhere than those of what is remembered.

A newcomer's score is ``1 + max cos(g, g_m)`` over gradients of batches of the memory; with the memory full, a slot
drawn in proportion to its own score gives way with probability ``score_slot / (score_slot + score_newcomer)``.
Source: Aljundi et al. 2019, https://arxiv.org/abs/1903.08671.

Differs: new and replayed examples share a step, where the authors' release takes one on each; a slot is drawn by its
score as it is, where the release stretches the scores to [0, 1] first; with several passes over a stage an example may
enter in the first only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from attrs import field, frozen

from cl_kernel.contract.offers import doc
from cl_kernel.methods.base import Remembering, Training, positive
from cl_kernel.methods.exemplar_sets import ExemplarSets
from cl_kernel.methods.gradients import gradient_of
from cl_kernel.methods.lazy import F, torch

if TYPE_CHECKING:
    from torch import Tensor

    from cl_kernel.contract.interfaces import Tree
    from cl_kernel.contract.stream import Stage
    from cl_kernel.running.loop import StreamContext
    from cl_kernel.running.resources import Setup


@frozen(kw_only=True)
class Settings(Remembering):
    """GSS-greedy."""

    n_iter: int = field(default=1, validator=positive, metadata=doc("steps a batch"))
    strength: int = field(default=10, validator=positive, metadata=doc("memory batches whose gradients are compared"))
    threshold: float = field(default=0.0, metadata=doc("a newcomer below this similarity replaces one"))


class Gss(Training[Settings]):
    """Replay of examples chosen for their gradients."""

    remembers: ClassVar[bool] = True
    reserve_each: ClassVar[int] = 8

    def __init__(self, settings: Settings, setup: Setup) -> None:
        super().__init__(settings, setup)
        self.sets = ExemplarSets(self)
        self.rng = setup.resources.rng("gss")
        self.similarity = np.zeros(self.memory.capacity)  # of each slot's example when it entered

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """One stage: steps on new and remembered examples; in the first pass each new one may enter."""
        batches = self.begin(stage, ctx)
        for epoch in self.epochs(stage):
            for rows, inputs, labels in self.steps(batches, stage, ctx, epoch):
                for _ in range(self.settings.n_iter):
                    x, y = inputs, labels
                    if len(self.sets):
                        kept, kept_labels = self.sets.draw(stage, len(inputs), self.rng)
                        x, y = torch.cat([x, kept]), torch.cat([y, kept_labels])
                    loss = self.seen.cross_entropy(self.upper(x), y)
                    self.descend(loss)
                if epoch == 0:
                    self._consider(stage, rows, inputs, labels)
                self.stepped(ctx, loss=loss.detach())

    def _gradient(self, x: Tensor, y: Tensor) -> Tensor:
        return F.normalize(gradient_of(self.seen.cross_entropy(self.upper(x), y), self.parameters), dim=0)

    def _references(self, stage: Stage) -> Tensor | None:
        """Gradients of batches of the memory, [strength, P]; None while it is empty."""
        if not len(self.sets):
            return None
        size = self.settings.batch_size
        drawn = [self._gradient(*self.sets.draw(stage, size, self.rng)) for _ in range(self.settings.strength)]
        return torch.stack(drawn)

    def _consider(self, stage: Stage, rows: np.ndarray, inputs: Tensor, labels: Tensor) -> None:
        references = self._references(stage)
        # A batch that is not unlike what is remembered is left out as a whole, which saves its single gradients.
        if (
            references is not None
            and len(self.sets) >= self.memory.capacity
            and float((references @ self._gradient(inputs, labels)).max()) >= self.settings.threshold
        ):
            return
        for at in range(len(rows)):
            x, y = inputs[at : at + 1], labels[at : at + 1]
            score = 1.0 if references is None else float((references @ self._gradient(x, y)).max()) + 1
            if len(self.sets) < self.memory.capacity or self._makes_room(score):
                self._enter(stage, int(labels[at]), rows[at : at + 1], x, score)

    def _makes_room(self, score: float) -> bool:
        """Draw a slot by its score, and whether it gives way to a newcomer of this score."""
        held = self.sets.held()
        weight = self.similarity[held] + 1e-8
        victim = int(self.rng.choice(held, p=weight / weight.sum()))
        if self.rng.random() >= self.similarity[victim] / (self.similarity[victim] + score + 1e-12):
            return False
        owner = next(o for o, slots in self.sets.slots.items() if victim in slots)
        self.sets.slots[owner] = self.sets.slots[owner][self.sets.slots[owner] != victim]
        self.sets.policy.drop(np.array([victim]))
        return True

    def _enter(self, stage: Stage, c: int, row: np.ndarray, x: Tensor, score: float) -> None:
        before = len(self.sets.slots.get(c, ()))
        self.sets.add(stage, c, row, x)
        if len(self.sets.slots[c]) > before:
            self.similarity[self.sets.slots[c][-1]] = score

    def kept(self) -> dict[str, Tree]:
        """What is remembered, the generator, and how alike each example was."""
        from cl_kernel.torch.state import pack

        return {"sets": self.sets.state(), "rng": pack(self.rng), "similarity": self.similarity.copy()}

    def regain(self, tree: Tree) -> None:
        """Take it back."""
        from cl_kernel.torch.state import restore

        self.sets.load(tree["sets"])
        restore(self.rng, tree["rng"])
        self.similarity[:] = tree["similarity"]


def build(settings: Settings, setup: Setup) -> Gss:
    """Learner ``gss``."""
    return Gss(settings, setup)
