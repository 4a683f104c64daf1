"""Modelling the background (MiB, arXiv 2002.00718).

What is labelled background in a new image may be any old class: eq. 4 takes its probability as the sum over background
and old labels. What the network before calls background may be a new class: eq. 9 compares its background with the sum
over background and new labels. New classes begin as equal parts of the background (eq. 10, 11). Defaults of the paper
and of github.com/fcdl94/MiB, with whose code the distillation is a mean over labels as well as pixels.
"""

from __future__ import annotations

from typing import Any

from cl_kernel import Setup, Stage, StreamContext
from cl_plugin_recall.backend import tf
from cl_plugin_recall.method.distillation import Distiller, Objective, Outputs, balance_new_classes, masked_mean
from cl_plugin_recall.method.segmenter import start
from cl_plugin_recall.network.decoder import Decoder
from cl_plugin_recall.settings import Mib


def unbiased_each(logits: tf.Tensor, labels: tf.Tensor, n_old: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Unbiased cross-entropy of every pixel (eq. 4) and which pixels count; old labels are background, as there."""
    n = logits.shape[-1]
    counted = labels < n
    total = tf.reduce_logsumexp(logits, -1)
    background = tf.reduce_logsumexp(logits[..., :n_old], -1) - total
    new = tf.one_hot(tf.where(counted & (labels >= n_old), labels, -1), n)
    foreground = tf.reduce_sum(new * logits, -1) - total
    return -tf.where(labels < n_old, background, foreground), counted


def unbiased_distance(new: tf.Tensor, old: tf.Tensor) -> tf.Tensor:
    """Unbiased distillation (eq. 8, 9), mean over pixels and old labels."""
    n_old = old.shape[-1]
    total = tf.reduce_logsumexp(new, -1)
    with_new = tf.concat([new[..., :1], new[..., n_old:]], -1)
    background = tf.reduce_logsumexp(with_new, -1) - total
    p = tf.nn.softmax(old)
    kept = tf.reduce_sum(p[..., 1:] * (new[..., 1:n_old] - total[..., None]), -1)
    return -tf.reduce_mean(p[..., 0] * background + kept) / n_old


class MibLearner(Distiller):
    """Unbiased cross-entropy and distillation."""

    settings: Mib

    def prepare(self, stage: Stage, n_old: int) -> None:
        """Begin new classes as parts of the background."""
        balance_new_classes(self.decoder, n_old, len(stage.classes))

    def objective(self, stage: Stage, teacher: tuple[Any, Decoder], n_old: int, ctx: StreamContext) -> Objective:
        """See the module."""
        weight = self.settings.distillation

        def loss(new: Outputs, old: Outputs, y: tf.Tensor, replayed: tf.Tensor) -> tf.Tensor:
            fit = masked_mean(*unbiased_each(new.logits, y, n_old))
            return fit + weight * unbiased_distance(new.logits, old.logits)

        return loss


def build(settings: Mib, setup: Setup) -> MibLearner:
    """The learner for a stream."""
    learner: MibLearner = start(MibLearner, settings, setup)
    return learner
