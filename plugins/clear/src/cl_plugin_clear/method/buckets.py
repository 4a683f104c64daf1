"""The classifier of the benchmark, bucket by bucket: what it trains on, how it starts, what holds it back.

Shapes: n a batch, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from attrs import define, field
from torch import Tensor, nn
from torch.nn import functional

from cl_kernel import ArraySamples, Concatenation, Mismatch, Stage, Tree
from cl_kernel.torch import device as devices
from cl_kernel.torch import state
from cl_kernel.torch.loaders import Batches, input_name, label_name
from cl_plugin_clear.method.baselines import Past, reinitialise
from cl_plugin_clear.weights.checkpoints import save_weights

if TYPE_CHECKING:
    from cl_kernel import Field, Memory, Samples, Setup, StreamContext
    from cl_plugin_clear.settings import Buckets


def build(settings: Buckets, setup: Setup) -> Classifier:
    """Learner ``buckets``.

    :raises Mismatch: when the training set is the memory and there is none.
    """
    device = devices.resolve(setup.resources.device)
    state.seed_torch(setup.resources.rng("torch"))
    network = setup.model(setup.stream.spec, setup.stream.n_classes) if setup.model else None
    if network is None:
        raise Mismatch("this learner needs a network", where="--model", fix="--model clear:linear")
    spec = setup.stream.spec
    memory = None
    if settings.keep in ("memory", "two_buffer") or settings.method == "cope":
        fields = {name: spec[name] for name in (input_name(spec), label_name(spec))}
        memory = setup.memory(fields) if setup.memory else None
        if memory is None:
            raise Mismatch(
                f"learner.keep={settings.keep}, learner.method={settings.method} needs a memory",
                where="--replay",
                fix="--replay biased-reservoir+raw --memory SIZE_OF_THE_FIRST_BUCKET",
            )
    return Classifier(
        settings, network.to(device), memory, device, setup.stream.info.get("protocol", "iid"), len(setup.stream.stages)
    )


@define
class Classifier:
    """One network over the buckets of a stream."""

    settings: Buckets
    network: nn.Module
    memory: Memory | None
    device: torch.device
    protocol: str
    n_stages: int
    optimizer: torch.optim.Optimizer = field(init=False)
    past: Past = field(init=False)
    epoch: int = 0
    position: int = 0  # samples of this epoch's order already trained on
    loss_sum: Tensor = field(init=False)  # of this epoch, over samples
    best_loss: float = float("inf")
    best: dict[str, Tensor] = field(factory=dict)
    _test: tuple[Any, Batches] | None = field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        self.optimizer = self._fresh_optimizer()
        self.past = Past(self.settings, self.n_stages)
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """One bucket; a small head on the CPU is trained by one thread, where more only wait for each other."""
        with few_threads(self.network, self.device):
            self._learn(stage, ctx)
        if ctx.folder is not None:
            save_weights(
                ctx.folder / "clear" / "ckpt" / f"t{stage.index:02d}.safetensors", self.past.weights(self.network)
            )

    def skips(self, stage: Stage) -> bool:
        """Whether nothing is learnt from this bucket."""
        return self.settings.keep in ("all", "nap") and stage.index > 0

    def _learn(self, stage: Stage, ctx: StreamContext) -> None:
        """One bucket: choose the training set, train, keep the best epoch, note what the next bucket must know."""
        if self.skips(stage):
            return
        if self.epoch == self.position == 0:
            self.begin(stage, ctx)
        self.train(self.training_set(stage, ctx), stage, ctx)
        if self.settings.method == "cope":
            self._remember(stage, ctx)

    def begin(self, stage: Stage, ctx: StreamContext) -> None:
        """A new bucket: where the weights start, who is remembered, a new optimiser and schedule."""
        if self.settings.start == "retrain" and stage.index > 0:
            reinitialise(self.network, ctx.rng("weights", stage.index))
        self.optimizer = self._fresh_optimizer()
        self.best_loss, self.best = float("inf"), {}
        self.past.begin(self.network, stage.index)
        if self.settings.method != "cope":
            self._remember(stage, ctx)

    def train(self, samples: Samples, stage: Stage, ctx: StreamContext) -> None:
        """All epochs that are left of this bucket; the weights of the best one stay."""
        settings, network, past = self.settings, self.network, self.past
        batches = Batches(samples, self.device, on_bad=ctx.bad_sample, n_workers=max(1, ctx.resources.n_workers))
        n = len(samples)
        ctx.phase("train", (settings.epochs - self.epoch) * -(-n // settings.batch_size))
        network.train()
        replay = None
        if settings.method == "cope" and self.memory is not None and len(self.memory):
            replay = Batches(self._remembered(self.memory, stage.train.spec), self.device)

        while self.epoch < settings.epochs:
            for group in self.optimizer.param_groups:
                group["lr"] = settings.lr * settings.lr_gamma ** (self.epoch // settings.lr_step)
            order = ctx.rng("order", stage.index, self.epoch).permutation(n)
            draw = ctx.rng("augment", stage.index, self.epoch, self.position)
            left = batches(order, settings.batch_size, self.position) if self.position < n else ()
            for _, inputs, labels in left:
                if replay is not None:  # CoPE: as many remembered items as new ones
                    rows = ctx.rng("replay", stage.index, self.epoch, self.position).permutation(len(self.memory or ()))
                    _, old_inputs, old_labels = next(iter(replay(rows[: len(labels)], len(labels))))
                    inputs, labels = torch.cat([inputs, old_inputs]), torch.cat([labels, old_labels])
                inputs = augment(inputs, settings.augment, draw)
                scores = network(inputs)
                loss = functional.cross_entropy(scores, labels)
                past.step(network, self.optimizer, inputs, labels, scores, loss)
                self.loss_sum += loss.detach() * len(labels)
                self.position += settings.batch_size
                ctx.step(loss=loss.detach())
            if settings.keep_best and (mean := float(self.loss_sum) / n) < self.best_loss:
                self.best_loss = mean
                self.best = {name: value.detach().clone() for name, value in network.state_dict().items()}
            self.epoch, self.position = self.epoch + 1, 0
            self.loss_sum.zero_()

        if settings.keep_best and self.best:
            network.load_state_dict(self.best)
        past.end(network, batches, n, settings.batch_size)
        self.epoch = self.position = 0
        self.best = {}

    def _remember(self, stage: Stage, ctx: StreamContext) -> None:
        if self.memory is None:
            return
        # two buffers: the memory takes a bucket only when the next one arrives
        source = stage if self.settings.keep != "two_buffer" else ctx.stages[stage.index - 1] if stage.index else None
        if source is not None:
            spec = source.train.spec
            batch = source.train.take(np.arange(len(source.train)), [input_name(spec), label_name(spec)])
            self.memory.add(batch, np.asarray(batch[label_name(spec)], np.int64))

    def training_set(self, stage: Stage, ctx: StreamContext) -> Samples:
        """What this bucket is learnt from, by ``keep``."""
        match self.settings.keep:
            case "single" | "nap":
                return stage.train
            case "cumulative":
                return Concatenation([earlier.train for earlier in ctx.stages[: stage.index + 1]])
            case "all":
                return Concatenation([every.train for every in ctx.stages])
        assert self.memory is not None
        if not len(self.memory):
            return stage.train
        remembered = self._remembered(self.memory, stage.train.spec)
        return remembered if self.settings.keep == "memory" else Concatenation([stage.train, remembered])

    def _remembered(self, memory: Memory, spec: Mapping[str, Field]) -> ArraySamples:
        fields = {name: spec[name] for name in (input_name(spec), label_name(spec))}
        return ArraySamples(fields, {k: np.asarray(v) for k, v in memory.take(np.arange(len(memory))).items()})

    def _fresh_optimizer(self) -> torch.optim.Optimizer:
        settings = self.settings
        return torch.optim.SGD(
            [p for p in self.network.parameters() if p.requires_grad],
            settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )

    def predict(self, samples: Samples) -> Iterator[dict[str, Any]]:
        """``scores`` float32 [n, C] (logits) and ``class`` int64 [n], batch by batch."""
        if self._test is None or not _same(self._test[0], samples):
            self._test = samples, Batches(samples, self.device)
        self.network.eval()
        with torch.inference_mode(), few_threads(self.network, self.device):
            for _, inputs, _ in self._test[1](np.arange(len(samples)), self.settings.predict_batch):
                scores = self.past.scores(self.network, inputs).cpu().numpy()
                yield {"scores": scores, "class": scores.argmax(1)}

    def finish(self, ctx: StreamContext) -> None:
        """Write the paper's five figures, the heat map and the table row into the run folder."""
        from cl_plugin_clear.evaluate.report import write_benchmark

        write_benchmark(ctx, self.protocol)

    def state(self) -> Tree:
        """Weights, optimiser, memory, what holds on to the past, generators, position in the bucket."""
        return {
            "network": state.pack(self.network),
            "optimizer": state.pack(self.optimizer),
            "memory": self.memory.state() if self.memory is not None else None,
            "past": self.past.state(),
            "generators": state.pack_generators(),
            "epoch": self.epoch,
            "position": self.position,
            "loss_sum": float(self.loss_sum),
            "best_loss": self.best_loss,
            "best": state.pack(self.best),
        }

    def load(self, tree: Tree) -> None:
        """Take over what :meth:`state` gave."""
        state.restore(self.network, tree["network"])
        state.restore(self.optimizer, tree["optimizer"])
        if self.memory is not None:
            self.memory.load(tree["memory"])
        self.past.load(tree["past"], self.network)
        state.restore_generators(tree["generators"])
        self.epoch, self.position = int(tree["epoch"]), int(tree["position"])
        self.loss_sum.fill_(float(tree["loss_sum"]))
        self.best_loss = float(tree["best_loss"])
        self.best = {name: value.to(self.device) for name, value in state.unpack(tree["best"]).items()}


