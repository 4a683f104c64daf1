"""Accuracy matrices that other programs left: Avalanche logs, the fork's json, the authors' result pickles."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np

from cl_kernel import BadInput

_LOG = re.compile(r"Top1_Acc_(?:Stream|Exp)/eval_phase/test_stream/Task0*(\d+)(?:/Exp0*(\d+))?\s*=\s*([0-9.eE+-]+)")
MATRIX_KEY = "b1_b2_accuracy_matrix"


class _PlainOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name in ("_reconstruct", "scalar"):
            return getattr(np._core.multiarray, name)
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        raise pickle.UnpicklingError(f"{module}.{name} is no plain data")


def read_matrix(path: Path) -> np.ndarray:
    """float64 [T, T] from a text log, a json or a pickle of plain data (nothing in it is executed).

    :raises BadInput: when there is no square matrix in it.
    """
    try:
        if path.suffix in (".pickle", ".pkl"):
            with path.open("rb") as file:
                content: Any = _PlainOnly(file).load()
        elif path.suffix == ".json":
            content = json.loads(path.read_text())
        else:
            content = _from_log(path.read_text())
    except (OSError, ValueError, EOFError, pickle.UnpicklingError, AttributeError) as error:
        raise BadInput(f"cannot be read: {error}", where=str(path)) from error
    if isinstance(content, dict):
        content = next(
            (content[key] for key in (MATRIX_KEY, "R", "matrix", "accuracy_matrix") if key in content), content
        )
    if isinstance(content, dict):  # {trained: {tested: accuracy}}
        try:
            rows = sorted(content, key=int)
            content = [[content[i][j] for j in sorted(content[i], key=int)] for i in rows]
        except (ValueError, TypeError, KeyError, AttributeError):
            content = []
    try:
        matrix = np.asarray(content, np.float64)
    except (ValueError, TypeError):
        matrix = np.empty(0)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise BadInput(f"no square accuracy matrix in it (shape {matrix.shape})", where=str(path))
    return matrix / 100.0 if matrix.max() > 1.0 else matrix


def _from_log(text: str) -> list[list[float]]:
    """Evaluations in order: each pass over all test experiences is one row."""
    values = [(int(match[1]), float(match[3])) for match in _LOG.finditer(text)]
    rows: list[list[float]] = []
    for task, value in values:
        if task == 0 or not rows:
            rows.append([])
        rows[-1].append(value)
    return rows
