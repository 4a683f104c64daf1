"""Losses of the counter-stream network and the accuracies that go with them.

Shapes: B batch, n classes of an output, J outputs, T tasks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor

from cl_plugin_butd.network.counter_stream import Outputs

IMAGE_WEIGHT = 0.01
"""Weight of the drawn object's squared error (targets are 0..255)."""


@frozen
class Terms:
    """The terms of a loss, each None where its head is off, and their weighted sum."""

    occurrence: Tensor | None
    task: Tensor | None
    td_image: Tensor | None
    total: Tensor


def task_loss(logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy over examples and outputs.

    :param logits: [B, n, J].
    :param labels: int64 [B, J].
    :param weight: [B, J]; the sum of weighted terms is divided by the sum of weights. None: the mean.
    """
    each = F.cross_entropy(logits, labels, reduction="none")
    return each.mean() if weight is None else (each * weight).sum() / weight.sum()


def instruction_loss(
    out: Outputs,
    labels: Tensor,
    existence: Tensor | None = None,
    *,
    weight: Tensor | None = None,
    drawing: Tensor | None = None,
) -> Terms:
    """Occurrence + task + drawn object / 100; summed, not averaged.

    :param labels: int64 [B, J].
    :param existence: 0 or 1 for each class, [B, n_occurrence].
    :param drawing: the queried object alone, 0..255, [B, 3, H, W].
    """
    terms: list[Tensor] = []
    occurrence = task = drawn = None
    if out.occurrence is not None and existence is not None:
        occurrence = F.binary_cross_entropy_with_logits(out.occurrence, existence.float())
        terms.append(occurrence)
    if out.td_image is not None and drawing is not None:
        drawn = F.mse_loss(out.td_image, drawing)
        terms.append(IMAGE_WEIGHT * drawn)
    if out.task is not None:
        task = task_loss(out.task, labels, weight)
        terms.append(task)
    return Terms(occurrence, task, drawn, torch.stack(terms).sum() if len(terms) > 1 else terms[0])


def chosen_head_loss(logits: Tensor, task_bits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Score each sample on the head its own task bit selects; several bits set score several heads.

    :param logits: [B, n, T].
    :param task_bits: 0 or 1, [B, T].
    :param labels: int64 [B, 1], or [B, T] where each task has its own answer (compound instructions).
    :return: loss per example [B], the mean over the heads that are asked, and correctness [B, T] (0 where not asked).
    """
    labels = labels.expand(-1, logits.shape[2])
    each = F.cross_entropy(logits, labels, reduction="none") * task_bits
    right = (logits.argmax(1) == labels) & task_bits.bool()
    return each.sum(1) / task_bits.sum(1).clamp(min=1), right


def task_accuracy(logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
    """Share of right outputs per example, [B]; weighted by presence when weights are given."""
    right = (logits.argmax(1) == labels).float()
    return right.mean(1) if weight is None else (right * weight).sum(1) / weight.sum(1)
