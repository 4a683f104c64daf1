"""Elastic weight consolidation: one quadratic penalty for each earlier stage.

``L = L_new + strength * sum_stages sum_i F_i (theta_i - theta*_i)^2``, with ``F`` the diagonal of the Fisher
information after the stage and ``theta*`` the parameters there. Source: Kirkpatrick et al. 2017,
https://arxiv.org/abs/1612.00796, eq. 3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import define

from cl_kernel.methods.lazy import F
from cl_kernel.methods.penalty import (
    Anchor,
    Consolidation,
    LabelledBatches,
    Named,
    Penalised,
    Penalty,
    mean_over_batches,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from cl_kernel.running.resources import Setup


def batch_fisher(model: nn.Module, batches: LabelledBatches, n_active: int) -> Named:
    """Squared gradient of each batch's mean loss at the predicted labels, times the batch size; mean over batches."""

    def loss(scores: Tensor) -> Tensor:
        scores = scores[:, :n_active]
        return F.cross_entropy(scores, scores.argmax(1))

    return mean_over_batches(model, batches, loss, lambda gradient, n: gradient**2 * n)


@define
class Ewc(Consolidation):
    """An anchor for every stage."""

    def importance(self, model: nn.Module, batches: LabelledBatches, n_active: int) -> Named:
        """The Fisher information of this stage."""
        return batch_fisher(model, batches, n_active)

    def keep(self, anchor: Anchor) -> None:
        """Every stage's anchor stays."""
        self.anchors = [*self.anchors, anchor]


def build(settings: Penalty, setup: Setup) -> Penalised:
    """Learner ``ewc``."""
    return Penalised(settings, setup, Ewc(settings.strength))
