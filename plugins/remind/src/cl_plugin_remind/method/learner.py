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
from torch import Tensor

from cl_kernel import Memory, Mismatch, Samples, Setup, Stage, StreamContext, Tree
from cl_kernel.torch import evaluate, state
from cl_kernel.torch.loaders import Batches
from cl_plugin_remind.method import published_files
from cl_plugin_remind.method.augment import Drawn
from cl_plugin_remind.method.base_init import BaseInit, build_brain
from cl_plugin_remind.method.codec import PqCodec
from cl_plugin_remind.method.codes import Codes
from cl_plugin_remind.method.imported import Imported
from cl_plugin_remind.method.parts import Brain, item_numbers, stage_batches, through
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
    codes: Codes = field(init=False)
    imported: Imported | None = field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        resources = self.parts.resources
        self.chance = Drawn(resources.rng("chance"))
        self.base = BaseInit(self.settings, self.brain, self.parts)
        self.codes = Codes(self.brain, self.memory, resources, self.settings.batch_size)
        if self.settings.start_from:
            buffers.check_start(Path(self.settings.start_from).expanduser())
        self._start_streaming()

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """Base initialisation, or the stream of one stage."""
        if not self.ready:
            self.base.learn(stage, ctx)
            self._initialise(stage, ctx)
            self.ready = True
        known = self.imported is not None and self.imported.holds(stage)
        if not known and (stage.index > 0 or self.settings.stream_base):
            self._stream(stage, ctx)
        self.position = 0
        if self.settings.authors_files:
            self.results.write(stage, ctx, self)

    def predict(self, samples: Samples) -> Iterator[dict[str, Any]]:
        """``scores`` float32 [n, K] (probabilities over all classes) and ``class`` int64 [n]."""
        if not self.ready:
            yield from evaluate.predict(self.brain.whole, Batches(samples, self.brain.device), self.settings.batch_size)
            return
        self.brain.upper.eval()
        for features in self.codes.tests(samples):
            with torch.inference_mode():
                scores = self.brain.upper(features).softmax(1)
                yield {"scores": scores.cpu().numpy(), "class": scores.argmax(1).cpu().numpy()}

    def state(self) -> Tree:
        """Network, optimiser, class counts, memory with its quantiser, generators, position."""
        tree = {
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
        if self.imported is not None:
            tree["imported"] = self.imported.state()
        return tree

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
        self.imported = Imported.of_state(tree["imported"]) if "imported" in tree else None

    # ---- stages -----------------------------------------------------------------------------------

    def _initialise(self, stage: Stage, ctx: StreamContext) -> None:
        """Train the quantiser on base features and put all base examples into the memory, in their order."""
        self.brain.freeze(upper_trains=False)
        self.codes.restart()
        if self.settings.start_from:
            self._adopt(Path(self.settings.start_from).expanduser(), stage, ctx)
            return
        if self.memory is None:
            return
        self.codes.remember(stage, ctx)

    def _adopt(self, folder: Path, stage: Stage, ctx: StreamContext) -> None:
        """Go on from an imported buffer and classifier.

        :raises Mismatch: when the run keeps no codes of the same form. :raises BadInput: for a buffer of other classes.
        """
        codes, labels, items, centroids = buffers.read_start(folder)
        if self.memory is None or not isinstance(self.memory.codec, PqCodec):
            raise Mismatch(
                "an imported buffer holds codes, this run keeps none",
                where="learner.start_from",
                fix="--replay largest-class+remind:pq --memory all",
            )
        self.imported = Imported.of(labels, items, stage, ctx.stream)
        self.memory.codec.use(FEATURES, centroids)
        self.memory.add({FEATURES: torch.from_numpy(codes), LABEL: labels, ITEM: items}, labels)
        momentum = checkpoints.load_upper(self.brain.upper, folder / "classifier.pth")
        if momentum:
            checkpoints.adopt_momentum(self.streamer.optimizer, momentum, str(folder / "classifier.pth"))

    def _stream(self, stage: Stage, ctx: StreamContext) -> None:
        """One pass, one example at a time, in the order of the stage."""
        self.brain.freeze(upper_trains=self.settings.norm == "train")
        ctx.phase("stream", len(stage.train) - self.position)
        for rows, stored, decoded, labels in self._examples(stage, ctx):
            items = self._numbers(stage, ctx, rows).tolist()
            for k, (row, label, item) in enumerate(zip(rows.tolist(), labels.tolist(), items, strict=True)):
                if row < self.position:
                    continue
                loss = self.streamer.step(decoded[k : k + 1], label)
                self.streamer.keep(stored[k : k + 1], label, item)
                self.position = row + 1
                ctx.step(loss=loss)

    def _examples(self, stage: Stage, ctx: StreamContext) -> Iterator[tuple[np.ndarray, Any, Tensor, Any]]:
        """Batches of a stage from the one that holds the next example: rows, as kept, as given back, labels."""
        size = self.settings.batch_size
        if self.codes.quantised:
            assert self.memory is not None
            found, quantiser = self.codes.of_stage(stage, ctx), self.memory.codec.quantisers[FEATURES]
            first = int(np.searchsorted(found.rows, self.position)) // size * size
            for at in range(first, len(found.rows), size):
                codes = found.codes[at : at + size]
                decoded = quantiser.decode_maps(codes) if codes.dim() == 4 else quantiser.decode(codes)
                yield found.rows[at : at + size], codes, decoded, found.labels[at : at + size]
            return
        start = self.position // size * size
        for rows, features, labels in stage_batches(self.brain, stage, ctx)(np.arange(len(stage.train)), size, start):
            yield (rows, *through(self.memory, features), labels)

    def _numbers(self, stage: Stage, ctx: StreamContext, rows: np.ndarray) -> np.ndarray:
        numbers = item_numbers(ctx.stream, stage, rows)
        return numbers if self.imported is None else self.imported.numbers(numbers, stage)

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
