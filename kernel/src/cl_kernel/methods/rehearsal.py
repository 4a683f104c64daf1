"""Naive rehearsal: a step on remembered examples after every step on new ones.

One pass over a stage goes once through the memory, in as many steps as there are new batches; see Hsu et al. 2018,
https://arxiv.org/abs/1810.12488.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from attrs import frozen

from cl_kernel.methods.base import Remembering, Training, heads

if TYPE_CHECKING:
    from torch import Tensor

    from cl_kernel.contract.stream import Stage
    from cl_kernel.running.loop import StreamContext
    from cl_kernel.running.resources import Setup


@frozen(kw_only=True)
class Settings(Remembering):
    """Naive rehearsal."""

    heads: str = heads()


class Rehearsal(Training[Remembering]):
    """New and remembered examples in turn."""

    remembers: ClassVar[bool] = True

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """One stage; then the memory takes its examples, all stages alike."""
        batches = self.begin(stage, ctx)
        replayed = -(-len(self.memory) // self.n_batches(stage))
        for epoch in self.epochs(stage):
            for _, inputs, labels in self.steps(batches, stage, ctx, epoch):
                loss = self._step(inputs, labels)
                slots = self.memory.draw(replayed) if len(self.memory) else np.zeros(0, np.int64)
                if len(slots):
                    self._step(*self.decoded(stage.train.spec, slots))
                self.stepped(ctx, loss=loss)
        self.remember(stage, batches, ctx, group=stage.index)

    def _step(self, inputs: Tensor, labels: Tensor) -> Tensor:
        loss = self.seen.cross_entropy(self.upper(inputs), labels)
        self.descend(loss)
        return loss.detach()


def build(settings: Remembering, setup: Setup) -> Rehearsal:
    """Learner ``naive-rehearsal``."""
    return Rehearsal(settings, setup)
