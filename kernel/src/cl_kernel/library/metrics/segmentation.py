"""Segmentation scores from a confusion matrix.

Shapes: K classes; M int64 [K, K], rows truth, columns prediction.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from attrs import frozen

from cl_kernel.contract.errors import BadInput, Mismatch
from cl_kernel.contract.stream import Stream

State = dict[str, Any]


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """Count pairs, int64 [K, K]. Pairs whose truth is outside 0..K-1 (void is 255) are dropped.

    :raises Mismatch: when the shapes differ, or a prediction that counts is no class.
    """
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if truth.shape != predicted.shape:
        raise Mismatch(f"predictions of shape {predicted.shape} for truth of shape {truth.shape}")
    counts = (truth >= 0) & (truth < n_classes)
    true, guess = truth[counts].astype(np.int64), predicted[counts].astype(np.int64)
    if guess.size and (guess.min() < 0 or guess.max() >= n_classes):
        raise Mismatch(f"predictions run from {guess.min()} to {guess.max()}, but there are {n_classes} classes")
    counted: np.ndarray = np.bincount(true * n_classes + guess, minlength=n_classes**2)
    return counted.reshape(n_classes, n_classes)


@frozen
class ClassScores:
    """Per-class scores, float64 [K], NaN where undefined; the means leave undefined ones out."""

    iou: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    pixel_accuracy: float
    seen_pixel_accuracy: float

    def mean(self, what: str, classes: Collection[int] | None = None) -> float | None:
        """Mean of ``iou``, ``precision`` or ``recall`` over these classes, or over all; None without any."""
        values = getattr(self, what)
        values = values if classes is None else values[sorted(classes)]
        values = values[~np.isnan(values)]
        return float(values.mean()) if values.size else None


def class_scores(matrix: np.ndarray, classes: Collection[int] | None = None) -> ClassScores:
    """Scores over the given classes: pixels of other truth are dropped, predictions may be any class.

    IoU_c = M_cc / (row_c + column_c - M_cc), precision M_cc / column_c, recall M_cc / row_c, with sums over
    all K. ``pixel_accuracy`` is the share of right pixels; ``seen_pixel_accuracy`` leaves out pixels
    predicted as another class than the given ones.
    """
    chosen = np.zeros(len(matrix), bool)
    chosen[list(range(len(matrix)) if classes is None else classes)] = True
    kept = np.where(chosen[:, None], matrix, 0)
    right, row, column = kept.diagonal(), kept.sum(1), kept.sum(0)

    def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
        result = np.full(len(part), np.nan)
        np.divide(part, whole, out=result, where=chosen & (whole > 0))
        return result

    n_right, n_seen = right.sum(), column[chosen].sum()
    return ClassScores(
        iou=share(right, row + column - right),
        precision=share(right, column),
        recall=share(right, row),
        pixel_accuracy=float(n_right / kept.sum()) if kept.sum() else float("nan"),
        seen_pixel_accuracy=float(n_right / n_seen) if n_seen else float("nan"),
    )


@frozen
class Segmentation:
    """mIoU over the classes seen so far, and over old and new ones apart.

    :param brought: classes of each stage. A class 0 that no stage brings is background: seen, and old, from
        the beginning.
    """

    names: tuple[str, ...]
    brought: tuple[tuple[int, ...], ...]

    def start(self) -> State:
        """Nothing counted."""
        return {"matrix": np.zeros((len(self.names), len(self.names)), np.int64)}

    def update(self, state: State, output: Sequence[np.ndarray], target: Sequence[np.ndarray]) -> State:
        """Count masks [H, W] of any size; 255 and other labels outside the classes are void."""
        if len(output) != len(target):
            raise Mismatch(f"{len(output)} predicted masks for {len(target)} images")
        total = state["matrix"].copy()
        for predicted, truth in zip(output, target, strict=True):
            total += confusion_matrix(truth, predicted, len(self.names))
        return {"matrix": total}

    def merge(self, a: State, b: State) -> State:
        """Sums."""
        return {"matrix": a["matrix"] + b["matrix"]}

    def compute(self, state: State, stage: int | None = None) -> dict[str, float | None]:
        """``miou`` first; after a later stage also ``miou_old`` and ``miou_new``.

        Without a stage, over the classes that occur in the truth.
        """
        matrix = state["matrix"]
        if stage is None:
            seen, old = set(np.flatnonzero(matrix.sum(1)).tolist()), None
        else:
            background = {0} - {c for classes in self.brought for c in classes}
            seen = background.union(*self.brought[: stage + 1])
            old = background.union(*self.brought[:stage]) if stage else None
        scores = class_scores(matrix, seen)
        values = {"miou": scores.mean("iou")}
        if old is not None:
            values |= {"miou_old": scores.mean("iou", old), "miou_new": scores.mean("iou", seen - old)}
        accuracy = scores.pixel_accuracy
        values |= {
            "pixel_accuracy": None if np.isnan(accuracy) else accuracy,
            "mean_precision": scores.mean("precision"),
            "mean_recall": scores.mean("recall"),
        }
        return values | {f"iou/{self.names[c]}": scores.mean("iou", [c]) for c in sorted(seen)}


def build(settings: object, stream: Stream) -> Segmentation:
    """Segmentation scores over the stream's classes.

    :raises BadInput: for a stream without class names.
    """
    if not stream.class_names:
        raise BadInput(f"data set {stream.name!r} names no classes", where="--metric miou")
    return Segmentation(stream.class_names, tuple(stage.classes for stage in stream.stages))
