"""Validation of one model on one step's cumulative set, with the loss (spec 7.1)."""

from __future__ import annotations

from typing import Any

import numpy as np

from cl_plugin_recall.backend import tf
from cl_plugin_recall.data.images import decode_image
from cl_plugin_recall.evaluate.scores import confusion, scores
from cl_plugin_recall.losses import cross_entropy
from cl_plugin_recall.model import logits
from cl_plugin_recall.tables import class_table


def validate_step(learner: Any, step: int) -> tuple[dict[str, Any], float | None, list[int], list[int]]:
    """Scores, mean loss of images, old and new labels of a step.

    The loss is the unweighted mean of the images' cross-entropies, weight decay left out; images without a pixel that
    counts have none. One pass, one image at a time.
    """
    stream = learner.stream
    known = [0, *(c for stage in stream.stages[: step + 1] for c in stage.classes)]
    new = list(stream.stages[step].classes) if step else []
    old = [c for c in known if c not in new] if step else []
    names = list(stream.test_sets)
    due = names[: step + 1] if len(names) == len(stream.stages) else names
    rows = np.unique(np.concatenate([stream.test_sets[name] for name in due]))
    counted = class_table(known)

    @tf.function(
        input_signature=[tf.TensorSpec([1, None, None, 3], tf.uint8), tf.TensorSpec([1, None, None], tf.uint8)]
    )
    def forward(image: tf.Tensor, mask: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        z = logits(learner.encoder, learner.decoder, learner.network.input.apply(image))
        return cross_entropy(z, mask, counted), tf.argmax(z, -1, output_type=tf.int32)

    matrix = np.zeros((stream.n_classes, stream.n_classes), np.int64)
    losses = []
    for row in rows:
        batch = stream.test.take(np.array([row]), ["image", "mask"])
        data, mask = batch["image"][0], batch["mask"][0]
        image = decode_image(data, f"validation image {row}") if isinstance(data, bytes) else data
        loss, predicted = forward(tf.constant(image[None]), tf.constant(mask[None]))
        if counted[mask].any():
            losses.append(float(loss))
        matrix += confusion(mask, predicted.numpy()[0], stream.n_classes, counted)
    return scores(matrix, known, old, new), float(np.mean(losses)) if losses else None, old, new
