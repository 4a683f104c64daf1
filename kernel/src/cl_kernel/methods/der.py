"""Dark experience replay: the scores that the network once gave to remembered examples are targets.

``L = cross-entropy(new) + alpha * |scores(x') - z'|^2 / K`` with ``(x', z')`` drawn from a memory that takes examples
as they come, with the scores ``z`` that the network gives them then. Source: Buzzega et al. 2020,
https://arxiv.org/abs/2004.07211.

The cross-entropy is over all classes of the stream, those not seen yet included, whose scores the memory holds too.
Every pass over a stage offers its examples again with the scores they get then, as in the authors' release; a memory
that takes them in the first pass alone holds on to scores of a network that has not learnt them yet. Differs: no
augmentation; the squared distance is a mean over the K columns.

Shapes: K classes of the stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, TypeVar

from attrs import field, frozen, validators

from cl_kernel.contract.offers import doc
from cl_kernel.contract.stream import Field
from cl_kernel.methods.base import Remembering, Training, not_negative, positive
from cl_kernel.methods.lazy import F, torch

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from cl_kernel.contract.stream import Stage
    from cl_kernel.running.loop import StreamContext
    from cl_kernel.running.resources import Setup

SCORES = "scores"


@frozen(kw_only=True)
class Settings(Remembering):
    """Dark experience replay."""

    replay_batch: int = field(default=32, validator=positive, metadata=doc("remembered examples a step"))
    alpha: float = field(default=0.5, validator=not_negative, metadata=doc("weight of the remembered scores"))
    update: str = field(
        default="batch",
        validator=validators.in_(("batch", "stage")),
        metadata=doc(
            "when the memory takes examples with their scores: as they come, or after a stage, with the scores of a "
            "network that has learnt them (as Avalanche does)"
        ),
    )


D = TypeVar("D", bound=Settings, covariant=True)


class DarkReplay(Training[D]):
    """A memory of examples with the scores they got, and steps that hold on to those."""

    remembers: ClassVar[bool] = True

    def remembered_fields(self, spec: Mapping[str, Field]) -> dict[str, Field]:
        """An example and its scores."""
        return {
            **super().remembered_fields(spec),
            SCORES: Field(shape=(self.n_classes,), dtype="float32", kind="scores"),
        }

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """One stage; its examples are remembered as they come."""
        batches = self.begin(stage, ctx)
        for epoch in self.epochs(stage):
            for rows, inputs, labels in self.steps(batches, stage, ctx, epoch):
                scores = self.upper(inputs)
                loss = self.labelled_loss(scores, labels)
                if len(self.memory):
                    loss = loss + self.dark_loss(stage)
                self.descend(loss)
                if self.settings.update == "batch":
                    self.keep(stage, rows, inputs, labels, scores.detach())
                self.stepped(ctx, loss=loss.detach())
        if self.settings.update == "stage":
            with torch.no_grad():
                for rows, inputs, labels in self.in_order(batches, stage):
                    self.keep(stage, rows, inputs, labels, self.upper(inputs))

    def keep(self, stage: Stage, rows: np.ndarray, inputs: Tensor, labels: Tensor, scores: Tensor) -> None:
        """Offer examples to the memory with these scores."""
        self.offer(stage, rows, inputs, labels.cpu().numpy(), scores=scores.float().cpu().numpy())

    def labelled_loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy over all columns: scores of classes to come are remembered too, so they must be held."""
        return F.cross_entropy(scores, self.seen.columns_of(labels))

    def dark_loss(self, stage: Stage) -> Tensor:
        """The weighted distance of scores to remembered ones, on a batch drawn from the memory."""
        from cl_kernel.torch.loaders import as_tensor

        drawn = self.memory.sample(self.settings.replay_batch)
        inputs, _ = self.read(stage.train.spec, drawn)
        return self.settings.alpha * F.mse_loss(self.upper(inputs), as_tensor(drawn[SCORES], self.device))


def build(settings: Settings, setup: Setup) -> DarkReplay[Settings]:
    """Learner ``der``."""
    return DarkReplay(settings, setup)
