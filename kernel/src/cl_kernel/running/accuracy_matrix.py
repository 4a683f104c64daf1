"""Continual-learning metrics of the accuracy matrix, defined once.

``R[i, j]`` is the score on test set j after stage i, float [T, T]; NaN where it was not measured. A value
that needs an unmeasured entry is None, never an average over what happens to be there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cl_kernel.contract.errors import BadInput


def square(R: np.ndarray | Sequence[Sequence[float]]) -> np.ndarray:
    """R as float64 [T, T].

    :raises BadInput: when it is not square or empty.
    """
    matrix = np.asarray(R, np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise BadInput(f"an accuracy matrix is square, one test set a stage; this one has shape {matrix.shape}")
    return matrix


def mean(values: np.ndarray) -> float | None:
    """The mean, or None when there is nothing or something unmeasured to average."""
    return None if not values.size or np.isnan(values).any() else float(values.mean())


def average_accuracy(R: np.ndarray) -> float | None:
    """mean_j R[T-1, j]: all test sets after the last stage."""
    return mean(square(R)[-1])


def average_incremental_accuracy(R: np.ndarray) -> float | None:
    """mean_i mean_{j<=i} R[i, j]: the average over stages of the average over what was seen by then."""
    matrix = square(R)
    return mean(np.array([row[: i + 1].mean() for i, row in enumerate(matrix)]))


def learning_accuracy(R: np.ndarray) -> float | None:
    """mean_j R[j, j]: each test set right after its own stage."""
    return mean(square(R).diagonal())


def forgetting(R: np.ndarray) -> float | None:
    """mean_{j<T-1} ( max_{j<=l<=T-2} R[l, j] - R[T-1, j] ); negative for a gain.

    Chaudhry et al. 2018 (https://arxiv.org/abs/1801.10112, sec. 3), who define scores of tasks already learnt only,
    so that the best is looked for from a test set's own stage on.
    """
    matrix = square(R)
    best = np.array([matrix[j:-1, j].max() for j in range(len(matrix) - 1)])
    return mean(best - matrix[-1, :-1])


def backward_transfer(R: np.ndarray) -> float | None:
    """mean_{j<T-1} ( R[T-1, j] - R[j, j] ), Lopez-Paz and Ranzato 2017."""
    matrix = square(R)
    return mean((matrix[-1] - matrix.diagonal())[:-1])


def forward_transfer(R: np.ndarray, initial: np.ndarray | None) -> float | None:
    """mean_{j>=1} ( R[j-1, j] - b_j ), Lopez-Paz and Ranzato 2017.

    :param initial: b, the scores before any training; None leaves the metric undefined.
    """
    return None if initial is None else mean(square(R).diagonal(1) - np.asarray(initial, np.float64)[1:])


def omega(scores: Sequence[float], offline: Sequence[float]) -> float:
    """mean_t scores_t / offline_t (REMIND): 1 is as good as training offline on the same data.

    :param scores: accuracy on everything seen at each evaluation point.
    :param offline: the offline learner's at the same points.
    :raises BadInput: for another number of points or an offline score of 0.
    """
    ours, theirs = np.asarray(scores, np.float64), np.asarray(offline, np.float64)
    if ours.shape != theirs.shape or not ours.size or (theirs <= 0).any():
        raise BadInput(f"Omega divides {ours.size} scores by as many positive offline scores, not by {theirs.tolist()}")
    return float((ours / theirs).mean())


def summary(R: np.ndarray, initial: np.ndarray | None = None) -> dict[str, float | None]:
    """All of the above by name, Omega aside."""
    return {
        "average_accuracy": average_accuracy(R),
        "average_incremental_accuracy": average_incremental_accuracy(R),
        "learning_accuracy": learning_accuracy(R),
        "forgetting": forgetting(R),
        "backward_transfer": backward_transfer(R),
        "forward_transfer": forward_transfer(R, initial),
    }
