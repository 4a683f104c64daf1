"""RanPAC: frozen features through a random layer, and ridge regression on what comes out.

``h = relu(f W)`` with W normally distributed and never trained; ``G = sum h h'``, ``C = sum h y'`` with one-hot y;
``scores = h (G + ridge I)^-1 C``. The order of examples makes no difference. Source: McDonnell et al. 2023,
https://arxiv.org/abs/2307.02251.

Differs: 2,000 projected features by default, the paper has 10,000; the ridge is a setting, the paper chooses it on
held-out training data; no adapter is trained in the first stage.

Shapes: B batch, D features, M projected features, K classes, k classes seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import field, frozen

from cl_kernel.contract.offers import doc
from cl_kernel.methods.base import Reading, positive
from cl_kernel.methods.frozen_features import OnePass
from cl_kernel.methods.lazy import F, torch

if TYPE_CHECKING:
    from torch import Tensor

    from cl_kernel.running.resources import Setup


@frozen(kw_only=True)
class Settings(Reading):
    """RanPAC."""

    n_projected: int = field(default=2000, validator=positive, metadata=doc("width M of the random layer"))
    ridge: float = field(default=100.0, validator=positive, metadata=doc("added to the diagonal, the paper's lambda"))


class RanPac(OnePass[Settings]):
    """A Gram matrix and class sums of randomly projected features."""

    def __init__(self, settings: Settings, setup: Setup) -> None:
        super().__init__(settings, setup)
        self.rng = setup.resources.rng

    def blank(self, n_features: int) -> dict[str, Tensor]:
        """The random layer, and nothing seen."""
        m = self.settings.n_projected
        drawn = torch.from_numpy(self.rng("ranpac").standard_normal((n_features, m))).to(self.device)
        return {"projection": drawn, "gram": self.zeros(m, m), "sums": self.zeros(m, self.n_classes)}

    def _project(self, features: Tensor) -> Tensor:
        return F.relu(features @ self.statistics["projection"])

    def update(self, features: Tensor, columns: Tensor) -> None:
        """Add to the Gram matrix and the sums."""
        h = self._project(features)
        self.statistics["gram"] += h.t() @ h
        self.statistics["sums"].index_add_(1, columns, h.t())

    def scorer(self) -> Callable[[Tensor], Tensor]:
        """The ridge regression onto one-hot classes."""
        gram = self.statistics["gram"].clone()
        gram.diagonal().add_(self.settings.ridge)
        weights = torch.cholesky_solve(self.statistics["sums"][:, : len(self.seen)], torch.linalg.cholesky(gram))
        return lambda features: self._project(features) @ weights


def build(settings: Settings, setup: Setup) -> RanPac:
    """Learner ``ranpac``."""
    return RanPac(settings, setup)
