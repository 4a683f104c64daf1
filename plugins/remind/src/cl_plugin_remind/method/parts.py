"""A network as REMIND sees it: a whole to train offline, a frozen lower part, a plastic upper part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import define, field
from torch import Tensor, nn

from cl_kernel import Field, Memory, Mismatch, Samples, Stage, Stream, StreamContext, digest_tree
from cl_kernel.torch import state
from cl_kernel.torch.loaders import Batches, as_tensor, input_name, input_shape, label_name
from cl_kernel.torch.split import Split, as_split
from cl_plugin_remind.method import pq
from cl_plugin_remind.method.codec import PqCodec
from cl_plugin_remind.method.step import FEATURES, ITEM, LABEL
from cl_plugin_remind.network.resnet import Divided


@define(eq=False, repr=False)
class Brain:
    """Whole, lower and upper part share their tensors."""

    whole: nn.Module
    lower: nn.Module
    upper: nn.Module
    device: torch.device

    @classmethod
    def of(cls, model: nn.Module, device: torch.device) -> Brain:
        """From this plugin's network, or from any other torch network, split or not."""
        model = model.to(device, memory_format=torch.channels_last)
        if isinstance(model, Divided):
            return cls(model.whole, model.parts.lower, model.upper, device)
        split: Split = as_split(model)
        return cls(nn.Sequential(split.lower, split.upper), split.lower, split.upper, device)

    def features(self, inputs: Tensor) -> Tensor:
        """What crosses the cut, computed up to there and no further."""
        with torch.inference_mode():
            return self.lower(inputs)

    def thaw(self) -> None:
        """All of it learns."""
        self.whole.requires_grad_(True).train()

    def freeze(self, *, upper_trains: bool) -> None:
        """The lower part stays as it is; the upper one is in training or evaluation mode."""
        self.lower.requires_grad_(False).eval()
        self.upper.requires_grad_(True).train(upper_trains)

    def memory_fields(self, spec: Mapping[str, Field]) -> dict[str, Field]:
        """Fields of a remembered example: features at the cut, class, item number."""
        source = spec[input_name(spec)]
        blank = torch.zeros((1, *input_shape(source)), device=self.device)
        training = self.lower.training
        shape = tuple(self.lower.eval()(blank).shape[1:])
        self.lower.train(training)
        return {
            FEATURES: Field(shape=shape, dtype="float32", kind="map" if len(shape) == 3 else "vector"),
            LABEL: Field(shape=(), dtype="int64", kind="class", n=spec[label_name(spec)].n),
            ITEM: Field(shape=(), dtype="int64", kind="group"),
        }


def through(memory: Memory | None, features: Tensor) -> tuple[Any, Tensor]:
    """Features as the memory would keep them, and as it would give them back.

    :param features: float32 [n, ...] on the device.
    :return: what to hand to the memory later (codes where the codec takes codes), and float32 [n, ...].
    """
    if memory is None:
        return features, features.clone()
    codec = memory.codec
    if isinstance(codec, PqCodec):
        quantiser = codec.quantisers[FEATURES]
        codes = quantiser.encode_maps(features) if features.dim() == 4 else quantiser.encode(features)
        return codes, quantiser.decode_maps(codes) if codes.dim() == 4 else quantiser.decode(codes)
    kept = as_codec_input(memory, features)
    filler = np.zeros(len(features), np.int64)
    decoded = codec.decode(codec.encode({FEATURES: kept, LABEL: filler, ITEM: filler}))
    return kept, as_tensor(decoded[FEATURES], features.device).float().clone()


def as_codec_input(memory: Memory, features: Tensor) -> Any:
    """Features in the framework of the memory's codec."""
    return features if getattr(memory.codec, "framework", "numpy") == "torch" else features.cpu().numpy()


