"""Experience replay: each step also sees remembered examples.

``L = mean cross-entropy of a batch of n new and m remembered examples``; what is remembered is the memory policy's
choice. Source: Chaudhry et al. 2019, On Tiny Episodic Memories, https://arxiv.org/abs/1902.10486.

Shapes: n new examples, m remembered ones, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from attrs import define, field, frozen, validators

from cl_kernel.contract.errors import Mismatch
from cl_kernel.contract.offers import doc
from cl_kernel.methods.base import Optimiser, grown_state, heads, make_optimizer, not_negative
from cl_kernel.methods.lazy import F, torch
from cl_kernel.methods.seen_classes import among, check_tasks

if TYPE_CHECKING:
    from torch import Tensor

    from cl_kernel.contract.interfaces import Samples, Tree
    from cl_kernel.contract.stream import Field, Stage
    from cl_kernel.memory import Memory
    from cl_kernel.running.loop import StreamContext
    from cl_kernel.running.resources import Setup
    from cl_kernel.torch.loaders import Batches
    from cl_kernel.torch.split import Split, TestCache

CODEC_EXAMPLES = 4096
"""Examples of the first stage, at most, that train a codec."""


@frozen(kw_only=True)
class Settings(Optimiser):
    """Experience replay: each step also sees remembered examples."""

    ONE_PASS: ClassVar[Mapping[str, Any]] = {"epochs": 1, "update": "batch"}

    replay_batch: int = field(default=32, validator=not_negative, metadata=doc("remembered examples a step"))
    update: str = field(
        default="stage",
        validator=validators.in_(("stage", "batch")),
        metadata=doc("when the memory takes new examples: after a stage, or after every batch"),
    )
    heads: str = heads()


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
        from cl_kernel.torch.loaders import input_name, label_name

        self.source, self.label = input_name(self.spec), label_name(self.spec)

    def draw(self, n: int) -> tuple[Tensor, Tensor] | None:
        """Up to n remembered examples as the upper part reads them, with labels; None while there are none."""
        from cl_kernel.torch.loaders import as_tensor, to_input
        from cl_kernel.torch.split import FEATURES

        if n == 0 or len(self.memory) == 0:
            return None
        old = self.memory.sample(n)
        if self.network.is_cut:
            inputs = as_tensor(old[FEATURES], self.device).float()
        else:
            inputs = to_input(old[self.source], self.spec[self.source], self.device)
            inputs = inputs if self.network.view is None else self.network.view(inputs)
        return inputs, as_tensor(old[self.label], self.device).long()

    def prepare(self, samples: Samples, batches: Batches) -> None:
        """Train a codec that needs it (``trained`` False, ``fit(batch)``) on the first stage, before it is used."""
        from cl_kernel.torch.split import FEATURES

        codec: Any = self.memory.codec
        if getattr(codec, "trained", True) or not hasattr(codec, "fit"):
            return
        rows = np.arange(len(samples))
        if len(rows) > CODEC_EXAMPLES:
            rows = rows[:: -(-len(rows) // CODEC_EXAMPLES)]
        if self.network.is_cut:
            features = torch.cat([inputs for _, inputs, _ in batches.plain()(rows, batches.chunk)])
            codec.fit({FEATURES: features, **samples.take(rows, [self.label])})
        else:
            codec.fit(samples.take(rows, [self.source, self.label]))

    def keep(self, samples: Samples, rows: np.ndarray, inputs: Tensor) -> None:
        """Offer new examples to the memory.

        :param rows: which samples. :param inputs: the same as the upper part reads them, [n, ...].
        """
        from cl_kernel.torch.split import FEATURES

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

    augments: ClassVar[bool] = True

    settings: Optimiser
    network: Split
    optimizer: torch.optim.Optimizer
    memory: Memory | None
    device: torch.device
    epoch: int = 0
    position: int = 0  # samples of this epoch's order already trained on
    _tests: TestCache = field(init=False)

    def __attrs_post_init__(self) -> None:
        from cl_kernel.torch.split import TestCache

        self._tests = TestCache()

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """One stage: epochs of steps on new and remembered examples, then the memory takes the new ones."""
        from cl_kernel.torch.split import train_batches

        settings, samples = self.settings, stage.train
        n_replayed, update = (
            (settings.replay_batch, settings.update) if isinstance(settings, Settings) else (0, "stage")
        )
        batches = train_batches(self.network, samples, self.device, ctx)
        by_task = getattr(settings, "heads", "one") == "task"
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
                old = rehearsal.draw(n_replayed) if rehearsal else None
                if old is not None:
                    inputs, targets = torch.cat([new, old[0]]), torch.cat([labels, old[1]])
                scores = upper(inputs)
                if by_task:
                    scores = among(scores, targets, self.tasks(ctx, scores.shape[1]))
                loss = F.cross_entropy(scores, targets)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if rehearsal and update == "batch" and self.epoch == 0:
                    rehearsal.keep(samples, rows, new)
                self.position += settings.batch_size
                ctx.step(loss=loss.detach())
            self.epoch, self.position = self.epoch + 1, 0

        if rehearsal and update == "stage":
            for rows, new, _ in batches.plain()(np.arange(len(samples)), settings.predict_batch):
                rehearsal.keep(samples, rows, new)
        self.epoch = self.position = 0

    def tasks(self, ctx: StreamContext, n_scores: int) -> list[int]:
        """The task of each class; -1 for classes that no stage brings."""
        task = {c: stage.index for stage in ctx.stages for c in stage.classes}
        return [task.get(c, -1) for c in range(n_scores)]

    def predict(self, samples: Samples) -> Iterator[dict[str, Any]]:
        """``scores`` float32 [n, K] (logits) and ``class`` int64 [n], batch by batch."""
        yield from self._tests.predict(self.network, samples, self.device, self.settings.predict_batch)

    def holds(self) -> dict[str, int]:
        """Nothing beyond the network and the memory."""
        return {}

    def state(self) -> Tree:
        """Weights, optimiser, memory, generators and position in the stage."""
        from cl_kernel.torch import state

        return {
            "network": state.pack(self.network),
            "optimizer": state.pack(self.optimizer),
            "memory": self.memory.state() if self.memory is not None else None,
            "generators": state.pack_generators(),
            "epoch": self.epoch,
            "position": self.position,
        }

    def grow(self, tree: Tree) -> Tree:
        """The state of a learner of fewer classes, for :meth:`load`."""
        return grown_state(tree, self.state(), self.optimizer)

    def load(self, tree: Tree) -> None:
        """Go on from what :meth:`state` gave."""
        from cl_kernel.torch import state

        state.restore(self.network, tree["network"])
        state.restore(self.optimizer, tree["optimizer"])
        if self.memory is not None:
            self.memory.load(tree["memory"])
        state.restore_generators(tree["generators"])
        self.epoch, self.position = int(tree["epoch"]), int(tree["position"])


def build(settings: Settings, setup: Setup) -> Replaying:
    """Learner ``er``.

    :raises Mismatch: without a memory.
    """
    from cl_kernel.torch.split import build_network, memory_fields

    if settings.heads == "task":
        check_tasks(setup.stream.stages)
    network, device = build_network(setup)
    if setup.memory is None:
        raise Mismatch("learner 'er' needs a memory", where="--replay", fix="--replay reservoir --memory 200")
    memory = setup.memory(memory_fields(network, setup.stream.spec, device))
    return Replaying(settings, network, make_optimizer(network.upper, settings), memory, device)
