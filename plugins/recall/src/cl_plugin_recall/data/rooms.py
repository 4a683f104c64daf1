"""Memory that a thread uses again and again; asking the system for fresh memory costs more than filling it."""

from __future__ import annotations

import math
import sys
import threading
from typing import Any

import numpy as np

from cl_plugin_recall.backend import tf

ALIGNED = 64
"""Bytes at whose multiples TensorFlow wants tensors to begin."""
HELD_ONCE = 3
"""References to an array that nobody uses: the list, the loop over it, the question."""

_local = threading.local()


def room(name: str, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Memory for values on their way, valid until the thread asks for the same name again."""
    n = math.prod(shape)
    held: np.ndarray | None = getattr(_local, name, None)
    if held is None or len(held) < n:
        held = np.empty(n, dtype)
        setattr(_local, name, held)
    return held[:n].reshape(shape)


def batch_room(shape: tuple[int, ...]) -> np.ndarray:
    """A float32 array whose tensor (:func:`as_tensor`) nobody holds any more, or a new one."""
    if not hasattr(_local, "batches"):
        _local.batches = []
    for held in _local.batches:
        if held.shape == shape and sys.getrefcount(held) == HELD_ONCE:
            return held  # type: ignore[no-any-return]
    raw = np.empty(4 * math.prod(shape) + ALIGNED, np.uint8)
    start = -raw.ctypes.data % ALIGNED
    made = raw[start : start + 4 * math.prod(shape)].view(np.float32).reshape(shape)
    _local.batches = [*(held for held in _local.batches if held.shape == shape), made]
    return made


def as_tensor(values: np.ndarray) -> tf.Tensor:
    """The tensor of an array from :func:`batch_room`, without a copy; it keeps the array from being given out again."""
    return tf.experimental.dlpack.from_dlpack(values.__dlpack__())
