"""How far confidence is from being right: the expected calibration error.

Shapes: n a batch, K classes, B bins.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from attrs import frozen

from cl_kernel.contract.errors import Mismatch
from cl_kernel.contract.stream import Stream

State = dict[str, Any]


@frozen
class Calibration:
    """``sum_b n_b / n |accuracy_b - confidence_b|`` over equal bins of the likeliest class' softmax.

    Source: Guo et al. 2017, https://arxiv.org/abs/1706.04599, eq. 3.
    """

    n_bins: int = 15

    def start(self) -> State:
        """Nothing counted, [B] each."""
        return {name: np.zeros(self.n_bins) for name in ("n", "right", "confidence")}

    def update(self, state: State, output: Any, target: np.ndarray) -> State:
        """Count a batch: logits float [n, K], minus infinity where a class has none, and classes int [n]."""
        scores, target = np.asarray(output, np.float64), np.asarray(target)
        if scores.ndim != 2 or len(scores) != len(target):
            raise Mismatch(f"scores {list(scores.shape)} for {len(target)} samples", where="--metric calibration")
        best = scores.max(1, keepdims=True, initial=-np.inf)
        shares = np.exp(scores - np.where(np.isfinite(best), best, 0.0))
        total = shares.sum(1)
        confidence = np.divide(shares.max(1, initial=0.0), total, out=np.zeros(len(target)), where=total > 0)
        right = (scores.argmax(1) == target) & (total > 0)
        bins = np.minimum((confidence * self.n_bins).astype(int), self.n_bins - 1)
        counted = {"n": np.ones(len(bins)), "right": right.astype(float), "confidence": confidence}
        return {
            name: state[name] + np.bincount(bins, weights=values, minlength=self.n_bins)
            for name, values in counted.items()
        }

    def merge(self, a: State, b: State) -> State:
        """Sums."""
        return {key: a[key] + b[key] for key in a}

    def compute(self, state: State, stage: int | None = None) -> dict[str, float | None]:
        """``calibration_error``, ``confidence`` and ``accuracy``, shares of 1."""
        if not (n := float(state["n"].sum())):
            return {"calibration_error": None, "confidence": None, "accuracy": None}
        return {
            "calibration_error": float(np.abs(state["right"] - state["confidence"]).sum() / n),
            "confidence": float(state["confidence"].sum() / n),
            "accuracy": float(state["right"].sum() / n),
        }


def build(settings: object, stream: Stream) -> Calibration:
    """Expected calibration error in 15 bins."""
    return Calibration()
