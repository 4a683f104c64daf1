"""Accuracy of answers, overall and by question type.

Shapes: n a batch, A answers, Q question types.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from attrs import frozen

from cl_kernel.contract.errors import Mismatch
from cl_kernel.contract.stream import Stream
from cl_kernel.library.metrics.classification import classes_of

State = dict[str, Any]


@frozen
class Answers:
    """Exact-match accuracy; the mean over question types divides by all types, also empty ones.

    :param types: names of the question types; () when the stream does not tell them.
    """

    types: tuple[str, ...] = ()

    def start(self) -> State:
        """Nothing counted, int64 [max(Q, 1)] each."""
        empty = np.zeros(max(len(self.types), 1), np.int64)
        return {"n": empty, "right": empty.copy()}

    def update(self, state: State, output: Any, target: np.ndarray) -> State:
        """Count a batch.

        :param output: scores float [n, A] or answer ids int [n].
        :param target: answer ids int [n], or int [n, 2] of answer and question type where types are told.
        """
        target = np.asarray(target)
        if target.ndim != (2 if self.types else 1) or len(output) != len(target):
            wanted = "[n, 2] of answer and question type" if self.types else "[n] of answers"
            raise Mismatch(f"targets {list(target.shape)} for {len(output)} predictions; expected {wanted}")
        answer, kind = (target[:, 0], target[:, 1]) if self.types else (target, np.zeros(len(target), np.int64))
        if kind.size and (kind.min() < 0 or kind.max() >= max(len(self.types), 1)):
            raise Mismatch(f"question types run from {kind.min()} to {kind.max()}, but there are {len(self.types)}")
        right = classes_of(output) == answer
        size = len(state["n"])
        return {
            "n": state["n"] + np.bincount(kind, minlength=size),
            "right": state["right"] + np.bincount(kind[right], minlength=size),
        }

    def merge(self, a: State, b: State) -> State:
        """Sums."""
        return {key: a[key] + b[key] for key in a}

    def compute(self, state: State, stage: int | None = None) -> dict[str, float | None]:
        """``accuracy``, and with types ``mean_per_type`` and ``type/NAME``."""
        n, right = state["n"], state["right"]
        values: dict[str, float | None] = {"accuracy": float(right.sum() / n.sum()) if n.sum() else None}
        if self.types:
            share = [float(r / m) if m else None for r, m in zip(right, n, strict=True)]
            values["mean_per_type"] = sum(s or 0.0 for s in share) / len(share) if n.sum() else None
            values |= {f"type/{name}": s for name, s in zip(self.types, share, strict=True)}
        return values


def build(settings: object, stream: Stream) -> Answers:
    """Answer accuracy; the stream names its question types in ``info["question_types"]``."""
    return Answers(tuple(stream.info.get("question_types", ())))
