"""Loss, weight decay, learning rate and the update rules.

Shapes: B batch, H W image, C logits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from cl_plugin_recall.backend import tf
from cl_plugin_recall.data.tables import back_table, class_table, helper_table

__all__ = [
    "OPTIMISERS",
    "Adam",
    "Momentum",
    "back_table",
    "class_table",
    "cross_entropy",
    "cross_entropy_each",
    "cross_entropy_sum",
    "helper_table",
    "learning_rate",
    "weight_decay",
]


def cross_entropy_each(
    logits_BHWC: tf.Tensor, label_BHW: tf.Tensor, counted: np.ndarray
) -> tuple[tf.Tensor, tf.Tensor]:
    """Summed cross-entropy of each image and the number of its pixels whose label counts, float32 [B].

    :param label_BHW: integer labels, any value 0..255; values that do not count may exceed the logits.
    :param counted: bool [256] from :func:`class_table`.
    """
    label = tf.cast(label_BHW, tf.int32)
    valid = tf.gather(tf.constant(counted), label)
    # Spelt out: on a CPU, TensorFlow's own operation takes twice as long for few classes and many pixels.
    shifted = logits_BHWC - tf.stop_gradient(tf.reduce_max(logits_BHWC, -1, keepdims=True))
    one_hot = tf.one_hot(tf.where(valid, label, -1), tf.shape(logits_BHWC)[-1])  # all zeros where nothing counts
    each = tf.math.log(tf.reduce_sum(tf.exp(shifted), -1)) - tf.reduce_sum(one_hot * shifted, -1)
    return tf.reduce_sum(tf.where(valid, each, 0.0), [1, 2]), tf.reduce_sum(tf.cast(valid, tf.float32), [1, 2])


def cross_entropy_sum(logits_BHWC: tf.Tensor, label_BHW: tf.Tensor, counted: np.ndarray) -> tuple[tf.Tensor, tf.Tensor]:
    """The same over the whole batch."""
    total, n = cross_entropy_each(logits_BHWC, label_BHW, counted)
    return tf.reduce_sum(total), tf.reduce_sum(n)


def cross_entropy(logits_BHWC: tf.Tensor, label_BHW: tf.Tensor, counted: np.ndarray) -> tf.Tensor:
    """Mean over all counted pixels of the whole batch; 0 where none counts (the reference gives NaN)."""
    total, n = cross_entropy_sum(logits_BHWC, label_BHW, counted)
    return tf.math.divide_no_nan(total, n)


def weight_decay(kernels: Iterable[tf.Variable], factor: float) -> tf.Tensor:
    """``factor * sum ||v||^2 / 2`` over convolution kernels."""
    return factor * tf.add_n([tf.nn.l2_loss(v) for v in kernels])


def learning_rate(
    t: int, *, initial: float, final: float, floor: float, decay_steps: int, power: float = 0.9, start: int = 0
) -> float:
    """Polynomial decay after ``t`` steps: ``(initial - final) * (1 - t'/D)^power + floor``.

    :param floor: the added constant: the phase's own ``final``, or with the reference's quirk that of step 0.
    :param decay_steps: D, the horizon in steps; t' is clipped to it.
    """
    passed = min(max(t - start, 0), decay_steps)
    return (initial - final) * (1.0 - passed / decay_steps) ** power + floor


class Momentum:
    """Heavy-ball SGD: ``a <- mu a + g ; w <- w - lr a`` (no dampening, not Nesterov)."""

    def __init__(self, variables: Sequence[tf.Variable], momentum: float = 0.9) -> None:
        self.momentum = momentum
        self.slots = [tf.Variable(tf.zeros_like(v), trainable=False) for v in variables]

    def apply(self, variables: Sequence[tf.Variable], gradients: Sequence[tf.Tensor], lr: tf.Tensor) -> None:
        """One update of every variable."""
        for variable, slot, gradient in zip(variables, self.slots, gradients, strict=True):
            slot.assign(self.momentum * slot + gradient)
            variable.assign_sub(lr * slot)


class Adam:
    """Adam with bias correction and the usual constants; for the toy data's short schedules."""

    def __init__(
        self, variables: Sequence[tf.Variable], beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-7
    ) -> None:
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon
        self.n_first = len(variables)
        self.slots = [tf.Variable(tf.zeros_like(v), trainable=False) for v in (*variables, *variables)]
        self.slots.append(tf.Variable(0.0, trainable=False))

    def apply(self, variables: Sequence[tf.Variable], gradients: Sequence[tf.Tensor], lr: tf.Tensor) -> None:
        """One update of every variable."""
        count = self.slots[-1]
        count.assign_add(1.0)
        rate = lr * tf.sqrt(1.0 - self.beta2**count) / (1.0 - self.beta1**count)
        firsts, seconds = self.slots[: self.n_first], self.slots[self.n_first : -1]
        for variable, first, second, gradient in zip(variables, firsts, seconds, gradients, strict=True):
            first.assign(self.beta1 * first + (1.0 - self.beta1) * gradient)
            second.assign(self.beta2 * second + (1.0 - self.beta2) * tf.square(gradient))
            variable.assign_sub(rate * first / (tf.sqrt(second) + self.epsilon))


OPTIMISERS = {"momentum": Momentum, "adam": Adam}
