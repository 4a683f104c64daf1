"""Chosen examples of each class and their means: herding, embeddings, nearest mean.

Shapes: N candidates, D feature length, B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from cl_kernel.contract.errors import Mismatch
from cl_kernel.methods.base import Remembering, Training
from cl_kernel.methods.lazy import F, nn, torch

if TYPE_CHECKING:
    from torch import Tensor

    from cl_kernel.contract.stream import Field, Stage
    from cl_kernel.running.loop import StreamContext
    from cl_kernel.torch.loaders import Batches

EPS = 1e-12


def herding(features: Tensor, n: int) -> Tensor:
    """ICaRL's choice: greedily, the candidates whose mean stays nearest to the class mean; none twice.

    :param features: [N, D].
    :return: row numbers in the order chosen, int64 [min(n, N)].
    """
    features = F.normalize(features, dim=1)
    mean = F.normalize(features.mean(0), dim=0)
    total = torch.zeros_like(mean)
    free = torch.ones(len(features), dtype=torch.bool, device=features.device)
    order = []
    for k in range(min(n, len(features))):
        means = F.normalize((features + total) / (k + 1), dim=1)
        distance = ((mean - means) ** 2).sum(1).masked_fill(~free, torch.inf)
        best = int(distance.argmin())
        order.append(best)
        free[best] = False
        total = total + features[best]
    return torch.tensor(order, dtype=torch.int64)


def herding_shipped(features: Tensor, n: int) -> Tensor:
    """Herding as CRUMB's repository has it: the candidate means are divided by the norm of the whole matrix, and
    candidates may repeat, so the memory usually holds copies of one image.
    """
    features = F.normalize(features, dim=1)
    mean = F.normalize(features.mean(0), dim=0)
    total = torch.zeros_like(mean)
    order = []
    for k in range(n):
        means = (features + total) / (k + 1)
        distance = ((mean - means / means.norm()) ** 2).sum(1)
        order.append(int(distance.argmin()))
        total = total + features[order[-1]]
    return torch.tensor(order, dtype=torch.int64)


def prototype(features: Tensor, *, normalised_first: bool = True) -> Tensor:
    """Unit-length mean of exemplars [n, D]; CRUMB's repository does not normalise the exemplars themselves."""
    if normalised_first:
        features = F.normalize(features, dim=1)
    return F.normalize(features.mean(0), dim=0)


def nearest_mean_scores(queries: Tensor, prototypes: Tensor) -> Tensor:
    """``1 / squared distance`` of unit-length queries [B, D] to prototypes [K, D]: [B, K]."""
    distance = ((F.normalize(queries, dim=1)[:, None] - prototypes[None]) ** 2).sum(2)
    return 1 / distance.clamp_min(EPS)


# ---- embeddings ------------------------------------------------------------------------------


def score_layer(network: nn.Module) -> nn.Module:
    """The layer that gives the scores: the last convolution or linear one.

    :raises Mismatch: for a network without one.
    """
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    if not layers:
        raise Mismatch("the learning part of the network has no convolution or linear layer", where="--model")
    return layers[-1]


def n_features(network: nn.Module) -> int:
    """How many features enter the score layer."""
    return int(next(score_layer(network).parameters()).shape[1])


