"""Label tables: which values count, and how a helper numbers its classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np


def class_table(classes: Iterable[int]) -> np.ndarray:
    """Which of the 256 label values count, bool [256]."""
    table = np.zeros(256, bool)
    table[list(classes)] = True
    return table


def helper_table(classes: Sequence[int]) -> np.ndarray:
    """Global label -> local label of a helper for ``classes``, uint8 [256]; everything else, void too, is 0."""
    table = np.zeros(256, np.uint8)
    for local, c in enumerate(classes, 1):
        table[c] = local
    return table


def back_table(classes: Sequence[int]) -> np.ndarray:
    """Local label of a helper -> global label, uint8 [len(classes) + 1]."""
    return np.array([0, *classes], np.uint8)
