"""PLOP: learning without forgetting for continual semantic segmentation (arXiv 2011.11390).

Features and logits of both networks are squared, cut into 1, 4 and 16 parts, and averaged over rows and over columns of
each part (local POD, eq. 4 to 6); the loss is the distance between the two lists. Background pixels take the label that
the network before is sure of: its entropy below the median of its class over the step's images (eq. 8, 9); others do
not count, and an image's loss is weighed by the share of its old pixels that do. Defaults of the paper and of
github.com/arthurdouillard/CVPR2021_PLOP. Its code divides the entropy by the number of labels once more; here it is the
paper's, between 0 and 1. Our decoder has no layer between encoder and logits, so that distance is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from cl_kernel import Setup, Stage, StreamContext
from cl_plugin_recall.backend import tf
from cl_plugin_recall.data.feed import batches
from cl_plugin_recall.method.distillation import (
    Distiller,
    Objective,
    Outputs,
    balance_new_classes,
    each_cross_entropy,
    outputs,
)
from cl_plugin_recall.method.interleave import Plain, in_order
from cl_plugin_recall.method.segmenter import NO_CHANGE, start
from cl_plugin_recall.network.decoder import Decoder
from cl_plugin_recall.settings import Plop

BINS = 1000
"""Parts of the histogram from which medians are read."""


def pooled(x: tf.Tensor, scales: Sequence[int]) -> tf.Tensor:
    """Row and column means of the parts of [B, h, w, C] at every scale, [B, D]."""
    found = []
    for scale in scales:
        high, wide = max(1, x.shape[1] // scale), max(1, x.shape[2] // scale)
        for i in range(scale):
            for j in range(scale):
                part = x[:, i * high : (i + 1) * high, j * wide : (j + 1) * wide]
                for axis in (1, 2):
                    found.append(tf.reshape(tf.reduce_mean(part, axis), [tf.shape(x)[0], -1]))
    return tf.concat(found, 1)


def pooled_distance(new: tf.Tensor, old: tf.Tensor, scales: Sequence[int]) -> tf.Tensor:
    """Mean over images of the distance between pooled squares."""
    a, b = (pooled(tf.square(tf.cast(x, tf.float32)), scales) for x in (new, old))
    return tf.reduce_mean(tf.sqrt(tf.reduce_sum(tf.square(a - b), -1) + 1e-12))


def entropy(logits: tf.Tensor) -> tf.Tensor:
    """Entropy of every pixel's answer as a part of the largest possible, [B, H, W]."""
    p = tf.nn.softmax(logits)
    return -tf.reduce_sum(p * tf.nn.log_softmax(logits), -1) / math.log(max(2, logits.shape[-1]))


def pseudo_labels(y: tf.Tensor, old: tf.Tensor, thresholds: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Labels with the sure answers of the network before, 255 where it is not sure; and the weight of each image.

    :param thresholds: highest entropy at which an answer is sure, by label, [O].
    """
    ground = y < old.shape[-1]
    guess = tf.argmax(old, -1, output_type=tf.int32)
    sure = entropy(old) < tf.gather(thresholds, guess)
    labels = tf.where(ground, tf.where(sure, guess, 255), y)
    share = tf.math.divide_no_nan(
        tf.reduce_sum(tf.cast(ground & sure, tf.float32), [1, 2]), tf.reduce_sum(tf.cast(ground, tf.float32), [1, 2])
    )
    return labels, share


def medians(histogram: np.ndarray, least: float) -> np.ndarray:
    """Median entropy of each label from counts [O, BINS], not below ``least``; 0 entropy for labels never seen."""
    halves = histogram.sum(1, keepdims=True) / 2
    at = (np.cumsum(histogram, 1) >= halves).argmax(1)
    found = np.where(histogram.sum(1) > 0, (at + 0.5) / BINS, 0.0)
    return np.maximum(found, least).astype(np.float32)


class PlopLearner(Distiller):
    """Pseudo-labels and pooled distillation."""

    settings: Plop

    def prepare(self, stage: Stage, n_old: int) -> None:
        """Begin new classes as parts of the background."""
        balance_new_classes(self.decoder, n_old, len(stage.classes))

    def objective(self, stage: Stage, teacher: tuple[Any, Decoder], n_old: int, ctx: StreamContext) -> Objective:
        """See the module."""
        settings = self.settings
        ctx.phase(f"entropy of {stage.name}")
        thresholds = tf.constant(self.thresholds(stage, teacher, n_old))
        growth = math.sqrt(self.known(stage) / max(1, len(stage.classes)))

        def loss(new: Outputs, old: Outputs, y: tf.Tensor, replayed: tf.Tensor) -> tf.Tensor:
            labels, share = pseudo_labels(y, old.logits, thresholds)
            each, counted = each_cross_entropy(new.logits, labels)
            fit = tf.reduce_mean(share[:, None, None] * tf.where(counted, each, 0.0))
            small = new.small
            summed = tf.concat(
                [small[..., :1] + tf.reduce_sum(small[..., n_old:], -1, keepdims=True), small[..., 1:n_old]], -1
            )
            distances = [
                settings.pooling * pooled_distance(a, b, settings.scales)
                for a, b in zip(new.stages, old.stages, strict=True)
            ]
            distances.append(settings.pooling_logits * pooled_distance(summed, old.small, settings.scales))
            return fit + growth * tf.add_n(distances) / len(distances)

        return loss

    def thresholds(self, stage: Stage, teacher: tuple[Any, Decoder], n_old: int) -> np.ndarray:
        """Median entropy by label over one pass of the step's images, as they are cropped in training."""
        size, n = self.settings.batch_size, len(stage.train)
        encoder, decoder = teacher

        @tf.function(autograph=False, reduce_retracing=True)
        def look(x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            z = outputs(encoder, decoder, x, n_old, training=False).logits
            return tf.where(y == 0, tf.argmax(z, -1, output_type=tf.int32), -1), entropy(z)

        feed = batches(
            Plain(order=in_order(n), n=n, batch_size=size),
            self._maker(stage.train, None, NO_CHANGE),
            start=0,
            stop=-(-n // size),
            draws=self._draws("entropy"),
            n_parallel=self.resources.n_workers,
        )
        histogram = np.zeros((n_old, BINS), np.int64)
        for x, y in feed:
            guess, surprise = (value.numpy() for value in look(x, y))
            inside = guess >= 0
            bins = np.minimum((surprise[inside] * BINS).astype(np.int64), BINS - 1)
            np.add.at(histogram, (guess[inside], bins), 1)
        return medians(histogram, self.settings.least_entropy)


def build(settings: Plop, setup: Setup) -> PlopLearner:
    """The learner for a stream."""
    learner: PlopLearner = start(PlopLearner, settings, setup)
    return learner
