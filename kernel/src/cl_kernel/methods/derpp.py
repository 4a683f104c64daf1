"""DER++: dark experience replay with the labels of remembered examples too.

``L = cross-entropy(new) + alpha * |scores(x') - z'|^2 / K + beta * cross-entropy(x'', y'')``, two batches drawn from
the memory. Source: Buzzega et al. 2020, https://arxiv.org/abs/2004.07211.

Differs: as ``der``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import field, frozen

from cl_kernel.contract.offers import doc
from cl_kernel.methods import der
from cl_kernel.methods.base import not_negative

if TYPE_CHECKING:
    from torch import Tensor

    from cl_kernel.contract.stream import Stage
    from cl_kernel.running.resources import Setup


@frozen(kw_only=True)
class Settings(der.Settings):
    """DER++."""

    beta: float = field(default=0.5, validator=not_negative, metadata=doc("weight of the remembered labels"))


class DarkReplayWithLabels(der.DarkReplay[Settings]):
    """Remembered scores and, on another draw, remembered labels."""

    def dark_loss(self, stage: Stage) -> Tensor:
        """Both weighted losses."""
        loss = super().dark_loss(stage)
        inputs, labels = self.read(stage.train.spec, self.memory.sample(self.settings.replay_batch))
        return loss + self.settings.beta * self.labelled_loss(self.upper(inputs), labels)


def build(settings: Settings, setup: Setup) -> DarkReplayWithLabels:
    """Learner ``derpp``."""
    return DarkReplayWithLabels(settings, setup)
