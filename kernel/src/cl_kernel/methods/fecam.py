"""FeCAM: the nearest class by Mahalanobis distance, with a covariance of each class.

``score_k = -(g - mean_k)' N(S_k)^-1 (g - mean_k)`` with ``g = sign(f) |f|^tukey``, the shrunk covariance ``S_k = C_k +
gamma_1 v_1 I + gamma_2 v_2 (1 - I)``, v_1 the mean variance and v_2 the mean covariance of C_k, and N its correlation
matrix. Source: Goswami et al. 2023, https://arxiv.org/abs/2309.14062.

Differs: features may be negative, the power keeps their sign; with ``shared`` one covariance within classes serves
all.

Shapes: B batch, D features, K classes, k classes seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import field, frozen

from cl_kernel.contract.offers import doc
from cl_kernel.methods.base import Reading, not_negative, positive
from cl_kernel.methods.frozen_features import OnePass
from cl_kernel.methods.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from cl_kernel.running.resources import Setup

LEAST_VARIANCE = 1e-9


@frozen(kw_only=True)
class Settings(Reading):
    """FeCAM."""

    tukey: float = field(default=0.5, validator=positive, metadata=doc("power of the features"))
    gamma1: float = field(default=1.0, validator=not_negative, metadata=doc("shrinkage towards the mean variance"))
    gamma2: float = field(default=1.0, validator=not_negative, metadata=doc("shrinkage towards the mean covariance"))
    shared: bool = field(default=False, metadata=doc("one covariance for all classes: less memory"))


def shrunk_correlation(covariance: Tensor, gamma1: float, gamma2: float) -> Tensor:
    """The correlation matrix of a shrunk covariance [D, D]."""
    n = len(covariance)
    variance = covariance.diagonal().mean()
    between = (covariance.sum() - covariance.diagonal().sum()) / max(n * (n - 1), 1)
    eye = torch.eye(n, dtype=covariance.dtype, device=covariance.device)
    shrunk = covariance + gamma1 * variance * eye + gamma2 * between * (1 - eye)
    deviation = shrunk.diagonal().clamp_min(LEAST_VARIANCE).sqrt()
    out = shrunk / deviation[:, None] / deviation[None, :]
    out.diagonal().fill_(1.0)
    return out


class FeCam(OnePass[Settings]):
    """Count, sum and sum of outer products for each class."""

    def blank(self, n_features: int) -> dict[str, Tensor]:
        """Nothing seen."""
        n_covariances = 1 if self.settings.shared else self.n_classes
        return {
            "n": self.zeros(self.n_classes),
            "sum": self.zeros(self.n_classes, n_features),
            "outer": self.zeros(n_covariances, n_features, n_features),
        }

    def features(self, inputs: Tensor) -> Tensor:
        """Features to the power of ``tukey``, with their sign."""
        features = super().features(inputs)
        return features.sign() * features.abs() ** self.settings.tukey

    def update(self, features: Tensor, columns: Tensor) -> None:
        """Add to counts, sums and outer products."""
        stats = self.statistics
        for c in columns.unique().tolist():
            mine = features[columns == c]
            stats["n"][c] += len(mine)
            stats["sum"][c] += mine.sum(0)
            stats["outer"][0 if self.settings.shared else c] += mine.t() @ mine

    def _covariances(self, means: Tensor, n: Tensor) -> Tensor:
        """Of each class seen [k, D, D], or one for all [1, D, D]."""
        outer = self.statistics["outer"]
        around = n[:, None, None] * means[:, :, None] * means[:, None, :]
        if self.settings.shared:
            return (outer - around.sum(0, keepdim=True)) / (n.sum() - len(n)).clamp_min(1)
        return (outer[: len(n)] - around) / (n - 1).clamp_min(1)[:, None, None]

    def scorer(self) -> Callable[[Tensor], Tensor]:
        """Minus the distance to each class seen; minus infinity for a class without samples."""
        n = self.statistics["n"][: len(self.seen)]
        means = self.statistics["sum"][: len(self.seen)] / n.clamp_min(1)[:, None]
        settings = self.settings
        inverses = torch.stack(
            [
                torch.linalg.pinv(shrunk_correlation(c, settings.gamma1, settings.gamma2), hermitian=True)
                for c in self._covariances(means, n)
            ]
        ).expand(len(n), -1, -1)

        def score(features: Tensor) -> Tensor:
            away = features[None] - means[:, None]
            distance = ((away @ inverses) * away).sum(2).t()
            return torch.where(n[None] > 0, -distance, -torch.inf)

        return score


def build(settings: Settings, setup: Setup) -> FeCam:
    """Learner ``fecam``."""
    return FeCam(settings, setup)
