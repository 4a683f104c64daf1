"""iCaRL: herded exemplars, distillation, and the nearest mean of exemplars to predict.

The loss is the binary cross-entropy of every column, over new examples and exemplars together, to one-hot labels whose
columns of classes seen before are the old network's sigmoids. Exemplars of a class are chosen one by one so that their
mean stays nearest to the class mean; the memory is shared alike by the classes seen. Source: Rebuffi et al. 2017,
https://arxiv.org/abs/1611.07725, algorithms 1 to 5.

Differs: no example is chosen twice; the mean over columns stands for their sum. A class that comes again, of which the
paper does not speak, has its exemplars chosen again from the old ones and its new samples, and its examples their label
in its own column (the other old columns are still the old network's sigmoids): without labels a stage of old classes
alone, such as a new domain, would teach nothing. Variant ``crumb``: cross-entropy on new examples, then a
step of distillation on exemplars, whose choice is never renewed; ``shipped``: that, with herding and means as in
CRUMB's repository.

Shapes: B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from attrs import frozen

from cl_kernel.methods.base import Remembering, Training, frozen_copy, pack_copy, regain_copy, size_of, variant
from cl_kernel.methods.exemplar_sets import ExemplarSets, embed, nearest_mean_scores
from cl_kernel.methods.lazy import F, torch
from cl_kernel.methods.lwf import sigmoid_loss

if TYPE_CHECKING:
    from torch import Tensor, nn

    from cl_kernel.contract.interfaces import Samples, Tree
    from cl_kernel.contract.stream import Stage
    from cl_kernel.running.loop import StreamContext
    from cl_kernel.running.resources import Setup
    from cl_kernel.torch.loaders import Batches


@frozen(kw_only=True)
class Settings(Remembering):
    """iCaRL."""

    variant: str = variant(
        "distillation in steps of its own, on exemplars",
        "shipped",
        text="; shipped: that, with CRUMB's repository's herding and means, mostly copies of one image a class",
    )


def sigmoid_distillation(scores: Tensor, old_scores: Tensor) -> Tensor:
    """Binary cross-entropy of sigmoids to the old network's sigmoids, mean over batch and columns."""
    return F.binary_cross_entropy_with_logits(scores, torch.sigmoid(old_scores))


class Icarl(Training[Settings]):
    """Exemplars, distillation, nearest mean of exemplars."""

    remembers: ClassVar[bool] = True
    old: nn.Module | None = None

    def __init__(self, settings: Settings, setup: Setup) -> None:
        super().__init__(settings, setup)
        self.rng = setup.resources.rng("icarl")
        self.shipped = settings.variant == "shipped"
        self.sets = ExemplarSets(self)

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """One stage: epochs over new examples and exemplars; then the exemplars are chosen."""
        batches = self.begin(stage, ctx)
        if self.at_start() and stage.index:
            self.old = frozen_copy(self.upper)
        if self.settings.variant != "paper":
            self._learn_in_turn(batches, stage, ctx)
            return
        extra = self.sets.all(stage) if len(self.sets) else None
        for epoch in self.epochs(stage):
            for inputs, labels in self.mixed_steps(batches, stage, ctx, epoch, extra):
                scores = self.seen.scores(self.upper(inputs))
                with torch.no_grad():
                    old = None if self.old is None else self.old(inputs)[:, : self.seen.n_before(stage.index)]
                loss = sigmoid_loss(scores, self.seen.columns_of(labels), old, self.seen.in_stage(labels, stage.index))
                self.descend(loss)
                self.stepped(ctx, loss=loss.detach())
        self.sets.herd(stage, batches, self.sets.rooms(ctx))

    def _learn_in_turn(self, batches: Batches, stage: Stage, ctx: StreamContext) -> None:
        """A step on new examples, then one on exemplars against the old scores; then new exemplars."""
        n_distilled = len(self.seen) if self.shipped else self.seen.n_absent(stage.index)
        for epoch in self.epochs(stage):
            for _, inputs, labels in self.steps(batches, stage, ctx, epoch):
                loss = self.seen.cross_entropy(self.upper(inputs), labels)
                self.descend(loss)
                if self.old is not None and len(self.sets):
                    kept, _ = self.sets.draw(stage, self.settings.batch_size, self.rng)
                    with torch.no_grad():
                        target = self.old(kept)[:, :n_distilled]
                    self.descend(sigmoid_distillation(self.upper(kept)[:, :n_distilled], target))
                self.stepped(ctx, loss=loss.detach())
        rooms = self.sets.equal_rooms()
        if not self.shipped:
            self.sets.trim(rooms)
        self.sets.choose(stage, batches, rooms, shipped=self.shipped)

    def predict(self, samples: Samples) -> Iterator[dict[str, Any]]:
        """Nearest mean of exemplars; classes without exemplars score lowest."""
        if not len(self.sets):
            yield from super().predict(samples)
            return
        means = self.sets.prototypes(samples.spec, normalised_first=not self.shipped)

        def score(inputs: Tensor) -> Tensor:
            return nearest_mean_scores(embed(self.upper, inputs)[0], means).nan_to_num(-1.0)

        yield from self.predict_with(samples, score)

    def reserve(self) -> int:
        """The old network."""
        return size_of(self.upper)

    def kept(self) -> dict[str, Tree]:
        """Exemplar order, generator, old network."""
        from cl_kernel.torch.state import pack

        return {"sets": self.sets.state(), "rng": pack(self.rng), "old": pack_copy(self.old)}

    def regain(self, tree: Tree) -> None:
        """Take it back."""
        from cl_kernel.torch.state import restore

        self.sets.load(tree["sets"])
        restore(self.rng, tree["rng"])
        self.old = regain_copy(self.upper, tree["old"])


def build(settings: Settings, setup: Setup) -> Icarl:
    """Learner ``icarl``."""
    return Icarl(settings, setup)
