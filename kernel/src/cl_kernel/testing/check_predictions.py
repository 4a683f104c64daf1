"""Checks of predictions: one for every sample, in order, from the sample alone."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from cl_kernel.data.samples import subset
from cl_kernel.storage.checkpoint import digest_tree
from cl_kernel.testing.check_data import same
from cl_kernel.testing.subject import Failed, NotApplicable, Subject, check
from cl_kernel.testing.watch import answers

MANY = 1100
"""Samples that make several batches of most learners."""
PATIENCE_S = 20.0


@check
def every_sample_is_predicted(subject: Subject) -> None:
    """Any number of samples gets that many predictions, the last incomplete batch included."""
    ctx = subject.streamed.ctx
    for n in (1, 2, 7, _some(ctx), _many(ctx)):
        outputs = _predict(ctx, np.arange(n) % len(ctx.stream.test))
        if not outputs:
            raise Failed(f"asked for {n} samples, predict gives nothing")
        if wrong := [f"{len(values)} {name}" for name, values in outputs.items() if len(values) != n]:
            raise Failed(f"asked for {n} samples, predict gives {', '.join(wrong)}: a batch is dropped or repeated")


@check
def predicting_changes_nothing(subject: Subject) -> None:
    """Predicting twice gives the same, and leaves the learner as it was."""
    ctx = subject.streamed.ctx
    before = digest_tree(ctx.learner.state())
    first, again = _predict(ctx, np.arange(_some(ctx))), _predict(ctx, np.arange(_some(ctx)))
    if other := [name for name in first if not _close(first[name], again[name], 0.0)]:
        raise Failed(f"predicting twice gives other {', '.join(other)}")
    if digest_tree(ctx.learner.state()) != before:
        raise Failed("predicting changes the learner's state")


@check
def predictions_follow_the_samples(subject: Subject) -> None:
    """Samples in another order give the same predictions in that order."""
    ctx = subject.streamed.ctx
    rows = np.arange(_some(ctx))
    straight, back = _predict(ctx, rows), _predict(ctx, rows[::-1])
    for name, values in straight.items():
        if len(values) != len(rows) or not _close(values, list(back[name])[::-1], 1e-3):
            raise Failed(f"{name} of the same samples in another order differ")


@check
def predictions_keep_their_order_within_a_batch(subject: Subject) -> None:
    """The first prediction of a batch is the first sample's, the last the last one's."""
    ctx = subject.streamed.ctx
    one, other = _two_unlike(ctx)
    _in_order(ctx, np.array([one] * 8 + [other] * 4), "within a batch")


@check
def predictions_keep_the_order_of_batches(subject: Subject) -> None:
    """Batches come in the order of the samples, also when they are made side by side."""
    ctx = subject.streamed.ctx
    one, other = _two_unlike(ctx)
    n = _many(ctx)
    _in_order(ctx, np.where(np.arange(n) < 2 * n // 3, one, other), "over several batches")


@check
def predictions_do_not_depend_on_the_rest_of_the_batch(subject: Subject) -> None:
    """A sample gets the same prediction alone and among others: nothing is centred or normalised by the batch."""
    ctx = subject.streamed.ctx
    rows = np.arange(_some(ctx))
    company = _predict(ctx, np.concatenate([rows, rows[::-1]]))  # the same read backwards: order does not matter
    for row in {0, 1, len(rows) // 2, len(rows) - 1}:
        for name, values in _predict(ctx, np.array([row])).items():
            if not _close(values, company[name][row : row + 1], 1e-3):
                raise Failed(f"{name} of test sample {row} alone and among {2 * len(rows)} differ")


@check
def predictions_do_not_read_the_answers(subject: Subject) -> None:
    """With other labels on the same samples the predictions are the same."""
    ctx = subject.streamed.ctx
    rows = np.arange(_some(ctx))
    swapped = _Relabelled(subset(ctx.stream.test, rows), answers(ctx.stream))
    honest = _predict(ctx, rows)
    for name, values in _gather(ctx.learner.predict(swapped)).items():
        if not _close(values, honest[name], 1e-3):
            raise Failed(f"{name} change when only the labels do")


class _Relabelled:
    """Samples whose answers are those of the sample at the other end."""

    def __init__(self, base: Any, answers: set[str]) -> None:
        self._base, self._answers = base, answers & set(base.spec)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._base, name)

    def __len__(self) -> int:
        return len(self._base)

    def take(self, rows: np.ndarray, fields: Any = None) -> dict[str, np.ndarray]:
        """As the base, with other answers."""
        taken: dict[str, np.ndarray] = self._base.take(rows, fields)
        for name in self._answers & set(taken):
            others = self._base.take(len(self._base) - 1 - np.asarray(rows), [name])[name]
            if [np.shape(a) for a in others] == [np.shape(a) for a in taken[name]]:
                taken[name] = others
        return taken


def _in_order(ctx: Any, rows: np.ndarray, where: str) -> None:
    """Fail when the predictions do not change from one sample to the other where the samples do."""
    n_first = int((rows == rows[0]).sum())
    for name, values in _predict(ctx, rows).items():
        outputs = [np.asarray(value, float).ravel() for value in values]
        if len(outputs) != len(rows) or len({len(output) for output in outputs}) > 1:
            continue  # their number is another check's; of masks of several sizes the sizes would tell
        table = np.stack(outputs)
        ends = _two_ends(table, n_first)
        if ends is None:
            continue
        nearer = ((table - ends[0]) ** 2).sum(1) <= ((table - ends[1]) ** 2).sum(1)
        if nearer.tolist() != (np.arange(len(rows)) < n_first).tolist():
            raise Failed(
                f"{n_first} times one sample, then {len(rows) - n_first} times another: their {name} come in another "
                f"order {where}"
            )


def _two_ends(table: np.ndarray, n_first: int) -> tuple[np.ndarray, np.ndarray] | None:
    """What the more frequent and the other sample give, by how often each occurs; None where they give the same."""
    spread = np.abs(table - table[0]).max(1)
    if spread.max() <= 1e-6 * max(1.0, float(np.abs(table).max())):
        return None
    far = table[int(spread.argmax())]
    first = ((table - table[0]) ** 2).sum(1) <= ((table - far) ** 2).sum(1)
    often, seldom = (table[0], far) if first.sum() >= (~first).sum() else (far, table[0])
    return often, seldom


def _two_unlike(ctx: Any) -> tuple[int, int]:
    """Two test samples whose predictions are far apart."""
    rows = np.arange(_some(ctx))
    for values in _predict(ctx, rows).values():
        outputs = [np.asarray(value, float).ravel() for value in values]
        away = [_distance(outputs[0], output) for output in outputs]
        if max(away) > 0:
            return 0, int(np.argmax(away))
    raise NotApplicable("predicts the same for every sample")


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return float("inf") if a.shape != b.shape else float(np.abs(a - b).max())


def _some(ctx: Any) -> int:
    return min(24, len(ctx.stream.test))


def _many(ctx: Any) -> int:
    """As many samples as are predicted in a few seconds, at most :data:`MANY`."""
    known: int | None = getattr(ctx, "many", None)
    if known is None:
        n = _some(ctx)
        started = time.monotonic()
        _predict(ctx, np.arange(n))
        pace = (time.monotonic() - started) / n
        known = ctx.many = max(2 * n, min(MANY, int(PATIENCE_S / 4 / max(pace, 1e-9))))
    return known


def _predict(ctx: Any, rows: np.ndarray) -> dict[str, list[Any]]:
    return _gather(ctx.learner.predict(subset(ctx.stream.test, rows)))


def _gather(batches: Any) -> dict[str, list[Any]]:
    outputs: dict[str, list[Any]] = {}
    for batch in batches:
        for name, values in batch.items():
            outputs.setdefault(name, []).extend(np.asarray(value) for value in values)
    return outputs


def _close(a: list[Any], b: list[Any], tolerance: float) -> bool:
    if tolerance == 0.0:
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return len(a) == len(b) and all(
        np.shape(x) == np.shape(y)
        and (
            np.allclose(x, y, tolerance, tolerance)
            if np.asarray(x).dtype.kind == "f"
            else np.mean(np.asarray(x) != np.asarray(y)) <= 0.01
        )
        for x, y in zip(a, b, strict=True)
    )
