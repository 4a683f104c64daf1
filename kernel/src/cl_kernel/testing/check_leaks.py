"""Checks of what a learner may know: the stage at hand, and the past through its memory alone.

Shapes: N samples, D numbers of an input field.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cl_kernel.storage.checkpoint import digest_tree
from cl_kernel.testing import hoards
from cl_kernel.testing.check_data import sides
from cl_kernel.testing.subject import Failed, NotApplicable, Subject, check
from cl_kernel.testing.watch import answers

LOOKING_BACK = ("joint", "offline", "cumulative", "upper-bound")
"""Learners of these names train on everything seen so far also where their record does not say so (contract 1)."""


def fault(subject: Subject, name: str) -> None:
    """Fail when this was noted while the test ran."""
    if found := subject.streamed.ctx.faults.get(name):
        raise Failed(found)


def looks_back(subject: Subject) -> None:
    """:raises NotApplicable: for a test whose learner says that it goes back to earlier stages, or is named so."""
    record = subject.plan().pieces["learner"][0].record
    if why := record.looks_back or (f"{record.name} is an upper bound" if record.name in LOOKING_BACK else ""):
        raise NotApplicable(f"states that its learner goes back to earlier stages: {why}")


@check
def training_reads_no_test_data(subject: Subject) -> None:
    """Test samples are read by scoring only."""
    fault(subject, "test")


@check
def building_reads_no_test_data(subject: Subject) -> None:
    """Nothing is taken from test samples, as their mean, while the learner is built."""
    fault(subject, "test at build")


@check
def training_does_not_depend_on_test_data(subject: Subject) -> None:
    """With other test samples the learner ends with the same arrays; scores that it keeps as numbers do not count."""
    seen = subject.streamed
    if seen.ctx.stream.info.get("test_is_training"):
        raise NotApplicable("states that test samples are training samples")
    learnt, others = (digest_tree(arrays_of(one.ctx.final)) for one in (seen, subject.other_test_data))
    if learnt != others:
        raise Failed("with half of the test samples the learner ends in another state: it learns from them")


@check
def training_reads_no_later_stage(subject: Subject) -> None:
    """A stage's training samples are not read before the stage."""
    fault(subject, "future")


@check
def training_reads_no_earlier_stage(subject: Subject) -> None:
    """A stage's training samples are not read after it: the past is what the memory keeps."""
    assert subject.streamed
    looks_back(subject)
    fault(subject, "past")


@check
def nothing_is_hoarded_outside_the_memory(subject: Subject) -> None:
    """After the last stage, samples of earlier ones are found in the memory only."""
    ctx = subject.streamed.ctx
    looks_back(subject)
    if len(ctx.stream.stages) < 2:
        raise NotApplicable("has a single stage")
    for name, about in ctx.stream.spec.items():
        if name in answers(ctx.stream) or None in about.shape or np.dtype(about.dtype).kind not in "fiu":
            continue
        earlier = [stage.train for stage in ctx.stream.stages[:-1]]
        found, asked, where = hoards.find(ctx.learner, earlier, name, leave_out=[*ctx.memories, ctx.stream])
        if found > max(1, asked // 4):
            raise Failed(f"{found} of {asked} samples of earlier stages are kept outside the memory, in {where}")


@check
def data_are_not_normalised_by_test_statistics(subject: Subject) -> None:
    """No input field is centred, scaled or stretched by what the test samples, or all samples, happen to be."""
    stream = subject.streamed.ctx.stream
    checked = False
    for name, about in stream.spec.items():
        if name in answers(stream) or None in about.shape or np.dtype(about.dtype).kind != "f":
            continue
        checked = True
        train = _table([samples for where, samples in sides(stream) if where != "test"], name)
        test = _table([stream.test], name)
        both = np.concatenate([train, test])
        for what, table in (("the test samples", test), ("training and test samples together", both)):
            for how, fitted in (("mean 0 and deviation 1", _standard), ("range 0 to 1", _unit)):
                if fitted(table) and not fitted(train):
                    raise Failed(f"{name}: {what} have exactly {how} in every number: they were used to normalise")
    if not checked:
        raise NotApplicable("has no input of floating-point numbers of one shape")


def arrays_of(tree: Any) -> Any:
    """The arrays of a state, plain values left out."""
    if isinstance(tree, Mapping):
        return {key: arrays_of(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [arrays_of(value) for value in tree]
    return tree if getattr(tree, "ndim", 0) else None


def _table(sides: list[Any], name: str) -> np.ndarray:
    """Up to 5000 samples of each side, [N, D]."""
    parts = [samples.take(np.arange(min(len(samples), 5000)), [name])[name] for samples in sides]
    return np.concatenate([part.reshape(len(part), -1) for part in parts]).astype(np.float64)


def _standard(table: np.ndarray) -> bool:
    """Whether every varying column has mean 0 and deviation 1 (to what float32 leaves of it), or all together."""
    varying = table[:, table.std(0) > 1e-6]
    if not varying.shape[1]:
        return False
    whole = abs(varying.mean()) < 1e-5 and abs(varying.std() - 1) < 1e-4
    columns = np.abs(varying.mean(0)).max() < 1e-5 and np.abs(varying.std(0) - 1).max() < 1e-4
    return bool(columns or whole)


def _unit(table: np.ndarray) -> bool:
    """Whether every varying column runs from 0 to 1 exactly."""
    varying = table[:, table.std(0) > 1e-6]
    return bool(varying.shape[1] and np.abs(varying.min(0)).max() < 1e-6 and np.abs(varying.max(0) - 1).max() < 1e-6)
