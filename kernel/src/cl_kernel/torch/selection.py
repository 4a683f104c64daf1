"""Learners that choose what to remember or replay by what the network makes of it: CoPE, GSS, Rainbow Memory, and
Stable SGD, which remembers nothing.

Shapes: B batch, D embedding, n classes seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from attrs import define, field
from torch import Tensor, nn
from torch.nn import functional as F

from cl_kernel.contract.interfaces import Samples, Tree
from cl_kernel.contract.stream import Stage
from cl_kernel.torch.exemplars import ExemplarSets, embed, ppp_loss, score_layer
from cl_kernel.torch.state import pack, restore
from cl_kernel.torch.stepping import Stand, build_stand

if TYPE_CHECKING:
    from cl_kernel.running.loop import StreamContext
    from cl_kernel.running.resources import Setup


# ---- CoPE ------------------------------------------------------------------------------------


def build_cope(settings: Any, setup: Setup) -> Cope:
    """Continual prototype evolution."""
    return Cope(build_stand(settings, setup, remembers=True))


@define(eq=False)
class Cope:
    """Slowly moving class prototypes in a unit-length embedding; replay of as many remembered examples as new ones."""

    stand: Stand
    prototypes: dict[int, Tensor] = field(factory=dict)

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """One task, example by example remembered as it comes."""
        stand, settings = self.stand, self.stand.settings
        batches = stand.begin(stage, ctx)
        for epoch in stand.epochs(stage):
            for rows, inputs, labels in stand.steps(batches, stage, ctx, epoch):
                x, y = inputs, labels
                if len(stand.memory):
                    kept, kept_labels = stand.decoded(stage, stand.memory.draw(len(inputs)))
                    x, y = torch.cat([x, kept]), torch.cat([y, kept_labels])
                unit = F.normalize(embed(stand.upper, x)[0], dim=1)
                for c in y.unique().tolist():
                    if c not in self.prototypes:
                        self.prototypes[c] = F.normalize(unit[y == c].detach().mean(0), dim=0)
                order = sorted(self.prototypes)
                place = {c: at for at, c in enumerate(order)}
                stacked = torch.stack([self.prototypes[c] for c in order])
                loss = ppp_loss(
                    unit, torch.tensor([place[c] for c in y.tolist()], device=y.device), stacked, settings.temperature
                )
                stand.optimizer.zero_grad()
                loss.backward()
                stand.optimizer.step()
                with torch.no_grad():
                    moved = F.normalize(embed(stand.upper, x)[0], dim=1)
                    m = settings.prototype_momentum
                    for c in y.unique().tolist():
                        self.prototypes[c] = F.normalize(
                            m * self.prototypes[c] + (1 - m) * moved[y == c].mean(0), dim=0
                        )
                if epoch == 0:
                    stand.offer(stage, rows, inputs, labels.cpu().numpy())
                stand.stepped(ctx, loss=loss.detach())

    def predict(self, samples: Samples) -> Iterator[dict[str, Any]]:
        """Nearest prototype by dot product."""
        stand = self.stand
        if not self.prototypes:
            return stand.predict(samples)
        some = next(iter(self.prototypes.values()))
        far = torch.zeros_like(some)
        stacked = torch.stack([self.prototypes.get(c, far) for c in stand.seen.order])
        return stand.predict_with(samples, lambda x: F.normalize(embed(stand.upper, x)[0], dim=1) @ stacked.t())

    def state(self) -> Tree:
        """The stand and the prototypes."""
        return {**self.stand.state(), "prototypes": {str(c): pack(p) for c, p in self.prototypes.items()}}

    def load(self, tree: Tree) -> None:
        """Take over what :meth:`state` gave."""
        self.stand.load(tree)
        self.prototypes = {
            int(c): torch.from_numpy(np.array(p)).to(self.stand.device) for c, p in tree["prototypes"].items()
        }


# ---- GSS -------------------------------------------------------------------------------------


def build_gss(settings: Any, setup: Setup) -> Gss:
    """Gradient-based sample selection, greedy."""
    stand = build_stand(settings, setup, remembers=True)
    return Gss(stand, ExemplarSets(stand), setup.resources.rng("gss"), np.zeros(stand.memory.capacity))


@define(eq=False)
class Gss:
    """Remember examples whose gradients point elsewhere than those of what is remembered.

    :param similarity: of each slot's example when it entered, cosine plus one.
    """

    stand: Stand
    sets: ExemplarSets
    rng: np.random.Generator
    similarity: np.ndarray

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """One task: steps on new and remembered examples; in the first pass each new one may enter."""
        stand = self.stand
        batches = stand.begin(stage, ctx)
        for epoch in stand.epochs(stage):
            for rows, inputs, labels in stand.steps(batches, stage, ctx, epoch):
                for _ in range(stand.settings.n_iter):
                    x, y = inputs, labels
                    if len(self.sets):
                        kept, kept_labels = self.sets.draw(stage, len(inputs), self.rng)
                        x, y = torch.cat([x, kept]), torch.cat([y, kept_labels])
                    loss = stand.seen.cross_entropy(stand.upper(x), y)
                    stand.optimizer.zero_grad()
                    loss.backward()
                    stand.optimizer.step()
                if epoch == 0:
                    self._consider(stage, rows, inputs, labels)
                stand.stepped(ctx, loss=loss.detach())

    def _gradient(self, x: Tensor, y: Tensor) -> Tensor:
        stand = self.stand
        loss = stand.seen.cross_entropy(stand.upper(x), y)
        parts = torch.autograd.grad(loss, stand.parameters, allow_unused=True)
        flat = torch.cat(
            [
                (torch.zeros_like(p) if g is None else g).reshape(-1)
                for p, g in zip(stand.parameters, parts, strict=True)
            ]
        )
        return F.normalize(flat, dim=0)

    def _consider(self, stage: Stage, rows: np.ndarray, inputs: Tensor, labels: Tensor) -> None:
        stand, settings = self.stand, self.stand.settings
        references = None
        if len(self.sets):
            references = torch.stack(
                [
                    self._gradient(*self.sets.draw(stage, settings.batch_size, self.rng))
                    for _ in range(settings.strength)
                ]
            )
        full = references is not None and len(self.sets) >= stand.memory.capacity
        # A batch that is not unlike what is remembered is left out as a whole, which saves its single gradients.
        if full and float((references @ self._gradient(inputs, labels)).max()) >= settings.threshold:
            return
        for at in range(len(rows)):
            x, y, c = inputs[at : at + 1], labels[at : at + 1], int(labels[at])
            score = 1.0 if references is None else float((references @ self._gradient(x, y)).max()) + 1
            if len(self.sets) >= stand.memory.capacity:
                held = np.concatenate(list(self.sets.slots.values()))
                weight = self.similarity[held] + 1e-8
                victim = int(self.rng.choice(held, p=weight / weight.sum()))
                if self.rng.random() >= self.similarity[victim] / (self.similarity[victim] + score + 1e-12):
                    continue
                owner = next(o for o, slots in self.sets.slots.items() if victim in slots)
                self.sets.slots[owner] = self.sets.slots[owner][self.sets.slots[owner] != victim]
                stand.memory.policy.drop(np.array([victim]))
            before = len(self.sets.slots.get(c, ()))
            self.sets.add(stage, c, rows[at : at + 1], x)
            if len(self.sets.slots[c]) > before:
                self.similarity[self.sets.slots[c][-1]] = score

    def predict(self, samples: Samples) -> Iterator[dict[str, Any]]:
        """Scores over the classes seen."""
        return self.stand.predict(samples)

    def state(self) -> Tree:
        """The stand, what is remembered and how alike it was."""
        return {
            **self.stand.state(),
            "sets": self.sets.state(),
            "rng": pack(self.rng),
            "similarity": self.similarity.copy(),
        }

    def load(self, tree: Tree) -> None:
        """Take over what :meth:`state` gave."""
        self.stand.load(tree)
        self.sets.load(tree["sets"])
        restore(self.rng, tree["rng"])
        self.similarity[:] = tree["similarity"]


# ---- Rainbow Memory --------------------------------------------------------------------------


def augmented(inputs: Tensor, rng: np.random.Generator) -> Tensor:
    """Mirror and shift images or maps [B, C, h, w] at random; vectors get a little noise."""
    if inputs.ndim != 4:
        noise = torch.from_numpy(rng.standard_normal(inputs.shape)).to(inputs)
        return inputs + 0.05 * inputs.std() * noise
    mirrored = torch.from_numpy(rng.random(len(inputs)) < 0.5).to(inputs.device)
    out = torch.where(mirrored[:, None, None, None], inputs.flip(3), inputs)
    reach = max(1, inputs.shape[3] // 8)
    down, right = (int(n) for n in rng.integers(-reach, reach + 1, 2))
    padded = F.pad(out, (reach,) * 4)
    return padded[:, :, reach + down : reach + down + inputs.shape[2], reach + right : reach + right + inputs.shape[3]]


def build_rainbow(settings: Any, setup: Setup) -> Rainbow:
    """Rainbow Memory."""
    stand = build_stand(settings, setup, remembers=True)
    return Rainbow(stand, ExemplarSets(stand), setup.resources.rng("rainbow"))


@define(eq=False)
class Rainbow:
    """Remember, of each class, examples from the surest to the least sure; train with cutmix on half of each."""

    stand: Stand
    sets: ExemplarSets
    rng: np.random.Generator

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """One task, the rate falling along a cosine; then the memory is spread over uncertainty."""
        stand, settings = self.stand, self.stand.settings
        batches = stand.begin(stage, ctx)
        total = stand.n_epochs(stage) * -(-len(stage.train) // settings.batch_size)
        done = (stand.epoch * len(stage.train) + stand.position) // settings.batch_size
        for epoch in stand.epochs(stage):
            for _, inputs, labels in stand.steps(batches, stage, ctx, epoch):
                x, y = inputs, labels
                if len(self.sets):
                    kept, kept_labels = self.sets.draw(stage, len(inputs), self.rng)
                    x, y = torch.cat([x, kept]), torch.cat([y, kept_labels])
                if settings.augment:
                    x = augmented(x, self.rng)
                for group in stand.optimizer.param_groups:
                    group["lr"] = settings.lr * 0.5 * (1 + math.cos(math.pi * min(done / max(total, 1), 1)))
                loss = self._loss(x, y)
                stand.optimizer.zero_grad()
                loss.backward()
                stand.optimizer.step()
                done += 1
                stand.stepped(ctx, loss=loss.detach())
        self._spread(stage, batches)

    def _loss(self, x: Tensor, y: Tensor) -> Tensor:
        seen, upper = self.stand.seen, self.stand.upper
        if x.ndim != 4 or self.rng.random() >= self.stand.settings.cutmix:
            return seen.cross_entropy(upper(x), y)
        share = float(self.rng.beta(1, 1))
        height, width = x.shape[2:]
        h, w = round(height * math.sqrt(1 - share)), round(width * math.sqrt(1 - share))
        top, left = int(self.rng.integers(0, height - h + 1)), int(self.rng.integers(0, width - w + 1))
        order = torch.from_numpy(self.rng.permutation(len(x))).to(x.device)
        mixed = x.clone()
        mixed[:, :, top : top + h, left : left + w] = x[order][:, :, top : top + h, left : left + w]
        kept = 1 - h * w / (height * width)
        scores = upper(mixed)
        return kept * seen.cross_entropy(scores, y) + (1 - kept) * seen.cross_entropy(scores, y[order])

    def _spread(self, stage: Stage, batches: Any) -> None:
        """Of each class' old and new examples keep an even spread over uncertainty (views that disagree)."""
        stand = self.stand
        share = stand.memory.capacity // len(stand.seen)
        for c, slots in list(self.sets.slots.items()):
            if len(slots) > share:
                inputs, labels = stand.decoded(stage, slots)
                order = np.argsort(self._uncertainty(inputs, labels), kind="stable")
                keep = slots[order[np.linspace(0, len(order) - 1, share).round().astype(int)]] if share else slots[:0]
                stand.memory.policy.drop(np.setdiff1d(slots, keep))
                self.sets.slots[c] = keep
        parts = list(stand.in_order(batches, stage))
        rows, inputs, labels = (
            np.concatenate([p[0] for p in parts]),
            torch.cat([p[1] for p in parts]),
            torch.cat([p[2] for p in parts]),
        )
        uncertainty = self._uncertainty(inputs, labels)
        for c in stand.seen.by_stage[stage.index]:
            mine = np.flatnonzero(labels.cpu().numpy() == c)
            if not len(mine) or c in self.sets.slots:
                continue
            order = mine[np.argsort(uncertainty[mine], kind="stable")]
            chosen = (
                order[np.unique(np.linspace(0, len(order) - 1, min(share, len(order))).round().astype(int))]
                if share
                else order[:0]
            )
            self.sets.add(stage, c, rows[chosen], inputs[torch.from_numpy(chosen).to(inputs.device)])

    def _uncertainty(self, inputs: Tensor, labels: Tensor) -> np.ndarray:
        """Share of augmented views whose class is not the right one."""
        stand = self.stand
        stand.network.eval()
        wrong = np.zeros(len(inputs))
        with torch.no_grad():
            for _ in range(stand.settings.n_views):
                found = [
                    stand.seen.scores(stand.upper(augmented(part, self.rng))).argmax(1) for part in inputs.split(256)
                ]
                wrong += (torch.cat(found) != stand.seen.columns_of(labels)).cpu().numpy()
        stand.network.train()
        return wrong / stand.settings.n_views

    def predict(self, samples: Samples) -> Iterator[dict[str, Any]]:
        """Scores over the classes seen."""
        return self.stand.predict(samples)

    def state(self) -> Tree:
        """The stand, what is remembered, the generator."""
        return {**self.stand.state(), "sets": self.sets.state(), "rng": pack(self.rng)}

    def load(self, tree: Tree) -> None:
        """Take over what :meth:`state` gave."""
        self.stand.load(tree)
        self.sets.load(tree["sets"])
        restore(self.rng, tree["rng"])


