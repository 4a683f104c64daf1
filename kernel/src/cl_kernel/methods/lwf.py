"""Learning without forgetting: the old network's answers to the new images are targets beside the labels.

``L = cross-entropy(new labels) - strength * sum_old softmax(old scores / T) log softmax(scores / T)`` over the classes
seen before the stage; nothing is stored. Source: Li and Hoiem 2016, https://arxiv.org/abs/1606.09282.

Differs: one head with a column a class seen in place of a head a task; no warm-up of the new columns alone. Variant
``crumb`` is binary cross-entropy of every column to one-hot targets whose old columns are the old network's sigmoids,
the class-incremental form of Rebuffi et al. 2017, https://arxiv.org/abs/1611.07725.

Shapes: B batch, K classes, k of them old.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import field, frozen

from cl_kernel.contract.offers import doc
from cl_kernel.methods.base import (
    Steps,
    Training,
    frozen_copy,
    make_optimizer,
    not_negative,
    old_columns,
    pack_copy,
    positive,
    regain_copy,
    size_of,
    variant,
)
from cl_kernel.methods.lazy import F, torch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from cl_kernel.contract.interfaces import Tree
    from cl_kernel.contract.stream import Stage
    from cl_kernel.running.loop import StreamContext
    from cl_kernel.running.resources import Setup


def sigmoid_loss(scores: Tensor, labels: Tensor, old_scores: Tensor | None, labelled: Tensor | None = None) -> Tensor:
    """Binary cross-entropy to one-hot targets whose old columns are the old network's sigmoids.

    :param scores: [B, K].
    :param old_scores: [B, k] of the network before this stage, None in the first.
    :param labelled: rows whose own column is 1 whatever the old network says, bool [B].
    """
    one_hot = F.one_hot(labels, scores.shape[1]).to(scores.dtype)
    target = one_hot
    if old_scores is not None and old_scores.shape[1]:
        target = torch.cat([torch.sigmoid(old_scores), one_hot[:, old_scores.shape[1] :]], 1)
        if labelled is not None:
            target = torch.where(labelled[:, None] & one_hot.bool(), 1.0, target)
    return F.binary_cross_entropy_with_logits(scores, target)


@frozen(kw_only=True)
class Settings(Steps):
    """Learning without forgetting."""

    strength: float = field(default=1.0, validator=not_negative, metadata=doc("weight of the old answers, lambda_o"))
    temperature: float = field(default=2.0, validator=positive, metadata=doc("temperature of the distillation"))
    variant: str = variant("sigmoids of the old scores in a binary cross-entropy, Nesterov's momentum")


def distillation(scores: Tensor, old_scores: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of softened scores to softened old scores [B, k], mean over the batch."""
    target = F.softmax(old_scores / temperature, 1)
    return -(target * F.log_softmax(scores[:, : old_scores.shape[1]] / temperature, 1)).sum(1).mean()


class Lwf(Training[Settings]):
    """Distillation from the network as it was before the stage."""

    old: nn.Module | None = None

    def make_optimizer(self) -> torch.optim.Optimizer:
        """The optimiser of the part that learns."""
        crumb = self.settings.variant == "crumb"
        return make_optimizer(self.upper, self.settings, nesterov=crumb and self.settings.momentum > 0)

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """One stage."""
        batches = self.begin(stage, ctx)
        if self.at_start() and stage.index:
            self.old = frozen_copy(self.upper)
        n_old = old_columns(self, stage)
        for epoch in self.epochs(stage):
            for _, inputs, labels in self.steps(batches, stage, ctx, epoch):
                with torch.no_grad():
                    old = self.old(inputs)[:, :n_old] if self.old is not None else None
                loss = self._loss(self.seen.scores(self.upper(inputs)), self.seen.columns_of(labels), old)
                self.descend(loss)
                self.stepped(ctx, loss=loss.detach())

    def _loss(self, scores: Tensor, columns: Tensor, old: Tensor | None) -> Tensor:
        if self.settings.variant == "crumb":
            return sigmoid_loss(scores, columns, old)
        loss = F.cross_entropy(scores, columns)
        if old is None or not old.shape[1]:
            return loss
        return loss + self.settings.strength * distillation(scores, old, self.settings.temperature)

    def reserve(self) -> int:
        """The old network."""
        return size_of(self.upper)

    def kept(self) -> dict[str, Tree]:
        """The old network."""
        return {"old": pack_copy(self.old)}

    def regain(self, tree: Tree) -> None:
        """Take it back."""
        self.old = regain_copy(self.upper, tree["old"])


def build(settings: Settings, setup: Setup) -> Lwf:
    """Learner ``lwf``."""
    return Lwf(settings, setup)
