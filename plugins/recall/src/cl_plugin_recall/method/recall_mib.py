"""RECALL on top of MiB: replay and inpainting (arXiv 2108.03673), losses that model the background (arXiv 2002.00718).

The encoder stays frozen as in RECALL. Pixels with a label, drawn, inpainted or predicted, keep the plain cross-entropy.
A background pixel of a new image may still be an old class that the network before did not see: its probability is the
sum over background and old labels. A background pixel of a replayed image may be any class learnt after its labels
were made: the sum over background and new labels. Distillation and first values of new classes are MiB's.
"""

from __future__ import annotations

from cl_kernel import Setup, Stage
from cl_plugin_recall.backend import tf
from cl_plugin_recall.method.distillation import (
    DistillStep,
    Outputs,
    balance_new_classes,
    each_cross_entropy,
    masked_mean,
)
from cl_plugin_recall.method.mib import unbiased_distance
from cl_plugin_recall.method.recall import RecallLearner
from cl_plugin_recall.method.segmenter import start
from cl_plugin_recall.settings import RecallMib


def open_background(logits: tf.Tensor, y: tf.Tensor, replayed: tf.Tensor, n_old: int) -> tf.Tensor:
    """Cross-entropy with a background that may be an old class (new images) or a new one (replayed images)."""
    each, counted = each_cross_entropy(logits, y)
    total = tf.reduce_logsumexp(logits, -1)
    with_old = total - tf.reduce_logsumexp(logits[..., :n_old], -1)
    with_new = total - tf.reduce_logsumexp(tf.concat([logits[..., :1], logits[..., n_old:]], -1), -1)
    ground = tf.where(replayed[:, None, None], with_new, with_old)
    return masked_mean(tf.where(y == 0, ground, each), counted)


class RecallMibLearner(RecallLearner):
    """RECALL with MiB's losses."""

    settings: RecallMib

    def _begin_increment(self, stage: Stage) -> None:
        super()._begin_increment(stage)
        if stage.classes:
            balance_new_classes(self.decoder, self.known(stage) - len(stage.classes), len(stage.classes))

    def _increment_step(self, stage: Stage) -> DistillStep:
        n_old, n_all = self.known(stage) - len(stage.classes), self.known(stage)
        weight = self.settings.distillation

        def loss(new: Outputs, old: Outputs, y: tf.Tensor, replayed: tf.Tensor) -> tf.Tensor:
            fit = open_background(new.logits, y, replayed, n_old)
            return fit + weight * unbiased_distance(new.logits, old.logits)

        before = self.network.new_decoder(self.network.n_outputs, self.resources.rng("recall decoder"))
        before.assign(self._before)
        return DistillStep(
            self.encoder, self.decoder, self.settings, loss, (self.encoder, before), (n_old, n_all), whole=False
        )


def build(settings: RecallMib, setup: Setup) -> RecallMibLearner:
    """The learner for a stream."""
    learner: RecallMibLearner = start(RecallMibLearner, settings, setup)
    return learner