# ---- Stable SGD ------------------------------------------------------------------------------


def build_stable(settings: Any, setup: Setup) -> Stable:
    """Stable SGD."""
    stand = build_stand(settings, setup)

    def drop(layer: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (F.dropout(given[0], settings.dropout, training=layer.training), *given[1:])

    score_layer(stand.upper).register_forward_pre_hook(drop)
    return Stable(stand)


@define(eq=False)
class Stable:
    """Plain training with dropout before the score layer and a rate that falls from task to task."""

    stand: Stand

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """One task."""
        stand = self.stand
        batches = stand.begin(stage, ctx)
        for group in stand.optimizer.param_groups:
            group["lr"] = stand.settings.lr * stand.settings.gamma**stage.index
        for epoch in stand.epochs(stage):
            for _, inputs, labels in stand.steps(batches, stage, ctx, epoch):
                loss = stand.seen.cross_entropy(stand.upper(inputs), labels)
                stand.optimizer.zero_grad()
                loss.backward()
                stand.optimizer.step()
                stand.stepped(ctx, loss=loss.detach())

    def predict(self, samples: Samples) -> Iterator[dict[str, Any]]:
        """Scores over the classes seen."""
        return self.stand.predict(samples)

    def state(self) -> Tree:
        """Network, optimiser, position."""
        return self.stand.state()

    def load(self, tree: Tree) -> None:
        """Take over what :meth:`state` gave."""
        self.stand.load(tree)
