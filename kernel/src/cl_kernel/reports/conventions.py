"""What other libraries call accuracy, forgetting and transfer, from the same R.

Each function gives what its library computes, found by running the library on matrices and by reading its formulas; the
versions are in :data:`SOURCES`. All are shares of 1, also those that a library prints in per cent. A figure that cannot
be had from what is there is None; one that a library does not have is left out.

T stages, 0-based; R[i, j] is the score on test set j after stage i.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from attrs import frozen

from cl_kernel.contract.errors import BadInput
from cl_kernel.running import accuracy_matrix as matrix
from cl_kernel.running.accuracy_matrix import mean, square

Values = dict[str, float | None]


@frozen(kw_only=True)
class Scores:
    """What the conventions read.

    :param R: [T, T]. :param initial: scores before training [T].
    :param sizes: samples of each test set [T]; None for equal ones.
    :param joint: scores of training on everything at once [T].
    :param independent: scores of a learner of its own for each stage [T].
    """

    R: np.ndarray
    initial: np.ndarray | None = None
    sizes: np.ndarray | None = None
    joint: np.ndarray | None = None
    independent: np.ndarray | None = None

    def __attrs_post_init__(self) -> None:
        n = len(square(self.R))
        for name in ("initial", "sizes", "joint", "independent"):
            values = getattr(self, name)
            if values is not None and np.shape(values) != (n,):
                raise BadInput(f"{name} has shape {np.shape(values)}, but there are {n} test sets")

    @property
    def square(self) -> np.ndarray:
        """R as float64 [T, T]."""
        return square(self.R)

    def weighted(self, i: int, n_sets: int) -> float | None:
        """Share of right answers among all samples of the first test sets after stage i."""
        row = self.square[i, :n_sets]
        weights = np.ones(n_sets) if self.sizes is None else np.asarray(self.sizes, np.float64)[:n_sets]
        return None if np.isnan(row).any() else float(row @ weights / weights.sum())

    def of_all(self) -> float | None:
        """The same for all test sets after the last stage."""
        return self.weighted(len(self.square) - 1, len(self.square))


def avalanche(scores: Scores) -> Values:
    """Samples weigh in the stream's accuracy; forgetting is first minus last, backward transfer its negative.

    Forward transfer is 0 where later test sets are not scored.
    """
    backward = matrix.backward_transfer(scores.R)
    untested = len(scores.square) > 1 and bool(np.isnan(scores.square.diagonal(1)).any())
    return {
        "average_accuracy": scores.of_all(),
        "forgetting": None if backward is None else -backward,
        "backward_transfer": backward,
        "forward_transfer": 0.0 if untested else matrix.forward_transfer(scores.R, scores.initial),
    }


def continuum(scores: Scores) -> Values:
    """Samples weigh in the accuracy; forgetting looks at test sets and rows up to T-3 and divides by T-1.

    Backward transfer sums pairs at least two stages apart and divides by all pairs; forward transfer is the mean below
    the diagonal.
    """
    R, n = scores.square, len(scores.square)
    below = np.tril_indices(n, -1)
    apart = below[0] - below[1] >= 2
    gains = R[below] - R.diagonal()[below[1]]
    backward = _divided(gains[apart], n * (n - 1) / 2)
    fallen = np.array([R[j : n - 2, j].max() - R[-1, j] for j in range(max(0, n - 2))])
    return {
        "average_accuracy": scores.of_all(),
        "accuracy_A": mean(R[np.tril_indices(n)]),
        "forgetting": _divided(fallen, n - 1),
        "backward_transfer": backward,
        "positive_backward_transfer": None if backward is None else max(backward, 0.0),
        "remembering": None if backward is None else 1.0 - abs(min(backward, 0.0)),
        "forward_transfer": mean(R[below]),
    }


def _divided(values: np.ndarray, by: float) -> float | None:
    """Sum / by; 0 for no values, None where one was not measured or there is nothing to divide by."""
    return None if by <= 0 or np.isnan(values).any() else float(values.sum() / by)


def mammoth(scores: Scores) -> Values:
    """Each row holds the tasks seen and the next one, tested just before it is learnt; the rest is 0.

    Forgetting takes the best over all rows, the last included. Forward transfer compares with the same model at the
    same moment, so it is 0 for every model that does not change when a task begins.
    """
    R, n = scores.square, len(scores.square)
    measured = np.where(np.tri(n, k=1, dtype=bool), np.nan_to_num(R, nan=0.0), 0.0)
    return {
        "average_accuracy": matrix.average_accuracy(R),
        "forgetting": mean((measured.max(0) - measured[-1])[:-1]),
        "backward_transfer": matrix.backward_transfer(R),
        "forward_transfer": 0.0 if n > 1 else None,
    }


def pycil(scores: Scores) -> Values:
    """ "Average accuracy" is the mean of the curve, a step being right answers over all samples seen.

    Every accuracy is rounded to two decimals of a per cent first, as PyCIL does. Forgetting takes the best of rows
    j .. T-1, the last included.
    """
    curve = [scores.weighted(i, i + 1) for i in range(len(scores.square))]
    whole = np.array([np.nan if step is None else step for step in curve])
    rounded = np.round(whole * 100, 2) / 100
    seen = np.tril(np.round(scores.square * 100, 2) / 100)
    return {
        "average_accuracy": mean(rounded),
        "last_accuracy": None if np.isnan(rounded[-1]) else float(rounded[-1]),
        "forgetting": mean((seen.max(0) - seen[-1])[:-1]),
    }


def clarena(scores: Scores) -> Values:
    """Backward transfer from the third stage on; forward transfer against an independent learner of each stage.

    Forgetting rate: the mean of (final - before training) / (joint - before training), minus 1.
    """
    R = scores.square
    forward = rate = None
    if scores.independent is not None:
        forward = mean((R.diagonal() - scores.independent)[1:])
    if scores.joint is not None and scores.initial is not None:
        rate = mean((R[-1] - scores.initial) / (scores.joint - scores.initial))
    return {
        "average_accuracy": matrix.average_accuracy(R),
        "backward_transfer": matrix.backward_transfer(R) if len(R) > 2 else None,
        "forward_transfer": forward,
        "forgetting_rate": None if rate is None else rate - 1,
    }


def gmumcl(scores: Scores) -> Values:
    """Forgetting takes the best of rows j .. T-1; forward transfer is (R[T-1, T-1] - R[0, 0]) / (T-1)."""
    R, n = scores.square, len(scores.square)
    seen = np.tril(R)
    return {
        "average_accuracy": matrix.average_accuracy(R),
        "average_incremental_accuracy": matrix.average_incremental_accuracy(R),
        "old_accuracy": mean(R[-1, :-1]),
        "new_accuracy": mean(R[-1, -1:]),
        "forgetting": mean((seen.max(0) - seen[-1])[:-1]),
        "backward_transfer": matrix.backward_transfer(R),
        "forward_transfer": None if n < 2 else _divided(R[[-1], [-1]] - R[[0], [0]], n - 1),
    }


def renate(scores: Scores) -> Values:
    """Forgetting takes the best of rows 0 .. T-2, those before the test set's own stage included."""
    R = scores.square
    return {
        "average_accuracy": matrix.average_accuracy(R),
        "micro_average_accuracy": scores.of_all(),
        "forgetting": mean((R[:-1].max(0) - R[-1])[:-1]) if len(R) > 1 else None,
        "backward_transfer": matrix.backward_transfer(R),
        "forward_transfer": matrix.forward_transfer(R, scores.initial),
    }


