"""Stable SGD: dropout before the score layer and a rate that falls from stage to stage; nothing is remembered.

``rate_t = lr * gamma^t``. Source: Mirzadeh et al. 2020, https://arxiv.org/abs/2006.06958.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import field, frozen

from cl_kernel.contract.offers import doc
from cl_kernel.methods.base import Steps, Training, share
from cl_kernel.methods.exemplar_sets import score_layer
from cl_kernel.methods.lazy import F

if TYPE_CHECKING:
    from torch import Tensor, nn

    from cl_kernel.contract.stream import Stage
    from cl_kernel.running.loop import StreamContext
    from cl_kernel.running.resources import Setup


@frozen(kw_only=True)
class Settings(Steps):
    """Stable SGD."""

    gamma: float = field(default=0.99, validator=share, metadata=doc("factor of the rate a stage"))
    dropout: float = field(default=0.05, validator=share, metadata=doc("dropout before the last layer"))


class StableSgd(Training[Settings]):
    """Plain training in flat places."""

    def __init__(self, settings: Settings, setup: Setup) -> None:
        super().__init__(settings, setup)

        def drop(layer: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (F.dropout(given[0], settings.dropout, training=layer.training), *given[1:])

        score_layer(self.upper).register_forward_pre_hook(drop)

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """One stage."""
        batches = self.begin(stage, ctx)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr * self.settings.gamma**stage.index
        for epoch in self.epochs(stage):
            for _, inputs, labels in self.steps(batches, stage, ctx, epoch):
                loss = self.seen.cross_entropy(self.upper(inputs), labels)
                self.descend(loss)
                self.stepped(ctx, loss=loss.detach())


def build(settings: Settings, setup: Setup) -> StableSgd:
    """Learner ``stable-sgd``."""
    return StableSgd(settings, setup)
