"""AAN: a stable and a plastic copy of the learning part, mixed layer by layer, on top of iCaRL.

``x_(l+1) = a_l stable_l(x_l) + (1 - a_l) plastic_l(x_l)``: the stable copy keeps the weights of the first stage and
may only scale and shift its channels; the plastic one learns freely; after each epoch the mixing weights learn on the
exemplars alone. Source: Liu, Schiele and Sun 2021, https://arxiv.org/abs/2010.05063.

Differs: one mixing weight a level, through a sigmoid, learnt by plain gradient steps after each epoch; the distillation
has temperature 2 and weight 1.

Shapes: B batch, K classes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from attrs import field, frozen

from cl_kernel.contract.errors import Mismatch
from cl_kernel.contract.offers import doc
from cl_kernel.methods.base import (
    Remembering,
    Training,
    frozen_copy,
    make_optimizer,
    old_columns,
    pack_copy,
    positive,
    regain_copy,
    size_of,
    variant,
)
from cl_kernel.methods.exemplar_sets import ExemplarSets, embed, nearest_mean_scores, score_layer
from cl_kernel.methods.lazy import F, nn, torch

if TYPE_CHECKING:
    from torch import Tensor

    from cl_kernel.contract.interfaces import Samples, Tree
    from cl_kernel.contract.stream import Stage
    from cl_kernel.running.loop import StreamContext
    from cl_kernel.running.resources import Setup
    from cl_kernel.torch.branches import TwoBranches


@frozen(kw_only=True)
class Settings(Remembering):
    """AAN on iCaRL."""

    mix_lr: float = field(default=1e-2, validator=positive, metadata=doc("learning rate of the aggregation weights"))
    variant: str = variant(
        "exemplars of a class are not chosen again when it comes again", unseen="only where a class comes again"
    )


class Aan(Training[Settings]):
    """Two branches, exemplars, distillation, nearest mean of exemplars.

    :raises Mismatch: for a network whose learning part is no chain of layers.
    """

    remembers: ClassVar[bool] = True
    old: nn.Module | None = None

    def __init__(self, settings: Settings, setup: Setup) -> None:
        super().__init__(settings, setup)
        if not isinstance(self.upper, nn.Sequential):
            raise Mismatch("AAN mixes its two copies layer by layer and needs a chain of layers", where="--model")
        self.rng = setup.resources.rng("aan")
        self.sets = ExemplarSets(self)

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """One stage: epochs on new examples and exemplars; after each, the mixing weights on exemplars."""
        if stage.index and self.at_start():
            self.old = frozen_copy(self.upper)
            if stage.index == 1:
                self._branch()
        batches = self.begin(stage, ctx)
        n_old = old_columns(self, stage)
        for epoch in self.epochs(stage):
            for _, inputs, labels in self.steps(batches, stage, ctx, epoch):
                x, y = inputs, labels
                if len(self.sets):
                    kept, kept_labels = self.sets.draw(stage, len(inputs), self.rng)
                    x, y = torch.cat([x, kept]), torch.cat([y, kept_labels])
                scores = self.upper(x)
                loss = self.seen.cross_entropy(scores, y)
                if self.old is not None and n_old:
                    with torch.no_grad():
                        target = F.softmax(self.old(x)[:, :n_old] / 2, 1)
                    loss = loss - (target * F.log_softmax(scores[:, :n_old] / 2, 1)).sum(1).mean()
                self.descend(loss)
                self.stepped(ctx, loss=loss.detach())
            self._aggregate(stage)
        if self.settings.variant == "paper":
            self.sets.herd(stage, batches, self.sets.rooms(ctx))
        else:
            rooms = self.sets.equal_rooms()
            self.sets.trim(rooms)
            self.sets.choose(stage, batches, rooms)

    def _branches(self) -> TwoBranches | None:
        """The learning part once there are two branches."""
        from cl_kernel.torch.branches import TwoBranches

        return self.upper if isinstance(self.upper, TwoBranches) else None

    def _branch(self) -> None:
        """From the second stage on there are two branches."""
        from cl_kernel.torch.branches import TwoBranches

        plastic = self.upper
        assert isinstance(plastic, nn.Sequential)
        last = score_layer(plastic)
        n_mixed = next(at for at, level in enumerate(plastic) if any(m is last for m in level.modules()))
        branches = TwoBranches(plastic, n_mixed)
        self.network.upper = branches
        self.optimizer = make_optimizer(branches, self.settings)
        for group in self.optimizer.param_groups:
            group["params"] = [p for p in group["params"] if p is not branches.mix]

    def _aggregate(self, stage: Stage) -> None:
        """One pass over the exemplars that moves the mixing weights alone."""
        branches = self._branches()
        if branches is None or not len(self.sets):
            return
        x, y = self.sets.all(stage)
        for rows in torch.from_numpy(self.rng.permutation(len(x))).to(x.device).split(self.settings.batch_size):
            loss = self.seen.cross_entropy(branches(x[rows]), y[rows])
            (gradient,) = torch.autograd.grad(loss, [branches.mix])
            with torch.no_grad():
                branches.mix.sub_(self.settings.mix_lr * gradient)

    def predict(self, samples: Samples) -> Iterator[dict[str, Any]]:
        """Nearest mean of exemplars."""
        if not len(self.sets):
            yield from super().predict(samples)
            return
        means = self.sets.prototypes(samples.spec)

        def score(inputs: Tensor) -> Tensor:
            return nearest_mean_scores(embed(self.upper, inputs)[0], means).nan_to_num(-1.0)

        yield from self.predict_with(samples, score)

    def reserve(self) -> int:
        """The old network with both its branches."""
        return 2 * size_of(self.upper)

    def kept(self) -> dict[str, Tree]:
        """Whether there are two branches, exemplars, generator, old network."""
        from cl_kernel.torch.branches import TwoBranches
        from cl_kernel.torch.state import pack

        return {
            "branched": self._branches() is not None,
            "sets": self.sets.state(),
            "rng": pack(self.rng),
            "old": pack_copy(self.old),
            "old_branched": isinstance(self.old, TwoBranches),
        }

    def load(self, tree: Tree) -> None:
        """Go on from what :meth:`state` gave; the branches are there before their weights."""
        plain = copy.deepcopy(self.upper)
        if tree["branched"] and self._branches() is None:
            self._branch()
        super().load(tree)
        branches = self._branches()
        grown = branches.plastic if branches is not None else plain
        self.old = regain_copy(self.upper if tree["old_branched"] else grown, tree["old"])

    def regain(self, tree: Tree) -> None:
        """Take exemplars and generator back."""
        from cl_kernel.torch.state import restore

        self.sets.load(tree["sets"])
        restore(self.rng, tree["rng"])


def build(settings: Settings, setup: Setup) -> Aan:
    """Learner ``aan``."""
    return Aan(settings, setup)
