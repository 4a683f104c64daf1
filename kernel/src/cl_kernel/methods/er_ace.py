"""ER-ACE: new examples are compared with the classes of their batch only, remembered ones with all classes seen.

``L = cross-entropy(new; classes of the batch) + cross-entropy(remembered; classes seen)``: new classes do not push the
scores of old ones down. Source: Caccia et al. 2022, https://arxiv.org/abs/2104.05025.

Differs: no augmentation; in the first stage new examples too are compared with all classes seen.

Shapes: B batch, K classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from attrs import field, frozen

from cl_kernel.contract.offers import doc
from cl_kernel.methods.base import Remembering, Training, positive
from cl_kernel.methods.lazy import F, torch

if TYPE_CHECKING:
    from torch import Tensor

    from cl_kernel.contract.stream import Stage
    from cl_kernel.running.loop import StreamContext
    from cl_kernel.running.resources import Setup


@frozen(kw_only=True)
class Settings(Remembering):
    """ER-ACE."""

    replay_batch: int = field(default=32, validator=positive, metadata=doc("remembered examples a step"))


def present_cross_entropy(scores: Tensor, columns: Tensor) -> Tensor:
    """Mean cross-entropy over the columns that occur among the right ones.

    :param scores: [B, K]. :param columns: right ones, int64 [B].
    """
    absent = torch.ones(scores.shape[1], dtype=torch.bool, device=scores.device)
    absent[columns] = False
    return F.cross_entropy(scores.masked_fill(absent, -torch.inf), columns)


class ErAce(Training[Settings]):
    """Replay with an asymmetric cross-entropy."""

    remembers: ClassVar[bool] = True

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """One stage; its examples are remembered as they come."""
        batches = self.begin(stage, ctx)
        for epoch in self.epochs(stage):
            for rows, inputs, labels in self.steps(batches, stage, ctx, epoch):
                scores, columns = self.seen.scores(self.upper(inputs)), self.seen.columns_of(labels)
                loss = present_cross_entropy(scores, columns) if stage.index else F.cross_entropy(scores, columns)
                if len(self.memory):
                    old, old_labels = self.decoded(stage.train.spec, self.memory.draw(self.settings.replay_batch))
                    loss = loss + self.seen.cross_entropy(self.upper(old), old_labels)
                self.descend(loss)
                if epoch == 0:
                    self.offer(stage, rows, inputs, labels.cpu().numpy())
                self.stepped(ctx, loss=loss.detach())


def build(settings: Settings, setup: Setup) -> ErAce:
    """Learner ``er-ace``."""
    return ErAce(settings, setup)
