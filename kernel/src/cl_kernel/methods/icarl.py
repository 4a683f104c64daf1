"""iCaRL: herded exemplars, distillation, and the nearest mean of exemplars to predict.

Exemplars of a class are chosen one by one so that their mean stays nearest to the class mean; the memory is shared
alike by the classes seen. Source: Rebuffi et al. 2017, https://arxiv.org/abs/1611.07725, algorithms 1 to 5.

Shapes: B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from attrs import field, frozen, validators

from cl_kernel.contract.offers import doc
from cl_kernel.methods.base import Remembering, Training, frozen_copy, pack_copy, regain_copy
from cl_kernel.methods.exemplar_sets import ExemplarSets, embed, nearest_mean_scores
from cl_kernel.methods.lazy import F, torch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from cl_kernel.contract.interfaces import Samples, Tree
    from cl_kernel.contract.stream import Stage
    from cl_kernel.running.loop import StreamContext
    from cl_kernel.running.resources import Setup


@frozen(kw_only=True)
class Settings(Remembering):
    """iCaRL."""

    variant: str = field(
        default="crumb",
        validator=validators.in_(("crumb", "shipped")),
        metadata=doc("shipped: herding and means as CRUMB's repository has them, mostly copies of one image a class"),
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
        """One stage: a step on new examples, then one on exemplars against the old scores; then new exemplars."""
        batches = self.begin(stage, ctx)
        if self.at_start() and stage.index:
            self.old = frozen_copy(self.upper)
        n_distilled = len(self.seen) if self.shipped else self.seen.n_old(stage.index)
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
        share = self.memory.capacity // len(self.seen)
        if not self.shipped:
            self.sets.trim(share)
        self.sets.choose(stage, batches, share, shipped=self.shipped)

    def predict(self, samples: Samples) -> Iterator[dict[str, Any]]:
        """Nearest mean of exemplars; classes without exemplars score lowest."""
        if not len(self.sets):
            yield from super().predict(samples)
            return
        means = self.sets.prototypes(samples.spec, normalised_first=not self.shipped)

        def score(inputs: Tensor) -> Tensor:
            return nearest_mean_scores(embed(self.upper, inputs)[0], means).nan_to_num(-1.0)

        yield from self.predict_with(samples, score)

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
