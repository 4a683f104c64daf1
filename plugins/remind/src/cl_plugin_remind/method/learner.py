"""The learner ``remind``: base initialisation on the first stage, then one example at a time.

Shapes: n a loader batch, C channels, H W side, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import define, field

from cl_kernel import Memory, Mismatch, Samples, Setup, Stage, StreamContext, Tree
from cl_kernel.torch import evaluate, state
from cl_kernel.torch.loaders import Batches
from cl_plugin_remind.method import published_files
from cl_plugin_remind.method.augment import Drawn
from cl_plugin_remind.method.base_init import BaseInit, build_brain
from cl_plugin_remind.method.codec import PqCodec
from cl_plugin_remind.method.parts import Brain, TestCodes, item_numbers, remember, stage_batches, through
from cl_plugin_remind.method.step import FEATURES, ITEM, LABEL, Streamer, make_optimizer, make_rates
from cl_plugin_remind.settings import Streaming
from cl_plugin_remind.weights import buffers, checkpoints


def build(settings: Streaming, setup: Setup) -> Remind:
    """The streaming learner; without a memory it keeps and quantises nothing (fine-tuning).

    :raises Mismatch: without a network.
    """
    brain = build_brain(setup)
    memory = setup.memory(brain.memory_fields(setup.stream.spec)) if setup.memory and settings.buffer else None
    return Remind(settings, setup, brain, memory)


@define(eq=False, repr=False)
class Remind:
    """Stage 0: base network, quantiser, memory filled with all its codes. Later stages: one example a step."""

    settings: Streaming
    parts: Setup
    brain: Brain
    memory: Memory | None
    ready: bool = field(init=False, default=False)  # base initialisation is complete
    position: int = field(init=False, default=0)  # samples of this stage already streamed
    chance: Drawn = field(init=False)
    streamer: Streamer = field(init=False)
    base: BaseInit = field(init=False)
    results: published_files.AuthorsFiles = field(init=False, factory=lambda: published_files.AuthorsFiles())
    _tests: TestCodes | None = field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        resources = self.parts.resources
        self.chance = Drawn(resources.rng("chance"))
        self.base = BaseInit(self.settings, self.brain, self.parts)
        self._start_streaming()

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """Base initialisation, or the stream of one stage."""
        if not self.ready:
            self.base.learn(stage, ctx)
            self._initialise(stage, ctx)
            self.ready = True
        if stage.index > 0 or self.settings.stream_base:
            self._stream(stage, ctx)
        self.position = 0
        if self.settings.authors_files:
            self.results.write(stage, ctx, self)

    def predict(self, samples: Samples) -> Iterator[dict[str, Any]]:
        """``scores`` float32 [n, K] (probabilities over all classes) and ``class`` int64 [n]."""
        if not self.ready:
            yield from evaluate.predict(self.brain.whole, Batches(samples, self.brain.device), self.settings.batch_size)
            return
        if self._tests is None:
            self._tests = TestCodes(
                self.brain, self.memory, self.settings.batch_size, max(1, self.parts.resources.n_workers)
            )
        self.brain.upper.eval()
        for features in self._tests.batches(samples):
            with torch.inference_mode():
                scores = self.brain.upper(features).softmax(1)
                yield {"scores": scores.cpu().numpy(), "class": scores.argmax(1).cpu().numpy()}

    def state(self) -> Tree:
        """Network, optimiser, class counts, memory with its quantiser, generators, position."""
        return {
            "network": state.pack(self.brain.whole),
            "ready": self.ready,
            "base": None if self.ready else self.base.state(),
            "optimizer": state.pack(self.streamer.optimizer),
            "seen": {str(label): count for label, count in self.streamer.rates.seen.items()},
            "memory": self.memory.state() if self.memory is not None else None,
            "chance": state.pack(self.chance.rng),
            "generators": state.pack_generators(),
            "results": self.results.state(),
            "position": self.position,
        }

    def load(self, tree: Tree) -> None:
        """Take over what :meth:`state` gave."""
        state.restore(self.brain.whole, tree["network"])
        self.ready, self.position = bool(tree["ready"]), int(tree["position"])
        if not self.ready:
            self.base.load(tree["base"])
        state.restore(self.streamer.optimizer, tree["optimizer"])
        self.streamer.forget_recordings()
        self.streamer.rates.seen = {int(label): int(count) for label, count in tree["seen"].items()}
        if self.memory is not None:
            self.memory.load(tree["memory"])
        state.restore(self.chance.rng, tree["chance"])
        state.restore_generators(tree["generators"])
        self.results.load(tree["results"])

    # ---- stages -----------------------------------------------------------------------------------

    def _initialise(self, stage: Stage, ctx: StreamContext) -> None:
        """Train the quantiser on base features and put all base examples into the memory, in their order."""
        self.brain.freeze(upper_trains=False)
        self._tests = None
        if self.settings.start_from:
            self._adopt(Path(self.settings.start_from).expanduser())
            return
        if self.memory is None:
            return
        remember(self.brain, self.memory, stage, ctx, self.settings.batch_size)

    def _adopt(self, folder: Path) -> None:
        """Go on from an imported buffer and classifier.

        :raises Mismatch: when the run keeps no codes of the same form.
        """
        codes, labels, items, centroids = buffers.read_start(folder)
        if self.memory is None or not isinstance(self.memory.codec, PqCodec):
            raise Mismatch(
                "an imported buffer holds codes, this run keeps none",
                where="learner.start_from",
                fix="--replay largest-class+remind:pq --memory all",
            )
        self.memory.codec.use(FEATURES, centroids)
        self.memory.add({FEATURES: torch.from_numpy(codes), LABEL: labels, ITEM: items}, labels)
        momentum = checkpoints.load_upper(self.brain.upper, folder / "classifier.pth")
        if momentum:
            checkpoints.adopt_momentum(self.streamer.optimizer, momentum, str(folder / "classifier.pth"))

    def _stream(self, stage: Stage, ctx: StreamContext) -> None:
        """One pass, one example at a time, in the order of the stage."""
        settings, streamer, size = self.settings, self.streamer, self.settings.batch_size
        self.brain.freeze(upper_trains=settings.norm == "train")
        batches = stage_batches(self.brain, stage, ctx)
        ctx.phase("stream", len(stage.train) - self.position)
        first = self.position // size
        for number, (rows, features, labels) in enumerate(
            batches(np.arange(len(stage.train)), size, first * size), first
        ):
            stored, decoded = through(self.memory, features)
            items = item_numbers(ctx.stream, stage, rows).tolist()
            for k, (label, item) in enumerate(zip(labels.tolist(), items, strict=True)):
                if number * size + k < self.position:
                    continue
                loss = streamer.step(decoded[k : k + 1], label)
                streamer.keep(stored[k : k + 1], label, item)
                self.position = (number + 1) * size if k == len(rows) - 1 else number * size + k + 1
                ctx.step(loss=loss)

    def _start_streaming(self) -> None:
        upper = self.brain.upper.requires_grad_(True)
        self.streamer = Streamer(
            self.settings,
            upper,
            make_optimizer(upper, self.settings),
            make_rates(self.settings),
            self.memory,
            self.chance,
            self.brain.device,
        )
