"""L2: every parameter matters alike.

The penalty is ``strength * |theta - theta_prev|^2``, with ``theta_prev`` the parameters after the last stage: the
simplest of the quadratic penalties, a baseline of EWC (Kirkpatrick et al. 2017, https://arxiv.org/abs/1612.00796).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from attrs import define, field, frozen

from cl_kernel.contract.offers import doc
from cl_kernel.methods.base import not_negative
from cl_kernel.methods.lazy import torch
from cl_kernel.methods.penalty import Consolidation, LabelledBatches, Named, Penalised, Penalty, snapshot

if TYPE_CHECKING:
    from torch import nn

    from cl_kernel.running.resources import Setup


@frozen(kw_only=True)
class Settings(Penalty):
    """L2."""

    strength: float = field(default=0.1, validator=not_negative, metadata=doc("weight of the penalty"))


@define
class L2(Consolidation):
    """All importances are one; the last stage's values are the anchor."""

    def importance(self, model: nn.Module, batches: LabelledBatches, n_active: int, rng: np.random.Generator) -> Named:
        """Ones."""
        return {name: torch.ones_like(p) for name, p in snapshot(model).items()}


def build(settings: Settings, setup: Setup) -> Penalised:
    """Learner ``l2``."""
    return Penalised(settings, setup, L2(settings.strength))
