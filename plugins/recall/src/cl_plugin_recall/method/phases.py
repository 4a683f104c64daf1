"""Training of step 0, helpers and later steps: how long, how fast, and one compiled step.

Shapes: B batch, H W image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from attrs import frozen

from cl_plugin_recall.backend import tf
from cl_plugin_recall.method.losses import OPTIMISERS, cross_entropy_sum, learning_rate, weight_decay
from cl_plugin_recall.network.decoder import Decoder, logits
from cl_plugin_recall.network.layers import resize_logits
from cl_plugin_recall.settings import Training


@frozen(kw_only=True)
class PhasePlan:
    """Length and learning rate of a phase; the counter starts at 0 in each."""

    n_steps: int
    initial: float
    final: float
    floor: float
    decay_steps: int
    power: float
    start: int

    def rate(self, t: int) -> float:
        """Learning rate after ``t`` steps."""
        return learning_rate(
            t,
            initial=self.initial,
            final=self.final,
            floor=self.floor,
            decay_steps=self.decay_steps,
            power=self.power,
            start=self.start,
        )


def _plan(settings: Training, suffix: str, n_steps: int, decay_steps: int) -> PhasePlan:
    final = getattr(settings, f"lr_final_value{suffix}")
    # the reference adds step 0's final rate in every phase: a helper tends to 5e-6 instead of 2e-6
    floor = settings.lr_final_value if settings.lr_floor == "legacy" else final
    return PhasePlan(
        n_steps=n_steps,
        initial=getattr(settings, f"lr_initial_value{suffix}"),
        final=final,
        floor=floor,
        decay_steps=decay_steps,
        power=settings.decay_power,
        start=settings.start_decay_step,
    )


def first_plan(settings: Training, n_classes: int) -> PhasePlan:
    """Step 0 with ``n_classes`` foreground classes; its decay counts the background too."""
    return _plan(
        settings, "", n_classes * settings.training_steps_per_class, (n_classes + 1) * settings.decay_steps_per_class
    )


def helper_plan(settings: Training, n_classes: int) -> PhasePlan:
    """A helper for ``n_classes`` classes; its decay counts the background too."""
    return _plan(
        settings,
        "_helper",
        n_classes * settings.training_steps_per_class_helper,
        (n_classes + 1) * settings.decay_steps_per_class_helper,
    )


def incremental_plan(settings: Training, n_classes: int) -> PhasePlan:
    """A step that brings ``n_classes`` classes."""
    return _plan(
        settings,
        "_incremental",
        n_classes * settings.training_steps_per_class_incremental,
        n_classes * settings.decay_steps_per_class_incremental,
    )


LOSS_SCALE = 1024.0
"""Factor of a loss whose gradients pass through float16, which ends at 6e-8: about the share of a pixel in a mean."""


class TrainStep:
    """One optimiser step, compiled; holds the optimiser's slots.

    Step 0 (``whole``) trains encoder and decoder; later phases only the decoder, the encoder standing outside the
    gradient with its statistics fixed. A batch in which no pixel counts changes nothing (the reference gives NaN).

    :param strategy: replicas that share the batch; the loss stays the mean over all pixels of the whole batch.
    """

    wants_replayed = False
    """Whether the loss depends on which images of a batch are replayed; then ``replayed`` says so before each step."""

    def __init__(
        self,
        encoder: Any,
        decoder: Decoder,
        counted: np.ndarray,
        settings: Training,
        *,
        whole: bool,
        strategy: tf.distribute.Strategy | None = None,
    ) -> None:
        self.encoder, self.decoder, self.counted, self.settings = encoder, decoder, counted, settings
        self.whole, self.strategy = whole, strategy
        self.replayed: list[bool] = []
        self.variables: list[tf.Variable] = [*(encoder.learnt if whole else ()), *decoder.learnt]
        self.decayed: list[tf.Variable] = [*(encoder.kernels if whole else ()), *decoder.kernels]
        options = {"momentum": settings.momentum} if settings.optimiser == "momentum" else {}
        self.optimiser = OPTIMISERS[settings.optimiser](self.variables, **options)
        compiled = self._step if strategy is None else self._shared_step
        self._compiled = tf.function(
            compiled, reduce_retracing=True, autograph=False, jit_compile=True if settings.xla else None
        )
        self._type = tf.as_dtype(settings.precision)
        self._scale = LOSS_SCALE if self._type == tf.float16 else 1.0

    def __call__(self, x: tf.Tensor, y: tf.Tensor, rate: tf.Tensor) -> tf.Tensor:
        """Train on a batch.

        :param x: network input float32 [B, H, W, 3].
        :param y: integer labels [B, H, W].
        :return: cross-entropy before the step, without weight decay, still on the device.
        """
        return self._compiled(tf.cast(x, self._type), y, rate)

    def _logits(self, x: tf.Tensor) -> tf.Tensor:
        if self.whole:
            return logits(self.encoder, self.decoder, x, training=True)
        return resize_logits(self.decoder(self._features), tf.shape(x)[1:3])

    def _gradients(self, x: tf.Tensor, y: tf.Tensor, share: Any) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        """Summed loss, counted pixels, gradients of the sum and (times ``share``) nothing of the decay."""
        if not self.whole:
            self._features = tf.stop_gradient(self.encoder(x, False))
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self.variables)
            total, n = cross_entropy_sum(self._logits(x), y, self.counted)
            scaled = total * (share(n) * self._scale)
        return total, n, self._unscaled(tape.gradient(scaled, self.variables))

    def _unscaled(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        return [g / self._scale for g in gradients] if self._scale != 1 else list(gradients)

    def _decayed(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Add the gradient of the weight decay, ``l2 * w`` for kernels."""
        under = {id(v) for v in self.decayed}
        return [
            g + self.settings.l2_decay * v if id(v) in under else g
            for g, v in zip(gradients, self.variables, strict=True)
        ]

    def _step(self, x: tf.Tensor, y: tf.Tensor, rate: tf.Tensor) -> tf.Tensor:
        total, n, gradients = self._gradients(x, y, lambda n: tf.math.divide_no_nan(1.0, n))
        return self._apply(total, n, gradients, rate)

    def _apply(self, total: tf.Tensor, n: tf.Tensor, gradients: Sequence[tf.Tensor], rate: tf.Tensor) -> tf.Tensor:
        def update() -> tf.Tensor:
            self.optimiser.apply(self.variables, self._decayed(gradients), rate)
            return n

        tf.cond(n > 0, update, lambda: n)
        return tf.math.divide_no_nan(total, n)

    def _shared_step(self, x: tf.Tensor, y: tf.Tensor, rate: tf.Tensor) -> tf.Tensor:
        strategy = self.strategy
        assert strategy is not None
        n_replicas = strategy.num_replicas_in_sync
        share = (
            -(-x.shape[0] // n_replicas) if x.shape[0] else tf.cast(tf.math.ceil(tf.shape(x)[0] / n_replicas), tf.int32)
        )

        def mine() -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
            at = tf.distribute.get_replica_context().replica_id_in_sync_group
            part = slice(at * share, (at + 1) * share)
            total, n, gradients = self._gradients(x[part], y[part], lambda n: 1.0)
            return total, n, gradients

        totals, ns, gradients = strategy.run(mine)
        sum_over = tf.distribute.ReduceOp.SUM
        total, n = strategy.reduce(sum_over, totals, axis=None), strategy.reduce(sum_over, ns, axis=None)
        summed = [tf.math.divide_no_nan(strategy.reduce(sum_over, g, axis=None), n) for g in gradients]
        return self._apply(total, n, summed, rate)

    def decay(self) -> float:
        """Value of the weight decay now."""
        return float(weight_decay(self.decayed, self.settings.l2_decay))

    def state(self) -> list[np.ndarray]:
        """Optimiser slots."""
        return [slot.numpy() for slot in self.optimiser.slots]

    def load(self, slots: Sequence[np.ndarray]) -> None:
        """Take over what :meth:`state` gave."""
        for slot, value in zip(self.optimiser.slots, slots, strict=True):
            slot.assign(value)
