"""GDumb: a greedily balanced memory, and after each stage training from scratch on it alone.

The memory is ``clk:gdumb``: newcomers enter while their class is below its share, then the largest class gives way. The
rate falls along cosines from ``lr`` to ``lr_min`` whose length doubles: 1, 2, 4, ... passes. Source: Prabhu, Torr and
Dokania 2020, https://doi.org/10.1007/978-3-030-58536-5_31.

Differs: 50 passes over the memory by default, the paper has 256; gradients are not clipped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from attrs import field, frozen

from cl_kernel.contract.offers import doc
from cl_kernel.methods.augmentation import cutmix
from cl_kernel.methods.base import Remembering, Training, not_negative, positive, share
from cl_kernel.methods.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from cl_kernel.contract.stream import Stage
    from cl_kernel.running.loop import StreamContext
    from cl_kernel.running.resources import Setup


@frozen(kw_only=True)
class Settings(Remembering):
    """GDumb."""

    ONE_PASS: ClassVar[Mapping[str, Any]] = {}  # the memory sees each sample once; the passes are over the memory

    lr: float = field(default=0.05, validator=positive, metadata=doc("highest learning rate"))
    lr_min: float = field(default=5e-4, validator=not_negative, metadata=doc("lowest learning rate"))
    momentum: float = field(default=0.9, validator=not_negative, metadata=doc("momentum of SGD"))
    epochs: int = field(default=50, validator=positive, metadata=doc("passes over the memory after each stage"))
    batch_size: int = field(default=16, validator=positive, metadata=doc("examples a step"))
    cutmix: float = field(default=0.5, validator=share, metadata=doc("probability of cutmix, images"))


def cosine_rate(epoch: int, highest: float, lowest: float) -> float:
    """Rate of a pass: cosines from the highest to the lowest rate over 1, 2, 4, ... passes."""
    length = 1
    while epoch >= length:
        epoch, length = epoch - length, 2 * length
    return lowest + 0.5 * (highest - lowest) * (1 + math.cos(math.pi * epoch / length))


class GDumb(Training[Settings]):
    """Remember greedily; learn from the memory alone."""

    remembers: ClassVar[bool] = True

    def __init__(self, settings: Settings, setup: Setup) -> None:
        from cl_kernel.torch.state import pack

        super().__init__(settings, setup)
        self.initial = pack(self.network)

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """The memory takes the stage's examples; then training from the initial weights on it."""
        from cl_kernel.torch.state import restore

        batches = self.begin(stage, ctx)
        if self.at_start():
            for rows, inputs, labels in self.in_order(batches, stage):
                self.offer(stage, rows, inputs, labels.cpu().numpy())
            restore(self.network, self.initial)
            self.optimizer = self.make_optimizer()
        held = np.sort(self.memory.policy.draw(len(self.memory), np.random.default_rng(0)))
        inputs, labels = self.decoded(stage.train.spec, held)
        for epoch in self.epochs(stage):
            for group in self.optimizer.param_groups:
                group["lr"] = cosine_rate(epoch, self.settings.lr, self.settings.lr_min)
            for rows in self._pieces(len(labels), stage, ctx, epoch):
                index = torch.from_numpy(rows).to(self.device)
                loss = self._loss(inputs[index], labels[index], ctx.rng("cutmix", stage.index, epoch, self.position))
                self.descend(loss)
                self.stepped(ctx, loss=loss.detach())

    def _pieces(self, n: int, stage: Stage, ctx: StreamContext, epoch: int) -> Iterator[np.ndarray]:
        order = ctx.rng("order", stage.index, epoch).permutation(n)
        for at in range(self.position, n, self.settings.batch_size):
            yield order[at : at + self.settings.batch_size]

    def _loss(self, x: Tensor, y: Tensor, rng: np.random.Generator) -> Tensor:
        if x.ndim != 4 or rng.random() >= self.settings.cutmix:
            return self.seen.cross_entropy(self.upper(x), y)
        mixed, other, own = cutmix(x, rng)
        scores = self.upper(mixed)
        return own * self.seen.cross_entropy(scores, y) + (1 - own) * self.seen.cross_entropy(scores, y[other])


def build(settings: Settings, setup: Setup) -> GDumb:
    """Learner ``gdumb``."""
    return GDumb(settings, setup)
