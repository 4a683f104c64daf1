"""Learning-rate schedules, the mean image and the rule for a new best, as plain functions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

WARMUP_EPOCHS = 5


def cyclic_rate(step: int, base: float, top: float, half_period: int) -> float:
    """Triangular learning rate: up for ``half_period`` steps, down for as many.

    >>> [round(cyclic_rate(i, 0.0, 1.0, 2), 2) for i in range(5)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    position = step % (2 * half_period) / half_period
    return base + (top - base) * (position if position <= 1 else 2 - position)


def cosine_rate(step: int, n_steps: int, top: float) -> float:
    """Half a cosine from ``top`` to 0 over ``n_steps``."""
    return top * 0.5 * (1 + math.cos(math.pi * min(step / max(n_steps, 1), 1.0)))


def step_rate(epoch: int, top: float, every: int, factor: float) -> float:
    """``top`` times ``factor`` once per ``every`` epochs."""
    return top * factor ** (epoch // every)


def warmup_factors(n_gpus: int, n_epochs: int, *, scale: float = 1.0) -> np.ndarray:
    """Multiplier of the learning rate for each epoch.

    With several devices five epochs that climb from 1 / n are put in front; they are part of ``n_epochs``.

    :param scale: what the multiplier climbs to (a larger batch).
    """
    if n_gpus * scale == 1:
        return np.ones(n_epochs)
    climb = np.linspace(1 / n_gpus, scale, WARMUP_EPOCHS)
    return np.concatenate([climb, np.full(max(n_epochs - WARMUP_EPOCHS, 0), scale)])[:n_epochs]


def is_better(new: float, best: float, margin: float = 0.01) -> bool:
    """Whether a score is a new best: more than ``margin`` above the last."""
    return new > best + margin


def mean_image(batches: Iterable[np.ndarray] | Sequence[np.ndarray], stop_after: int | None = 1000) -> np.ndarray:
    """Pixel-wise mean, 0..255, of batches in order until more than ``stop_after`` images are seen.

    :param batches: each [n, C, H, W].
    :param stop_after: None or 0 for all.
    :return: float64 [C, H, W].
    """
    total, count = 0.0, 0
    for batch in batches:
        total = total + np.asarray(batch, np.float64).sum(0)
        count += len(batch)
        if stop_after and count > stop_after:
            break
    return np.asarray(total) / max(count, 1)
