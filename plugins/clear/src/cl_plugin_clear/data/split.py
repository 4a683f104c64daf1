"""Temporal splits: upload stamps -> buckets; feature shards; train/test index lists. Pure functions on arrays.

Shapes: N items, n buckets.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
from attrs import frozen
from dateutil.parser import isoparse

from cl_kernel import BadInput

FIRST_YEAR, LAST_YEAR = 2004, 2014
SHARD_ROWS = 500_000


@frozen
class Buckets:
    """A split: ``order`` int64 [kept] item indices in stream order, ``counts`` int64 [n] items per bucket, contiguous."""  # noqa: E501

    order: np.ndarray
    counts: np.ndarray

    @property
    def ends(self) -> np.ndarray:
        """Where each bucket ends in ``order``."""
        return np.cumsum(self.counts)

    def items(self, bucket: int) -> np.ndarray:
        """Item indices of one bucket."""
        end = int(self.ends[bucket])
        return self.order[end - int(self.counts[bucket]) : end]


def date_text(stamp: int) -> str:
    """Unix seconds as UTC text."""
    return datetime.fromtimestamp(int(stamp), UTC).strftime("%Y-%m-%d %H:%M:%S")


def even_sizes(n_items: int, n_parts: int) -> np.ndarray:
    """Sizes that differ by at most one, the larger first (SQL ``NTILE``)."""
    quotient, rest = divmod(n_items, n_parts)
    return np.array([quotient + (part < rest) for part in range(n_parts)], np.int64)


def shard_sizes(n_items: int, max_rows: int = SHARD_ROWS) -> np.ndarray:
    """Rows of each feature shard: as few shards as possible, even."""
    return even_sizes(n_items, -(-n_items // max_rows)) if n_items else np.empty(0, np.int64)


def equal_buckets(uploaded: np.ndarray, n: int) -> Buckets:
    """Equal-size buckets of the stream sorted by upload time, ties in input order.

    :raises BadInput: when there are more buckets than items.
    """
    if n < 1 or n > len(uploaded):
        raise BadInput(
            f"{n} buckets of {len(uploaded)} items: some would be empty",
            where="split",
            fix="use fewer buckets, or download more before splitting",
        )
    return Buckets(np.argsort(uploaded, kind="stable"), even_sizes(len(uploaded), n))


def years(uploaded: np.ndarray) -> np.ndarray:
    """UTC calendar year of each stamp, int64 [N]."""
    return np.asarray(uploaded, np.int64).astype("datetime64[s]").astype("datetime64[Y]").astype(np.int64) + 1970


def year_buckets(uploaded: np.ndarray) -> Buckets:
    """Bucket b = year 2004 + b; items of other years are dropped, empty years allowed."""
    return _collect(
        uploaded,
        np.where((years(uploaded) >= FIRST_YEAR) & (years(uploaded) <= LAST_YEAR), years(uploaded) - FIRST_YEAR, -1),
        LAST_YEAR - FIRST_YEAR + 1,
    )


def interval_stamps(intervals: Sequence[tuple[str, str]]) -> np.ndarray:
    """ISO texts (UTC) -> float64 [n, 2] seconds.

    :raises BadInput: naming an interval that is no date, ends before it starts, or overlaps the one before.
    """
    stamps = np.empty((len(intervals), 2))
    for row, pair in enumerate(intervals):
        for side, text in enumerate(pair):
            try:
                moment = isoparse(text.strip())
            except ValueError as error:
                raise BadInput(f"{text!r} is no ISO date: {error}", where=f"interval {row}") from None
            stamps[row, side] = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        if stamps[row, 1] < stamps[row, 0]:
            raise BadInput(f"it ends ({pair[1]}) before it starts ({pair[0]})", where=f"interval {row}")
        if row and stamps[row, 0] <= stamps[row - 1, 1]:
            raise BadInput(f"it starts ({pair[0]}) before interval {row - 1} has ended", where=f"interval {row}")
    return stamps


def interval_of(
    uploaded: np.ndarray, intervals: Sequence[tuple[str, str]], *, compat_original: bool = False
) -> np.ndarray:
    """Bucket of each item, -1 = dropped: both ends inclusive.

    :param compat_original: the original's single pass: the item that closes a bucket opens the next one even if
        it lies in the gap before it or beyond its end, and everything after the last end is left out.
    """
    stamps = interval_stamps(intervals)
    uploaded = np.asarray(uploaded, np.int64)
    if not compat_original:
        at = np.searchsorted(stamps[:, 0], uploaded, side="right") - 1
        inside = (at >= 0) & (uploaded <= stamps[np.maximum(at, 0), 1])
        return np.where(inside, at, -1)
    out = np.full(len(uploaded), -1, np.int64)
    current = 0
    for item in np.argsort(uploaded, kind="stable"):
        if uploaded[item] > stamps[current, 1]:
            current += 1
            if current == len(stamps):
                break
            out[item] = current
        elif uploaded[item] >= stamps[current, 0]:
            out[item] = current
    return out


def interval_buckets(
    uploaded: np.ndarray, intervals: Sequence[tuple[str, str]], *, compat_original: bool = False
) -> Buckets:
    """Buckets by explicit ``(start, end)`` texts; see :func:`interval_of`."""
    return _collect(uploaded, interval_of(uploaded, intervals, compat_original=compat_original), len(intervals))


def _collect(uploaded: np.ndarray, bucket: np.ndarray, n: int) -> Buckets:
    order = np.argsort(uploaded, kind="stable")
    order = order[bucket[order] >= 0]
    order = order[np.argsort(bucket[order], kind="stable")]
    return Buckets(order, np.bincount(bucket[order], minlength=n).astype(np.int64))


def train_test(n: int, ratio: float, seed: int) -> tuple[list[int], list[int]]:
    """Index lists of the training folder: Python's Mersenne Twister, seeded for each bucket anew.

    The same permutation for all buckets of equal size, and not stratified by class: kept for parity.
    """
    rows = list(range(n))
    random.Random(seed).shuffle(rows)
    n_train = n - int(n * ratio)
    return rows[:n_train], rows[n_train:]


def train_test_by_class(classes: Sequence[int], ratio: float, seed: int) -> tuple[list[int], list[int]]:
    """The same split within each class, as the authors' ``train.py`` makes it (70/30 per class)."""
    shuffled = random.Random(seed)
    train: list[int] = []
    test: list[int] = []
    for label in sorted(set(classes)):
        rows = [row for row, c in enumerate(classes) if c == label]
        shuffled.shuffle(rows)
        n_train = len(rows) - int(len(rows) * ratio)
        train += rows[:n_train]
        test += rows[n_train:]
    return train, test
