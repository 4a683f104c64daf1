"""Features of stages and test sets as codes: each image is read and encoded once for all runs that share what it takes.

Codes depend on the lower part, the codebooks and the images. They are kept in the cache under just that, so comparison
runs and ablations decode no image again. Shapes: n examples, N examples of a stage, H W positions, M codebooks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import define, field, frozen
from torch import Tensor

from cl_kernel import Identity, Memory, Mismatch, Resources, Samples, Stage, StreamContext, subset
from cl_kernel.torch import state
from cl_kernel.torch.loaders import Batches, as_tensor
from cl_plugin_remind.method import pq
from cl_plugin_remind.method.codec import PqCodec
from cl_plugin_remind.method.parts import Brain, as_codec_input, feature_batches, item_numbers, stage_batches, through
from cl_plugin_remind.method.step import FEATURES, ITEM, LABEL

KEEP_BYTES = 1 << 31
"""Features of the first stage up to this size are kept from training the codebooks until they are encoded."""


@frozen
class Encoded:
    """Examples as codes.

    :param rows: int64 [n], positions in the samples; unreadable ones are left out.
    :param codes: [n, H, W, M] (or [n, M]) on the device. :param labels: int64 [n].
    """

    rows: np.ndarray
    codes: Tensor
    labels: np.ndarray


@define(eq=False, repr=False)
class Codes:
    """Codes of one lower part and one memory's quantiser."""

    brain: Brain
    memory: Memory | None
    resources: Resources
    batch_size: int
    _lower: Identity | None = field(init=False, default=None)
    _features: list[tuple[np.ndarray, Tensor, Tensor]] = field(init=False, factory=list)
    _tests: Samples | None = field(init=False, default=None)
    _place: dict[int, int] = field(init=False, factory=dict)  # row of the test samples -> place among the kept ones
    _kept: list[Any] = field(init=False, factory=list)

    def restart(self) -> None:
        """The lower part has changed: forget what was made with the one before."""
        self._lower, self._tests = None, None

    @property
    def quantised(self) -> bool:
        """Whether the memory keeps codes at all."""
        return self.memory is not None and isinstance(self.memory.codec, PqCodec)

    def of_stage(self, stage: Stage, ctx: StreamContext) -> Encoded:
        """A stage's examples, in its order; unreadable ones follow ``--on-bad-sample``."""
        bad: list[tuple[str, str]] = []

        def note(which: str, error: Exception) -> None:
            ctx.bad_sample(which, error)
            bad.append((which, str(error)))

        def make(folder: Path) -> None:
            if self._features:
                batches: Any = iter(self._features)
            else:
                source = stage_batches(self.brain, stage, ctx)
                source.on_bad = note
                batches = source(np.arange(len(stage.train)), self.batch_size)
            self._write(folder, batches)
            (folder / "bad.json").write_text(json.dumps(bad))

        folder = self._artefact("remind-codes", stage=stage).make(make)
        self._features.clear()
        for which, error in json.loads((folder / "bad.json").read_text()):
            ctx.bad_sample(which, error)
        return self._read(folder)

    def remember(self, stage: Stage, ctx: StreamContext) -> None:
        """Put a stage's examples into the memory, in their order; the first stage trains its codec before that."""
        assert self.memory is not None
        if stage.index == 0:
            ctx.phase("base initialisation", len(stage.train))
            self._fit(stage, ctx)
        for rows, stored, labels in self._stored(stage, ctx):
            self.memory.add({FEATURES: stored, LABEL: labels, ITEM: item_numbers(ctx.stream, stage, rows)}, labels)

    def tests(self, samples: Samples) -> Iterator[Tensor]:
        """Test features as the upper part reads them, in order, float32 [n, ...] a batch; encoded once."""
        base, rows = (samples.base, samples.rows) if hasattr(samples, "base") else (samples, np.arange(len(samples)))
        if base is not self._tests:
            self._tests = base
            self._place.clear()
            self._kept.clear()
        missing = np.array([row for row in rows.tolist() if row not in self._place], np.int64)
        for row, stored in zip(missing.tolist(), self._test_codes(base, missing), strict=True):
            self._place[row] = len(self._kept)
            self._kept.append(stored)
        for at in range(0, len(rows), self.batch_size):
            yield self._decode([self._kept[self._place[row]] for row in rows[at : at + self.batch_size].tolist()])

    # ---- how they are made --------------------------------------------------------------------------

    def _stored(self, stage: Stage, ctx: StreamContext) -> Iterator[tuple[np.ndarray, Any, np.ndarray]]:
        size = self.batch_size
        if self.quantised:
            found = self.of_stage(stage, ctx)
            for at in range(0, len(found.rows), size):
                part = slice(at, at + size)
                yield found.rows[part], found.codes[part], found.labels[part]
            return
        for rows, features, labels in stage_batches(self.brain, stage, ctx)(np.arange(len(stage.train)), size):
            yield rows, through(self.memory, features)[0], labels.cpu().numpy()

    def _test_codes(self, base: Samples, missing: np.ndarray) -> Iterator[Any]:
        if not len(missing):
            return
        source = feature_batches(self.brain, base, self.resources.n_workers, limit=0)
        if self.quantised:
            artefact = self._artefact("remind-test-codes", samples=subset(base, missing))
            yield from self._read(artefact.make(lambda f: self._write(f, source(missing, self.batch_size)))).codes
            return
        for _, features, _ in source(missing, self.batch_size):
            yield from through(self.memory, features)[0]

    def _artefact(self, kind: str, **parts: Any) -> Any:
        assert self.memory is not None
        if self._lower is None:
            self._lower = self.resources.identify(
                "remind-lower", network=str(self.brain.lower), tensors=state.pack(self.brain.lower)
            )
        centroids = self.memory.codec.quantisers[FEATURES].centroids.cpu().numpy()
        where = {"device": self.brain.device.type, "batch": self.batch_size}
        return self.resources.artefact(kind, lower=self._lower, centroids=centroids, **where, **parts)

    def _write(self, folder: Path, batches: Any) -> None:
        rows, codes, labels = [], [], []
        for part, features, classes in batches:
            rows.append(part)
            codes.append(through(self.memory, features)[0].cpu().numpy())
            labels.append(classes.cpu().numpy())
        for name, parts in (("rows", rows), ("codes", codes), ("labels", labels)):
            np.save(folder / f"{name}.npy", np.concatenate(parts) if parts else np.zeros(0, np.int64))

    def _read(self, folder: Path) -> Encoded:
        rows, codes, labels = (np.load(folder / f"{name}.npy") for name in ("rows", "codes", "labels"))
        return Encoded(rows, torch.from_numpy(codes).to(self.brain.device), labels)

    def _decode(self, part: list[Any]) -> Tensor:
        if self.quantised:
            assert self.memory is not None
            codes = torch.stack(part)
            quantiser = self.memory.codec.quantisers[FEATURES]
            return quantiser.decode_maps(codes) if codes.dim() == 4 else quantiser.decode(codes)
        stacked = torch.stack([as_tensor(one, self.brain.device) for one in part])
        return stacked if self.memory is None else through(self.memory, stacked)[1]

    def _fit(self, stage: Stage, ctx: StreamContext) -> None:
        """Train the memory's codec on features of the first stage, where it needs training.

        :raises Mismatch: for a codec that needs training this learner cannot give.
        """
        assert self.memory is not None
        codec = self.memory.codec
        batches = stage_batches(self.brain, stage, ctx)
        order = np.arange(len(stage.train))
        if isinstance(codec, PqCodec):
            codec.use(FEATURES, self._centroids(codec, stage, ctx, batches, order))
        elif hasattr(codec, "fit"):
            features = torch.cat([features for _, features, _ in batches(order, self.batch_size)])
            labels = np.zeros(len(features), np.int64)
            codec.fit({FEATURES: as_codec_input(self.memory, features), LABEL: labels, ITEM: labels})
        elif getattr(codec, "trained", True) is False:
            raise Mismatch(f"codec {type(codec).__name__} is not trained and offers no fit()", where="--replay")

    def _centroids(
        self, codec: PqCodec, stage: Stage, ctx: StreamContext, batches: Batches, order: np.ndarray
    ) -> np.ndarray:
        """Codebooks of the features at the cut, shared by all runs with the same lower part and first stage."""

        def train(folder: Path) -> None:
            maps = (f if f.dim() == 4 else f[:, :, None, None] for f in self._watched(batches(order, self.batch_size)))
            rng = ctx.rng("quantiser")
            np.save(folder / "centroids.npy", pq.train_maps(maps, codec.n_codebooks, codec.n_centroids, rng.random))

        artefact = ctx.artefact(
            "remind-pq",
            network=str(self.brain.lower),
            lower=state.pack(self.brain.lower),
            stage=stage,
            sizes=[codec.n_codebooks, codec.n_centroids],
            seed=ctx.seed,
            device=self.brain.device.type,
            trainer=pq.trainer(),
        )
        found: np.ndarray = np.load(artefact.make(train) / "centroids.npy")
        return found

    def _watched(self, batches: Any) -> Iterator[Tensor]:
        """The features of batches, kept for encoding as long as they are not too many."""
        self._features.clear()
        room = KEEP_BYTES
        for rows, features, labels in batches:
            room -= features.numel() * features.element_size()
            if room >= 0:
                self._features.append((rows, features, labels))
            else:
                self._features.clear()
            yield features