@contextmanager
def few_threads(network: nn.Module, device: torch.device) -> Iterator[None]:
    """One thread while a small network is at work on the CPU."""
    n = torch.get_num_threads()
    small = device.type == "cpu" and sum(p.numel() for p in network.parameters()) < 100_000
    try:
        if small:
            torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(n)


def augment(inputs: Tensor, kind: str, rng: np.random.Generator) -> Tensor:
    """Random crop (and flip) of pictures [n, 3, H, W], each with its own offset; anything else passes."""
    if kind == "centre" or inputs.ndim != 4:
        return inputs
    n, _, height, width = inputs.shape
    pad = max(1, height // 8)
    padded = functional.pad(inputs, (pad, pad, pad, pad), mode="reflect")
    tops, lefts = rng.integers(0, 2 * pad + 1, n), rng.integers(0, 2 * pad + 1, n)
    flips = rng.random(n) < 0.5
    out = torch.empty_like(inputs)
    for i in range(n):
        crop = padded[i, :, tops[i] : tops[i] + height, lefts[i] : lefts[i] + width]
        out[i] = crop.flip(-1) if kind == "crop-flip" and flips[i] else crop
    return out


def _same(a: Any, b: Any) -> bool:
    if hasattr(a, "base") and hasattr(b, "base"):
        return a.base is b.base and np.array_equal(a.rows, b.rows)
    return a is b
