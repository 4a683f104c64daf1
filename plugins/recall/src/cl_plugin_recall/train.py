"""RECALL: step 0, helpers, pseudo-labels, inpainting, interleaved steps. Read top to bottom (spec 2.1).

The encoder learns in step 0 and is frozen for ever; later steps retrain the decoder. Old classes come back from a
source of images that carry only their class: the step-0 model or a helper decoder labels them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cl_kernel import (
    BadSetting,
    Concatenation,
    Mismatch,
    Samples,
    Setup,
    Stage,
    StreamContext,
    load_tree,
    save_tree,
    subset,
)
from cl_plugin_recall.backend import tf
from cl_plugin_recall.data.feed import Augmentation, Schedule, batches
from cl_plugin_recall.evaluate.outputs import write_overlays, write_reports
from cl_plugin_recall.model import Decoder, Network
from cl_plugin_recall.phases import PhasePlan, TrainStep, first_plan, helper_plan, incremental_plan
from cl_plugin_recall.replay import artefacts
from cl_plugin_recall.replay.interleave import FixedBatches, Interleaved, Order, Plain, shuffled
from cl_plugin_recall.replay.labels import Predictor
from cl_plugin_recall.replay.sources import check_source
from cl_plugin_recall.settings import Recall
from cl_plugin_recall.tables import back_table, class_table, helper_table
from cl_plugin_recall.weights import checkpoints, saved
from cl_plugin_recall.weights.providers import digest

NO_CHANGE = np.arange(256, dtype=np.uint8)
PREDICT_AT_ONCE = 32


class RecallLearner:
    """The learner. Its position is (phases done in this stage, the phase under way, steps taken in it)."""

    def __init__(self, settings: Recall, setup: Setup, strategy: tf.distribute.Strategy | None) -> None:
        assert setup.model is not None
        self.settings, self.resources, self.stream, self.strategy = settings, setup.resources, setup.stream, strategy
        self.network: Network = setup.model(setup.stream.spec, setup.stream.n_classes)
        self.encoder = self.network.encoder
        self.decoder = self.network.new_decoder(setup.stream.n_classes, self.resources.rng("recall decoder"))
        self.source = setup.source
        self.helpers: dict[str, Decoder] = {}
        self.sizes = [len(stage.classes) for stage in setup.stream.stages]
        self.stage = 0
        self.done: list[str] = []
        self.phase, self.t = "", 0
        self._slots: list[np.ndarray] | None = None
        self._step: TrainStep | None = None
        self._first_digest = ""
        self._before: dict[str, np.ndarray] | None = None
        self._predictors: dict[int, Predictor] = {}
        self._check()

    def _check(self) -> None:
        """Refuse before training what would fail after it."""
        if self.settings.interleave_ratio_old == 0 and self.settings.interleave_ratio_new == 0 and len(self.sizes) > 1:
            raise BadSetting(
                "both interleave ratios are 0, so later steps would have no data", where="learner.interleave_ratio_*"
            )
        if self.replays:
            if self.source is None:
                raise Mismatch(
                    "replay needs a source of images",
                    where="--replay",
                    fix="--replay gan, flickr or folder:PATH; or --set learner.interleave_ratio_old=0",
                )
            last = sum(self.sizes[:-1])
            check_source(self.source, range(1, last + 1), self.stream.class_names)

    @property
    def replays(self) -> bool:
        """Whether later steps replay at all; fine-tuning trains no helpers and labels nothing."""
        return len(self.sizes) > 1 and self.settings.interleave_ratio_old > 0

    # ---- a stage ------------------------------------------------------------------------------------
    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """Learn a step, from wherever it was left."""
        if stage.index != self.stage:
            self.stage, self.done, self.phase, self.t, self._slots = stage.index, [], "", 0, None
        if stage.index == 0:
            self._learn_first(stage, ctx)
        else:
            self._learn_increment(stage, ctx)
        if self.replays and 0 < stage.index < len(self.sizes) - 1:
            self._learn_helpers(stage, ctx)
        self._keep_weights(stage, ctx)
        self.stage, self.done = stage.index + 1, []

    def _keep_weights(self, stage: Stage, ctx: StreamContext) -> None:
        """Leave the step's weights in the run folder, for re-validation and export."""
        if stage.index == 0:
            checkpoints.save(saved.encoder(ctx.folder), self.encoder.values())
        checkpoints.save(saved.decoder(ctx.folder, stage.index), self.decoder.values())
        for key, decoder in self.helpers.items():
            if key != "first" and int(key.split("-")[0]) in stage.classes:
                checkpoints.save(saved.helper(ctx.folder, key), decoder.values())

    def _learn_first(self, stage: Stage, ctx: StreamContext) -> None:
        """Encoder and decoder together, or both from the cache."""
        inputs = artefacts.first_inputs(self, stage)
        if not self.done and not self.phase:
            artefacts.warn_of_reused_index(self, ctx, inputs)
        fresh = "first" not in self.done and self.phase != "first" and self.settings.reuse
        kept = ctx.cache.folder("recall-first", inputs) if fresh else None
        if kept is not None:
            values = load_tree(kept / "weights.tree")
            self.encoder.assign(values["encoder"])
            self.decoder.assign(values["decoder"])
        elif "first" not in self.done:
            plan = first_plan(self.settings, len(stage.classes))
            self._train(
                "first",
                plan,
                self.decoder,
                class_table([0, *stage.classes]),
                self._plain(stage.train, "first"),
                stage.train,
                None,
                NO_CHANGE,
                ctx,
                whole=True,
            )
        self.done.append("first")
        if kept is None and self.settings.reuse:
            ctx.cache.make("recall-first", inputs, lambda place: artefacts.save_first(self, place))
        self._model_changed()

    def _learn_increment(self, stage: Stage, ctx: StreamContext) -> None:
        """Inpaint the background of the new images, label what is replayed, train the decoder on both."""
        if "increment" in self.done:
            return
        if self.phase != "increment":
            self._before = self.decoder.values()
        known = range(1 + sum(self.sizes[: stage.index + 1]))
        new = self._inpainted(stage, ctx)
        old = self._replayed(stage, ctx) if self.replays else None
        plan = incremental_plan(self.settings, len(stage.classes))
        schedule = Interleaved(
            new=self._order("new", len(new)),
            old=self._order("old", len(old) if old is not None else 1),
            n_new=len(new),
            n_old=len(old) if old is not None else 1,
            r_new=self.settings.interleave_ratio_new,
            r_old=self.settings.interleave_ratio_old if old is not None else 0,
            batch_size=self.settings.batch_size,
        )
        self._train(
            "increment", plan, self.decoder, class_table(known), schedule, new, old, NO_CHANGE, ctx, whole=False
        )
        self._before = None
        self._model_changed()

    def _learn_helpers(self, stage: Stage, ctx: StreamContext) -> None:
        """A decoder for the step's classes alone (or for each), while its images are at hand, to label their replay."""
        groups = [[c] for c in stage.classes] if self.settings.helper_decoders_one_class else [list(stage.classes)]
        for group in groups:
            key = "-".join(map(str, group))
            name = f"helper {key}"
            if name in self.done:
                continue
            if self.phase != name:
                self.helpers[key] = self.network.new_decoder(len(group) + 1, self.resources.rng("recall helper", key))
            decoder = self.helpers[key]
            images = (
                subset(stage.train, np.array(stage.info["helper_rows"][key], np.int64))
                if "helper_rows" in stage.info
                else stage.train
            )
            if not len(images):
                raise Mismatch(f"no image for the helper of classes {group}", where="dataset.protocol_helpers")
            inputs = artefacts.helper_inputs(self, stage, group, images)
            fresh = self.phase != name and self.settings.reuse
            kept = ctx.cache.folder("recall-helper", inputs) if fresh else None
            if kept is not None:
                decoder.assign(load_tree(kept / "weights.tree"))
                self.done.append(name)
                continue
            table, counted = helper_table(group), class_table(range(len(group) + 1))
            if self.settings.helper_ignore_void:
                table[255] = 255
            plan = helper_plan(self.settings, len(group))
            self._train(name, plan, decoder, counted, self._plain(images, name), images, None, table, ctx, whole=False)
            ctx.cache.make("recall-helper", inputs, partial(_save_weights, values=decoder.values()))

    # ---- the loop -----------------------------------------------------------------------------------
    def _train(
        self,
        name: str,
        plan: PhasePlan,
        decoder: Decoder,
        counted: np.ndarray,
        schedule: Schedule,
        new: Samples,
        old: Samples | None,
        table: np.ndarray,
        ctx: StreamContext,
        *,
        whole: bool,
    ) -> None:
        """One phase: ``plan.n_steps`` optimiser steps, from the step where it was left."""
        step = TrainStep(self.encoder, decoder, counted, self.settings, whole=whole, strategy=self.strategy)
        if self.phase == name and self._slots is not None:
            step.load(self._slots)
        else:
            self.phase, self.t = name, 0
        self._slots, self._step = None, step
        ctx.phase(name, plan.n_steps - self.t)
        feed = batches(
            schedule,
            new,
            old,
            start=self.t,
            stop=plan.n_steps,
            table=table,
            spec=self.network.input,
            augmentation=Augmentation(scale=self.settings.augment_scale, size=self.settings.train_image_size),
            draws=self._draws(name),
            n_parallel=max(1, self.resources.n_workers),
        )
        for x, y in feed:
            loss = step(x, y, tf.constant(plan.rate(self.t), tf.float32))
            self.t += 1
            if self.t < plan.n_steps:
                ctx.step(loss=loss)
        self.done.append(name)
        self.phase, self.t, self._step = "", 0, None
        ctx.step(loss=loss)

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

    # ---- labels by prediction -----------------------------------------------------------------------
    def _inpainted(self, stage: Stage, ctx: StreamContext) -> Samples:
        """The step's images, background labelled by the model before the step; as they are under ``sequential``."""
        if not self.settings.mix_labels or stage.info.get("protocol") == "sequential":
            return stage.train
        before = self.decoder
        if self.phase == "increment" and self._before is not None:
            before = self.network.new_decoder(self.network.n_outputs, self.resources.rng("recall decoder"))
            before.assign(self._before)
        return artefacts.inpainted(self, stage, before, ctx)

    def _replayed(self, stage: Stage, ctx: StreamContext) -> Samples:
        """Replay images of all classes before this step, in class order, with pseudo-labels.

        Those of step-0 classes come from the step-0 model, later ones from the helper of their class.
        """
        ends = np.cumsum(self.sizes)
        parts: list[Samples] = []
        for c in range(1, int(ends[stage.index - 1]) + 1):
            if c <= self.sizes[0]:
                decoder, back = self.first_decoder(), NO_CHANGE
            else:
                key = next(k for k in self.helpers if str(c) in k.split("-"))
                decoder, back = self.helpers[key], back_table([int(k) for k in key.split("-")])
            parts.append(artefacts.pseudo_labelled(self, c, decoder, back, ctx))
        return Concatenation(parts)

    def first_decoder(self) -> Decoder:
        """The decoder as it was after step 0."""
        if "first" not in self.helpers:
            self.helpers["first"] = self.network.new_decoder(
                self.network.n_outputs, self.resources.rng("recall decoder")
            )
            self.helpers["first"].assign(self.decoder.values())
        return self.helpers["first"]

    def predictor(self, decoder: Decoder, *, raw: bool = False) -> Predictor:
        """Label maps by a decoder, compiled once each; ``raw`` feeds RGB as it is (pitfall 2)."""
        key = id(decoder) if not raw else -id(decoder)
        if key not in self._predictors:
            self._predictors[key] = Predictor(self.encoder, decoder, None if raw else self.network.input)
        return self._predictors[key]

    def frozen_digest(self) -> str:
        """Digest of the encoder after step 0."""
        if not self._first_digest:
            self._first_digest = digest(self.encoder.values())
        return self._first_digest

    def _model_changed(self) -> None:
        if self.stage == 0:
            self._first_digest = ""
            self.first_decoder()

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
            "helpers": {key: decoder.values() for key, decoder in self.helpers.items()},
            "before": self._before if self.phase == "increment" else None,
            "slots": slots,
            "stage": self.stage,
            "done": list(self.done),
            "phase": self.phase,
            "t": self.t,
        }

    def load(self, state: Any) -> None:
        """Take over what :meth:`state` gave."""
        self.encoder.assign(state["encoder"])
        self.decoder.assign(state["decoder"])
        self.helpers = {}
        for key, values in state["helpers"].items():
            n_outputs = next(v.shape[-1] for name, v in values.items() if name.endswith("/biases"))
            self.helpers[key] = self.network.new_decoder(n_outputs, self.resources.rng("recall helper", key))
            self.helpers[key].assign(values)
        self._before = state["before"]
        self.stage, self.done, self.phase, self.t = state["stage"], list(state["done"]), state["phase"], state["t"]
        self._slots, self._step, self._predictors, self._first_digest = state["slots"], None, {}, ""

    def finish(self, ctx: StreamContext) -> None:
        """Write the reference's report and pictures of predictions beside truth into the run folder."""
        write_reports(self, ctx)
        if self.settings.overlays:
            write_overlays(self, ctx)


def _save_weights(place: Path, values: Any) -> None:
    save_tree(place / "weights.tree", values)


def replicas(settings: Recall) -> tf.distribute.Strategy | None:
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


def build(settings: Recall, setup: Setup) -> RecallLearner:
    """The learner for a stream, with TensorFlow's own non-determinism switched off."""
    tf.config.experimental.enable_op_determinism()
    if setup.resources.device == "cpu":
        tf.config.set_visible_devices([], "GPU")
    strategy = replicas(settings)
    if strategy is None:
        return RecallLearner(settings, setup, None)
    with strategy.scope():
        return RecallLearner(settings, setup, strategy)
