"""Nearest class mean: a running mean of the features of each class, and the nearest of them.

``score_k = -|f - mean_k|^2``, of unit-length features and means with ``normalise``. Source: Mensink et al. 2013,
Distance-Based Image Classification, https://doi.org/10.1109/TPAMI.2013.83; for streams with a frozen network: Mai et
al. 2021, https://arxiv.org/abs/2103.13885.

Shapes: B batch, D features, K classes, k classes seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import field, frozen

from cl_kernel.contract.offers import doc
from cl_kernel.methods.base import Reading
from cl_kernel.methods.frozen_features import OnePass
from cl_kernel.methods.lazy import F, torch

if TYPE_CHECKING:
    from torch import Tensor

    from cl_kernel.running.resources import Setup


@frozen(kw_only=True)
class Settings(Reading):
    """Nearest class mean."""

    normalise: bool = field(default=True, metadata=doc("unit length for features and means: the cosine decides"))


class Ncm(OnePass[Settings]):
    """A sum and a count for each class."""

    def blank(self, n_features: int) -> dict[str, Tensor]:
        """Nothing seen."""
        return {"sum": self.zeros(self.n_classes, n_features), "n": self.zeros(self.n_classes)}

    def features(self, inputs: Tensor) -> Tensor:
        """Features, of unit length if asked for."""
        features = super().features(inputs)
        return F.normalize(features, dim=1) if self.settings.normalise else features

    def update(self, features: Tensor, columns: Tensor) -> None:
        """Add to sums and counts."""
        self.statistics["sum"].index_add_(0, columns, features)
        self.statistics["n"] += torch.bincount(columns, minlength=self.n_classes)

    def scorer(self) -> Callable[[Tensor], Tensor]:
        """Minus the squared distance to each mean; minus infinity for a class without samples."""
        n = self.statistics["n"][: len(self.seen), None]
        means = self.statistics["sum"][: len(self.seen)] / n
        if self.settings.normalise:
            means = F.normalize(means, dim=1)
        return lambda features: -((features[:, None] - means[None]) ** 2).sum(2).nan_to_num(torch.inf)


def build(settings: Settings, setup: Setup) -> Ncm:
    """Learner ``ncm``."""
    return Ncm(settings, setup)
