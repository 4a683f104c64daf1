"""The learner ``remind``: base initialisation on the first stage, then one example at a time.

Shapes: n a loader batch, C channels, H W side, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from attrs import define, field

from cl_kernel import Memory, Mismatch, Samples, Setup, Stage, StreamContext, Tree
from cl_kernel.torch import evaluate, state
from cl_kernel.torch.device import resolve
from cl_kernel.torch.loaders import Batches
from cl_plugin_remind import weights
from cl_plugin_remind.model.resnet import Base
from cl_plugin_remind.replay.augment import Drawn
from cl_plugin_remind.replay.codec import PqCodec
from cl_plugin_remind.settings import BaseTraining, Streaming
from cl_plugin_remind.train import files
from cl_plugin_remind.train.base import BaseTrainer
from cl_plugin_remind.train.parts import Brain, TestCodes, item_numbers, remember, stage_batches, through
from cl_plugin_remind.train.step import FEATURES, ITEM, LABEL, Streamer, make_optimizer, make_rates

BASE_FIELDS = tuple(a.name for a in attrs.fields(BaseTraining))


def build(settings: Streaming, setup: Setup) -> Remind:
    """The streaming learner; without a memory it keeps and quantises nothing (fine-tuning).

    :raises Mismatch: without a network.
    """
    brain = build_brain(setup)
    memory = setup.memory(brain.memory_fields(setup.stream.spec)) if setup.memory and settings.buffer else None
    return Remind(settings, setup, brain, memory)


def build_brain(setup: Setup) -> Brain:
    """The network of a run, its weights drawn from the run's seed."""
    if setup.model is None:
        raise Mismatch("this learner needs a network", where="--model", fix="--model remind:resnet18")
    state.seed_torch(setup.resources.rng("torch"))
    return Brain.of(setup.model(setup.stream.spec, setup.stream.n_classes), resolve(setup.resources.device))


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
    results: files.AuthorsFiles = field(init=False, factory=lambda: files.AuthorsFiles())
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
        codes, labels, items, centroids = weights.read_start(folder)
        if self.memory is None or not isinstance(self.memory.codec, PqCodec):
            raise Mismatch(
                "an imported buffer holds codes, this run keeps none",
                where="learner.start_from",
                fix="--replay largest-class+remind:pq --memory all",
            )
        self.memory.codec.use(FEATURES, centroids)
        self.memory.add({FEATURES: torch.from_numpy(codes), LABEL: labels, ITEM: items}, labels)
        momentum = weights.load_upper(self.brain.upper, folder / "classifier.pth")
        if momentum:
            weights.adopt_momentum(self.streamer.optimizer, momentum, str(folder / "classifier.pth"))

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


@define(eq=False, repr=False)
class BaseInit:
    """The base network: from a checkpoint, from the cache of an equal earlier run, or trained here."""

    settings: BaseTraining
    brain: Brain
    parts: Setup
    trainer: BaseTrainer = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.trainer = BaseTrainer(self.settings, self.brain.whole, self.brain.device, self.parts.resources.rng)

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """Leave the trained base network in the brain.

        :raises BadInput: for a checkpoint that does not fit.
        """
        settings, whole = self.settings, self.brain.whole
        if settings.base:
            network = whole.model if isinstance(whole, Base) else whole
            weights.load_base(network, settings.base, new_head=settings.new_head)
            return
        inputs = self.inputs(stage)
        known = ctx.cache.folder("remind-base", inputs)
        if known is not None:
            state.assign(whole, state.read_weights(known / "base.pth"), where=str(known / "base.pth"))
            return
        self.brain.thaw()
        ctx.phase("base network", settings.base_epochs * -(-len(stage.train) // settings.base_batch))
        for _ in self.trainer.epochs(stage.train, ctx.step, ctx.bad_sample, max(1, ctx.resources.n_workers)):
            pass
        ctx.cache.make("remind-base", inputs, lambda folder: torch.save(whole.state_dict(), folder / "base.pth"))

    def inputs(self, stage: Stage) -> dict[str, Any]:
        """All that the base network depends on."""
        stream = self.parts.stream
        shapes = {name: list(tensor.shape) for name, tensor in self.brain.whole.state_dict().items()}
        return {
            "settings": {name: getattr(self.settings, name) for name in BASE_FIELDS},
            "shapes": shapes,
            "network": str(self.brain.whole),
            "data": stream.fingerprint or stream.name,
            "classes": list(stage.classes),
            "n": len(stage.train),
            "seed": self.parts.resources.seed,
            "device": self.brain.device.type,
            "skipped": sorted(self.parts.resources.skipped),
            "torch": torch.__version__,
        }

    def state(self) -> Tree:
        """Position and optimiser of base training."""
        return self.trainer.state()

    def load(self, tree: Tree) -> None:
        """Take over what :meth:`state` gave."""
        self.trainer.load(tree)
