"""Every test set and every metric in one pass over a learner's predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from attrs import define, field, frozen

from cl_kernel.contract.errors import Diverged, Mismatch
from cl_kernel.contract.interfaces import Learner, Metric
from cl_kernel.contract.offers import Metric as MetricRecord
from cl_kernel.contract.stream import Stream
from cl_kernel.data.samples import subset
from cl_kernel.storage.checkpoint import save_tree


@frozen
class Scorer:
    """A metric with the record that says what it reads."""

    record: MetricRecord
    metric: Metric


def score(
    learner: Learner,
    stream: Stream,
    scorers: Sequence[Scorer],
    sets: Sequence[str],
    stage: int | None = None,
    keep: Path | None = None,
) -> dict[str, Any]:
    """Score test sets in one pass over the learner's predictions.

    :param sets: names of test sets.
    :param stage: the stage just learnt; test sets of later stages are left out of ``"seen"``.
    :param keep: folder for predicted classes and metric states of this pass.
    :return: ``"values"``: metric -> test set -> named values; ``"seen"``: metric -> values over all seen sets; where a
        classifier's test sets belong to stages, ``"task_aware"``: the same as values for the first metric of classes,
        answers restricted to the classes of the set's own stage.
    :raises Mismatch: when the learner gives no output that a metric reads, or too few or too many rows.
    """
    rows = np.unique(np.concatenate([stream.test_sets[name] for name in sets]))
    aware = TaskAware.of(stream, scorers, sets)
    states, classes = _one_pass(learner, stream, scorers, sets, rows, stage, aware)
    values = {
        scorer.record.name: {name: scorer.metric.compute(states[k][j]) for j, name in enumerate(sets)}
        for k, scorer in enumerate(scorers)
    }
    n_seen = len(sets) if stage is None or len(stream.test_sets) != len(stream.stages) else stage + 1
    seen = {
        scorer.record.name: scorer.metric.compute(reduce(scorer.metric.merge, states[k][: max(1, n_seen)]), stage)
        for k, scorer in enumerate(scorers)
    }
    if keep is not None:
        save_tree(
            keep,
            {
                "sets": list(sets),
                "rows": rows,
                "class": np.concatenate(classes) if classes else None,
                "states": {scorer.record.name: states[k] for k, scorer in enumerate(scorers)},
            },
        )
    return {"values": values, "seen": seen, **aware.values(sets)}


@define
class TaskAware:
    """The first metric of classes, with answers among the classes of each test set's own stage.

    :param tasks: classes of each set; empty when there is nothing to restrict.
    """

    scorer: Scorer | None
    tasks: list[np.ndarray]
    states: list[Any] = field(factory=list)

    @classmethod
    def of(cls, stream: Stream, scorers: Sequence[Scorer], sets: Sequence[str]) -> TaskAware:
        """What a stream and its metrics allow."""
        scorer = next((s for s in scorers if (s.record.output, s.record.target) == ("scores", "class")), None)
        owners = dict(zip(stream.test_sets, stream.stages, strict=False))
        stages = [owners[name] for name in sets if name in owners]
        tasks = [np.array(stage.info.get("task_classes", stage.classes), np.int64) for stage in stages]
        if scorer is None or len(stream.test_sets) != len(stream.stages) or not all(map(len, tasks)):
            return cls(None, [])
        return cls(scorer, tasks, [scorer.metric.start() for _ in tasks])

    def update(self, of_sets: Sequence[np.ndarray], scores: Any, target: Mapping[str, np.ndarray]) -> None:
        """Count a batch; learners that give no score a class are left out.

        :param of_sets: for each test set, bool [n]: which samples of the batch are its.
        """
        if self.scorer is None:
            return
        if not isinstance(scores, np.ndarray) or scores.ndim != 2:
            self.scorer = None
            return
        truth = target[self.scorer.record.target]
        for j, (task, own) in enumerate(zip(self.tasks, of_sets, strict=True)):
            if own.any():
                rows = np.flatnonzero(own)
                kept = np.full((len(rows), scores.shape[1]), -np.inf, scores.dtype)
                kept[:, task] = scores[np.ix_(rows, task)]
                self.states[j] = self.scorer.metric.update(self.states[j], kept, truth[rows])

    def values(self, sets: Sequence[str]) -> dict[str, Any]:
        """Metric -> test set -> named values, below its key; empty without any."""
        if self.scorer is None:
            return {}
        computed = map(self.scorer.metric.compute, self.states)
        return {"task_aware": {self.scorer.record.name: dict(zip(sets, computed, strict=True))}}


def _one_pass(
    learner: Learner,
    stream: Stream,
    scorers: Sequence[Scorer],
    sets: Sequence[str],
    rows: np.ndarray,
    stage: int | None,
    aware: TaskAware,
) -> tuple[list[list[Any]], list[np.ndarray]]:
    """State of every metric on every test set, and the predicted classes, batch by batch, where there are any.

    :param aware: counts the batches too.
    """
    inside = [np.isin(rows, stream.test_sets[name]) for name in sets]
    samples = subset(stream.test, rows)
    targets = sorted({scorer.record.target for scorer in scorers})
    states = [[scorer.metric.start() for _ in sets] for scorer in scorers]
    classes: list[np.ndarray] = []
    position = 0
    for output in learner.predict(samples):
        n = len(next(iter(output.values())))
        _finite(output.get("scores"), stage)
        at = np.arange(position, position + n)
        position += n
        if position > len(rows):
            break
        truth = samples.take(at, targets)
        of_sets = [among[at] for among in inside]
        for k, scorer in enumerate(scorers):
            states[k] = _updated(scorer, states[k], of_sets, output, truth[scorer.record.target])
        aware.update(of_sets, output.get("scores"), truth)
        if "class" in output:
            classes.append(np.asarray(output["class"]))
        elif "scores" in output:
            classes.append(np.asarray(output["scores"]).argmax(1))
    if position != len(rows):
        raise Mismatch(f"the learner predicted {position} of {len(rows)} samples", where="predict")
    return states, classes


def _updated(
    scorer: Scorer, states: Sequence[Any], of_sets: Sequence[np.ndarray], output: Mapping[str, Any], target: np.ndarray
) -> list[Any]:
    """The states of one metric after a batch.

    :param of_sets: for each test set, bool [n]: which samples of the batch are its.
    """
    reads = scorer.record.output
    predicted = output.get(reads, output.get("scores"))
    if predicted is None:
        raise Mismatch(
            f"metric {scorer.record.name!r} reads {reads!r}, but the learner predicts {sorted(output)}",
            where=f"--metric {scorer.record.name}",
            fix="clk list metrics",
        )
    updated = []
    for state, own in zip(states, of_sets, strict=True):
        if own.all():
            state = scorer.metric.update(state, predicted, target)
        elif own.any():
            state = scorer.metric.update(state, _pick(predicted, own), target[own])
        updated.append(state)
    return updated


def _finite(scores: Any, stage: int | None) -> None:
    """Refuse scores that are no numbers: their best class would be the first, and nobody would see.

    :raises Diverged: naming the stage.
    """
    if isinstance(scores, np.ndarray) and scores.dtype.kind == "f" and np.isnan(scores).any():
        after = "" if stage is None else f" after stage {stage}"
        raise Diverged(
            f"the learner's scores{after} are no numbers: its weights have diverged",
            where="predict",
            fix="a smaller learning rate (clk show TEST lists the settings)",
        )


def _pick(output: Any, mask: np.ndarray) -> Any:
    if isinstance(output, (list, tuple)):
        return [item for item, keep in zip(output, mask, strict=True) if keep]
    return output[mask]
