"""Which samples form which batch: plain index arithmetic, so any step can be resumed at."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from attrs import frozen

Order = Callable[[int], np.ndarray]
"""Pass number -> row order of that pass."""


def in_order(n: int) -> Order:
    """No shuffling."""
    rows = np.arange(n)
    return lambda _pass: rows


def shuffled(n: int, rng: Callable[[int], np.random.Generator]) -> Order:
    """A fresh permutation each pass, drawn from ``rng(pass)``."""
    memo: dict[int, np.ndarray] = {}

    def order(number: int) -> np.ndarray:
        if number not in memo:
            memo.clear()
            memo[number] = rng(number).permutation(n)
        return memo[number]

    return order


def rows_at(order: Order, n: int, start: int, count: int) -> list[int]:
    """``count`` rows of the endless stream of passes over ``n`` rows, from position ``start``."""
    return [int(order((start + k) // n)[(start + k) % n]) for k in range(count)]


@frozen(kw_only=True)
class Interleaved:
    """Groups of ``r_new`` new and ``r_old`` old samples, one after the other, cut into batches.

    With equal ratios and batch size the batches alternate: all new, all old, ... A ratio of 0 leaves one stream, and
    its batches have the other ratio's size.

    :param new: order of the new samples, of which there are ``n_new``; likewise ``old``.
    """

    new: Order
    old: Order
    n_new: int
    n_old: int
    r_new: int
    r_old: int
    batch_size: int

    @property
    def size(self) -> int:
        """Samples in a batch."""
        return self.batch_size if self.r_new and self.r_old else self.r_new or self.r_old

    def batch(self, t: int) -> list[tuple[bool, int]]:
        """Batch ``t`` as (is old, row) pairs."""
        period = self.r_new + self.r_old
        members = []
        for at in range(t * self.size, (t + 1) * self.size):
            group, place = divmod(at, period)
            if place < self.r_new:
                members.append((False, rows_at(self.new, self.n_new, group * self.r_new + place, 1)[0]))
            else:
                members.append((True, rows_at(self.old, self.n_old, group * self.r_old + place - self.r_new, 1)[0]))
        return members


@frozen(kw_only=True)
class Plain:
    """One stream in batches; the last batch of a pass runs on into the next pass."""

    order: Order
    n: int
    batch_size: int

    def batch(self, t: int) -> list[tuple[bool, int]]:
        """Batch ``t`` as (False, row) pairs."""
        return [(False, row) for row in rows_at(self.order, self.n, t * self.batch_size, self.batch_size)]


@frozen(kw_only=True)
class FixedBatches:
    """Batches cut in file order once, then shuffled whole; the last one of a pass may be short.

    :param order: order of the batches of a pass.
    """

    order: Order
    n: int
    batch_size: int

    def batch(self, t: int) -> list[tuple[bool, int]]:
        """Batch ``t`` as (False, row) pairs."""
        n_batches = -(-self.n // self.batch_size)
        first = int(self.order(t // n_batches)[t % n_batches]) * self.batch_size
        return [(False, row) for row in range(first, min(first + self.batch_size, self.n))]
