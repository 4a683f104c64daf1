"""Segmentation scores from a confusion matrix.

Shapes: K labels, background included; the matrix is [K, K], rows truth, columns prediction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def confusion(truth: np.ndarray, prediction: np.ndarray, n_labels: int, counted: np.ndarray) -> np.ndarray:
    """Pixel counts, int64 [K, K]; only pixels whose truth counts.

    :param counted: bool [256], which truth values count.
    """
    truth, prediction = truth.reshape(-1), prediction.reshape(-1)
    keep = counted[truth]
    index = truth[keep].astype(np.int64) * n_labels + prediction[keep]
    return np.bincount(index, minlength=n_labels * n_labels).reshape(n_labels, n_labels)


def ratios(top: np.ndarray, bottom: np.ndarray, classes: Sequence[int]) -> list[float | None]:
    """``top / bottom`` by label; None outside ``classes`` and where the bottom is 0."""
    inside = set(classes)
    return [float(top[c] / bottom[c]) if c in inside and bottom[c] else None for c in range(len(top))]


def mean_of(values: Sequence[float | None], classes: Sequence[int]) -> float:
    """Mean of what is defined; 0 if nothing is."""
    defined = [values[c] for c in classes if values[c] is not None]
    return float(np.mean(defined)) if defined else 0.0


def scores(
    matrix: np.ndarray, classes: Sequence[int], old: Sequence[int] = (), new: Sequence[int] = ()
) -> dict[str, Any]:
    """Everything the reference reports, with precision called so, and recall added.

    :param classes: the labels known at this step, background included.
    :param old: labels counted as old, background included (the in-run split, not that of the summary).
    :param new: labels of the newest step.
    """
    hits, rows, columns = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    iou = ratios(hits, rows + columns - hits, classes)
    precision = ratios(hits, columns, classes)
    known = list(classes)
    pixels = columns[known].sum()
    return {
        "class_iou": iou,
        "precision": precision,
        "recall": ratios(hits, rows, classes),
        "miou": mean_of(iou, classes),
        "mean_precision": mean_of(precision, classes),
        "pixel_accuracy": float(hits[known].sum() / pixels) if pixels else 0.0,
        "miou_old": mean_of(iou, old),
        "miou_new": mean_of(iou, new),
        "precision_old": mean_of(precision, old),
        "precision_new": mean_of(precision, new),
    }
