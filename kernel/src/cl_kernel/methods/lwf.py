"""Learning without forgetting: the old network's answers to the new images are targets beside the labels.

Binary cross-entropy of every column to one-hot targets whose old columns are the old network's sigmoids; nothing is
stored. Source: Li and Hoiem 2016, https://arxiv.org/abs/1606.09282; the loss is the class-incremental form of Rebuffi
et al. 2017, https://arxiv.org/abs/1611.07725, eq. 3.

Shapes: B batch, K classes, k of them old.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cl_kernel.methods.base import Steps, Training, frozen_copy, make_optimizer, pack_copy, regain_copy
from cl_kernel.methods.lazy import F, torch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from cl_kernel.contract.interfaces import Tree
    from cl_kernel.contract.stream import Stage
    from cl_kernel.running.loop import StreamContext
    from cl_kernel.running.resources import Setup


def sigmoid_loss(scores: Tensor, labels: Tensor, old_scores: Tensor | None) -> Tensor:
    """Binary cross-entropy to one-hot targets whose old columns are the old network's sigmoids.

    :param scores: [B, K].
    :param old_scores: [B, k] of the network before this stage, None in the first.
    """
    target = F.one_hot(labels, scores.shape[1]).to(scores.dtype)
    if old_scores is not None and old_scores.shape[1]:
        target[:, : old_scores.shape[1]] = torch.sigmoid(old_scores)
    return F.binary_cross_entropy_with_logits(scores, target)


class Lwf(Training[Steps]):
    """Distillation from the network as it was before the stage."""

    old: nn.Module | None = None

    def make_optimizer(self) -> torch.optim.Optimizer:
        """Nesterov's momentum where there is momentum."""
        return make_optimizer(self.upper, self.settings, nesterov=self.settings.momentum > 0)

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """One stage."""
        batches = self.begin(stage, ctx)
        if self.at_start() and stage.index:
            self.old = frozen_copy(self.upper)
        n_old = self.seen.n_old(stage.index)
        for epoch in self.epochs(stage):
            for _, inputs, labels in self.steps(batches, stage, ctx, epoch):
                with torch.no_grad():
                    old = self.old(inputs)[:, :n_old] if self.old is not None else None
                scores = self.seen.scores(self.upper(inputs))
                loss = sigmoid_loss(scores, self.seen.columns_of(labels), old)
                self.descend(loss)
                self.stepped(ctx, loss=loss.detach())

    def kept(self) -> dict[str, Tree]:
        """The old network."""
        return {"old": pack_copy(self.old)}

    def regain(self, tree: Tree) -> None:
        """Take it back."""
        self.old = regain_copy(self.upper, tree["old"])


def build(settings: Steps, setup: Setup) -> Lwf:
    """Learner ``lwf``."""
    return Lwf(settings, setup)
