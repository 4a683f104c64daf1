"""A-GEM: the step does not hurt the loss on the memory as a whole.

Where ``<g, g_ref> < 0``, ``g~ = g - <g, g_ref> / <g_ref, g_ref> g_ref``. Source: Chaudhry et al. 2019,
https://arxiv.org/abs/1812.00420, eqs. 10 and 11.

Shapes: P parameters in all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from attrs import field, frozen

from cl_kernel.contract.offers import doc
from cl_kernel.methods.base import Remembering, Training, not_negative
from cl_kernel.methods.gem import remembered
from cl_kernel.methods.gradients import flat_gradient, reference_gradient, set_gradient

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from cl_kernel.contract.stream import Stage
    from cl_kernel.running.loop import StreamContext
    from cl_kernel.running.resources import Setup


@frozen(kw_only=True)
class Settings(Remembering):
    """A-GEM."""

    reference_batch: int = field(
        default=0, validator=not_negative, metadata=doc("mini-batch of the memory; 0: a tenth of the batch plus one")
    )


def agem(gradient: Tensor, reference: Tensor) -> Tensor:
    """Where the gradient [P] would raise the loss on the memory, that direction is taken out of it."""
    dot = gradient @ reference
    if dot >= 0:
        return gradient
    return gradient - dot / (reference @ reference) * reference


def agem_step(parameters: Sequence[nn.Parameter], reference: Tensor | None, optimizer: torch.optim.Optimizer) -> None:
    """Step with the gradients at hand, projected against the reference where there is one."""
    if reference is not None:
        set_gradient(parameters, agem(flat_gradient(parameters), reference))
    optimizer.step()


class Agem(Training[Settings]):
    """One constraint for all that is remembered."""

    remembers: ClassVar[bool] = True

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """One stage: projected steps; at its end an equal random share of every stage stays remembered."""
        batches = self.begin(stage, ctx)
        size = self.settings.reference_batch or self.settings.batch_size // 10 + 1
        old = [remembered(self, stage, earlier) for earlier in range(stage.index)]
        old = [(x, self.seen.columns_of(y)) for x, y in old if len(y)]
        for epoch in self.epochs(stage):
            for _, inputs, labels in self.steps(batches, stage, ctx, epoch):
                reference = reference_gradient(self.upper, old, len(self.seen), size) if old else None
                loss = self.seen.cross_entropy(self.upper(inputs), labels)
                self.optimizer.zero_grad()
                loss.backward()
                agem_step(self.parameters, reference, self.optimizer)
                self.stepped(ctx, loss=loss.detach())
        self.remember(stage, batches, ctx, group=stage.index)


def build(settings: Settings, setup: Setup) -> Agem:
    """Learner ``agem``."""
    return Agem(settings, setup)
