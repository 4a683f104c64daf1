"""Deep SLDA: linear discriminant analysis of a frozen network's features, one example at a time.

``score_k = w_k f + b_k`` with ``w_k = P mean_k``, ``b_k = -mean_k' P mean_k / 2`` and ``P = ((1 - shrinkage) S +
shrinkage I)^-1``; an example of class y moves the shared covariance by ``S_(t+1) = (t S_t + t / (t + 1) d d') / (t +
1)``, ``d = f - mean_y`` before it joins the mean. Source: Hayes and Kanan 2020, https://arxiv.org/abs/1909.01520.

Differs: the first example of a class does not move the covariance (its mean is not known yet); there is no base
initialisation, the covariance starts at zero.

Shapes: B batch, D features, K classes, k classes seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import field, frozen

from cl_kernel.contract.offers import doc
from cl_kernel.methods.base import Reading, share
from cl_kernel.methods.frozen_features import OnePass
from cl_kernel.methods.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from cl_kernel.running.resources import Setup


@frozen(kw_only=True)
class Settings(Reading):
    """Deep SLDA."""

    shrinkage: float = field(default=1e-4, validator=share, metadata=doc("share of the identity in the covariance"))


class Slda(OnePass[Settings]):
    """Class means and one covariance."""

    def blank(self, n_features: int) -> dict[str, Tensor]:
        """Nothing seen; ``scatter`` is t times the covariance."""
        return {
            "mean": self.zeros(self.n_classes, n_features),
            "n": self.zeros(self.n_classes),
            "scatter": self.zeros(n_features, n_features),
        }

    def update(self, features: Tensor, columns: Tensor) -> None:
        """Examples one after the other, by running sums within each class."""
        stats = self.statistics
        residual = torch.zeros_like(features)
        t = stats["n"].sum() + torch.arange(len(features), device=features.device)
        for c in columns.unique().tolist():
            rows = (columns == c).nonzero()[:, 0]
            mine = features[rows]
            n = stats["n"][c] + torch.arange(len(rows), device=features.device)
            so_far = stats["n"][c] * stats["mean"][c] + mine.cumsum(0) - mine
            residual[rows] = torch.where(n[:, None] > 0, mine - so_far / n[:, None].clamp_min(1), residual[rows])
            stats["mean"][c] = (so_far[-1] + mine[-1]) / (n[-1] + 1)
            stats["n"][c] += len(rows)
        stats["scatter"] += (residual * (t / (t + 1))[:, None]).t() @ residual

    def scorer(self) -> Callable[[Tensor], Tensor]:
        """The linear discriminant."""
        stats, shrinkage = self.statistics, self.settings.shrinkage
        covariance = stats["scatter"] / stats["n"].sum()
        eye = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
        means = stats["mean"][: len(self.seen)]
        weights = torch.linalg.lstsq((1 - shrinkage) * covariance + shrinkage * eye, means.t()).solution
        shift = -0.5 * (means.t() * weights).sum(0)
        return lambda features: features @ weights + shift


def build(settings: Settings, setup: Setup) -> Slda:
    """Learner ``slda``."""
    return Slda(settings, setup)
