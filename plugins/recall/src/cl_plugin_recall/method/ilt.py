"""Incremental learning techniques for semantic segmentation (ILT, arXiv 1907.13372).

LwF's loss on the logits, and the mean squared distance between the encoder's output and that of the network before.
Weights as in MiB's code (github.com/fcdl94/MiB), 100 each.
"""

from __future__ import annotations

from typing import Any

from cl_kernel import Setup, Stage, StreamContext
from cl_plugin_recall.backend import tf
from cl_plugin_recall.method.distillation import Distiller, Objective, Outputs, cross_entropy
from cl_plugin_recall.method.lwf import distance
from cl_plugin_recall.method.segmenter import start
from cl_plugin_recall.network.decoder import Decoder
from cl_plugin_recall.settings import Ilt


class IltLearner(Distiller):
    """Cross-entropy, distillation of the logits, and of the features."""

    settings: Ilt

    def objective(self, stage: Stage, teacher: tuple[Any, Decoder], n_old: int, ctx: StreamContext) -> Objective:
        """See the module."""
        settings = self.settings

        def loss(new: Outputs, old: Outputs, y: tf.Tensor, replayed: tf.Tensor) -> tf.Tensor:
            gap = tf.cast(new.stages[-1], tf.float32) - tf.cast(old.stages[-1], tf.float32)
            return (
                cross_entropy(new.logits, y)
                + settings.distillation * distance(new.logits, old.logits)
                + settings.features * tf.reduce_mean(tf.square(gap))
            )

        return loss


def build(settings: Ilt, setup: Setup) -> IltLearner:
    """The learner for a stream."""
    learner: IltLearner = start(IltLearner, settings, setup)
    return learner
