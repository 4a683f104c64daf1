"""L2: every parameter matters alike.

The penalty is ``strength * |theta - theta_prev|^2``, with ``theta_prev`` the parameters after the last stage: the
simplest of the quadratic penalties, a baseline of EWC (Kirkpatrick et al. 2017, https://arxiv.org/abs/1612.00796).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import define

from cl_kernel.methods.lazy import torch
from cl_kernel.methods.penalty import Consolidation, LabelledBatches, Named, Penalised, Penalty, snapshot

if TYPE_CHECKING:
    from torch import nn

    from cl_kernel.running.resources import Setup


@define
class L2(Consolidation):
    """All importances are one; the last stage's values are the anchor."""

    def importance(self, model: nn.Module, batches: LabelledBatches, n_active: int) -> Named:
        """Ones."""
        return {name: torch.ones_like(p) for name, p in snapshot(model).items()}


def build(settings: Penalty, setup: Setup) -> Penalised:
    """Learner ``l2``."""
    return Penalised(settings, setup, L2(settings.strength))
