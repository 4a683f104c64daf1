"""Learning without forgetting (arXiv 1606.09282), on pixels.

``L = CE(y, p) - w mean_{pixels, old labels} softmax(z_old)_c log softmax(z_:O)_c``: the new network's answer among the
old labels stays that of the network before. Weight as in MiB's code (github.com/fcdl94/MiB), 100.
"""

from __future__ import annotations

from typing import Any

from cl_kernel import Setup, Stage, StreamContext
from cl_plugin_recall.backend import tf
from cl_plugin_recall.method.distillation import Distiller, Objective, Outputs, cross_entropy
from cl_plugin_recall.method.segmenter import start
from cl_plugin_recall.network.decoder import Decoder
from cl_plugin_recall.settings import Lwf


def distance(new: tf.Tensor, old: tf.Tensor) -> tf.Tensor:
    """Cross-entropy between old answers and new ones among the old labels, mean over pixels and labels."""
    log_p = tf.nn.log_softmax(new[..., : old.shape[-1]])
    return -tf.reduce_mean(tf.nn.softmax(old) * log_p)


class LwfLearner(Distiller):
    """Cross-entropy and distillation of the logits."""

    settings: Lwf

    def objective(self, stage: Stage, teacher: tuple[Any, Decoder], n_old: int, ctx: StreamContext) -> Objective:
        """See the module."""
        weight = self.settings.distillation

        def loss(new: Outputs, old: Outputs, y: tf.Tensor, replayed: tf.Tensor) -> tf.Tensor:
            return cross_entropy(new.logits, y) + weight * distance(new.logits, old.logits)

        return loss


def build(settings: Lwf, setup: Setup) -> LwfLearner:
    """The learner for a stream."""
    learner: LwfLearner = start(LwfLearner, settings, setup)
    return learner
