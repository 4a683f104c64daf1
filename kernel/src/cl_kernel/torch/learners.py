"""The three learners every comparison needs: naive, experience replay, joint.

Shapes: n new examples, m remembered ones, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from attrs import define, field
from torch import Tensor, nn
from torch.nn import functional

from cl_kernel.contract.errors import Mismatch
from cl_kernel.contract.interfaces import Samples, Tree
from cl_kernel.contract.stream import Concatenation, Field, Stage, Subset
from cl_kernel.library.networks import Split, as_split
from cl_kernel.torch import evaluate, state
from cl_kernel.torch.device import resolve
from cl_kernel.torch.loaders import BadSample, Batches, as_tensor, input_name, label_name, to_input

if TYPE_CHECKING:
    from cl_kernel.library.torch_settings import Joint as JointSettings
    from cl_kernel.library.torch_settings import Naive as NaiveSettings
    from cl_kernel.library.torch_settings import Replay as ReplaySettings
    from cl_kernel.memory import Memory
    from cl_kernel.running.loop import StreamContext
    from cl_kernel.running.resources import Setup

FEATURES = "features"
"""Name of the memory field that holds what crosses the cut of a split network."""
CODEC_EXAMPLES = 4096
"""Examples of the first stage, at most, that train a codec."""


def build_naive(settings: NaiveSettings, setup: Setup) -> Replaying:
    """Learner ``naive``: plain training, nothing remembered."""
    network, device = build_network(setup)
    return Replaying(settings, network, make_optimizer(network, settings), None, device)


def build_er(settings: ReplaySettings, setup: Setup) -> Replaying:
    """Learner ``er``: each step trains on new and remembered examples.

    :raises Mismatch: without a memory.
    """
    network, device = build_network(setup)
    if setup.memory is None:
        raise Mismatch("learner 'er' needs a memory", where="--replay", fix="--replay reservoir --memory 200")
    memory = setup.memory(memory_fields(network, setup.stream.spec, device))
    return Replaying(settings, network, make_optimizer(network, settings), memory, device)


def build_joint(settings: JointSettings, setup: Setup) -> Joint:
    """Learner ``joint``: trains on everything seen so far, the upper bound."""
    network, device = build_network(setup)
    return Joint(settings, network, device, state.pack(network))


def build_network(setup: Setup) -> tuple[Split, torch.device]:
    """The network of a run on its device, its weights drawn from the run's seed.

    :raises Mismatch: when no model was chosen.
    """
    device = resolve(setup.resources.device)
    state.seed_torch(setup.resources.rng("torch"))
    network = setup.model(setup.stream.spec, setup.stream.n_classes)
    if network is None:
        raise Mismatch("this learner needs a network", where="--model", fix="--model mlp")
    return as_split(network).to(device), device


def make_optimizer(network: Split, settings: NaiveSettings) -> torch.optim.Optimizer:
    """The optimiser of the part that learns."""
    parameters = [p for p in network.upper.parameters() if p.requires_grad]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, settings.lr, settings.momentum, weight_decay=settings.weight_decay)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimizer]
    return kind(parameters, settings.lr, weight_decay=settings.weight_decay)


def memory_fields(network: Split, spec: Mapping[str, Field], device: torch.device) -> dict[str, Field]:
    """Fields of a remembered example: the sample's own, or what crosses the cut."""
    source, label = input_name(spec), label_name(spec)
    if not network.is_cut:
        return {source: spec[source], label: spec[label]}
    blank = torch.zeros((1, *_concrete(spec[source])), dtype=getattr(torch, spec[source].dtype), device=device)
    shape = tuple(network.features(to_input(blank, spec[source], device)).shape[1:])
    return {
        FEATURES: Field(shape=shape, dtype="float32", kind="map" if len(shape) == 3 else "vector"),
        label: spec[label],
    }


def _concrete(spec: Field) -> tuple[int, ...]:
    if None in spec.shape:
        raise Mismatch(f"images of varying size {spec.shape}", where="data set", fix="resize them in the data set")
    return tuple(int(axis) for axis in spec.shape if axis is not None)


