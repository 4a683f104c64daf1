"""Online EWC: one quadratic penalty in all, whose importance fades and adds up over the stages.

``F~_t = decay * F~_(t-1) + F_t``, held at the newest parameters: ``L = L_new + strength / 2 * sum_i F~_i (theta_i -
theta*_i)^2``. Source: Schwarz et al. 2018, Progress & Compress, https://arxiv.org/abs/1805.06370.

Differs: there is no second, compressing network; ``F_t`` is measured as in ``ewc``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from attrs import define, field, frozen

from cl_kernel.contract.offers import doc
from cl_kernel.methods import ewc
from cl_kernel.methods.base import share
from cl_kernel.methods.penalty import Anchor, LabelledBatches, Named, Penalised, added

if TYPE_CHECKING:
    from torch import nn

    from cl_kernel.running.resources import Setup


@frozen(kw_only=True)
class Settings(ewc.Settings):
    """Online EWC."""

    decay: float = field(
        default=0.95,
        validator=share,
        metadata=doc("what is left of earlier importance at each stage, the paper's gamma"),
    )


@define
class OnlineEwc(ewc.Ewc):
    """One anchor, at the newest parameters.

    :param decay: what is left of earlier importance at each stage.
    """

    decay: float = 0.95

    def importance(self, model: nn.Module, batches: LabelledBatches, n_active: int, rng: np.random.Generator) -> Named:
        """The Fisher information of this stage on top of the earlier ones'."""
        return added(super().importance(model, batches, n_active, rng), self.anchors, self.decay)

    def n_copies(self, n_stages: int) -> int:
        """One importance and one anchor."""
        return 2

    def keep(self, anchor: Anchor) -> None:
        """The newest anchor replaces the one before."""
        self.anchors = [anchor]


def build(settings: Settings, setup: Setup) -> Penalised:
    """Learner ``online-ewc``."""
    keeper = OnlineEwc(settings.weight, settings.labels, settings.per_sample, settings.decay)
    return Penalised(settings, setup, keeper)
