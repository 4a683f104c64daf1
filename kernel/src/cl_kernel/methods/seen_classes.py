"""Which classes a learner has seen, and the score columns they own.

A class gets the next free column when it first appears, so the first ``len(seen)`` columns are always the classes seen
so far, whatever labels the stream gives them. Losses and predictions leave the others out.

Shapes: B batch, K classes of the whole stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import define, field

from cl_kernel.contract.errors import Mismatch
from cl_kernel.methods.lazy import F, torch

if TYPE_CHECKING:
    from torch import Tensor

    from cl_kernel.contract.stream import Stage


def among(scores: Tensor, columns: Tensor, tasks: Sequence[int]) -> Tensor:
    """Scores [B, k] with the columns of other tasks than the example's own at minus infinity.

    :param columns: of the examples' classes [B]. :param tasks: of each column [k].
    """
    task = torch.tensor(tasks, device=scores.device)
    return scores.masked_fill(task[None] != task[columns][:, None], -torch.inf)


def check_tasks(stages: Sequence[Stage]) -> None:
    """Refuse a head a task where tasks share classes.

    :raises Mismatch: naming a class and its stages.
    """
    owner: dict[int, int] = {}
    for stage in stages:
        for c in stage.classes:
            if owner.setdefault(c, stage.index) != stage.index:
                raise Mismatch(
                    f"a head a task needs tasks of different classes; class {c} is in stages {owner[c]} and "
                    f"{stage.index}",
                    where="learner.heads",
                    fix="learner.heads=one, or stream.scenario=task",
                )


@define
class SeenClasses:
    """Labels in order of first appearance; the place in ``order`` is the column.

    :param by_task: losses are among the classes of each example's own task.
    """

    order: list[int] = field(factory=list)
    by_stage: list[list[int]] = field(factory=list)
    by_task: bool = field(default=False, kw_only=True)
    _column_of: Tensor | None = field(default=None, init=False)

    def __len__(self) -> int:
        return len(self.order)

    def extend(self, stage: Stage, label: str) -> None:
        """Count the classes of a stage: those it declares, else those among its samples. Repeating changes nothing."""
        if len(self.by_stage) > stage.index:
            return
        new = list(stage.classes)
        if not new:
            labels = stage.train.take(np.arange(len(stage.train)), [label])[label]
            new = [int(c) for c in dict.fromkeys(labels.tolist())]
        known = set(self.order)
        self.order += [c for c in new if c not in known]
        self.by_stage.append([int(c) for c in new])
        self._column_of = None

    def n_before(self, index: int) -> int:
        """How many classes were seen before this stage; their columns are the first ones."""
        return len({c for classes in self.by_stage[:index] for c in classes})

    def n_absent(self, index: int) -> int:
        """How many of the classes seen are none of this stage's."""
        return len(self.order) - len(self.by_stage[index])

    def in_stage(self, labels: Tensor, index: int) -> Tensor:
        """Which labels are of classes that this stage brings, new or seen before, bool [B]."""
        return torch.isin(labels, torch.tensor(self.by_stage[index], device=labels.device))

    def columns_of(self, labels: Tensor) -> Tensor:
        """Score columns of labels, int64 [B]."""
        if self._column_of is None or self._column_of.device != labels.device:
            table = torch.zeros(max(self.order) + 1, dtype=torch.int64)
            table[torch.tensor(self.order)] = torch.arange(len(self.order))
            self._column_of = table.to(labels.device)
        return self._column_of[labels]

    def scores(self, scores: Tensor) -> Tensor:
        """Only the columns of classes seen, [B, len(seen)]."""
        return scores[:, : len(self.order)]

    def cross_entropy(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy over the classes seen, or over those of each example's task."""
        scores, columns = self.scores(scores), self.columns_of(labels)
        if self.by_task:
            task = {c: index for index, classes in enumerate(self.by_stage) for c in classes}
            scores = among(scores, columns, [task[c] for c in self.order])
        return F.cross_entropy(scores, columns)

    def by_label(self, scores: Tensor) -> Tensor:
        """Scores ordered by label, [B, K]; classes not seen yet are at minus infinity."""
        out = torch.full_like(scores, -torch.inf)
        out[:, self.order] = self.scores(scores)
        return out

    def state(self) -> dict[str, Any]:
        """Order and classes of each stage."""
        return {"order": list(self.order), "by_stage": [list(classes) for classes in self.by_stage]}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        self.order = [int(c) for c in state["order"]]
        self.by_stage = [[int(c) for c in classes] for classes in state["by_stage"]]
        self._column_of = None
