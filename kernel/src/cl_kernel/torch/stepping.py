"""What the baselines of CRUMB's framework share: epochs in the stream's order, classes seen so far, state.

A learner holds a :class:`Stand` and writes its own loop over ``stand.epochs(...)``; nothing calls back into it.

Shapes: B batch, K classes of the stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from attrs import define, field
from torch import Tensor, nn

from cl_kernel.contract.errors import Mismatch
from cl_kernel.contract.interfaces import Samples, Tree
from cl_kernel.contract.stream import Field, Stage
from cl_kernel.library.networks import Split
from cl_kernel.torch import evaluate, state
from cl_kernel.torch.classes import SeenClasses
from cl_kernel.torch.learners import FEATURES, TestCache, build_network, frozen, memory_fields, train_batches
from cl_kernel.torch.loaders import Batches, as_tensor, input_name, label_name, to_input

if TYPE_CHECKING:
    from cl_kernel.memory import Memory
    from cl_kernel.running.loop import StreamContext
    from cl_kernel.running.resources import Setup


def sgd(network: nn.Module, settings: Any, *, nesterov: bool = False) -> torch.optim.Optimizer:
    """SGD on everything that learns, as the settings say."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    return torch.optim.SGD(
        parameters, settings.lr, settings.momentum, weight_decay=settings.weight_decay, nesterov=nesterov
    )


def build_stand(settings: Any, setup: Setup, *, remembers: bool = False) -> Stand:
    """Network, optimiser and, if asked for, a memory of raw samples or of what crosses the cut.

    With ``settings.keep`` "sample" the memory keeps the samples themselves even when the network is cut.

    :raises Mismatch: without a network, or without the memory the learner needs.
    """
    network, device = build_network(setup)
    raw = getattr(settings, "keep", "features") == "sample"
    memory = None
    if remembers:
        spec = setup.stream.spec
        fields = (
            {name: spec[name] for name in (input_name(spec), label_name(spec))}
            if raw
            else memory_fields(network, spec, device)
        )
        memory = setup.memory(fields) if setup.memory is not None else None
        if memory is None:
            raise Mismatch("this learner needs a memory", where="--replay", fix="--replay class-balanced --memory 200")
    return Stand(
        settings, network, sgd(network.upper, settings), device, memory, setup.stream.n_classes, keeps_features=not raw
    )