def sequel(scores: Scores) -> Values:
    """ "Forgetting" is last minus best, never positive, over all tasks, the last one too; backward its negative."""
    R = scores.square
    best = np.array([R[j:, j].max() for j in range(len(R))])
    forgetting = mean(R[-1] - best)
    return {
        "average_accuracy": matrix.average_accuracy(R),
        "forgetting": forgetting,
        "backward_transfer": None if forgetting is None else -forgetting,
    }


def pyclad(scores: Scores) -> Values:
    """The lower triangle; backward transfer compares neighbouring rows, forward transfer has no baseline."""
    R = scores.square
    below, above = np.tril_indices(len(R), -1), np.triu_indices(len(R), 1)
    return {
        "average_accuracy": mean(R[np.tril_indices(len(R))]),
        "backward_transfer": mean((R[1:] - R[:-1])[below[0] - 1, below[1]]),
        "forward_transfer": mean(R[above]),
    }


CONVENTIONS: dict[str, Callable[[Scores], Values]] = {
    "avalanche": avalanche,
    "clarena": clarena,
    "continuum": continuum,
    "gmumcl": gmumcl,
    "mammoth": mammoth,
    "pycil": pycil,
    "pyclad": pyclad,
    "renate": renate,
    "sequel": sequel,
}
SOURCES = {
    "avalanche": "avalanche-lib 0.6.0",
    "clarena": "clarena 1.1.0",
    "continuum": "continuum 1.2.7",
    "gmumcl": "gmumcl 1.1.0",
    "mammoth": "Mammoth 0.2.2, commit e75a491",
    "pycil": "PyCIL, commit 87cc411",
    "pyclad": "pyclad 0.3.0",
    "renate": "renate 0.5.2",
    "sequel": "sequel-core 0.0.2",
}
WANTED = {
    ("clarena", "forward_transfer"): "--independent",
    ("clarena", "forgetting_rate"): "--joint and scores before training (run.initial_scores=true)",
    **dict.fromkeys(
        [(name, "forward_transfer") for name in ("avalanche", "renate")],
        "scores before training (run.initial_scores=true)",
    ),
}
"""What has to be given for a figure that is None without it."""