@define(eq=False, repr=False)
class Rehearsal:
    """What a learner remembers: raw samples, or features at the cut of its network."""

    memory: Memory
    network: Split
    spec: Mapping[str, Field]
    device: torch.device
    source: str = field(init=False)
    label: str = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.source, self.label = input_name(self.spec), label_name(self.spec)

    def draw(self, n: int) -> tuple[Tensor, Tensor] | None:
        """Up to n remembered examples as the upper part reads them, with labels; None while there are none."""
        if n == 0 or len(self.memory) == 0:
            return None
        old = self.memory.sample(n)
        if self.network.is_cut:
            inputs = as_tensor(old[FEATURES], self.device).float()
        else:
            inputs = to_input(old[self.source], self.spec[self.source], self.device)
        return inputs, as_tensor(old[self.label], self.device).long()

    def prepare(self, samples: Samples, batches: Batches) -> None:
        """Train a codec that needs it (``trained`` False, ``fit(batch)``) on the first stage, before it is used."""
        codec = self.memory.codec
        if getattr(codec, "trained", True) or not hasattr(codec, "fit"):
            return
        rows = np.arange(len(samples))
        if len(rows) > CODEC_EXAMPLES:
            rows = rows[:: -(-len(rows) // CODEC_EXAMPLES)]
        if self.network.is_cut:
            features = torch.cat([inputs for _, inputs, _ in batches(rows, batches.chunk)])
            codec.fit({FEATURES: features, **samples.take(rows, [self.label])})
        else:
            codec.fit(samples.take(rows, [self.source, self.label]))

    def keep(self, samples: Samples, rows: np.ndarray, inputs: Tensor) -> None:
        """Offer new examples to the memory.

        :param rows: which samples. :param inputs: the same as the upper part reads them, [n, ...].
        """
        label = self.label
        if self.network.is_cut:
            labels = samples.take(rows, [label])[label]
            keeps_tensors = getattr(self.memory.codec, "framework", "numpy") == "torch"
            features = inputs if keeps_tensors else inputs.cpu().numpy()
            self.memory.add({FEATURES: features, label: labels}, labels)
        else:
            batch = samples.take(rows, [self.source, label])
            self.memory.add(batch, batch[label])


@define(eq=False, repr=False)
class Replaying:
    """Train on each stage, mixed with what is remembered; without a memory this is naive fine-tuning."""

    settings: Any  # Naive or Replay settings
    network: Split
    optimizer: torch.optim.Optimizer
    memory: Memory | None
    device: torch.device
    epoch: int = 0
    position: int = 0  # samples of this epoch's order already trained on
    _tests: TestCache = field(init=False, factory=lambda: TestCache())

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """One stage: epochs of steps on new and remembered examples, then the memory takes the new ones."""
        settings, samples = self.settings, stage.train
        batches = train_batches(self.network, samples, self.device, ctx)
        rehearsal = Rehearsal(self.memory, self.network, samples.spec, self.device) if self.memory is not None else None
        upper, optimizer = self.network.upper, self.optimizer
        if rehearsal:
            rehearsal.prepare(samples, batches)
        self.network.train()
        ctx.phase("train", settings.epochs * -(-len(samples) // settings.batch_size))

        while self.epoch < settings.epochs:
            order = ctx.rng("order", stage.index, self.epoch).permutation(len(samples))
            for rows, new, labels in batches(order, settings.batch_size, self.position):
                inputs, targets = new, labels
                old = rehearsal.draw(settings.replay_batch) if rehearsal else None
                if old is not None:
                    inputs, targets = torch.cat([new, old[0]]), torch.cat([labels, old[1]])
                loss = functional.cross_entropy(upper(inputs), targets)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if rehearsal and settings.update == "batch" and self.epoch == 0:
                    rehearsal.keep(samples, rows, new)
                self.position += settings.batch_size
                ctx.step(loss=loss.detach())
            self.epoch, self.position = self.epoch + 1, 0

        if rehearsal and settings.update == "stage":
            for rows, new, _ in batches(np.arange(len(samples)), settings.predict_batch):
                rehearsal.keep(samples, rows, new)
        self.epoch = self.position = 0

    def predict(self, samples: Samples) -> Iterator[dict[str, Any]]:
        """``scores`` float32 [n, K] (logits) and ``class`` int64 [n], batch by batch."""
        yield from self._tests.predict(self.network, samples, self.device, self.settings.predict_batch)

    def state(self) -> Tree:
        """Weights, optimiser, memory, generators and position in the stage."""
        return {
            "network": state.pack(self.network),
            "optimizer": state.pack(self.optimizer),
            "memory": self.memory.state() if self.memory is not None else None,
            "generators": state.pack_generators(),
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
        self.epoch, self.position = int(tree["epoch"]), int(tree["position"])


@define(eq=False, repr=False)
class Joint:
    """Train on all stages seen so far, by default from the initial weights each time."""

    settings: JointSettings
    network: Split
    device: torch.device
    initial: Tree
    optimizer: torch.optim.Optimizer = field(init=False)
    epoch: int = 0
    position: int = 0
    _tests: TestCache = field(init=False, factory=lambda: TestCache())

    def __attrs_post_init__(self) -> None:
        self.optimizer = make_optimizer(self.network, self.settings)

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """One stage: epochs over the samples of this and all earlier stages."""
        settings = self.settings
        samples = Concatenation([earlier.train for earlier in ctx.stages[: stage.index + 1]])
        batches = train_batches(self.network, samples, self.device, ctx)
        if settings.restart and self.epoch == self.position == 0:
            state.restore(self.network, self.initial)
            self.optimizer = make_optimizer(self.network, settings)
        self.network.train()
        ctx.phase("train", settings.epochs * -(-len(samples) // settings.batch_size))

        while self.epoch < settings.epochs:
            order = ctx.rng("order", stage.index, self.epoch).permutation(len(samples))
            for _, inputs, targets in batches(order, settings.batch_size, self.position):
                loss = functional.cross_entropy(self.network.upper(inputs), targets)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                self.position += settings.batch_size
                ctx.step(loss=loss.detach())
            self.epoch, self.position = self.epoch + 1, 0
        self.epoch = self.position = 0

    def predict(self, samples: Samples) -> Iterator[dict[str, Any]]:
        """``scores`` float32 [n, K] (logits) and ``class`` int64 [n], batch by batch."""
        yield from self._tests.predict(self.network, samples, self.device, self.settings.predict_batch)

    def state(self) -> Tree:
        """Weights, optimiser, generators and position in the stage."""
        return {
            "network": state.pack(self.network),
            "optimizer": state.pack(self.optimizer),
            "generators": state.pack_generators(),
            "epoch": self.epoch,
            "position": self.position,
        }

    def load(self, tree: Tree) -> None:
        """Take over what :meth:`state` gave."""
        state.restore(self.network, tree["network"])
        state.restore(self.optimizer, tree["optimizer"])
        state.restore_generators(tree["generators"])
        self.epoch, self.position = int(tree["epoch"]), int(tree["position"])


@define(eq=False, repr=False)
class TestCache:
    """Tensors of the test samples, made once and used after every stage."""

    __test__ = False
    _samples: Samples | None = None
    _batches: Batches | None = None

    def predict(
        self, network: Split, samples: Samples, device: torch.device, batch_size: int
    ) -> Iterator[dict[str, Any]]:
        """Predict, with the frozen part of the network computed once for samples that stay in memory."""
        if self._samples is None or not _same(self._samples, samples):
            self._samples = samples
            self._batches = Batches(samples, device, transform=frozen(network))
        yield from evaluate.predict(network.upper, self._batches, batch_size)


def _same(a: Samples, b: Samples) -> bool:
    """Whether two selections are of the same rows; the kernel makes a new one for every evaluation."""
    if isinstance(a, Subset) and isinstance(b, Subset):
        return a.base is b.base and np.array_equal(a.rows, b.rows)
    return a is b


def train_batches(network: Split, samples: Samples, device: torch.device, ctx: StreamContext) -> Batches:
    """Batches of a stage as the learning part reads them; unreadable samples follow ``--on-bad-sample``."""
    on_bad: BadSample = ctx.bad_sample
    return Batches(samples, device, transform=frozen(network), on_bad=on_bad, n_workers=max(1, ctx.resources.n_workers))


def frozen(network: Split) -> Callable[[Tensor], Tensor] | None:
    """The frozen part of a network, or None."""
    return network.features if network.is_cut else None


def count_parameters(network: nn.Module) -> int:
    """Parameters that learn."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)