@define(eq=False)
class Stand:
    """Network, optimiser, memory and position; what every baseline's state consists of."""

    settings: Any
    network: Split
    optimizer: torch.optim.Optimizer
    device: torch.device
    memory: Memory | None
    n_classes: int
    keeps_features: bool = True
    seen: SeenClasses = field(factory=SeenClasses)
    epoch: int = 0
    position: int = 0
    _tests: TestCache = field(init=False, factory=TestCache)

    @property
    def upper(self) -> nn.Module:
        """The part that learns."""
        return self.network.upper

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Parameters that learn."""
        return [p for p in self.network.upper.parameters() if p.requires_grad]

    def begin(self, stage: Stage, ctx: StreamContext) -> Batches:
        """Count the stage's classes; batches of it as the learning part reads them."""
        self.seen.extend(stage, label_name(stage.train.spec))
        self.network.train()
        n_epochs = self.n_epochs(stage)
        ctx.phase("train", n_epochs * -(-len(stage.train) // self.settings.batch_size))
        return train_batches(self.network, stage.train, self.device, ctx)

    def n_epochs(self, stage: Stage) -> int:
        """Passes over a stage."""
        return self.settings.first_epochs if stage.index == 0 else self.settings.epochs

    def epochs(self, stage: Stage) -> Iterator[int]:
        """Numbers of the epochs still to do, from where the state stands."""
        while self.epoch < self.n_epochs(stage):
            yield self.epoch
            self.epoch, self.position = self.epoch + 1, 0
        self.epoch = 0

    def steps(
        self, batches: Batches, stage: Stage, ctx: StreamContext, epoch: int
    ) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
        """Rows, inputs and labels of each batch of an epoch; the stream's order unless ``shuffle`` is set."""
        n = len(stage.train)
        order = ctx.rng("order", stage.index, epoch).permutation(n) if self.settings.shuffle else np.arange(n)
        yield from batches(order, self.settings.batch_size, self.position)

    def stepped(self, ctx: StreamContext, **values: Any) -> None:
        """A step is done and everything is consistent."""
        self.position += self.settings.batch_size
        ctx.step(**values)

    def in_order(self, batches: Batches, stage: Stage) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
        """The stage once more, in order."""
        yield from batches(np.arange(len(stage.train)), self.settings.batch_size)

    def decoded(self, stage: Stage, slots: np.ndarray) -> tuple[Tensor, Tensor]:
        """Remembered examples of these slots as the learning part reads them, and their labels."""
        return self.decoded_as(stage.train.spec, slots)

    def decoded_as(self, spec: Mapping[str, Field], slots: np.ndarray) -> tuple[Tensor, Tensor]:
        """The same, for the fields of some samples."""
        old = self.memory.take(slots)
        label = as_tensor(old[label_name(spec)], self.device).long()
        if FEATURES in old:
            return as_tensor(old[FEATURES], self.device).float(), label
        inputs = to_input(old[input_name(spec)], spec[input_name(spec)], self.device)
        return self.network.features(inputs) if self.network.is_cut else inputs, label

    def offer(self, stage: Stage, rows: np.ndarray, inputs: Tensor, groups: np.ndarray) -> np.ndarray:
        """Offer examples to the memory; ``inputs`` as the learning part reads them.

        :return: slot of each, -1 where it was not kept.
        """
        spec = stage.train.spec
        source, label = input_name(spec), label_name(spec)
        if self.network.is_cut and self.keeps_features:
            labels = stage.train.take(rows, [label])[label]
            return self.memory.add({FEATURES: inputs.detach().cpu().numpy(), label: labels}, groups)
        return self.memory.add(stage.train.take(rows, [source, label]), groups)

    def remember(self, stage: Stage, batches: Batches, ctx: StreamContext, group: int | None = None) -> None:
        """Offer the whole stage to the memory, in random order, grouped by class or all as one group."""
        order = ctx.rng("remember", stage.index).permutation(len(stage.train))
        self.network.eval()
        for rows, inputs, labels in batches(order, self.settings.predict_batch):
            groups = labels.cpu().numpy() if group is None else np.full(len(rows), group)
            self.offer(stage, rows, inputs, groups)
        self.network.train()

    def predict(self, samples: Samples) -> Iterator[dict[str, Any]]:
        """``scores`` float32 [n, K], classes not seen yet at minus infinity, and ``class`` int64 [n]."""
        for out in self._tests.predict(self.network, samples, self.device, self.settings.predict_batch):
            scores = self.seen.by_label(torch.from_numpy(out["scores"])).numpy()
            yield {"scores": scores, "class": scores.argmax(1)}

    def predict_with(self, samples: Samples, score: Any) -> Iterator[dict[str, Any]]:
        """The same with an own way to scores: ``score(inputs) -> [n, len(seen)]``."""
        batches = Batches(samples, self.device, transform=frozen(self.network))

        def full(inputs: Tensor) -> Tensor:
            scores = score(inputs)
            padded = scores.new_full((len(scores), self.n_classes), -torch.inf)
            padded[:, self.seen.order] = scores
            return padded

        training = self.network.training
        self.network.eval()
        yield from evaluate.predict(full, batches, self.settings.predict_batch)
        self.network.train(training)

    def state(self) -> Tree:
        """Weights, optimiser, memory, generators, classes seen, position."""
        return {
            "network": state.pack(self.network),
            "optimizer": state.pack(self.optimizer),
            "memory": None if self.memory is None else self.memory.state(),
            "generators": state.pack_generators(),
            "seen": self.seen.state(),
            "epoch": self.epoch,
            "position": self.position,
        }

    def load(self, tree: Tree) -> None:
        """Take over what :meth:`state` gave."""
        state.restore(self.network, tree["network"])
        state.restore(self.optimizer, tree["optimizer"])
        if self.memory is not None:
            self.memory.load(tree["memory"])
        state.restore_generators(tree["generators"])
        self.seen.load(tree["seen"])
        self.epoch, self.position = int(tree["epoch"]), int(tree["position"])
