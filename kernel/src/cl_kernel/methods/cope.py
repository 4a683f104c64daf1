"""CoPE: slowly moving class prototypes in a unit-length embedding, and a loss that needs no task boundaries.

``p_c <- normalise(m p_c + (1 - m) mean of the batch's class c)``; the loss draws each example to its class's
prototype and its batch mates, and pushes others away. Source: De Lange and Tuytelaars 2021,
https://arxiv.org/abs/2009.00919.

Shapes: B batch, D embedding, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from attrs import field, frozen

from cl_kernel.contract.offers import doc
from cl_kernel.methods.base import Remembering, Training, positive, share
from cl_kernel.methods.exemplar_sets import embed, n_features
from cl_kernel.methods.lazy import F, torch

if TYPE_CHECKING:
    from torch import Tensor

    from cl_kernel.contract.interfaces import Samples, Tree
    from cl_kernel.contract.stream import Stage
    from cl_kernel.running.loop import StreamContext
    from cl_kernel.running.resources import Setup


@frozen(kw_only=True)
class Settings(Remembering):
    """CoPE."""

    prototype_momentum: float = field(default=0.99, validator=share, metadata=doc("momentum of prototypes"))
    temperature: float = field(default=1.0, validator=positive, metadata=doc("temperature of the loss"))


def ppp_loss(embeddings: Tensor, labels: Tensor, prototypes: Tensor, temperature: float = 1.0) -> Tensor:
    """The pseudo-prototypical proxy loss: draw each example to its class, push all others away from it.

    Batch mates stand in for the prototype. An example is drawn to the mean, over the prototype and its mates
    (detached), of the probability of its class; examples of other classes are pushed off the mean of the prototype's
    and each single mate's probability (eqs. 4 to 6).

    :param embeddings: unit length, [B, D].
    :param prototypes: row c is class c's, [K, D].
    """
    total = embeddings.new_zeros(())
    for c in labels.unique().tolist():
        mine = labels == c
        n = int(mine.sum())
        to_all = (embeddings @ prototypes.t() / temperature).exp()
        rest = to_all.sum(1, keepdim=True) - to_all[:, c : c + 1]
        by_prototype = to_all[:, c : c + 1] / to_all.sum(1, keepdim=True)

        def by_mates(mates: Tensor, rows: Tensor, rest: Tensor = rest) -> Tensor:
            closeness = (embeddings[rows] @ mates.t() / temperature).exp()
            return closeness / (closeness + rest[rows])

        others = 1 - torch.eye(n, dtype=embeddings.dtype, device=embeddings.device)
        drawn = (by_mates(embeddings[mine].detach(), mine) * others).sum(1) + by_prototype[mine, 0]
        total = total - (drawn / n).log().sum()
        pushed = 0.5 * (by_mates(embeddings[mine], ~mine) + by_prototype[~mine])
        total = total - torch.log1p(-pushed).sum()
    return total / len(labels)


class Cope(Training[Settings]):
    """Prototypes that evolve; replay of as many remembered examples as new ones."""

    remembers: ClassVar[bool] = True

    def __init__(self, settings: Settings, setup: Setup) -> None:
        super().__init__(settings, setup)
        self.prototypes: dict[int, Tensor] = {}

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """One stage; its examples are remembered as they come."""
        batches = self.begin(stage, ctx)
        for epoch in self.epochs(stage):
            for rows, inputs, labels in self.steps(batches, stage, ctx, epoch):
                x, y = inputs, labels
                if len(self.memory):
                    kept, kept_labels = self.decoded(stage.train.spec, self.memory.draw(len(inputs)))
                    x, y = torch.cat([x, kept]), torch.cat([y, kept_labels])
                loss = self._loss(x, y)
                self.descend(loss)
                self._move(x, y)
                if epoch == 0:
                    self.offer(stage, rows, inputs, labels.cpu().numpy())
                self.stepped(ctx, loss=loss.detach())

    def _loss(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of a batch; a class met for the first time starts at its mean."""
        unit = F.normalize(embed(self.upper, x)[0], dim=1)
        for c in y.unique().tolist():
            if c not in self.prototypes:
                self.prototypes[c] = F.normalize(unit[y == c].detach().mean(0), dim=0)
        order = sorted(self.prototypes)
        place = {c: at for at, c in enumerate(order)}
        stacked = torch.stack([self.prototypes[c] for c in order])
        columns = torch.tensor([place[c] for c in y.tolist()], device=y.device)
        return ppp_loss(unit, columns, stacked, self.settings.temperature)

    def _move(self, x: Tensor, y: Tensor) -> None:
        """Prototypes follow the network."""
        m = self.settings.prototype_momentum
        with torch.no_grad():
            moved = F.normalize(embed(self.upper, x)[0], dim=1)
            for c in y.unique().tolist():
                self.prototypes[c] = F.normalize(m * self.prototypes[c] + (1 - m) * moved[y == c].mean(0), dim=0)

    def predict(self, samples: Samples) -> Iterator[dict[str, Any]]:
        """Nearest prototype by dot product."""
        if not self.prototypes:
            return super().predict(samples)
        far = torch.zeros_like(next(iter(self.prototypes.values())))
        stacked = torch.stack([self.prototypes.get(c, far) for c in self.seen.order])
        return self.predict_with(samples, lambda x: F.normalize(embed(self.upper, x)[0], dim=1) @ stacked.t())

    def reserve(self) -> int:
        """A prototype of each class."""
        return 4 * self.n_classes * n_features(self.upper)

    def kept(self) -> dict[str, Tree]:
        """Prototypes."""
        from cl_kernel.torch.state import pack

        return {"prototypes": {str(c): pack(p) for c, p in self.prototypes.items()}}

    def regain(self, tree: Tree) -> None:
        """Take them back."""
        self.prototypes = {int(c): torch.from_numpy(np.array(p)).to(self.device) for c, p in tree["prototypes"].items()}


def build(settings: Settings, setup: Setup) -> Cope:
    """Learner ``cope``."""
    return Cope(settings, setup)
