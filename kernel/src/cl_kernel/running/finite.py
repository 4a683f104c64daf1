"""Numbers that got lost in what a learner has learnt: found at a report, before hours are spent on them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from attrs import define

COST = 0.01
"""Part of a run's time that looking may take."""


def lost(tree: Any, at: str = "") -> Iterator[str]:
    """Paths of the arrays of a state that hold a NaN, as ``network.0.weight``."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from lost(value, f"{at}.{key}" if at else str(key))
    elif isinstance(tree, (list, tuple)):
        for i, value in enumerate(tree):
            yield from lost(value, f"{at}[{i}]")
    elif isinstance(tree, np.ndarray) and tree.dtype.kind == "f" and np.isnan(np.sum(tree)) and np.isnan(tree).any():
        yield at


@define
class Lookout:
    """Looks at a learner's state, at most so often that it takes a hundredth of the time.

    A learner for which NaN is a value sets ``nan_is_a_value``.
    """

    next: float = 0.0

    def look(self, learner: Any) -> str:
        """The first array that holds a NaN, or an empty text."""
        now = time.monotonic()
        if now < self.next or getattr(learner, "nan_is_a_value", False):
            return ""
        found = next(lost(learner.state()), "")
        done = time.monotonic()
        self.next = done + (done - now) / COST
        return found
