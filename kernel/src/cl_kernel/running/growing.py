"""The state of a learner of a shorter stream, in one with room for the classes and stages of a longer one.

Plain trees of arrays; no framework.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cl_kernel.contract.errors import BadCheckpoint
from cl_kernel.contract.interfaces import Tree

Wider = dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
"""Name of an array -> its shape in the shorter stream, and in the longer one."""


def grown(kept: Tree, fresh: Tree) -> Tree:
    """A kept state as a learner of a longer stream would hold it.

    An array that is larger in the fresh state, as a score layer with more classes, keeps what it held at the beginning
    of every axis and is otherwise as it begins there. Copies of such an array that the fresh state has not yet, as an
    earlier network or the importance of each weight, are found by their name and go on with zeros.

    :param kept: what ``state()`` gave at the end of the shorter stream.
    :param fresh: what ``state()`` of a new learner of the longer stream gives.
    :raises BadCheckpoint: naming an array that is larger than it can be there.

    >>> grown({"bias": np.ones(2), "old": None}, {"bias": np.zeros(3), "old": None})["bias"].tolist()
    [1.0, 1.0, 0.0]
    """
    wider: Wider = {}
    _compare(kept, fresh, "", wider)
    return _merged(kept, fresh, wider)


def padded(array: np.ndarray, like: np.ndarray) -> np.ndarray:
    """``like`` with the array at the beginning of every axis.

    >>> padded(np.ones((1, 2)), np.zeros((2, 2))).tolist()
    [[1.0, 1.0], [0.0, 0.0]]
    """
    made = np.array(like, dtype=array.dtype)
    made[tuple(slice(0, n) for n in array.shape)] = array
    return made


def _compare(kept: Tree, fresh: Tree, name: str, wider: Wider) -> None:
    """Note every array that is larger in the fresh state."""
    if isinstance(kept, Mapping) and isinstance(fresh, Mapping):
        for key in kept:
            if key in fresh:
                _compare(kept[key], fresh[key], str(key), wider)
    elif isinstance(kept, np.ndarray) and isinstance(fresh, np.ndarray) and kept.shape != fresh.shape:
        if not _fits(kept.shape, fresh.shape):
            raise BadCheckpoint(
                f"{name} is {list(kept.shape)}, and {list(fresh.shape)} in the longer stream",
                fix="go on with the settings of the run; some methods keep what has a fixed number of classes",
            )
        wider[name] = (kept.shape, fresh.shape)


def _fits(small: tuple[int, ...], large: tuple[int, ...]) -> bool:
    return len(small) == len(large) and all(a <= b for a, b in zip(small, large, strict=True))


def _merged(kept: Tree, fresh: Tree, wider: Wider) -> Tree:
    if isinstance(kept, Mapping) and isinstance(fresh, Mapping):
        new = {key: value for key, value in fresh.items() if key not in kept}
        old = {k: _merged(v, fresh[k], wider) if k in fresh else _copies(v, str(k), wider) for k, v in kept.items()}
        return {**old, **new}
    if isinstance(kept, np.ndarray) and isinstance(fresh, np.ndarray):
        return kept if kept.shape == fresh.shape else padded(kept, fresh)
    return _copies(kept, "", wider)


def _copies(kept: Tree, name: str, wider: Wider) -> Tree:
    """A part that only the kept state has: arrays named as one that grew grow with it."""
    if isinstance(kept, Mapping):
        return {key: _copies(value, str(key), wider) for key, value in kept.items()}
    if isinstance(kept, list):
        return [_copies(value, name, wider) for value in kept]
    if isinstance(kept, np.ndarray):
        for known, (small, large) in wider.items():
            if kept.shape == small and (known == name or known.endswith(f".{name}")):
                return padded(kept, np.zeros(large, kept.dtype))
    return kept
