"""Exemplars and prototypes: iCaRL's herding and nearest mean, distillation losses, CoPE's prototypes.

Shapes: N candidates, D feature length, B batch, K classes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from attrs import define, field
from torch import Tensor, nn
from torch.nn import functional as F

from cl_kernel.contract.errors import Mismatch
from cl_kernel.contract.interfaces import Samples, Tree
from cl_kernel.contract.stream import Stage
from cl_kernel.torch.loaders import Batches
from cl_kernel.torch.state import pack, restore
from cl_kernel.torch.stepping import Stand, build_stand

if TYPE_CHECKING:
    from cl_kernel.running.loop import StreamContext
    from cl_kernel.running.resources import Setup

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
    candidates may repeat, so the memory usually holds copies of one image (Q6).
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
    """Unit-length mean of exemplars [n, D]; as shipped the exemplars themselves are not normalised (Q6)."""
    if normalised_first:
        features = F.normalize(features, dim=1)
    return F.normalize(features.mean(0), dim=0)


def nearest_mean_scores(queries: Tensor, prototypes: Tensor) -> Tensor:
    """``1 / squared distance`` of unit-length queries [B, D] to prototypes [K, D]: [B, K]."""
    distance = ((F.normalize(queries, dim=1)[:, None] - prototypes[None]) ** 2).sum(2)
    return 1 / distance.clamp_min(EPS)


def sigmoid_distillation(scores: Tensor, old_scores: Tensor) -> Tensor:
    """Binary cross-entropy of sigmoids to the old network's sigmoids, mean over batch and columns."""
    return F.binary_cross_entropy_with_logits(scores, torch.sigmoid(old_scores))


def lwf_loss(scores: Tensor, labels: Tensor, old_scores: Tensor | None) -> Tensor:
    """LwF of spec 2.11: one-hot targets whose old columns are the old network's sigmoids.

    :param scores: [B, K]; ``old_scores``: [B, k] of the network before this task, None in the first.
    """
    target = F.one_hot(labels, scores.shape[1]).to(scores.dtype)
    if old_scores is not None and old_scores.shape[1]:
        target[:, : old_scores.shape[1]] = torch.sigmoid(old_scores)
    return F.binary_cross_entropy_with_logits(scores, target)


def ppp_loss(embeddings: Tensor, labels: Tensor, prototypes: Tensor, temperature: float = 1.0) -> Tensor:
    """CoPE's pseudo-prototypical proxy loss: draw each example to its class, push all others away from it.

    Batch mates stand in for the prototype. An example is drawn to the mean, over the prototype and its mates
    (detached), of the probability of its class; examples of other classes are pushed off the mean of the prototype's
    and each single mate's probability (eqs. 4 to 6 of De Lange and Tuytelaars, 2021).

    :param embeddings: unit length, [B, D]; ``prototypes``: row c is class c's, [K, D].
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


# ---- networks --------------------------------------------------------------------------------


def score_layer(network: nn.Module) -> nn.Module:
    """The layer that gives the scores: the last convolution or linear one.

    :raises Mismatch: for a network without one.
    """
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    if not layers:
        raise Mismatch("the learning part of the network has no convolution or linear layer", where="--model")
    return layers[-1]


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


@define(eq=False)
class ExemplarSets:
    """Chosen examples of each class, best first, kept in a memory whose policy obeys (``crumb:chosen``).

    :param slots: class -> slots in the order of choice.
    """

    stand: Stand
    slots: dict[int, np.ndarray] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        if not hasattr(self.stand.memory.policy, "drop"):
            raise Mismatch(
                f"this learner chooses its examples itself, but the policy is "
                f"{type(self.stand.memory.policy).__name__}",
                where="--replay",
                fix="--replay crumb:chosen+raw",
            )

    def __len__(self) -> int:
        return sum(map(len, self.slots.values()))

    def trim(self, n: int) -> None:
        """Keep the first n of each class."""
        for c, slots in self.slots.items():
            self.stand.memory.policy.drop(slots[n:])
            self.slots[c] = slots[:n]

    def add(self, stage: Stage, c: int, rows: np.ndarray, inputs: Tensor) -> None:
        """Keep these samples of a class, best first; as many as there is room for."""
        slots = self.stand.offer(stage, rows, inputs, np.full(len(rows), c))
        self.slots[c] = np.concatenate([self.slots.get(c, np.zeros(0, np.int64)), slots[slots >= 0]])

    def all(self, stage: Stage) -> tuple[Tensor, Tensor]:
        """Everything kept: inputs and labels."""
        return self.stand.decoded(stage, np.concatenate(list(self.slots.values())))

    def draw(self, stage: Stage, n: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Up to n different ones."""
        return self.stand.decoded(stage, rng.permutation(np.concatenate(list(self.slots.values())))[:n])

    def choose(self, stage: Stage, batches: Batches, n: int, *, shipped: bool = False) -> None:
        """Herd n exemplars of each class the stage brings."""
        stand = self.stand
        rows, inputs, labels = (list(part) for part in zip(*stand.in_order(batches, stage), strict=True))
        row, given, label = np.concatenate(rows), torch.cat(inputs), torch.cat(labels)
        for c in stand.seen.by_stage[stage.index]:
            mine = (label == c).nonzero()[:, 0]
            if not len(mine) or c in self.slots:
                continue
            if shipped:
                with torch.no_grad():
                    order = herding_shipped(stand.seen.scores(stand.upper(given[mine])), n)
            else:
                order = herding(features_of(stand.upper, given[mine]), n)
            chosen = mine[order.to(mine.device)]
            self.add(stage, c, row[chosen.cpu().numpy()], given[chosen])

    def state(self) -> dict[str, Any]:
        """Slots of each class."""
        return {str(c): slots for c, slots in self.slots.items()}

    def load(self, tree: Mapping[str, Any]) -> None:
        """Take over what :meth:`state` gave."""
        self.slots = {int(c): np.asarray(slots) for c, slots in tree.items()}


