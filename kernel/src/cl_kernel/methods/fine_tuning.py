"""Fine-tuning: plain training stage after stage, scores restricted to the classes seen; the lower bound.

On a stream whose stages hold everything so far it is the upper bound. ``naive`` is the same without the restriction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from cl_kernel.methods.base import Steps, Training, heads

if TYPE_CHECKING:
    from cl_kernel.contract.interfaces import Tree
    from cl_kernel.contract.stream import Stage
    from cl_kernel.running.loop import StreamContext
    from cl_kernel.running.resources import Setup


@frozen(kw_only=True)
class Settings(Steps):
    """Fine-tuning."""

    heads: str = heads()


class FineTuning(Training[Steps]):
    """Plain training."""

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """One stage."""
        batches = self.begin(stage, ctx)
        for epoch in self.epochs(stage):
            for _, inputs, labels in self.steps(batches, stage, ctx, epoch):
                loss = self.seen.cross_entropy(self.upper(inputs), labels)
                self.descend(loss)
                self.stepped(ctx, loss=loss.detach())

    def kept(self) -> dict[str, Tree]:
        """Nothing, under the name that penalties have."""
        return {"keeper": None}


def build(settings: Steps, setup: Setup) -> FineTuning:
    """Learner ``fine-tuning``."""
    return FineTuning(settings, setup)
