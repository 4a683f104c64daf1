"""Whether earlier tasks still answer as they did: logits compared bit by bit while a run goes on.

Shapes: n probe questions of a task, K answers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from attrs import define, field

from cl_kernel import Samples, Stream, subset

QUESTIONS = 64
"""Training questions asked of each task, always in one batch of the same size."""


@define
class Promise:
    """Logits of each task just after it was learnt, and what later looks at the same questions found.

    :param logits: task -> float32 [n, K].
    :param moved: task -> largest difference seen later; 0.0 where every bit stayed.
    :param surroundings: device, threads and library the first logits were computed with.
    """

    logits: dict[int, np.ndarray] = field(factory=dict)
    moved: dict[int, float] = field(factory=dict)
    surroundings: str = ""

    def check(self, stream: Stream, n_learnt: int, answer: Callable[[Samples], np.ndarray], device: str) -> None:
        """Ask every task learnt so far; remember the newest, compare the others.

        :param answer: samples -> logits [n, K].
        """
        here = f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}"
        if self.surroundings and here != self.surroundings:
            # other sums in other surroundings: what was remembered cannot be compared
            self.logits.clear()
        self.surroundings = here
        for task, stage in enumerate(stream.stages[:n_learnt]):
            now = answer(subset(stage.train, np.arange(min(QUESTIONS, len(stage.train)))))
            if (before := self.logits.get(task)) is None:
                self.logits[task] = now
                self.moved.setdefault(task, 0.0)
            elif before.tobytes() != now.tobytes():
                with np.errstate(invalid="ignore"):
                    difference = float(np.nanmax(np.abs(before - now), initial=0.0))
                self.moved[task] = max(self.moved[task], difference or np.finfo(np.float32).tiny.item())

    @property
    def kept(self) -> bool:
        """Whether no bit of any earlier task ever moved."""
        return not any(self.moved.values())

    def report(self, names: list[str]) -> dict[str, Any]:
        """For people: ``bit_equal``, and by task the largest difference of a logit."""
        return {
            "bit_equal": self.kept,
            "questions": QUESTIONS,
            "largest_difference": {names[task]: value for task, value in sorted(self.moved.items())},
            "computed_with": self.surroundings,
        }

    def state(self) -> dict[str, Any]:
        """Plain values and arrays."""
        return {
            "logits": {str(task): value.copy() for task, value in self.logits.items()},
            "moved": {str(task): value for task, value in self.moved.items()},
            "surroundings": self.surroundings,
        }

    def load(self, tree: dict[str, Any]) -> None:
        """Restore what :meth:`state` gave."""
        self.logits = {int(task): np.asarray(value) for task, value in tree["logits"].items()}
        self.moved = {int(task): float(value) for task, value in tree["moved"].items()}
        self.surroundings = str(tree["surroundings"])