@define(eq=False, repr=False)
class TestCodes:
    """Test features as codes, computed once the lower part is fixed and used at every evaluation."""

    __test__ = False
    brain: Brain
    memory: Memory | None
    batch_size: int
    n_workers: int
    _base: Samples | None = None
    _rows: dict[int, int] = field(factory=dict)
    _codes: list[Any] = field(factory=list)

    def batches(self, samples: Samples, on_bad: Any = None) -> Any:
        """Features as the upper part reads them, in order, float32 [n, ...] a batch."""
        base, rows = (samples.base, samples.rows) if hasattr(samples, "base") else (samples, np.arange(len(samples)))
        if base is not self._base:
            self._base = base
            self._rows.clear()
            self._codes.clear()
        missing = np.array([row for row in rows.tolist() if row not in self._rows], np.int64)
        if len(missing):
            source = Batches(
                base, self.brain.device, transform=self.brain.features, n_workers=self.n_workers, on_bad=on_bad, limit=0
            )
            for part, features, _ in source(missing, self.batch_size):
                stored, _ = through(self.memory, features)
                for row, one in zip(part.tolist(), stored, strict=True):
                    self._rows[row] = len(self._codes)
                    self._codes.append(one)
        for at in range(0, len(rows), self.batch_size):
            part = [self._codes[self._rows[row]] for row in rows[at : at + self.batch_size].tolist()]
            yield self._decode(part)

    def _decode(self, part: list[Any]) -> Tensor:
        if self.memory is not None and isinstance(self.memory.codec, PqCodec):
            codes = torch.stack(part)
            quantiser = self.memory.codec.quantisers[FEATURES]
            return quantiser.decode_maps(codes) if codes.dim() == 4 else quantiser.decode(codes)
        stacked = torch.stack([as_tensor(one, self.brain.device) for one in part])
        return stacked if self.memory is None else through(self.memory, stacked)[1]


def stage_batches(brain: Brain, stage: Stage, ctx: StreamContext) -> Batches:
    """A stage's samples as features at the cut; unreadable ones follow ``--on-bad-sample``."""
    return Batches(
        stage.train,
        brain.device,
        transform=brain.features,
        on_bad=ctx.bad_sample,
        n_workers=max(1, ctx.resources.n_workers),
    )


def remember(brain: Brain, memory: Memory, stage: Stage, ctx: StreamContext, batch_size: int) -> None:
    """Put all examples of a stage into the memory, in their order; the first stage trains its codec before that."""
    batches, order = stage_batches(brain, stage, ctx), np.arange(len(stage.train))
    if stage.index == 0:
        ctx.phase("base initialisation", len(order))
        fit_codec(brain, memory, lambda: (features for _, features, _ in batches(order, batch_size)), stage, ctx)
    for rows, features, labels in batches(order, batch_size):
        stored, _ = through(memory, features)
        groups = labels.cpu().numpy()
        memory.add({FEATURES: stored, LABEL: groups, ITEM: item_numbers(ctx.stream, stage, rows)}, groups)


def item_numbers(stream: Stream, stage: Stage, rows: np.ndarray) -> np.ndarray:
    """Numbers of a stage's samples over the whole stream: the data set's own, or counted through the stages."""
    if "items" in stage.info:
        return np.asarray(stage.info["items"], np.int64)[rows]
    return rows.astype(np.int64) + sum(len(earlier.train) for earlier in stream.stages[: stage.index])


def fit_codec(
    brain: Brain, memory: Memory, batches: Callable[[], Iterable[Tensor]], stage: Stage, ctx: StreamContext
) -> None:
    """Train the memory's codec on features of the first stage, where it needs training.

    :param batches: called for batches of features, float32 [n, ...].
    :raises Mismatch: for a codec that needs training this learner cannot give.
    """
    codec = memory.codec
    if isinstance(codec, PqCodec):
        codec.use(FEATURES, _centroids(brain, codec, batches, stage, ctx))
    elif hasattr(codec, "fit"):
        features = torch.cat(list(batches()))
        labels = np.zeros(len(features), np.int64)
        codec.fit({FEATURES: as_codec_input(memory, features), LABEL: labels, ITEM: labels})
    elif getattr(codec, "trained", True) is False:
        raise Mismatch(f"codec {type(codec).__name__} is not trained and offers no fit()", where="--replay")


def _centroids(
    brain: Brain, codec: PqCodec, batches: Callable[[], Iterable[Tensor]], stage: Stage, ctx: StreamContext
) -> np.ndarray:
    """Codebooks of the features at the cut, shared by all runs with the same lower part and first stage."""

    def train(folder: Path) -> None:
        maps = (f if f.dim() == 4 else f[:, :, None, None] for f in batches())
        rng = ctx.rng("quantiser")
        np.save(folder / "centroids.npy", pq.train_maps(maps, codec.n_codebooks, codec.n_centroids, rng.random))

    inputs = {
        "lower": digest_tree(state.pack(brain.lower)),
        "network": str(brain.lower),
        "data": ctx.stream.fingerprint or ctx.stream.name,
        "classes": list(stage.classes),
        "n": len(stage.train),
        "sizes": [codec.n_codebooks, codec.n_centroids],
        "seed": ctx.seed,
        "device": brain.device.type,
        "skipped": sorted(ctx.resources.skipped),
        "trainer": pq.trainer(),
    }
    return np.load(ctx.cache.make("remind-pq", inputs, train) / "centroids.npy")
