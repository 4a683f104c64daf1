"""A-GEM: the step does not hurt the loss on the memory as a whole.

Where ``<g, g_ref> < 0``, ``g~ = g - <g, g_ref> / <g_ref, g_ref> g_ref``. Source: Chaudhry et al. 2019,
https://arxiv.org/abs/1812.00420.

``g_ref`` is the gradient of the mean loss on a batch drawn from the memory. Differs: what is remembered of a stage is a
random share of it, taken at its end. Variant ``crumb`` goes through the whole memory at every step and adds the
gradients of its mini-batches up.

Shapes: P parameters in all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from attrs import field, frozen

from cl_kernel.contract.offers import doc
from cl_kernel.methods.base import Remembering, Training, heads, not_negative, variant
from cl_kernel.methods.gem import remembered
from cl_kernel.methods.gradients import flat_gradient, gradient_of, reference_gradient, set_gradient

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from cl_kernel.contract.stream import Stage
    from cl_kernel.running.loop import StreamContext
    from cl_kernel.running.resources import Setup


@frozen(kw_only=True)
class Settings(Remembering):
    """A-GEM."""

    heads: str = heads()
    reference_batch: int = field(
        default=0,
        validator=not_negative,
        metadata=doc("examples drawn a step; 0: as many as new ones (crumb: a tenth of the batch plus one)"),
    )
    variant: str = variant("the reference is the sum of the gradients of all mini-batches of the memory")


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
        old = self._everything(stage) if self.settings.variant == "crumb" else []
        for epoch in self.epochs(stage):
            for _, inputs, labels in self.steps(batches, stage, ctx, epoch):
                reference = self._reference(stage, old)
                loss = self.seen.cross_entropy(self.upper(inputs), labels)
                self.optimizer.zero_grad()
                loss.backward()
                agem_step(self.parameters, reference, self.optimizer)
                self.stepped(ctx, loss=loss.detach())
        self.remember(stage, batches, ctx, group=stage.index)

    def _everything(self, stage: Stage) -> list[tuple[Tensor, Tensor]]:
        """Inputs and score columns of all that is remembered of each earlier stage."""
        old = [remembered(self, stage, earlier) for earlier in range(stage.index)]
        return [(x, self.seen.columns_of(y)) for x, y in old if len(y)]

    def _reference(self, stage: Stage, old: Sequence[tuple[Tensor, Tensor]]) -> Tensor | None:
        """Gradient on what is remembered; None while nothing is."""
        size = self.settings.reference_batch
        if self.settings.variant == "crumb":
            size = size or self.settings.batch_size // 10 + 1
            return reference_gradient(self.upper, old, len(self.seen), size) if old else None
        if not len(self.memory):
            return None
        x, y = self.decoded(stage.train.spec, self.memory.draw(size or self.settings.batch_size))
        return gradient_of(self.seen.cross_entropy(self.upper(x), y), self.parameters)


def build(settings: Settings, setup: Setup) -> Agem:
    """Learner ``agem``."""
    return Agem(settings, setup)
