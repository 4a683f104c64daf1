"""Methods that train the whole network in every step and keep old classes by distillation from the network before.

A method gives an objective over what both networks make of a batch. Labels known are those up to the step's newest
class; channels of classes to come are left out of every softmax here.
Shapes: B batch, H W image, h w feature grid, C labels known, O labels known before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from attrs import frozen

from cl_kernel import BadSetting, Setup, Stage, StreamContext
from cl_plugin_recall.backend import tf
from cl_plugin_recall.data.tables import class_table
from cl_plugin_recall.method.phases import TrainStep, incremental_plan
from cl_plugin_recall.method.segmenter import NO_CHANGE, Segmenter
from cl_plugin_recall.network.decoder import Decoder
from cl_plugin_recall.network.layers import resize_logits
from cl_plugin_recall.settings import Distilled, Training


@frozen
class Outputs:
    """What a network makes of a batch.

    :param stages: feature maps of the encoder, the last one its output.
    :param small: logits on the feature grid, [B, h, w, C].
    :param logits: logits at full resolution, float32 [B, H, W, C].
    """

    stages: Sequence[tf.Tensor]
    small: tf.Tensor
    logits: tf.Tensor


def outputs(encoder: Any, decoder: Decoder, x: tf.Tensor, n: int, *, training: bool, frozen: bool = False) -> Outputs:
    """The first ``n`` channels of a network's answer.

    :param frozen: no gradient into the encoder.
    """
    stages = encoder.stages(x, training and not frozen)
    if frozen:
        stages = [tf.stop_gradient(stage) for stage in stages]
    small = decoder(stages[-1])[..., :n]
    return Outputs(stages, small, resize_logits(small, tf.shape(x)[1:3]))


Objective = Callable[[Outputs, Outputs, tf.Tensor, tf.Tensor], tf.Tensor]
"""(new, old, labels int32 [B, H, W], is replayed bool [B]) -> loss to minimise, without weight decay."""


class DistillStep(TrainStep):
    """One optimiser step on an objective over the new and the old network."""

    def __init__(
        self,
        encoder: Any,
        decoder: Decoder,
        settings: Training,
        objective: Objective,
        teacher: tuple[Any, Decoder],
        sizes: tuple[int, int],
        *,
        whole: bool = True,
    ) -> None:
        self.objective, self.teacher, self.n_old, self.n_all = objective, teacher, *sizes
        self.wants_replayed = not whole
        super().__init__(encoder, decoder, class_table(range(sizes[1])), settings, whole=whole)

    def __call__(self, x: tf.Tensor, y: tf.Tensor, rate: tf.Tensor) -> tf.Tensor:
        """Train on a batch; the loss is the whole objective."""
        replayed = self.replayed or [False] * int(x.shape[0])
        return self._compiled(tf.cast(x, self._type), y, rate, tf.constant(replayed))

    def _step(self, x: tf.Tensor, y: tf.Tensor, rate: tf.Tensor, replayed: tf.Tensor) -> tf.Tensor:  # type: ignore[override]
        encoder, decoder = self.teacher
        old = outputs(encoder, decoder, x, self.n_old, training=False)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self.variables)
            new = outputs(self.encoder, self.decoder, x, self.n_all, training=True, frozen=not self.whole)
            loss = self.objective(new, old, tf.cast(y, tf.int32), replayed)
            scaled = loss * self._scale
        gradients = tape.gradient(scaled, self.variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        self.optimiser.apply(self.variables, self._decayed(self._unscaled(gradients)), rate)
        return loss


class Distiller(Segmenter):
    """A learner whose later steps train everything against a copy of the network before."""

    settings: Any
    frozen = False

    def __init__(self, settings: Distilled, setup: Setup, strategy: tf.distribute.Strategy | None) -> None:
        if strategy is not None:
            raise BadSetting("this method trains on one device", where="learner.devices", fix="learner.devices=1")
        super().__init__(settings, setup, strategy)

    def objective(self, stage: Stage, teacher: tuple[Any, Decoder], n_old: int, ctx: StreamContext) -> Objective:
        """The method's loss in a step."""
        raise NotImplementedError

    def prepare(self, stage: Stage, n_old: int) -> None:
        """What is done to the network before a step, once its teacher has been copied."""

    def _learn_later(self, stage: Stage, ctx: StreamContext) -> None:
        if "increment" in self.done:
            return
        n_old, n_all = self.known(stage) - len(stage.classes), self.known(stage)
        if self.phase != "increment":
            self._before = {"encoder": self.encoder.values(), "decoder": self.decoder.values()}
            self.prepare(stage, n_old)
        teacher = self._teacher()
        objective = self.objective(stage, teacher, n_old, ctx)
        step = DistillStep(self.encoder, self.decoder, self.settings, objective, teacher, (n_old, n_all))
        plan = incremental_plan(self.settings, max(1, len(stage.classes)))
        self._train("increment", plan, step, self._plain(stage.train, "new"), stage.train, None, NO_CHANGE, ctx)
        self._before = None
        self._model_changed()

    def _teacher(self) -> tuple[Any, Decoder]:
        encoder = self.network.new_encoder(np.random.default_rng(0))
        decoder = self.network.new_decoder(self.network.n_outputs, np.random.default_rng(0))
        encoder.assign(self._before["encoder"])
        decoder.assign(self._before["decoder"])
        return encoder, decoder


# ---- losses that several methods share --------------------------------------------------------------


def masked_mean(values: tf.Tensor, counted: tf.Tensor) -> tf.Tensor:
    """Mean over all pixels, those that do not count as 0, as the methods' common code takes it."""
    return tf.reduce_mean(tf.where(counted, values, 0.0))


def each_cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Cross-entropy of every pixel [B, H, W], and which pixels have a label among the channels."""
    n = logits.shape[-1]
    counted = labels < n
    log_p = tf.nn.log_softmax(logits)
    return -tf.reduce_sum(tf.one_hot(tf.where(counted, labels, -1), n) * log_p, -1), counted


def cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Mean cross-entropy."""
    return masked_mean(*each_cross_entropy(logits, labels))


def balance_new_classes(decoder: Decoder, n_old: int, n_new: int) -> None:
    """Begin new classes as equal parts of the background (arXiv 2002.00718, eq. 10 and 11).

    Their kernels become the background's; the biases, summed over the decoder's branches, the background's less
    ``log(n_new + 1)``, and so does the background's own.
    """
    branches = len(decoder.rates)
    less = float(np.log(n_new + 1)) / branches
    for i in range(1, branches + 1):
        weights, biases = (decoder.named[f"decoder/aspp/conv{i}/{leaf}"] for leaf in ("weights", "biases"))
        kernel, bias = weights.numpy(), biases.numpy()
        kernel[..., n_old : n_old + n_new] = kernel[..., :1]
        bias[n_old : n_old + n_new] = bias[0] - less
        bias[0] -= less
        weights.assign(kernel)
        biases.assign(bias)
