"""The authors' own reservoir procedures, restated draw by draw: what the policies are compared with."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def accept_probability(bucket: int, alpha: float, capacity: int, n_seen: int, *, dynamic: bool) -> float:
    """Chance that an item of the ``bucket``-th bucket (1-based) enters.

    :param n_seen: training items seen, this bucket included.
    """
    if bucket == 1:
        return 1.0
    return min(1.0, alpha) if dynamic else min(1.0, alpha * capacity / n_seen)


def inclusion(probabilities: Sequence[float]) -> np.ndarray:
    """P[i, j]: chance that an item of bucket j is in the buffer after bucket i, equal buckets of the buffer's size."""
    n = len(probabilities)
    out = np.zeros((n, n))
    for i in range(n):
        for j in range(i + 1):
            out[i, j] = probabilities[j] * np.prod([1 - probabilities[t] for t in range(j + 1, i + 1)])
    return out


def bucket_buffers(
    buckets: Sequence[Sequence[T]], alpha: float, *, dynamic: bool, rng: random.Random
) -> Iterator[list[T]]:
    """The authors' own procedure: the buffer after each bucket, in its order.

    One draw for each new item in order; then the old buffer is shuffled, cut to what the accepted leave, and they are
    appended. The first bucket is the buffer and sets the capacity.
    """
    buffer: list[T] = list(buckets[0])
    capacity, n_seen = len(buffer), len(buffer)
    yield list(buffer)
    for number, bucket in enumerate(buckets[1:], start=2):
        n_seen += len(bucket)
        p = accept_probability(number, alpha, capacity, n_seen, dynamic=dynamic)
        accepted = [item for item in bucket if rng.random() <= p][:capacity]
        rng.shuffle(buffer)
        buffer = buffer[: capacity - len(accepted)] + accepted
        yield list(buffer)


def two_buffers(
    buckets: Sequence[Sequence[T]], alpha: float, *, dynamic: bool, rng: random.Random, compat: bool = False
) -> Iterator[list[T]]:
    """The two-buffer variant: the present bucket, and a memory fed with each bucket when the next one arrives.

    :param compat: the original's slot ``int(u * (S - 1)) mod k``, which reuses the acceptance draw and never reaches
        some slots; otherwise a slot of its own draw.
    :return: current + memory items for each bucket.
    """
    current: list[T] = []
    memory: list[T] = []
    capacity = len(buckets[0])
    n_before = 0  # items in the buckets before the present one
    for number, bucket in enumerate(buckets, start=1):
        if number == 2:
            memory = list(current)
        elif number > 2:
            p = min(1.0, alpha) if dynamic else min(1.0, alpha * capacity / n_before)
            rng.shuffle(current)
            rng.shuffle(memory)
            for item in current:
                u = rng.random()
                if u <= p:
                    slot = int(u * (n_before - 1)) % capacity if compat else rng.randrange(capacity)
                    memory[slot] = item
        current = list(bucket)
        n_before += len(bucket)
        yield current + memory
