"""Validation of saved steps on their cumulative sets, with the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from attrs import field, frozen

from cl_plugin_recall.backend import tf
from cl_plugin_recall.data.images import decode_image
from cl_plugin_recall.data.tables import class_table
from cl_plugin_recall.evaluate.scores import confusion, scores
from cl_plugin_recall.method.labels import argmax, same_sized
from cl_plugin_recall.method.losses import cross_entropy_each
from cl_plugin_recall.network.decoder import Decoder
from cl_plugin_recall.network.layers import resize_logits
from cl_plugin_recall.weights import checkpoints, saved

AT_ONCE = 32


@frozen(kw_only=True)
class Validated:
    """What is known of a step: labels known, of steps before, of the newest; pixel counts [K, K]; losses of images."""

    known: list[int]
    old: list[int]
    new: list[int]
    matrix: np.ndarray
    losses: list[float] = field(factory=list)

    @property
    def scores(self) -> dict[str, Any]:
        """See :func:`~cl_plugin_recall.evaluate.scores.scores`."""
        return scores(self.matrix, self.known, self.old, self.new)

    @property
    def loss(self) -> float | None:
        """Unweighted mean of the images' cross-entropies, weight decay left out; None if no pixel counted."""
        return float(np.mean(self.losses)) if self.losses else None


def load_decoders(learner: Any, run: Path) -> dict[int, Decoder]:
    """The decoders that a run kept, by step."""
    found = {}
    for step in saved.steps(run):
        found[step] = learner.network.new_decoder(learner.network.n_outputs, np.random.default_rng())
        shapes = {name: tuple(v.shape) for name, v in found[step].named.items()}
        found[step].assign(checkpoints.load(saved.decoder(run, step), shapes))
    return found


def validate_run(learner: Any, run: Path, steps: Sequence[int] | None = None) -> dict[int, Validated]:
    """Score the saved steps of a run, with the encoder each of them had; the learner's own weights stay as they are."""
    decoders = load_decoders(learner, run)
    wanted = sorted(decoders) if steps is None else list(steps)
    own = saved.encoders(run)
    before = learner.encoder.values()
    found: dict[int, Validated] = {}
    for encoder in own:
        served = [step for step in wanted if max(k for k in own if k <= step) == encoder]
        if served:
            shapes = {name: tuple(v.shape) for name, v in learner.encoder.named.items()}
            learner.encoder.assign(checkpoints.load(saved.encoder(run, encoder), shapes))
            found |= validate(learner, {step: decoders[step] for step in served})
    learner.encoder.assign(before)
    return dict(sorted(found.items()))


def validate(learner: Any, decoders: Mapping[int, Decoder]) -> dict[int, Validated]:
    """Score the decoders of some steps, each on its cumulative set: one pass, the encoder once an image."""
    stream = learner.stream
    names = list(stream.test_sets)
    results, rows = {}, {}
    for step in decoders:
        ground = [0] if stream.info.get("background", True) else []
        known = [*ground, *(c for stage in stream.stages[: step + 1] for c in stage.classes)]
        new = list(stream.stages[step].classes) if step else []
        old = [c for c in known if c not in new] if step else []
        due = names[: step + 1] if len(names) == len(stream.stages) else names
        rows[step] = {int(row) for name in due for row in stream.test_sets[name]}
        empty = np.zeros((stream.n_classes, stream.n_classes), np.int64)
        results[step] = Validated(known=known, old=old, new=new, matrix=empty)
    counted = {step: class_table(result.known) for step, result in results.items()}

    @tf.function(
        input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8), tf.TensorSpec([None, None, None], tf.uint8)],
        autograph=False,
    )
    def forward(images: tf.Tensor, masks: tf.Tensor) -> dict[int, tuple[tf.Tensor, tf.Tensor]]:
        features = learner.encoder(learner.network.input.apply(images), False)
        found = {}
        for step, decoder in decoders.items():
            z = resize_logits(decoder(features), tf.shape(masks)[1:])
            found[step] = tf.math.divide_no_nan(*cross_entropy_each(z, masks, counted[step])), argmax(z)
        return found

    due = sorted(set().union(*rows.values()))
    for start in range(0, len(due), AT_ONCE):
        part = due[start : start + AT_ONCE]
        batch = stream.test.take(np.array(part), ["image", "mask"])
        images = [
            decode_image(data, f"validation image {row}") if isinstance(data, bytes) else data
            for row, data in zip(part, batch["image"], strict=True)
        ]
        for members in same_sized(images):
            masks = np.stack([batch["mask"][at] for at in members])
            found = forward(tf.constant(np.stack([images[at] for at in members])), tf.constant(masks))
            for step, (losses, predicted) in found.items():
                result = results[step]
                for at, mask, loss, labels in zip(members, masks, losses.numpy(), predicted.numpy(), strict=True):
                    if part[at] in rows[step]:
                        if counted[step][mask].any():
                            result.losses.append(float(loss))
                        result.matrix[...] += confusion(mask, labels, stream.n_classes, counted[step])
    return results