# ---- iCaRL -----------------------------------------------------------------------------------


def build_icarl(settings: Any, setup: Setup) -> Icarl:
    """ICaRL."""
    return Icarl(build_stand(settings, setup, remembers=True), setup.resources.rng("icarl"), shipped=False)


def build_icarl_shipped(settings: Any, setup: Setup) -> Icarl:
    """ICaRL as CRUMB's repository has it (Q6); a memory is not overrun, unlike there."""
    return Icarl(build_stand(settings, setup, remembers=True), setup.resources.rng("icarl"), shipped=True)


@define(eq=False)
class Icarl:
    """Herded exemplars, distillation of the network before the task on them, nearest mean of exemplars to predict."""

    stand: Stand
    rng: np.random.Generator
    shipped: bool
    sets: ExemplarSets = field(init=False)
    old: nn.Module | None = None

    def __attrs_post_init__(self) -> None:
        self.sets = ExemplarSets(self.stand)

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """One task: a step on new examples, then one on exemplars against the old scores; then new exemplars."""
        stand = self.stand
        batches = stand.begin(stage, ctx)
        if stand.epoch == stand.position == 0 and stage.index:
            self.old = copy.deepcopy(stand.upper).eval().requires_grad_(False)
        n_old = len(stand.seen) - len(stand.seen.by_stage[stage.index])
        for epoch in stand.epochs(stage):
            for _, inputs, labels in stand.steps(batches, stage, ctx, epoch):
                loss = stand.seen.cross_entropy(stand.upper(inputs), labels)
                self._step(loss)
                if self.old is not None and len(self.sets):
                    kept, _ = self.sets.draw(stage, stand.settings.batch_size, self.rng)
                    with torch.no_grad():
                        target = self.old(kept)
                    n = len(stand.seen) if self.shipped else n_old
                    self._step(sigmoid_distillation(stand.upper(kept)[:, :n], target[:, :n]))
                stand.stepped(ctx, loss=loss.detach())
        share = stand.memory.capacity // len(stand.seen)
        if not self.shipped:
            self.sets.trim(share)
        self.sets.choose(stage, batches, share, shipped=self.shipped)

    def _step(self, loss: Tensor) -> None:
        self.stand.optimizer.zero_grad()
        loss.backward()
        self.stand.optimizer.step()

    def predict(self, samples: Samples) -> Iterator[dict[str, Any]]:
        """Nearest mean of exemplars; classes without exemplars score lowest."""
        stand = self.stand
        if not len(self.sets):
            yield from stand.predict(samples)
            return
        means = prototypes_of(stand, self.sets, samples.spec, normalised_first=not self.shipped)

        def score(inputs: Tensor) -> Tensor:
            return nearest_mean_scores(embed(stand.upper, inputs)[0], means).nan_to_num(-1.0)

        yield from stand.predict_with(samples, score)

    def state(self) -> Tree:
        """Network, memory, exemplar order, generator; the old network while a task is under way."""
        return {
            **self.stand.state(),
            "sets": self.sets.state(),
            "rng": pack(self.rng),
            "old": None if self.old is None else pack(self.old),
        }

    def load(self, tree: Tree) -> None:
        """Take over what :meth:`state` gave."""
        self.stand.load(tree)
        self.sets.load(tree["sets"])
        restore(self.rng, tree["rng"])
        self.old = None
        if tree["old"] is not None:
            self.old = copy.deepcopy(self.stand.upper).eval().requires_grad_(False)
            restore(self.old, tree["old"])


def prototypes_of(
    stand: Stand, sets: ExemplarSets, spec: Mapping[str, Any], *, normalised_first: bool = True
) -> Tensor:
    """Unit-length mean of each seen class' exemplars, [len(seen), D]; rows of classes without exemplars are NaN."""
    means: list[Tensor | None] = []
    for c in stand.seen.order:
        slots = sets.slots.get(c, ())
        if len(slots):
            inputs, _ = stand.decoded_as(spec, slots)
            means.append(prototype(features_of(stand.upper, inputs), normalised_first=normalised_first))
        else:
            means.append(None)
    some = next(mean for mean in means if mean is not None)
    return torch.stack([torch.full_like(some, torch.nan) if mean is None else mean for mean in means])
