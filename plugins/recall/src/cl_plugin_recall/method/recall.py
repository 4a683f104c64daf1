"""RECALL: helpers, pseudo-labels, inpainting, interleaved steps (arXiv 2108.03673). Read top to bottom.

The encoder learns in step 0 and is frozen for ever; later steps retrain the decoder. Old classes come back from a
source of images that carry only their class: the step-0 model or a helper decoder labels them.
"""

from __future__ import annotations

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
from cl_plugin_recall.data.tables import back_table, class_table, helper_table
from cl_plugin_recall.method import artefacts
from cl_plugin_recall.method.interleave import Interleaved
from cl_plugin_recall.method.phases import TrainStep, helper_plan, incremental_plan
from cl_plugin_recall.method.segmenter import NO_CHANGE, Segmenter, start
from cl_plugin_recall.method.sources import check_source
from cl_plugin_recall.network.decoder import Decoder
from cl_plugin_recall.settings import Recall
from cl_plugin_recall.weights import checkpoints, saved


class RecallLearner(Segmenter):
    """Replay, inpainting and helper decoders on a frozen encoder."""

    settings: Recall

    def __init__(self, settings: Recall, setup: Setup, strategy: tf.distribute.Strategy | None) -> None:
        self.helpers: dict[str, Decoder] = {}
        super().__init__(settings, setup, strategy)

    def _check(self) -> None:
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
            check_source(self.source, {self.number_of(c): self.stream.class_names[c] for c in range(1, last + 1)})

    @property
    def replays(self) -> bool:
        """Whether later steps replay at all; fine-tuning trains no helpers and labels nothing."""
        return len(self.sizes) > 1 and self.settings.interleave_ratio_old > 0

    # ---- a later step -------------------------------------------------------------------------------
    def _learn_later(self, stage: Stage, ctx: StreamContext) -> None:
        self._learn_increment(stage, ctx)
        if self.replays and stage.classes and stage.index < len(self.sizes) - 1:
            self._learn_helpers(stage, ctx)

    def _keep_weights(self, stage: Stage, ctx: StreamContext) -> None:
        super()._keep_weights(stage, ctx)
        for key, decoder in self.helpers.items():
            if key != "first" and int(key.split("-")[0]) in stage.classes:
                checkpoints.save(saved.helper(ctx.folder, key), decoder.values())

    def _learn_increment(self, stage: Stage, ctx: StreamContext) -> None:
        """Inpaint the background of the new images, label what is replayed, train the decoder on both."""
        if "increment" in self.done:
            return
        if self.phase != "increment":
            self._begin_increment(stage)
        new = self._inpainted(stage, ctx)
        old = self._replayed(stage, ctx) if self.replays else None
        plan = incremental_plan(self.settings, max(1, len(stage.classes)))
        schedule = Interleaved(
            new=self._order("new", len(new)),
            old=self._order("old", len(old) if old is not None else 1),
            n_new=len(new),
            n_old=len(old) if old is not None else 1,
            r_new=self.settings.interleave_ratio_new,
            r_old=self.settings.interleave_ratio_old if old is not None else 0,
            batch_size=self.settings.batch_size,
        )
        self._train("increment", plan, self._increment_step(stage), schedule, new, old, NO_CHANGE, ctx)
        self._before = None
        self._model_changed()

    def _begin_increment(self, stage: Stage) -> None:
        self._before = self.decoder.values()

    def _increment_step(self, stage: Stage) -> TrainStep:
        return self._plain_step(self.decoder, class_table(range(self.known(stage))), whole=False)

    def _learn_helpers(self, stage: Stage, ctx: StreamContext) -> None:
        """A decoder for the step's classes alone (or for each), while its images are at hand, to label their replay."""
        groups = [[c] for c in stage.classes] if self.settings.helper_decoders_one_class else [list(stage.classes)]
        for group in groups:
            key = "-".join(map(str, group))
            if f"helper {key}" not in self.done:
                self._learn_helper(stage, group, key, ctx)

    def _learn_helper(self, stage: Stage, group: list[int], key: str, ctx: StreamContext) -> None:
        name = f"helper {key}"
        if self.phase != name:
            self.helpers[key] = self.network.new_decoder(len(group) + 1, self.resources.rng("recall helper", key))
        decoder = self.helpers[key]
        images = stage.train
        if "helper_rows" in stage.info:
            images = subset(stage.train, np.array(stage.info["helper_rows"][key], np.int64))
        if not len(images):
            raise Mismatch(f"no image for the helper of classes {group}", where="dataset.protocol_helpers")
        artefact = artefacts.helper(self, stage, group, images)
        fresh = self.phase != name and self.settings.reuse
        kept = artefact.found() if fresh else None
        if kept is not None:
            decoder.assign(load_tree(kept / "weights.tree"))
            self.done.append(name)
            return
        table, counted = helper_table(group), class_table(range(len(group) + 1))
        if self.settings.helper_ignore_void:
            table[255] = 255
        step = self._plain_step(decoder, counted, whole=False)
        plan = helper_plan(self.settings, len(group))
        self._train(name, plan, step, self._plain(images, name), images, None, table, ctx)
        artefact.make(lambda place: save_weights(place, decoder.values()))

    # ---- labels by prediction -----------------------------------------------------------------------
    def _inpainted(self, stage: Stage, ctx: StreamContext) -> Samples:
        """The step's images, background labelled by the model before the step; as they are under ``sequential``."""
        if not self.settings.mix_labels or stage.info.get("protocol") == "sequential":
            return stage.train
        return artefacts.inpainted(self, stage, self.decoder_before(), ctx)

    def decoder_before(self) -> Decoder:
        """The decoder as it was before the step under way."""
        if self._before is None:
            return self.decoder
        before = self.network.new_decoder(self.network.n_outputs, self.resources.rng("recall decoder"))
        before.assign(self._before)
        return before

    def _replayed(self, stage: Stage, ctx: StreamContext) -> Samples:
        """Replay images of all classes before this step, in class order, with pseudo-labels.

        Those of step-0 classes come from the step-0 model, later ones from the helper of their class.
        """
        parts: list[Samples] = []
        for c in range(1, sum(self.sizes[: stage.index]) + 1):
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
            rng = self.resources.rng("recall decoder")
            self.helpers["first"] = self.network.new_decoder(self.network.n_outputs, rng)
            self.helpers["first"].assign(self.decoder.values())
        return self.helpers["first"]

    def _model_changed(self) -> None:
        if self.stage == 0:
            super()._model_changed()
            self.first_decoder()

    # ---- what the kernel asks -----------------------------------------------------------------------
    def _helper_values(self) -> dict[str, Any]:
        return {key: decoder.values() for key, decoder in self.helpers.items()}

    def load(self, state: Any) -> None:
        """Restore what :meth:`state` gave."""
        super().load(state)
        self.helpers = {}
        for key, values in state["helpers"].items():
            n_outputs = next(v.shape[-1] for name, v in values.items() if name.endswith("/biases"))
            self.helpers[key] = self.network.new_decoder(n_outputs, self.resources.rng("recall helper", key))
            self.helpers[key].assign(values)


def save_weights(place: Path, values: Any) -> None:
    """A helper's weights."""
    save_tree(place / "weights.tree", values)


def build(settings: Recall, setup: Setup) -> RecallLearner:
    """The learner for a stream."""
    learner: RecallLearner = start(RecallLearner, settings, setup)
    return learner
