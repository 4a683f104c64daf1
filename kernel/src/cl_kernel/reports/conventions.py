"""What other frameworks call accuracy, forgetting and transfer, from the same R.

Written from their formulas: Avalanche 0.6, Mammoth 0.2.2, Continuum 1.2.7, PyCIL (mid-2026). Where a
framework weighs test samples instead of test sets, the figures agree for test sets of equal size. A figure
that a framework does not have is left out.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cl_kernel.running import accuracy_matrix as matrix
from cl_kernel.running.accuracy_matrix import mean, square

Values = dict[str, float | None]


def avalanche(R: np.ndarray, initial: np.ndarray | None = None) -> Values:
    """Forgetting is first minus last, not best minus last; backward transfer is its negative."""
    backward = matrix.backward_transfer(R)
    return {
        "average_accuracy": matrix.average_accuracy(R),
        "forgetting": None if backward is None else -backward,
        "backward_transfer": backward,
        "forward_transfer": matrix.forward_transfer(R, initial),
    }


def mammoth(R: np.ndarray, initial: np.ndarray | None = None) -> Values:
    """Forgetting takes the best over all rows, the last included, with zeros where nothing was measured."""
    padded = np.nan_to_num(square(R), nan=0.0)
    return {
        "average_accuracy": matrix.average_accuracy(R),
        "forgetting": mean((padded.max(0) - padded[-1])[:-1]),
        "backward_transfer": matrix.backward_transfer(R),
        "forward_transfer": matrix.forward_transfer(R, initial),
    }


def continuum(R: np.ndarray, initial: np.ndarray | None = None) -> Values:
    """Averages over the triangle (Diaz-Rodriguez et al. 2018); forward transfer without the random baseline."""
    square_R = square(R)
    below = np.tril_indices(len(square_R), -1)
    backward = mean(square_R[below] - square_R.diagonal()[below[1]])
    return {
        "average_accuracy": matrix.average_accuracy(R),
        "accuracy_A": mean(square_R[np.tril_indices(len(square_R))]),
        "forgetting": matrix.forgetting(R),
        "backward_transfer": backward,
        "positive_backward_transfer": None if backward is None else max(backward, 0.0),
        "remembering": None if backward is None else 1.0 - abs(min(backward, 0.0)),
        "forward_transfer": mean(square_R.diagonal(1)),
    }


def pycil(R: np.ndarray, initial: np.ndarray | None = None) -> Values:
    """The curve's average; forgetting takes the best of rows j .. T-1, the last included."""
    seen = np.tril(square(R))  # PyCIL only ever measures seen classes; the rest of its table is zero
    return {
        "average_accuracy": matrix.average_accuracy(R),
        "average_incremental_accuracy": matrix.average_incremental_accuracy(R),
        "forgetting": mean((seen.max(0) - seen[-1])[:-1]),
    }


CONVENTIONS: dict[str, Callable[[np.ndarray, np.ndarray | None], Values]] = {
    "avalanche": avalanche,
    "continuum": continuum,
    "mammoth": mammoth,
    "pycil": pycil,
}
