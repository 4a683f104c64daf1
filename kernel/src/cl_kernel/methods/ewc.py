"""Elastic weight consolidation: one quadratic penalty for each earlier stage.

``L = L_new + strength / 2 * sum_stages sum_i F_i (theta_i - theta*_i)^2``, with ``theta*`` the parameters after the
stage and ``F`` the diagonal of the Fisher information there: the mean over single samples of the squared gradient of
``log p(y | x)``. Source: Kirkpatrick et al. 2017, https://arxiv.org/abs/1612.00796, eq. 3.

Differs: scores are those of the classes seen, in one head. Labels are drawn from the network's own answers, which gives
the Fisher information; ``labels`` takes the given or the likeliest ones instead. ``per_sample=False`` squares the
gradient of a batch's mean and multiplies it by the batch size, which is the same for batches of one sample only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from attrs import define, field, frozen, validators

from cl_kernel.contract.offers import doc
from cl_kernel.methods.lazy import F, torch
from cl_kernel.methods.penalty import (
    Anchor,
    Consolidation,
    LabelledBatches,
    Named,
    Penalised,
    Penalty,
    mean_over_batches,
    mean_over_samples,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from cl_kernel.running.resources import Setup

LABELS = ("sampled", "given", "predicted")


@frozen(kw_only=True)
class Settings(Penalty):
    """Elastic weight consolidation."""

    labels: str = field(
        default="sampled",
        validator=validators.in_(LABELS),
        metadata=doc("labels of the Fisher information: sampled from the network, given, or predicted"),
    )
    per_sample: bool = field(
        default=True, metadata=doc("gradients of single samples; False: of batches, as CRUMB's comparison does")
    )
    halved: bool = field(default=True, metadata=doc("the penalty is strength / 2, as in the paper; False: strength"))

    @property
    def weight(self) -> float:
        """What the sum of squares is multiplied with."""
        return self.strength / 2 if self.halved else self.strength


def drawn_labels(scores: Tensor, rng: np.random.Generator) -> Tensor:
    """A class for each row of scores [n, K], drawn from their softmax; int64 [n]."""
    upto = scores.double().softmax(1).cumsum(1)
    u = torch.from_numpy(rng.random(len(scores))).to(scores.device)
    return (upto < u[:, None] * upto[:, -1:]).sum(1)


def fisher(model: nn.Module, batches: LabelledBatches, n_active: int, labels: str, rng: np.random.Generator) -> Named:
    """Diagonal of the Fisher information: mean over samples of the squared gradient of the log-likelihood.

    :param labels: ``sampled``, ``given`` or ``predicted``.
    """

    def target(scores: Tensor, given: Tensor) -> Tensor:
        if labels == "given":
            return given
        scores = scores[:, :n_active]
        return scores.argmax(1) if labels == "predicted" else drawn_labels(scores, rng)

    return mean_over_samples(
        model,
        batches,
        target,
        loss=lambda scores, label: F.cross_entropy(scores[None, :n_active], label[None]),
        term=lambda gradient: gradient**2,
    )


def batch_fisher(model: nn.Module, batches: LabelledBatches, n_active: int) -> Named:
    """Squared gradient of each batch's mean loss at the predicted labels, times the batch size; mean over batches."""

    def loss(scores: Tensor) -> Tensor:
        scores = scores[:, :n_active]
        return F.cross_entropy(scores, scores.argmax(1))

    return mean_over_batches(model, batches, loss, lambda gradient, n: gradient**2 * n)


@define
class Ewc(Consolidation):
    """An anchor for every stage.

    :param labels: see :func:`fisher`.
    :param per_sample: gradients of single samples; False: of batches, at the predicted labels.
    """

    labels: str = "sampled"
    per_sample: bool = True

    def importance(self, model: nn.Module, batches: LabelledBatches, n_active: int, rng: np.random.Generator) -> Named:
        """The Fisher information of this stage."""
        if self.per_sample:
            return fisher(model, batches, n_active, self.labels, rng)
        return batch_fisher(model, batches, n_active)

    def n_copies(self, n_stages: int) -> int:
        """An importance and an anchor for each stage."""
        return 2 * n_stages

    def keep(self, anchor: Anchor) -> None:
        """Every stage's anchor stays."""
        self.anchors = [*self.anchors, anchor]


def build(settings: Settings, setup: Setup) -> Penalised:
    """Learner ``ewc``."""
    return Penalised(settings, setup, Ewc(settings.weight, settings.labels, settings.per_sample))
