"""Online EWC: one quadratic penalty in all, whose importance adds up over the stages.

``F~_t = decay * F~_(t-1) + F_t``, held at the newest parameters. Source: Schwarz et al. 2018, Progress & Compress,
https://arxiv.org/abs/1805.06370, sec. 4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import define

from cl_kernel.methods.ewc import Ewc
from cl_kernel.methods.penalty import Anchor, LabelledBatches, Named, Penalised, Penalty, added

if TYPE_CHECKING:
    from torch import nn

    from cl_kernel.running.resources import Setup


@define
class OnlineEwc(Ewc):
    """One anchor, at the newest parameters."""

    def importance(self, model: nn.Module, batches: LabelledBatches, n_active: int) -> Named:
        """The Fisher information of this stage on top of the earlier ones'."""
        return added(super().importance(model, batches, n_active), self.anchors)

    def keep(self, anchor: Anchor) -> None:
        """The newest anchor replaces the one before."""
        self.anchors = [anchor]


def build(settings: Penalty, setup: Setup) -> Penalised:
    """Learner ``online-ewc``."""
    return Penalised(settings, setup, OnlineEwc(settings.strength))
