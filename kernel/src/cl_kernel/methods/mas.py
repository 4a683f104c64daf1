"""Memory-aware synapses: importance is how much a parameter moves the length of the network's output.

``Omega_i = mean_n |d |F(x_n)|^2 / d theta_i|`` over single samples, added up over the stages; the penalty is
``strength * sum Omega_i (theta_i - theta*_i)^2``. Needs no labels. Source: Aljundi et al. 2018,
https://arxiv.org/abs/1711.09601.

Differs: the output is that of the classes seen. ``per_sample=False`` takes the gradient of a batch's mean squared score
instead, in which samples cancel each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from attrs import define, field, frozen

from cl_kernel.contract.offers import doc
from cl_kernel.methods.base import not_negative
from cl_kernel.methods.penalty import (
    Consolidation,
    LabelledBatches,
    Named,
    Penalised,
    Penalty,
    added,
    mean_over_batches,
    mean_over_samples,
)

if TYPE_CHECKING:
    from torch import nn

    from cl_kernel.running.resources import Setup


@frozen(kw_only=True)
class Settings(Penalty):
    """Memory-aware synapses."""

    strength: float = field(
        default=0.1,
        validator=not_negative,
        metadata=doc("weight of the penalty; the paper has 1, which diverges at a rate of 0.1"),
    )
    per_sample: bool = field(
        default=True, metadata=doc("gradients of single samples; False: of batches, as CRUMB's comparison does")
    )


def sensitivity(model: nn.Module, batches: LabelledBatches, n_active: int) -> Named:
    """Mean over samples of the magnitude of the gradient of the squared length of the scores."""
    return mean_over_samples(
        model,
        batches,
        target=lambda scores, labels: labels,
        loss=lambda scores, label: (scores[:n_active] ** 2).sum(),
        term=lambda gradient: gradient.abs(),
    )


def batch_sensitivity(model: nn.Module, batches: LabelledBatches, n_active: int) -> Named:
    """Magnitude of the gradient of each batch's mean squared score; mean over batches."""
    return mean_over_batches(
        model, batches, lambda scores: (scores[:, :n_active] ** 2).mean(), lambda gradient, n: gradient.abs()
    )


@define
class Mas(Consolidation):
    """One anchor whose importance adds up.

    :param per_sample: gradients of single samples, or of batches.
    """

    per_sample: bool = True

    def importance(self, model: nn.Module, batches: LabelledBatches, n_active: int, rng: np.random.Generator) -> Named:
        """Sensitivity of this stage on top of the earlier ones'."""
        measure = sensitivity if self.per_sample else batch_sensitivity
        return added(measure(model, batches, n_active), self.anchors)


def build(settings: Settings, setup: Setup) -> Penalised:
    """Learner ``mas``."""
    return Penalised(settings, setup, Mas(settings.strength, settings.per_sample))
