"""Checks of the stream that the plugin's test runs on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from cl_kernel.contract.interfaces import Samples
from cl_kernel.contract.stream import Stream
from cl_kernel.data.samples import Unidentified
from cl_kernel.storage.digests import Files
from cl_kernel.testing.subject import Failed, NotApplicable, Subject, blame, check

SOME = 16


def sides(stream: Stream) -> Iterator[tuple[str, Samples]]:
    """Training samples of each stage, and the test samples."""
    for stage in stream.stages:
        yield f"stage {stage.index}", stage.train
    yield "test", stream.test


def same(a: Any, b: Any) -> bool:
    """Whether two fields of a batch are equal, ragged ones included."""
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype == object:
        return bool(a == b) if not a.ndim else len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes())


@check
def the_stream_is_sound(subject: Subject) -> None:
    """Stages and test sets are non-empty, named once and within bounds."""
    stream = subject.stream()
    with blame("the stream"):
        stream.check()


@check
def the_stream_is_the_declared_task(subject: Subject) -> None:
    """Record and stream name the same task, and the fields it is about are there."""
    stream, record = subject.stream(), subject.plan().pieces["dataset"][0].record
    if record.task != stream.task:
        raise Failed(f"the record says {record.task!r}, the stream {stream.task!r}")
    words = [w.strip() for side in stream.task.split("->") for w in side.split("+")]
    kinds = {field.kind for field in stream.spec.values()} | set(stream.spec)
    if missing := [w for w in words if w not in kinds]:
        raise Failed(f"the task is {stream.task!r}, but no field is named or of kind {missing[0]!r}: {sorted(kinds)}")


@check
def stages_bring_the_declared_classes(subject: Subject) -> None:
    """Training labels of a stage are among its classes and those before, and each of its classes occurs."""
    stream = subject.stream()
    if "class" not in stream.spec or not any(stage.classes for stage in stream.stages):
        raise NotApplicable("declares no classes by stage")
    seen: set[int] = set()
    for stage in stream.stages:
        seen |= set(stage.classes)
        found = set(stage.train.take(np.arange(len(stage.train)), ["class"])["class"].tolist())
        if strangers := sorted(found - seen):
            raise Failed(f"stage {stage.index} holds samples of classes {strangers}, declared are {sorted(seen)}")
        if absent := sorted(set(stage.classes) - found):
            raise Failed(f"stage {stage.index} declares classes {absent} without a training sample")
    unnamed = sorted(c for c in seen if c >= len(stream.class_names))
    if unnamed:
        raise Failed(f"classes {unnamed} have no name")


@check
def samples_fit_their_fields(subject: Subject) -> None:
    """What ``take`` gives has the declared fields, shapes, dtypes and ranges."""
    for where, samples in sides(subject.stream()):
        n = min(SOME, len(samples))
        with blame(f"{where}: take"):
            batch = samples.take(np.arange(n))
        if set(batch) != set(samples.spec):
            raise Failed(f"{where}: take gives {sorted(batch)}, declared are {sorted(samples.spec)}")
        for name, field in samples.spec.items():
            array = batch[name]
            if len(array) != n or (str(array.dtype) != field.dtype and None not in field.shape):
                raise Failed(
                    f"{where}: {name} is {array.dtype} of length {len(array)}, declared {field.dtype}, asked {n}"
                )
            for one in array:
                shape = np.shape(one)
                fits = len(shape) == len(field.shape) and all(
                    w in (None, g) for w, g in zip(field.shape, shape, strict=True)
                )
                if not fits and not (field.dtype == "object" and field.shape == ()):
                    raise Failed(f"{where}: a {name} has shape {shape}, declared {field.shape}")
            counted = field.n and field.dtype != "object" and field.kind != "mask"  # masks may hold void
            if counted and not 0 <= int(np.min(array)) <= int(np.max(array)) < field.n:
                raise Failed(f"{where}: {name} runs from {array.min()} to {array.max()}, declared below {field.n}")


@check
def take_follows_rows_and_fields(subject: Subject) -> None:
    """``take`` gives rows in the order asked for, repeats included, and only the fields asked for."""
    for where, samples in sides(subject.stream()):
        n = min(SOME, len(samples))
        rows = np.concatenate([np.arange(n)[::-1], [0, 0]])
        whole, mixed = samples.take(np.arange(n)), samples.take(rows)
        for name in samples.spec:
            if not all(same(mixed[name][i], whole[name][row]) for i, row in enumerate(rows.tolist())):
                raise Failed(f"{where}: take in another order gives other {name}")
        one = sorted(samples.spec)[0]
        if set(samples.take(rows[:1], [one])) != {one}:
            raise Failed(f"{where}: asked for {one} alone, take gives {sorted(samples.take(rows[:1], [one]))}")


@check
def take_gives_the_same_again(subject: Subject) -> None:
    """Reading a sample twice gives the same; augmentation belongs to the learner."""
    for where, samples in sides(subject.stream()):
        rows = np.arange(min(SOME, len(samples)))
        first, again = samples.take(rows), samples.take(rows)
        if other := [name for name in first if not same(first[name], again[name])]:
            raise Failed(f"{where}: {', '.join(other)} differ when read twice")


@check
def batches_are_copies(subject: Subject) -> None:
    """Writing into a batch changes no sample."""
    for where, samples in sides(subject.stream()):
        rows = np.arange(min(SOME, len(samples)))
        batch = samples.take(rows)
        before = {name: array.copy() for name, array in batch.items() if array.dtype != object}
        for name in before:
            if batch[name].flags.writeable:
                batch[name][...] = 1
        again = samples.take(rows)
        if changed := [name for name, array in before.items() if not same(array, again[name])]:
            raise Failed(f"{where}: {', '.join(changed)} changed when a batch was written to: take gives a view")


@check
def the_stream_depends_on_seed_and_settings_alone(subject: Subject) -> None:
    """Built twice, the stream has the same fingerprint, stages, order of samples and test sets."""
    one, two = subject.stream(), subject.stream()
    if one.fingerprint != two.fingerprint:
        raise Failed("the fingerprint differs from one build to the next")
    for (where, a), (_, b) in zip(sides(one), sides(two), strict=True):
        rows = np.arange(min(SOME, len(a)))
        if len(a) != len(b) or any(not same(a.take(rows)[name], b.take(rows)[name]) for name in a.spec):
            raise Failed(f"{where}: the samples differ from one build to the next")


@check
def samples_say_what_they_hold(subject: Subject) -> None:
    """``identify`` tells rows that differ apart, tells equal rows equal, and follows their order."""
    files, spoke = Files(), False
    for where, samples in sides(subject.stream()):
        if not hasattr(samples, "identify"):
            continue
        rows = np.arange(min(SOME, len(samples)))
        try:
            told = [str(samples.identify(files, rows[i : i + 1])) for i in rows]
        except Unidentified:
            continue
        spoke = True
        if told != [str(samples.identify(files, rows[i : i + 1])) for i in rows]:
            raise Failed(f"{where}: identify gives another digest when asked again")
        batch = samples.take(rows)
        for i in rows[1:]:
            equal = all(same(array[0], array[i]) for array in batch.values())
            if not equal and told[0] == told[i]:
                raise Failed(f"{where}: identify gives rows 0 and {i} one digest, but they hold different samples")
        if len(set(told)) > 1 and samples.identify(files, rows) == samples.identify(files, rows[::-1]):
            raise Failed(f"{where}: identify gives the same digest for another order of the rows")
    if not spoke:
        raise NotApplicable("has samples without a method identify (contract 1)")


@check
def no_test_sample_is_trained_on(subject: Subject) -> None:
    """No test sample is a training sample too, unless ``stream.info["test_is_training"]`` says why."""
    stream = subject.stream()
    if stream.info.get("test_is_training"):
        raise NotApplicable(f"states that test samples are training samples: {stream.info['test_is_training']}")
    trained = {d for stage in stream.stages for d in _digests(stage.train)}
    tested = _digests(stream.test)
    if both := sum(d in trained for d in tested):
        raise Failed(f"{both} of {len(tested)} test samples are also training samples")


def _digests(samples: Samples) -> list[bytes]:
    digests = []
    for at in range(0, len(samples), 256):
        batch = samples.take(np.arange(at, min(at + 256, len(samples))))
        for i in range(len(next(iter(batch.values())))):
            digest = hashlib.blake2b(digest_size=16)
            for name in sorted(batch):
                value = batch[name][i]
                digest.update(value.tobytes() if isinstance(value, (np.ndarray, np.generic)) else repr(value).encode())
            digests.append(digest.digest())
    return digests