def embed(network: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """What enters the score layer, averaged over a map, and the scores: [B, D] and [B, K]; with gradient."""
    caught: list[Tensor] = []
    handle = score_layer(network).register_forward_pre_hook(lambda _, given: caught.append(given[0]))
    try:
        scores = network(inputs)
    finally:
        handle.remove()
    features = caught[0]
    return features.flatten(2).mean(2) if features.ndim > 2 else features, scores


def features_of(network: nn.Module, inputs: Tensor, size: int = 256) -> Tensor:
    """Embeddings [B, D] in evaluation mode, without gradient."""
    was = network.training
    network.eval()
    with torch.no_grad():
        out = torch.cat([embed(network, part)[0] for part in inputs.split(size)])
    network.train(was)
    return out


# ---- exemplars in a memory -------------------------------------------------------------------


class Obedient(Protocol):
    """A policy that keeps what its learner chooses and drops what it drops."""

    def drop(self, slots: np.ndarray) -> None:
        """Free these slots."""


class ExemplarSets:
    """Chosen examples of each class, best first, kept in a memory whose policy obeys.

    :raises Mismatch: for a memory whose policy has its own way.
    """

    slots: dict[int, np.ndarray]  # class -> slots in the order of choice

    def __init__(self, training: Training[Remembering]) -> None:
        self.training, self.slots = training, {}
        policy = training.memory.policy
        if not hasattr(policy, "drop"):
            raise Mismatch(
                f"this learner chooses its examples itself, but the policy is {type(policy).__name__}",
                where="--replay",
                fix="--replay chosen+raw",
            )
        self.policy = cast("Obedient", policy)

    def __len__(self) -> int:
        return sum(map(len, self.slots.values()))

    def trim(self, rooms: Mapping[int, int]) -> None:
        """Keep the first of each class, as many as it has room for."""
        for c, slots in self.slots.items():
            self.policy.drop(slots[rooms[c] :])
            self.slots[c] = slots[: rooms[c]]

    def rooms(self, ctx: StreamContext) -> dict[int, int]:
        """How many examples each class seen may keep: equal shares of the memory.

        A memory smaller than the number of classes keeps one example of each class that came first, and says so.
        """
        capacity, order = self.training.memory.capacity, self.training.seen.order
        if share := capacity // len(order):
            return dict.fromkeys(order, share)
        ctx.note(f"a memory of {capacity} keeps one example of the first {capacity} of {len(order)} classes")
        return {c: int(at < capacity) for at, c in enumerate(order)}

    def equal_rooms(self) -> dict[int, int]:
        """Equal shares, none where the memory is smaller than the number of classes."""
        order = self.training.seen.order
        return dict.fromkeys(order, self.training.memory.capacity // len(order))

    def add(self, stage: Stage, c: int, rows: np.ndarray, inputs: Tensor) -> None:
        """Keep these samples of a class, best first; as many as there is room for."""
        slots = self.training.offer(stage, rows, inputs, np.full(len(rows), c))
        self.slots[c] = np.concatenate([self.slots.get(c, np.zeros(0, np.int64)), slots[slots >= 0]])

    def held(self) -> np.ndarray:
        """Slots of all exemplars, class after class."""
        return np.concatenate(list(self.slots.values()))

    def all(self, stage: Stage) -> tuple[Tensor, Tensor]:
        """Everything kept: inputs and labels."""
        return self.training.decoded(stage.train.spec, self.held())

    def draw(self, stage: Stage, n: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Up to n different ones."""
        return self.training.decoded(stage.train.spec, rng.permutation(self.held())[:n])

    def replace(self, stage: Stage, c: int, order: np.ndarray, rows: np.ndarray, inputs: Tensor) -> None:
        """Keep these of a class' candidates, in this order: its exemplars so far, then the new samples.

        :param order: candidate numbers; those below the number of exemplars so far are exemplars.
        :param rows: of the new samples, ``inputs`` as the learning part reads them.
        """
        held = self.slots.get(c, np.zeros(0, np.int64))
        old = order < len(held)
        self.policy.drop(np.setdiff1d(held, held[order[old]]))
        new = order[~old] - len(held)
        slots = np.full(len(order), -1, np.int64)
        slots[old] = held[order[old]]
        if len(new):
            index = torch.from_numpy(new).to(inputs.device)
            slots[~old] = self.training.offer(stage, rows[new], inputs[index], np.full(len(new), c))
        self.slots[c] = slots[slots >= 0]

    def candidates(self, stage: Stage, c: int, inputs: Tensor) -> Tensor:
        """A class' exemplars so far, then new samples of it, as the learning part reads them."""
        held = self.slots.get(c)
        if held is None or not len(held):
            return inputs
        return torch.cat([self.training.decoded(stage.train.spec, held, plain=True)[0], inputs])

    def whole(self, stage: Stage, batches: Batches) -> tuple[np.ndarray, Tensor, Tensor]:
        """Rows, inputs and labels of the whole stage."""
        rows, inputs, labels = (list(part) for part in zip(*self.training.in_order(batches, stage), strict=True))
        return np.concatenate(rows), torch.cat(inputs), torch.cat(labels)

    def herd(self, stage: Stage, batches: Batches, rooms: Mapping[int, int]) -> None:
        """Herd the exemplars of each class of the stage, from those it has and its new samples."""
        self.trim(rooms)
        rows, given, labels = self.whole(stage, batches)
        for c in self.training.seen.by_stage[stage.index]:
            mine = (labels == c).nonzero()[:, 0]
            if len(mine):
                features = features_of(self.training.upper, self.candidates(stage, c, given[mine]))
                order = herding(features, rooms[c]).numpy()
                self.replace(stage, c, order, rows[mine.cpu().numpy()], given[mine])

    def choose(self, stage: Stage, batches: Batches, rooms: Mapping[int, int], *, shipped: bool = False) -> None:
        """Herd exemplars of each class that has none yet."""
        training = self.training
        row, given, label = self.whole(stage, batches)
        for c in training.seen.by_stage[stage.index]:
            mine = (label == c).nonzero()[:, 0]
            if not len(mine) or c in self.slots:
                continue
            if shipped:
                with torch.no_grad():
                    order = herding_shipped(training.seen.scores(training.upper(given[mine])), rooms[c])
            else:
                order = herding(features_of(training.upper, given[mine]), rooms[c])
            chosen = mine[order.to(mine.device)]
            self.add(stage, c, row[chosen.cpu().numpy()], given[chosen])

    def prototypes(self, spec: Mapping[str, Field], *, normalised_first: bool = True) -> Tensor:
        """Unit-length mean of each seen class' exemplars, [classes seen, D]; NaN for classes without exemplars."""
        training = self.training
        means: list[Tensor | None] = []
        for c in training.seen.order:
            slots = self.slots.get(c)
            if slots is not None and len(slots):
                inputs, _ = training.decoded(spec, slots, plain=True)
                means.append(prototype(features_of(training.upper, inputs), normalised_first=normalised_first))
            else:
                means.append(None)
        some = next(mean for mean in means if mean is not None)
        return torch.stack([torch.full_like(some, torch.nan) if mean is None else mean for mean in means])

    def state(self) -> dict[str, Any]:
        """Slots of each class."""
        return {str(c): slots for c, slots in self.slots.items()}

    def load(self, tree: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        self.slots = {int(c): np.asarray(slots) for c, slots in tree.items()}
