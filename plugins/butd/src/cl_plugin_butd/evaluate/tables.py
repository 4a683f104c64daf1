"""What answers add up to: confusion matrices, accuracy by person and feature, forgetting.

Shapes: n samples, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

FEATURE_COLUMNS = (1, 3, 4, 5, 6)


def confusion(answers: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """Counts, rows the right answer, columns the given one, int64 [K, K]."""
    table = np.zeros((n_classes, n_classes), np.int64)
    np.add.at(table, (answers, predicted), 1)
    return table


def person_table(
    person: np.ndarray, feature: np.ndarray, right: np.ndarray, n_people: int = 6, n_features: int = 7
) -> dict[str, Any]:
    """Accuracy of each person and feature; means are over the cells that were asked about.

    :return: ``table`` [people, features] (nan where never asked), ``features`` and ``mean``.
    """
    total, hits = np.zeros((n_people, n_features)), np.zeros((n_people, n_features))
    np.add.at(total, (person, feature), 1)
    np.add.at(hits, (person, feature), right)
    with np.errstate(invalid="ignore", divide="ignore"):
        table = hits / total
    means = np.asarray(
        [np.mean(column[~np.isnan(column)]) if (~np.isnan(column)).any() else np.nan for column in table.T]
    )
    queried = means[list(FEATURE_COLUMNS)]
    return {
        "table": table,
        "features": means,
        "mean": float(queried[~np.isnan(queried)].mean()) if (~np.isnan(queried)).any() else None,
    }


def not_border(predicted: np.ndarray, border: int) -> float:
    """Share of answers that are not the border class: a net that always says "border" learnt nothing."""
    return float((predicted != border).mean())


def zero_forgetting(rows: Sequence[Sequence[float | None]]) -> dict[str, Any]:
    """What an accuracy matrix says about forgetting.

    :param rows: R[i][j], test set j after stage i.
    :return: the final ``average``, ``forgetting`` (mean over earlier tasks of the best minus the last), and whether
        no earlier task ever moved (``exact``).
    """
    n = len(rows)
    last = [float(rows[-1][j] or 0.0) for j in range(n)]
    drops = [max(float(rows[i][j] or 0.0) for i in range(j, n)) - last[j] for j in range(n - 1)]
    exact = all(rows[i][j] == rows[j][j] for j in range(n) for i in range(j, n))
    return {"average": float(np.mean(last)), "forgetting": float(np.mean(drops)) if drops else 0.0, "exact": exact}
