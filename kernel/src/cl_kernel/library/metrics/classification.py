"""Accuracy, top-k and confusion of classes.

Shapes: n a batch, K classes. Scores are float [n, K]; a class prediction int [n] serves where ranks are not
needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from attrs import frozen

from cl_kernel.contract.errors import BadInput, Mismatch
from cl_kernel.contract.stream import Stream
from cl_kernel.library.metrics.segmentation import confusion_matrix

State = dict[str, Any]


def classes_of(output: Any) -> np.ndarray:
    """Predicted class, int64 [n]: the best score, the first of equals.

    -1, which is never right, for scores that are not numbers and where no class has a finite one.
    """
    predicted = np.asarray(output)
    if predicted.ndim == 1:
        return predicted.astype(np.int64)
    best: np.ndarray = predicted.argmax(1)
    score = predicted[np.arange(len(best)), best]
    best[np.isnan(score) | (score == -np.inf)] = -1  # argmax stops at the first NaN
    return best


def rank_of(scores: np.ndarray, target: np.ndarray) -> np.ndarray:
    """How many classes come before the target, int64 [n]: higher scores, and equal ones with a lower index.

    A target without a score, and a row with scores that are not numbers, ranks behind all.
    """
    n, n_classes = scores.shape
    known = (target >= 0) & (target < n_classes)
    column = np.where(known, target, 0)
    mine = scores[np.arange(n), column][:, None]
    before = (scores > mine) | ((scores == mine) & (np.arange(n_classes) < column[:, None]))
    rank: np.ndarray = np.where(known & ~np.isnan(scores).any(1), before.sum(1), n_classes)
    return rank


@frozen
class TopK:
    """Share of samples whose class is among the k best scores; for k = 1 the plain accuracy."""

    k: int = 1

    def start(self) -> State:
        """Nothing counted."""
        return {"n": 0, "right": 0, "not_numbers": 0}

    def update(self, state: State, output: Any, target: np.ndarray) -> State:
        """Count a batch: ``output`` float [n, K] (or int [n] for k = 1), ``target`` int [n]."""
        target = np.asarray(target)
        if len(output) != len(target):
            raise Mismatch(f"{len(output)} predictions for {len(target)} samples")
        if self.k == 1:
            predicted = classes_of(output)
            right, bad = predicted == target, predicted == -1
            if bad.any() and np.ndim(output) == 2:
                bad = np.isnan(np.asarray(output)).any(1)
        else:
            scores = np.asarray(output)
            right, bad = rank_of(scores, target) < self.k, np.isnan(scores).any(1)
        return {
            "n": state["n"] + len(target),
            "right": state["right"] + int(right.sum()),
            "not_numbers": state["not_numbers"] + int(bad.sum()),
        }

    def merge(self, a: State, b: State) -> State:
        """Sums."""
        return {key: a[key] + b[key] for key in a}

    def compute(self, state: State, stage: int | None = None) -> dict[str, float | None]:
        """The share, and how many rows had scores that were not numbers, if any: they count as wrong."""
        name = "accuracy" if self.k == 1 else f"top{self.k}"
        values: dict[str, float | None] = {name: state["right"] / state["n"] if state["n"] else None}
        return values | ({"not_numbers": float(state["not_numbers"])} if state["not_numbers"] else {})


@frozen
class Confusion:
    """Confusion matrix, rows truth, columns prediction; mean recall and the recall of each class."""

    names: tuple[str, ...]

    def start(self) -> State:
        """Nothing counted."""
        return {"matrix": np.zeros((len(self.names), len(self.names)), np.int64)}

    def update(self, state: State, output: Any, target: np.ndarray) -> State:
        """Count a batch: ``output`` float [n, K] or int [n], ``target`` int [n]."""
        return {"matrix": state["matrix"] + confusion_matrix(target, classes_of(output), len(self.names))}

    def merge(self, a: State, b: State) -> State:
        """Sums."""
        return {"matrix": a["matrix"] + b["matrix"]}

    def compute(self, state: State, stage: int | None = None) -> dict[str, float | None]:
        """``mean_recall`` over classes with samples, then ``recall/NAME`` of these."""
        matrix = state["matrix"]
        there = np.flatnonzero(matrix.sum(1))
        recall = matrix.diagonal()[there] / matrix.sum(1)[there]
        return {
            "mean_recall": float(recall.mean()) if len(there) else None,
            **{f"recall/{self.names[c]}": float(r) for c, r in zip(there.tolist(), recall, strict=True)},
        }


def build_accuracy(settings: object, stream: Stream) -> TopK:
    """Plain accuracy."""
    return TopK()


def build_top5(settings: object, stream: Stream) -> TopK:
    """Top-5 accuracy.

    :raises BadInput: for five classes or fewer, where it is always 1.
    """
    if 0 < stream.n_classes <= 5:
        raise BadInput(
            f"among {stream.n_classes} classes every one is in the top 5",
            where="--metric top5",
            fix="use --metric accuracy",
        )
    return TopK(5)


def build_confusion(settings: Mapping[str, Any], stream: Stream) -> Confusion:
    """Confusion over the stream's classes.

    :raises BadInput: for a stream without class names.
    """
    if not stream.class_names:
        raise BadInput(f"data set {stream.name!r} names no classes", where="--metric confusion")
    return Confusion(stream.class_names)
