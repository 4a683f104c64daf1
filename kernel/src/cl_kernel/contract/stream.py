"""Streams: ordered stages of samples with declared fields, and their test sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from attrs import field, frozen

from cl_kernel.contract.errors import BadInput
from cl_kernel.contract.interfaces import Samples


@frozen(kw_only=True)
class Field:
    """One field of a sample.

    :param shape: shape of one sample; None for an axis that varies, ``()`` for a plain value.
    :param dtype: numpy dtype name; ``"object"`` for text and encoded bytes.
    :param kind: what it is, in the field's standard words: ``image``, ``class``, ``mask``, ``vector``, ``map``,
        ``question``, ``answer``, ``instruction``, ``group``, ...
    :param n: number of different values, for kinds that count (classes, answers); 0 otherwise.
    :param encoding: ``"jpeg"`` or ``"png"`` when ``take`` gives the encoded bytes.
    """

    shape: tuple[int | None, ...]
    dtype: str
    kind: str
    n: int = 0
    encoding: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes of one sample in memory, uncompressed; 0 where an axis varies."""
        if None in self.shape or self.dtype == "object":
            return 0
        size = 1
        for axis in self.shape:
            size *= axis or 0
        return int(size * np.dtype(self.dtype).itemsize)


@frozen(kw_only=True)
class Stage:
    """One step of a stream: task, step or bucket.

    :param classes: labels this stage brings; empty where the notion does not apply.
    :param info: anything else a learner may know, plain values (task id, direction, clip boundaries).
    :param identity: of what the stage holds, whatever follows it; filled in by the kernel.
    """

    index: int
    name: str
    train: Samples
    classes: tuple[int, ...] = ()
    info: Mapping[str, Any] = field(factory=dict)
    identity: Any = field(default=None, eq=False, repr=False)


@frozen(kw_only=True)
class Stream:
    """Stages with their test sets.

    :param test_sets: name -> rows of ``test``, in the order of the accuracy matrix' columns. When there are as many
        sets as stages, set j belongs to stage j.
    :param class_names: name of each label.
    :param task: as in the record, ``"image -> class"``.
    :param fingerprint: identifies the data, kept in the run folder. The kernel puts the key of the stream's identity
        here where every part of the stream can say what it holds; else it keeps what the data set gave.
    :param identity: of the stream; filled in by the kernel.
    """

    name: str
    task: str
    stages: Sequence[Stage]
    test: Samples
    test_sets: Mapping[str, np.ndarray]
    class_names: tuple[str, ...] = ()
    fingerprint: str = ""
    info: Mapping[str, Any] = field(factory=dict)
    identity: Any = field(default=None, eq=False, repr=False)

    @property
    def spec(self) -> Mapping[str, Field]:
        """Fields of the training samples."""
        return self.stages[0].train.spec if self.stages else self.test.spec

    @property
    def n_classes(self) -> int:
        """How many labels there are over the whole stream."""
        return len(self.class_names)

    def check(self) -> None:
        """Refuse what would be lost silently later: no or empty stages, empty or unknown test rows, name clashes.

        :raises BadInput: naming the stage or test set.
        """
        where = f"data set {self.name!r}"
        if not self.stages:
            raise BadInput("the stream has no stages", where=where)
        for position, stage in enumerate(self.stages):
            if stage.index != position:
                raise BadInput(f"stage {stage.name!r} has index {stage.index}, expected {position}", where=where)
            if len(stage.train) == 0:
                raise BadInput(
                    f"stage {position} ({stage.name}) has no training samples",
                    where=where,
                    fix="use fewer stages or more data",
                )
            if set(stage.train.spec) != set(self.spec):
                raise BadInput(f"stage {position} ({stage.name}) has other fields than stage 0", where=where)
            if unknown := [c for c in stage.classes if self.class_names and not 0 <= c < len(self.class_names)]:
                raise BadInput(f"stage {position} ({stage.name}) brings unknown classes {unknown}", where=where)
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise BadInput(f"two stages share a name: {sorted({n for n in names if names.count(n) > 1})}", where=where)
        if len(set(self.class_names)) != len(self.class_names):
            twice = sorted({n for n in self.class_names if self.class_names.count(n) > 1})
            raise BadInput(f"two classes share a name: {', '.join(twice)}", where=where)
        if not self.test_sets:
            raise BadInput("the stream has no test sets", where=where)
        for name, rows in self.test_sets.items():
            if len(rows) == 0:
                raise BadInput(f"test set {name!r} is empty", where=where)
            if rows.min() < 0 or rows.max() >= len(self.test):
                raise BadInput(f"test set {name!r} names rows outside 0..{len(self.test) - 1}", where=where)
