"""Watching a run: which samples are read, when, and what memories and states do meanwhile.

Shapes: N training samples of a stage.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import attrs
import numpy as np
from attrs import define, field

from cl_kernel.contract.stream import Stream
from cl_kernel.running import loop as running
from cl_kernel.storage.checkpoint import digest_tree

BUILDING, AFTERWARDS = -1, 10**9


class _Guard:
    """Samples that tell when they are read."""

    def __init__(self, base: Any, told: Callable[[np.ndarray, Sequence[str] | None], None]) -> None:
        self._base, self._told = base, told

    def __getattr__(self, name: str) -> Any:
        return getattr(self._base, name)

    def __len__(self) -> int:
        return len(self._base)

    def take(self, rows: np.ndarray, fields: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """As the base."""
        self._told(rows, fields)
        taken: dict[str, np.ndarray] = self._base.take(rows, fields)
        return taken


def _guard_in_place(samples: Any, told: Callable[[np.ndarray, Sequence[str] | None], None]) -> None:
    """Make the object itself tell, for those who kept a reference to it while the data set was built."""
    plain = type(samples)

    def take(self: Any, rows: np.ndarray, fields: Sequence[str] | None = None) -> Any:
        told(rows, fields)
        return plain.take(self, rows, fields)

    with contextlib.suppress(TypeError):  # a class whose objects keep theirs: the guard around it has to do
        samples.__class__ = type(plain.__name__, (plain,), {"__slots__": (), "take": take})


@define(eq=False)
class Watch:
    """What is noted of one run, from the moment its stream is built.

    :param faults: what was seen that must not be, by name; the first of each.
    :param counts: stage -> how often each training sample was read, int64 [N].
    :param orders: stage -> rows in the order of their first hundred reads.
    """

    faults: dict[str, str] = field(factory=dict)
    counts: dict[int, np.ndarray] = field(factory=dict)
    orders: dict[int, list[int]] = field(factory=dict)
    stage: Callable[[], int] = field(default=lambda: BUILDING)
    n_stages: int = 0
    paused: bool = False

    def guard(self, stream: Stream) -> Stream:
        """The stream with samples that tell who reads what."""
        self.n_stages = len(stream.stages)
        inputs = {name for name in stream.spec if name not in answers(stream)}
        _guard_in_place(stream.test, self._test_read)
        stages = []
        for stage in stream.stages:
            self.counts[stage.index] = np.zeros(len(stage.train), np.int64)
            told = partial(self._train_read, stage.index, inputs)
            stages.append(attrs.evolve(stage, train=_Guard(stage.train, told)))
        return attrs.evolve(stream, stages=stages, test=_Guard(stream.test, self._test_read))

    def _test_read(self, rows: np.ndarray, fields: Sequence[str] | None) -> None:
        at = self.stage()
        if self.paused or at >= self.n_stages:  # afterwards ``finish`` may look
            return
        if at == BUILDING:
            self.faults.setdefault("test at build", f"{len(rows)} test samples were read while the learner was built")
        else:
            self.faults.setdefault("test", f"test samples were read while learning stage {at}")

    def _train_read(self, index: int, inputs: set[str], rows: np.ndarray, fields: Sequence[str] | None) -> None:
        if self.paused:
            return
        at = self.stage()
        if index > max(at, 0) and at < self.n_stages:
            when = "while the learner was built" if at == BUILDING else f"in stage {at}"
            self.faults.setdefault("future", f"samples of stage {index} were read {when}")
        if index < at < self.n_stages:
            self.faults.setdefault("past", f"samples of stage {index} were read again in stage {at}")
        if fields is None or inputs & set(fields):
            np.add.at(self.counts[index], np.asarray(rows), 1)
            order = self.orders.setdefault(index, [])
            order.extend(np.asarray(rows)[: max(0, 100 - len(order))].tolist())


def answers(stream: Stream) -> set[str]:
    """Fields that are what is asked for, by the right side of the task."""
    words = {word.strip() for word in stream.task.partition("->")[2].split("+")}
    return {name for name, about in stream.spec.items() if name in words or about.kind in words}


class Watched(running.StreamContext):
    """A context that notes what a learner does: data read, memories, states, generators."""

    watch: Watch

    def attend(self, watch: Watch) -> Watched:
        """Note into ``watch`` from now on."""
        self.watch = watch
        self.steps_of: dict[int, int] = {}
        self._kept: tuple[Any, str] | None = None
        self.early: Any = None
        self.final: Any = None
        self.drawn = 0
        watch.stage = lambda: self.progress.stage
        for memory in self.memories:
            vars(memory)["take"] = self._counting(memory.take)
        return self

    @property
    def faults(self) -> dict[str, str]:
        """What was seen that must not be."""
        return self.watch.faults

    def _counting(self, take: Callable[[np.ndarray], Any]) -> Callable[[np.ndarray], Any]:
        def counted(slots: np.ndarray) -> Any:
            self.drawn += len(slots)
            return take(slots)

        return counted

    def score(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As the context; test data may be read."""
        self.watch.paused = True
        try:
            return super().score(*args, **kwargs)
        finally:
            self.watch.paused = False

    def step(self, **values: Any) -> None:
        """As the context, looking around first."""
        stage = self.progress.stage
        self.steps_of[stage] = n = self.steps_of.get(stage, 0) + 1
        for memory in self.memories:
            if len(memory) > memory.capacity:
                self.faults.setdefault("capacity", f"{len(memory)} examples in {memory.capacity} slots")
            if memory.budget is not None and memory.nbytes > memory.budget:
                self.faults.setdefault("bytes", f"{memory.nbytes} bytes of a budget of {memory.budget}")
        if n == 2 and self._kept is None:
            tree = self.early = self.learner.state()
            self._kept = (tree, digest_tree(tree))
        elif n in (3, 6) and self._kept is not None and digest_tree(self._kept[0]) != self._kept[1]:
            self.faults.setdefault("alias", f"a state changed {n - 2} steps after it was taken")
        super().step(**values)
