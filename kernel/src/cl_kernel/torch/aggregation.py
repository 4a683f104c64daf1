"""AAN: a stable and a plastic copy of the learning part, mixed layer by layer, on top of iCaRL.

The stable copy keeps the weights of the first task and may only scale and shift its channels; the plastic one learns
freely; after each epoch the mixing weights learn on the exemplars alone (Liu, Schiele, Sun; CVPR 2021).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from attrs import define, field
from torch import Tensor, nn
from torch.nn import functional as F

from cl_kernel.contract.errors import Mismatch
from cl_kernel.contract.interfaces import Samples, Tree
from cl_kernel.contract.stream import Stage
from cl_kernel.torch.exemplars import ExemplarSets, embed, nearest_mean_scores, prototypes_of, score_layer
from cl_kernel.torch.state import pack, restore
from cl_kernel.torch.stepping import Stand, build_stand, sgd

if TYPE_CHECKING:
    from cl_kernel.running.loop import StreamContext
    from cl_kernel.running.resources import Setup


class ScaledShifted(nn.Module):
    """A frozen layer whose output channels may be scaled and shifted."""

    def __init__(self, layer: nn.Module, n_channels: int) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.scale, self.shift = nn.Parameter(torch.ones(n_channels)), nn.Parameter(torch.zeros(n_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Scaled and shifted output."""
        out = self.layer(x)
        shape = (1, -1, *[1] * (out.ndim - 2))
        return out * self.scale.view(shape) + self.shift.view(shape)


def _stable(module: nn.Module) -> nn.Module:
    """A frozen copy with every convolution and linear layer scaled and shifted."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        return ScaledShifted(
            copy.deepcopy(module), module.out_channels if isinstance(module, nn.Conv2d) else module.out_features
        )
    out = copy.deepcopy(module).requires_grad_(False)
    for name, child in module.named_children():
        setattr(out, name, _stable(child))
    return out


class TwoBranches(nn.Module):
    """``x = a * stable(x) + (1 - a) * plastic(x)`` after each level; the level with the score layer is plastic only."""

    def __init__(self, plastic: nn.Sequential) -> None:
        super().__init__()
        last = score_layer(plastic)
        self.plastic = plastic
        self.n_mixed = next(at for at, level in enumerate(plastic) if any(m is last for m in level.modules()))
        device = next(plastic.parameters()).device
        self.stable = nn.ModuleList(_stable(level) for level in plastic[: self.n_mixed]).to(device)
        self.mix = nn.Parameter(torch.zeros(self.n_mixed, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """Scores."""
        for at in range(self.n_mixed):
            a = torch.sigmoid(self.mix[at])
            x = a * self.stable[at](x) + (1 - a) * self.plastic[at](x)
        for level in self.plastic[self.n_mixed :]:
            x = level(x)
        return x


def build(settings: Any, setup: Setup) -> Aan:
    """Adaptive aggregation networks on iCaRL.

    :raises Mismatch: for a network whose learning part is no chain of layers.
    """
    stand = build_stand(settings, setup, remembers=True)
    if not isinstance(stand.upper, nn.Sequential):
        raise Mismatch("AAN mixes its two copies layer by layer and needs a chain of layers", where="--model")
    return Aan(stand, setup.resources.rng("aan"))


@define(eq=False)
class Aan:
    """Two branches, exemplars, distillation, nearest mean of exemplars."""

    stand: Stand
    rng: np.random.Generator
    sets: ExemplarSets = field(init=False)
    old: nn.Module | None = None

    def __attrs_post_init__(self) -> None:
        self.sets = ExemplarSets(self.stand)

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """One task: epochs on new examples and exemplars; after each, the mixing weights on exemplars."""
        stand = self.stand
        if stage.index and stand.epoch == stand.position == 0:
            self.old = copy.deepcopy(stand.upper).eval().requires_grad_(False)
            if stage.index == 1:
                self._branch()
        batches = stand.begin(stage, ctx)
        n_old = len(stand.seen) - len(stand.seen.by_stage[stage.index])
        for epoch in stand.epochs(stage):
            for _, inputs, labels in stand.steps(batches, stage, ctx, epoch):
                x, y = inputs, labels
                if len(self.sets):
                    kept, kept_labels = self.sets.draw(stage, len(inputs), self.rng)
                    x, y = torch.cat([x, kept]), torch.cat([y, kept_labels])
                scores = stand.upper(x)
                loss = stand.seen.cross_entropy(scores, y)
                if self.old is not None and n_old:
                    with torch.no_grad():
                        target = F.softmax(self.old(x)[:, :n_old] / 2, 1)
                    loss = loss - (target * F.log_softmax(scores[:, :n_old] / 2, 1)).sum(1).mean()
                stand.optimizer.zero_grad()
                loss.backward()
                stand.optimizer.step()
                stand.stepped(ctx, loss=loss.detach())
            self._aggregate(stage)
        share = stand.memory.capacity // len(stand.seen)
        self.sets.trim(share)
        self.sets.choose(stage, batches, share)

    def _branch(self) -> None:
        """From the second task on there are two branches."""
        stand = self.stand
        stand.network.upper = TwoBranches(stand.upper)
        mix = stand.upper.mix
        stand.optimizer = sgd(stand.upper, stand.settings)
        for group in stand.optimizer.param_groups:
            group["params"] = [p for p in group["params"] if p is not mix]

    def _aggregate(self, stage: Stage) -> None:
        """One pass over the exemplars that moves the mixing weights alone."""
        stand = self.stand
        if not isinstance(stand.upper, TwoBranches) or not len(self.sets):
            return
        x, y = self.sets.all(stage)
        for rows in torch.from_numpy(self.rng.permutation(len(x))).to(x.device).split(stand.settings.batch_size):
            (gradient,) = torch.autograd.grad(
                stand.seen.cross_entropy(stand.upper(x[rows]), y[rows]), [stand.upper.mix]
            )
            with torch.no_grad():
                stand.upper.mix -= stand.settings.mix_lr * gradient

    def predict(self, samples: Samples) -> Iterator[dict[str, Any]]:
        """Nearest mean of exemplars."""
        stand = self.stand
        if not len(self.sets):
            yield from stand.predict(samples)
            return
        means = prototypes_of(stand, self.sets, samples.spec)
        yield from stand.predict_with(
            samples, lambda x: nearest_mean_scores(embed(stand.upper, x)[0], means).nan_to_num(-1.0)
        )

    def state(self) -> Tree:
        """The stand, exemplars, generator, old network; and whether there are two branches."""
        return {
            **self.stand.state(),
            "branched": isinstance(self.stand.upper, TwoBranches),
            "sets": self.sets.state(),
            "rng": pack(self.rng),
            "old": None if self.old is None else pack(self.old),
            "old_branched": isinstance(self.old, TwoBranches),
        }

    def load(self, tree: Tree) -> None:
        """Take over what :meth:`state` gave."""
        plain = copy.deepcopy(self.stand.upper)
        if tree["branched"] and not isinstance(self.stand.upper, TwoBranches):
            self._branch()
        self.stand.load(tree)
        self.sets.load(tree["sets"])
        restore(self.rng, tree["rng"])
        self.old = None
        if tree["old"] is not None:
            shape = (
                self.stand.upper if tree["old_branched"] else (self.stand.upper.plastic if tree["branched"] else plain)
            )
            self.old = copy.deepcopy(shape).eval().requires_grad_(False)
            restore(self.old, tree["old"])
