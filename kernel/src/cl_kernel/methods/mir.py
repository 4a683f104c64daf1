"""MIR: replay of the remembered examples whose loss the next step on new ones would raise most.

Of ``candidates`` drawn from the memory, those with the largest ``l(x; theta - lr * grad L_new) - l(x; theta)`` join the
new examples. Source: Aljundi et al. 2019, https://arxiv.org/abs/1908.04742.

Differs: the look-ahead step is a plain gradient step in evaluation mode, whatever the optimiser.

Shapes: C candidates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from attrs import field, frozen

from cl_kernel.contract.offers import doc
from cl_kernel.methods.base import Remembering, Training, positive
from cl_kernel.methods.lazy import F, torch
from cl_kernel.methods.penalty import evaluating, trainable

if TYPE_CHECKING:
    from torch import Tensor, nn

    from cl_kernel.contract.stream import Stage
    from cl_kernel.running.loop import StreamContext
    from cl_kernel.running.resources import Setup


@frozen(kw_only=True)
class Settings(Remembering):
    """Maximally interfered retrieval."""

    replay_batch: int = field(default=32, validator=positive, metadata=doc("remembered examples a step"))
    candidates: int = field(default=50, validator=positive, metadata=doc("drawn examples that these are chosen from"))


def interference(
    model: nn.Module, new: tuple[Tensor, Tensor], old: tuple[Tensor, Tensor], n_active: int, lr: float
) -> Tensor:
    """How much a gradient step on new examples would raise the loss of each old one, float [C].

    :param new: inputs and score columns; ``old`` likewise.
    :param n_active: score columns of the classes seen.
    """
    from torch.func import functional_call

    parameters = trainable(model)
    with evaluating(model):
        loss = F.cross_entropy(model(new[0])[:, :n_active], new[1])
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        with torch.no_grad():
            moved = {
                name: p if g is None else p - lr * g for (name, p), g in zip(parameters.items(), gradients, strict=True)
            }
            before = F.cross_entropy(model(old[0])[:, :n_active], old[1], reduction="none")
            scores: Tensor = functional_call(model, moved, (old[0],))
            return F.cross_entropy(scores[:, :n_active], old[1], reduction="none") - before


class Mir(Training[Settings]):
    """Replay of what would be hurt most."""

    remembers: ClassVar[bool] = True

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """One stage; its examples are remembered as they come."""
        batches = self.begin(stage, ctx)
        for epoch in self.epochs(stage):
            for rows, inputs, labels in self.steps(batches, stage, ctx, epoch):
                x, y = inputs, labels
                if len(self.memory):
                    old, old_labels = self._retrieve(stage, inputs, labels)
                    x, y = torch.cat([x, old]), torch.cat([y, old_labels])
                loss = self.seen.cross_entropy(self.upper(x), y)
                self.descend(loss)
                if epoch == 0:
                    self.offer(stage, rows, inputs, labels.cpu().numpy())
                self.stepped(ctx, loss=loss.detach())

    def _retrieve(self, stage: Stage, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The remembered examples to replay beside these new ones."""
        settings, seen = self.settings, self.seen
        old, old_labels = self.decoded(stage.train.spec, self.memory.draw(settings.candidates))
        new, candidates = (inputs, seen.columns_of(labels)), (old, seen.columns_of(old_labels))
        hurt = interference(self.upper, new, candidates, len(seen), settings.lr)
        worst = hurt.argsort(descending=True, stable=True)[: settings.replay_batch]
        return old[worst], old_labels[worst]


def build(settings: Settings, setup: Setup) -> Mir:
    """Learner ``mir``."""
    return Mir(settings, setup)
