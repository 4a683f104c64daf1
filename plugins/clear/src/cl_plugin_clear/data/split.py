"""Dates, sizes and index lists of splits. Pure functions on arrays of N items."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
from dateutil.parser import isoparse

from cl_kernel import BadInput

FIRST_YEAR, LAST_YEAR = 2004, 2014
SHARD_ROWS = 500_000


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


def years(uploaded: np.ndarray) -> np.ndarray:
    """UTC calendar year of each stamp, int64 [N]."""
    return np.asarray(uploaded, np.int64).astype("datetime64[s]").astype("datetime64[Y]").astype(np.int64) + 1970


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
