"""Curves over stages, of one run and over seeds, and what a method costs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from cl_kernel.reports.compare import Group, mean_std

BYTES = ("kept bytes", "memory bytes")
"""Everything a method keeps; runs of earlier versions say their replay memory only."""


def costs_of(group: Group, columns: Sequence[str]) -> dict[int, float]:
    """Cost by seed, from the first of the columns that the runs have."""
    return next((found for column in columns if (found := group.values(column))), {})


def forgetting_curve(matrix: Sequence[Sequence[float | None]]) -> list[float | None]:
    """After each stage i: mean over j < i of ( max_{j<=l<i} R[l, j] - R[i, j] ); None where unmeasured."""
    curve: list[float | None] = []
    for i, row in enumerate(matrix):
        falls = []
        for j in range(min(i, len(row))):
            before = [value for value in (earlier[j] for earlier in matrix[j:i]) if value is not None]
            now = row[j]
            if before and now is not None:
                falls.append(max(before) - now)
        curve.append(statistics.fmean(falls) if falls and len(row) == len(matrix) else None)
    return curve


def over_seeds(rows: Sequence[Sequence[float | None]]) -> tuple[list[float | None], list[float | None]]:
    """Mean and sample standard deviation at each place, over those that have a value there."""
    means: list[float | None] = []
    spreads: list[float | None] = []
    for values in zip(*rows, strict=False):
        known = [value for value in values if value is not None]
        mean, spread = mean_std(known) if known else (None, None)
        means.append(mean)
        spreads.append(spread)
    return means, spreads
