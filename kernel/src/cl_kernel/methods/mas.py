"""Memory-aware synapses: importance is how much a parameter moves the length of the network's output.

``Omega_i = mean_n |d |F(x_n)|^2 / d theta_i|``, added up over the stages; the penalty is
``strength * sum Omega_i (theta_i - theta*_i)^2``. Needs no labels. Source: Aljundi et al. 2018,
https://arxiv.org/abs/1711.09601, eqs. 2 to 4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import define

from cl_kernel.methods.penalty import (
    Consolidation,
    LabelledBatches,
    Named,
    Penalised,
    Penalty,
    added,
    mean_over_batches,
)

if TYPE_CHECKING:
    from torch import nn

    from cl_kernel.running.resources import Setup


def batch_sensitivity(model: nn.Module, batches: LabelledBatches, n_active: int) -> Named:
    """Magnitude of the gradient of each batch's mean squared score; mean over batches."""
    return mean_over_batches(
        model, batches, lambda scores: (scores[:, :n_active] ** 2).mean(), lambda gradient, n: gradient.abs()
    )


@define
class Mas(Consolidation):
    """One anchor whose importance adds up."""

    def importance(self, model: nn.Module, batches: LabelledBatches, n_active: int) -> Named:
        """Sensitivity of this stage on top of the earlier ones'."""
        return added(batch_sensitivity(model, batches, n_active), self.anchors)


def build(settings: Penalty, setup: Setup) -> Penalised:
    """Learner ``mas``."""
    return Penalised(settings, setup, Mas(settings.strength))
