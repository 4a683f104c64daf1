"""Scores of CRUMB's tables: top-k accuracy in percent over all seen classes, the first task's and the current one's.

Shapes: N samples, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np


def hits(scores: np.ndarray, labels: np.ndarray, ks: Sequence[int] = (1, 5)) -> np.ndarray:
    """Whether the label is among the k highest scores; k is cut to the number of columns.

    :param scores: [N, K]; ``labels``: int64 [N].
    :return: bool [len(ks), N]. Among equal scores the lower column counts first.
    """
    own = np.take_along_axis(scores, labels[:, None], 1)
    better = (scores > own).sum(1)
    tied_before = ((scores == own) & (np.arange(scores.shape[1])[None] < labels[:, None])).sum(1)
    rank = better + tied_before
    return np.stack([rank < min(k, scores.shape[1]) for k in ks])


def accuracy(scores: np.ndarray, labels: np.ndarray, ks: Sequence[int] = (1, 5)) -> list[float | None]:
    """Percent correct for each k; None without samples."""
    if not len(labels):
        return [None] * len(ks)
    return [100.0 * float(found.mean()) for found in hits(scores, labels, ks)]


def by_task(
    scores: np.ndarray, labels: np.ndarray, seen: Sequence[Iterable[int]], ks: Sequence[int] = (1, 5)
) -> dict[str, list[float | None]]:
    """The three accuracies of those files from one pass over the test images.

    :param seen: classes that each task brought so far.
    :return: ``all``, ``1st`` and ``current_task`` -> percent for each k.
    """
    active = sorted({int(c) for task in seen for c in task})
    columns = scores[:, active]
    place = np.full(scores.shape[1], -1)
    place[active] = np.arange(len(active))
    out = {}
    for name, classes in (("all", active), ("1st", list(seen[0])), ("current_task", list(seen[-1]))):
        rows = np.isin(labels, list(classes))
        out[name] = accuracy(columns[rows], place[labels[rows]], ks)
    return out
