"""What every method here has in common: step 0, the loop of a phase, checkpoints, predictions and reports.

A method says how it learns a later step; see :mod:`cl_plugin_recall.method.recall` and
:mod:`cl_plugin_recall.method.distillation`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from cl_kernel import BadSetting, Samples, Setup, Stage, StreamContext, load_tree
from cl_plugin_recall.backend import tf
from cl_plugin_recall.data.feed import Augmentation, Maker, Schedule, batches
from cl_plugin_recall.data.tables import class_table
from cl_plugin_recall.evaluate.outputs import write_overlays, write_reports
from cl_plugin_recall.method import artefacts
from cl_plugin_recall.method.interleave import FixedBatches, Order, Plain, shuffled
from cl_plugin_recall.method.labels import Predictor
from cl_plugin_recall.method.phases import PhasePlan, TrainStep, first_plan
from cl_plugin_recall.network.decoder import Decoder, Network
from cl_plugin_recall.settings import Training
from cl_plugin_recall.weights import checkpoints, saved
from cl_plugin_recall.weights.providers import digest

NO_CHANGE = np.arange(256, dtype=np.uint8)
PREDICT_AT_ONCE = 32


class Segmenter:
    """A learner. Its position is (phases done in this stage, the phase under way, steps taken in it)."""

    settings: Any
    frozen = True
    """Whether the encoder stays as it was after step 0."""

    def __init__(self, settings: Training, setup: Setup, strategy: tf.distribute.Strategy | None) -> None:
        assert setup.model is not None
        self.settings, self.resources, self.stream, self.strategy = settings, setup.resources, setup.stream, strategy
        self.network: Network = setup.model(setup.stream.spec, setup.stream.n_classes)
        self.encoder = self.network.encoder
        self.decoder = self.network.new_decoder(setup.stream.n_classes, self.resources.rng("recall decoder"))
        self.source = setup.source
        self.sizes = [len(stage.classes) for stage in setup.stream.stages]
        self.stage = 0
        self.done: list[str] = []
        self.phase, self.t = "", 0
        self._slots: list[np.ndarray] | None = None
        self._step: TrainStep | None = None
        self._first_digest = ""
        self._before: Any = None
        self._predictors: dict[int, Predictor] = {}
        self._check()

    def _check(self) -> None:
        """Refuse before training what would fail after it."""

    def known(self, stage: Stage) -> int:
        """Labels known once a stage is learnt, background included."""
        return 1 + sum(self.sizes[: stage.index + 1])

    def number_of(self, c: int) -> int:
        """The data's own number of the c-th class learnt, under which sources know it."""
        order = self.stream.info.get("order")
        return int(order[c - 1]) if order else c

    # ---- a stage ------------------------------------------------------------------------------------
    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """Learn a step, from wherever it was left."""
        if stage.index != self.stage:
            self.stage, self.done, self.phase, self.t, self._slots = stage.index, [], "", 0, None
        if stage.index == 0:
            self._learn_first(stage, ctx)
        else:
            self._learn_later(stage, ctx)
        self._keep_weights(stage, ctx)
        self.stage, self.done = stage.index + 1, []

    def _learn_later(self, stage: Stage, ctx: StreamContext) -> None:
        """Learn a step after the first: what makes the method."""
        raise NotImplementedError

    def _keep_weights(self, stage: Stage, ctx: StreamContext) -> None:
        """Leave the step's weights in the run folder, for re-validation and export."""
        if stage.index == 0:
            checkpoints.save(saved.encoder(ctx.folder), self.encoder.values())
        elif not self.frozen:
            checkpoints.save(saved.encoder(ctx.folder, stage.index), self.encoder.values())
        checkpoints.save(saved.decoder(ctx.folder, stage.index), self.decoder.values())

    def _learn_first(self, stage: Stage, ctx: StreamContext) -> None:
        """Encoder and decoder together, or both from the cache, where all methods share them."""
        if "first" in self.done:
            self._model_changed()
            return
        artefact = artefacts.first_model(self, stage)
        if not self.phase:
            artefacts.warn_of_reused_index(self, ctx, artefact)
        with artefact.claimed() if self.settings.reuse else contextlib.nullcontext():
            fresh = self.phase != "first" and self.settings.reuse
            kept = artefact.found() if fresh else None
            if kept is not None:
                values = load_tree(kept / "weights.tree")
                self.encoder.assign(values["encoder"])
                self.decoder.assign(values["decoder"])
            else:
                counted = class_table([0, *stage.classes])
                plan = first_plan(self.settings, len(stage.classes))
                step = self._plain_step(self.decoder, counted, whole=True)
                self._train("first", plan, step, self._plain(stage.train, "first"), stage.train, None, NO_CHANGE, ctx)
                if self.settings.reuse:
                    artefact.make(lambda place: artefacts.save_first(self, place))
        if "first" not in self.done:
            self.done.append("first")
        self._model_changed()

    def _model_changed(self) -> None:
        self._first_digest = ""

    # ---- the loop -----------------------------------------------------------------------------------
    def _plain_step(self, decoder: Decoder, counted: np.ndarray, *, whole: bool) -> TrainStep:
        return TrainStep(self.encoder, decoder, counted, self.settings, whole=whole, strategy=self.strategy)

    def _train(
        self,
        name: str,
        plan: PhasePlan,
        step: TrainStep,
        schedule: Schedule,
        new: Samples,
        old: Samples | None,
        table: np.ndarray,
        ctx: StreamContext,
    ) -> None:
        """One phase: ``plan.n_steps`` optimiser steps, from the step where it was left."""
        if self.phase == name and self._slots is not None:
            step.load(self._slots)
        else:
            self.phase, self.t = name, 0
        self._slots, self._step = None, step
        ctx.phase(name, plan.n_steps - self.t)
        feed = batches(
            schedule,
            self._maker(new, old, table),
            start=self.t,
            stop=plan.n_steps,
            draws=self._draws(name),
            n_parallel=self.resources.n_workers,
        )
        for x, y in feed:
            step.replayed = [is_old for is_old, _ in schedule.batch(self.t)] if step.wants_replayed else []
            loss = step(x, y, tf.constant(plan.rate(self.t), tf.float32))
            self.t += 1
            if self.t < plan.n_steps:
                ctx.step(loss=loss)
        self.done.append(name)
        self.phase, self.t, self._step = "", 0, None
        ctx.step(loss=loss)

    def _maker(self, new: Samples, old: Samples | None, table: np.ndarray) -> Maker:
        augmentation = Augmentation(scale=self.settings.augment_scale, size=self.settings.train_image_size)
        return Maker(new=new, old=old, table=table, augmentation=augmentation, spec=self.network.input)

    def _draws(self, name: str) -> Callable[[int, int], np.ndarray]:
        stage = self.stage
        return lambda t, n: self.resources.rng("recall augmentation", stage, name, t).random((n, 4))

    def _order(self, name: str, n: int) -> Order:
        stage = self.stage
        return shuffled(n, lambda number: self.resources.rng("recall order", stage, name, number))

    def _plain(self, images: Samples, name: str) -> Schedule:
        size = self.settings.batch_size
        if self.settings.legacy_batching:
            return FixedBatches(order=self._order(name, -(-len(images) // size)), n=len(images), batch_size=size)
        return Plain(order=self._order(name, len(images)), n=len(images), batch_size=size)

    # ---- predictions --------------------------------------------------------------------------------
    def predictor(self, decoder: Decoder, *, raw: bool = False) -> Predictor:
        """Label maps by a decoder, compiled once each; ``raw`` feeds RGB as it is."""
        key = id(decoder) if not raw else -id(decoder)
        if key not in self._predictors:
            self._predictors[key] = Predictor(self.encoder, decoder, None if raw else self.network.input)
        return self._predictors[key]

    def frozen_digest(self) -> str:
        """Digest of the encoder after step 0."""
        if not self._first_digest:
            self._first_digest = digest(self.encoder.values())
        return self._first_digest

    # ---- what the kernel asks -----------------------------------------------------------------------
    def predict(self, samples: Samples) -> Iterator[dict[str, Any]]:
        """Label maps at full resolution, ``mask``."""
        predictor = self.predictor(self.decoder)
        where = getattr(samples, "where", None)
        for start in range(0, len(samples), PREDICT_AT_ONCE):
            rows = np.arange(start, min(start + PREDICT_AT_ONCE, len(samples)))
            images = samples.take(rows, ["image"])["image"]
            if isinstance(images[0], bytes):
                yield {
                    "mask": predictor(
                        list(images), lambda k, rows=rows: where(int(rows[k])) if where else f"test image {rows[k]}"
                    )
                }
            else:
                yield {"mask": predictor.arrays(list(images))}

    def state(self) -> dict[str, Any]:
        """Weights, optimiser slots, helpers and position."""
        slots = self._step.state() if self._step is not None else self._slots
        return {
            "encoder": self.encoder.values(),
            "decoder": self.decoder.values(),
            "helpers": self._helper_values(),
            "before": self._before if self.phase == "increment" else None,
            "slots": slots,
            "stage": self.stage,
            "done": list(self.done),
            "phase": self.phase,
            "t": self.t,
        }

    def _helper_values(self) -> dict[str, Any]:
        return {}

    def load(self, state: Any) -> None:
        """Restore what :meth:`state` gave."""
        self.encoder.assign(state["encoder"])
        self.decoder.assign(state["decoder"])
        self._before = state["before"]
        self.stage, self.done, self.phase, self.t = state["stage"], list(state["done"]), state["phase"], state["t"]
        self._slots, self._step, self._predictors, self._first_digest = state["slots"], None, {}, ""

    def finish(self, ctx: StreamContext) -> None:
        """Write the report and pictures of predictions beside truth into the run folder."""
        write_reports(self, ctx)
        if self.settings.overlays:
            write_overlays(self, ctx)


def replicas(settings: Training) -> tf.distribute.Strategy | None:
    """The devices that share a batch; None for one."""
    if settings.devices == 1:
        return None
    gpus = tf.config.list_physical_devices("GPU")  # logical devices would start TensorFlow
    if gpus:
        if len(gpus) < settings.devices:
            raise BadSetting(
                f"learner.devices={settings.devices}, but there are {len(gpus)} GPUs", where="learner.devices"
            )
        return tf.distribute.MirroredStrategy([f"GPU:{k}" for k in range(settings.devices)])
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * settings.devices)
    except RuntimeError as error:
        if len(tf.config.list_logical_devices("CPU")) < settings.devices:
            raise BadSetting(
                "logical CPU devices must be set up before TensorFlow starts",
                where="learner.devices",
                fix="run it in a process of its own",
            ) from error
    return tf.distribute.MirroredStrategy([f"CPU:{k}" for k in range(settings.devices)])


def start(learner: Callable[..., Any], settings: Training, setup: Setup) -> Any:
    """A learner for a stream, with TensorFlow's own non-determinism switched off unless the settings allow it."""
    if settings.deterministic:
        tf.config.experimental.enable_op_determinism()
    if setup.resources.device == "cpu":
        tf.config.set_visible_devices([], "GPU")
    strategy = replicas(settings)
    if strategy is None:
        return learner(settings, setup, None)
    with strategy.scope():
        return learner(settings, setup, strategy)
