"""Two accuracies of one run: among all classes, and among those of the test set's own stage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from cl_kernel.contract.offers import Metric
from cl_kernel.contract.stream import Field, Stage, Stream
from cl_kernel.data.samples import ArraySamples, class_incremental
from cl_kernel.library.metrics.classification import TopK, classes_of
from cl_kernel.running.loop import task_aware
from cl_kernel.running.scoring import Scorer, score

N_CLASSES = 6


def stream() -> Stream:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(N_CLASSES), 7)
    spec = {
        "vector": Field(shape=(N_CLASSES,), dtype="float32", kind="vector"),
        "class": Field(shape=(), dtype="int64", kind="class", n=N_CLASSES),
    }
    vectors = rng.standard_normal((len(labels), N_CLASSES)).astype(np.float32)
    samples = ArraySamples(spec, {"vector": vectors, "class": labels})
    names = [str(c) for c in range(N_CLASSES)]
    return class_incremental("toy", samples, samples, names, n_stages=3, task="vector -> class")


class Says:
    """Scores are the vectors themselves, of the first classes only; the rest is minus infinity."""

    def __init__(self, n_known: int = N_CLASSES) -> None:
        self.n_known = n_known

    def predict(self, samples: Any) -> Iterator[dict[str, Any]]:
        for rows in np.array_split(np.arange(len(samples)), 4):
            scores = samples.take(rows, ["vector"])["vector"].copy()
            scores[:, self.n_known :] = -np.inf
            yield {"scores": scores}


def scorer(name: str = "accuracy", output: str = "scores") -> Scorer:
    return Scorer(Metric(name=name, summary="", build="a:b", output=output), TopK())


def by_loop(data: Stream, n_known: int, stage: Stage, name: str) -> float:
    right = 0
    for row in data.test_sets[name]:
        sample = data.test.take(np.array([row]))
        known = [c for c in stage.classes if c < n_known]
        answer = max(known, key=lambda c: sample["vector"][0, c]) if known else None
        right += answer == int(sample["class"][0])
    return right / len(data.test_sets[name])


@pytest.mark.parametrize("n_known", [N_CLASSES, 3])
def test_answers_among_the_classes_of_a_stage_are_those_of_a_loop_over_samples(n_known: int) -> None:
    data = stream()
    scored = score(Says(n_known), data, [scorer()], list(data.test_sets), 0)
    for stage, name in zip(data.stages, data.test_sets, strict=True):
        expected = by_loop(data, n_known, stage, name)
        assert scored["task_aware"]["accuracy"][name]["accuracy"] == pytest.approx(expected)
        assert scored["values"]["accuracy"][name]["accuracy"] <= expected


def test_one_matrix_of_each_kind_comes_from_the_same_predictions() -> None:
    data = stream()
    rows = [score(Says(), data, [scorer()], list(data.test_sets), stage) for stage in range(3)]
    table = task_aware(rows, list(data.test_sets))["accuracy"]
    assert np.shape(table["matrix"]) == (3, 3)
    assert table["summary"]["average_accuracy"] == pytest.approx(np.mean(table["matrix"][-1]))


@pytest.mark.parametrize("case", ["another output", "no classes"])
def test_where_there_is_nothing_to_restrict_there_is_no_second_matrix(case: str) -> None:
    data = stream()
    if case == "no classes":
        stages = [Stage(index=s.index, name=s.name, train=s.train) for s in data.stages]
        data = Stream(**{**{a: getattr(data, a) for a in ("name", "task", "test", "test_sets")}, "stages": stages})
    one = scorer("answers", "answer") if case == "another output" else scorer()
    scored = score(Says(), data, [one], list(data.test_sets))
    assert "task_aware" not in scored
    assert task_aware([scored], list(data.test_sets)) == {}


def test_a_learner_that_knows_none_of_the_classes_gives_no_answer() -> None:
    assert classes_of(np.full((2, 3), -np.inf)).tolist() == [-1, -1]
    state = TopK().update(TopK().start(), np.full((2, 3), -np.inf), np.array([0, 0]))
    assert TopK().compute(state) == {"accuracy": 0.0}
