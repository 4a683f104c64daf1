"""Occurrence accuracy as a metric of the kernel: pure, states are plain values."""

from __future__ import annotations

from typing import Any

import numpy as np


class Occurrence:
    """Share of characters whose presence is told rightly, averaged over examples."""

    def start(self) -> dict[str, float]:
        """Nothing counted."""
        return {"right": 0.0, "n": 0}

    def update(self, state: dict[str, float], output: np.ndarray, target: np.ndarray) -> dict[str, float]:
        """Count a batch: logits [n, K] against presence [n, K]."""
        right = ((np.asarray(output) > 0) == (np.asarray(target) > 0)).mean(1).sum()
        return {"right": state["right"] + float(right), "n": state["n"] + len(target)}

    def merge(self, a: dict[str, float], b: dict[str, float]) -> dict[str, float]:
        """Both halves."""
        return {key: a[key] + b[key] for key in a}

    def compute(self, state: dict[str, float], stage: int | None = None) -> dict[str, float | None]:
        """The share, or None when nothing was counted."""
        return {"occurrence": state["right"] / state["n"] if state["n"] else None}


def build(settings: Any, stream: Any) -> Occurrence:
    """The metric; nothing to choose."""
    return Occurrence()
