"""Scores of an accuracy matrix R (row: trained up to bucket i, column: tested on bucket j)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

NAMES = ("in_domain", "next_domain", "accuracy", "backward_transfer", "forward_transfer")
"""The paper's order: In, Next, Acc, BwT, FwT."""


def clear_metrics(matrix: np.ndarray, *, protocol: str = "iid", compat_next: bool = False) -> dict[str, float | None]:
    """The five figures of the paper; transfers are raw accuracies, nothing is subtracted.

    :param protocol: ``"streaming"``: training and test data of a bucket are the same, so only the entries above the
        diagonal are honest; the other three figures are None.
    :param compat_next: leave out entry (0, 1) as the authors' notebook does.
    """
    R = _square(matrix)
    n = len(R)
    low, up = np.tril_indices(n, -1), np.triu_indices(n, 1)
    next_diagonal = np.diagonal(R, 1)[1:] if compat_next else np.diagonal(R, 1)
    honest = protocol != "streaming"
    return {
        "in_domain": float(np.diagonal(R).mean()) if honest else None,
        "next_domain": _mean(next_diagonal),
        "accuracy": float(R[np.tril_indices(n)].mean()) if honest else None,
        "backward_transfer": _mean(R[low]) if honest else None,
        "forward_transfer": _mean(R[up]),
    }


def gem_style(matrix: np.ndarray) -> dict[str, float | None]:
    """Accuracy, backward transfer with the diagonal subtracted, forward transfer (history notebook)."""
    R = _square(matrix)
    rows, columns = np.tril_indices(len(R), -1)
    plain = clear_metrics(R)
    return {
        "accuracy": plain["accuracy"],
        "backward_transfer": _mean(R[rows, columns] - R[columns, columns]),
        "forward_transfer": plain["forward_transfer"],
    }


def column_averaged(matrix: np.ndarray) -> dict[str, float | None]:
    """Means over columns of the mean of the part of each column below and above the diagonal."""
    R = _square(matrix)
    n = len(R)
    below = [R[j + 1 :, j].mean() for j in range(n - 1)]
    above = [R[:j, j].mean() for j in range(1, n)]
    return {
        "in_domain": float(np.diagonal(R).mean()),
        "backward_transfer": _mean(below),
        "forward_transfer": _mean(above),
    }


def nap(matrix: np.ndarray, *, compat_next: bool = False) -> dict[str, float | None]:
    """What a model that stops learning after the first bucket would score: every row replaced by row 0."""
    R = _square(matrix)
    return clear_metrics(np.repeat(R[:1], len(R), axis=0), compat_next=compat_next)


def over_seeds(runs: Sequence[Mapping[str, float | None]]) -> dict[str, tuple[float, float] | None]:
    """Mean and population standard deviation of each figure over seeds."""
    out: dict[str, tuple[float, float] | None] = {}
    for name in runs[0] if runs else ():
        values = [run[name] for run in runs]
        known = [value for value in values if value is not None]
        out[name] = (float(np.mean(known)), float(np.std(known))) if len(known) == len(values) and known else None
    return out


def latex_row(name: str, scores: Mapping[str, tuple[float, float] | None]) -> str:
    """One row of the paper's table: In, Next, Acc, BwT, FwT as mean +- std with three decimals."""
    cells = [f"${scores[key][0]:.3f} \\pm {scores[key][1]:.3f}$" if scores.get(key) else "--" for key in NAMES]  # type: ignore[index]
    return f"{name.replace('_', chr(92) + '_')} & " + " & ".join(cells) + r" \\"


def weighted_score(scores: Mapping[str, float | None], weights: Mapping[str, float] | None = None) -> float:
    """The challenge's score: weighted mean of In, Next, BwT and FwT, equal weights unless told."""
    weights = weights or dict.fromkeys(("in_domain", "next_domain", "backward_transfer", "forward_transfer"), 1.0)
    total = sum(weights.values())
    return float(sum(weight * (scores[name] or 0.0) for name, weight in weights.items()) / total)


def _square(matrix: np.ndarray) -> np.ndarray:
    R = np.asarray(matrix, np.float64)
    if R.ndim != 2 or R.shape[0] != R.shape[1] or len(R) == 0:
        raise ValueError(f"an accuracy matrix is square, this one is {R.shape}")
    return R


def _mean(values: np.ndarray | Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None
