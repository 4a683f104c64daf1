"""Metrics against hand-derived rationals, to 1e-12, and per-sample metrics against plain loops."""

from __future__ import annotations

from fractions import Fraction as F

import numpy as np
import pytest

from cl_kernel.contract.errors import BadInput, Mismatch
from cl_kernel.contract.stream import Field, Stage, Stream
from cl_kernel.data.samples import ArraySamples
from cl_kernel.library.metrics.answers import Answers
from cl_kernel.library.metrics.classification import Confusion, TopK, build_confusion, build_top5, classes_of, rank_of
from cl_kernel.library.metrics.segmentation import Segmentation, class_scores, confusion_matrix
from cl_kernel.running import accuracy_matrix as matrix

# Three stages, sixteenths. By hand, per column: first, best before the last row, best of all rows, last:
#   j=0: first 12, rows 0..1 {12, 14} best 14, last 8;   j=1: first 10, rows 1..1 {10} best 10, last 13.
R3 = np.array([[12, 3, 1], [14, 10, 5], [8, 13, 15]]) / 16
B3 = np.array([2, 1, 4]) / 16
OURS3 = {
    "average_accuracy": F(8 + 13 + 15, 3 * 16),
    "average_incremental_accuracy": (F(12, 16) + F(14 + 10, 2 * 16) + F(8 + 13 + 15, 3 * 16)) / 3,
    "learning_accuracy": F(12 + 10 + 15, 3 * 16),
    "forgetting": F((14 - 8) + (10 - 13), 2 * 16),
    "backward_transfer": F((8 - 12) + (13 - 10), 2 * 16),
    "forward_transfer": F((3 - 1) + (5 - 4), 2 * 16),
}
# Four stages, in 1/10: a column that only falls, one that dips and recovers above its first, one that never was good.
R4 = np.array([[9, 1, 2, 0], [7, 5, 2, 1], [5, 3, 3, 1], [4, 6, 1, 8]]) / 10
B4 = np.array([0, 1, 0, 2]) / 10
OURS4 = {
    "average_accuracy": F(19, 40),
    "average_incremental_accuracy": (F(9, 10) + F(12, 20) + F(11, 30) + F(19, 40)) / 4,
    "learning_accuracy": F(25, 40),
    "forgetting": F((9 - 4) + (5 - 6) + (3 - 1), 30),
    "backward_transfer": F((4 - 9) + (6 - 5) + (1 - 3), 30),
    "forward_transfer": F((1 - 1) + (2 - 0) + (1 - 2), 30),
}


@pytest.mark.parametrize(("R", "initial", "expected"), [(R3, B3, OURS3), (R4, B4, OURS4)])
def test_our_metrics_equal_the_rationals_derived_by_hand(R: np.ndarray, initial: np.ndarray, expected: dict) -> None:
    values = matrix.summary(R, initial)
    assert values.keys() == expected.keys()
    for name, value in expected.items():
        assert values[name] == pytest.approx(float(value), abs=1e-12), name


def test_a_lower_triangle_gives_all_but_forward_transfer() -> None:
    lower = np.where(np.tri(4, dtype=bool), R4, np.nan)
    values = matrix.summary(lower, B4)
    assert values.pop("forward_transfer") is None
    assert values == pytest.approx({k: float(v) for k, v in OURS4.items() if k != "forward_transfer"}, abs=1e-12)


def test_what_was_not_measured_is_none_and_not_averaged_away() -> None:
    gap = R4.copy()
    gap[3, 2] = np.nan
    assert matrix.average_accuracy(gap) is matrix.forgetting(gap) is matrix.backward_transfer(gap) is None
    assert matrix.learning_accuracy(gap) == pytest.approx(25 / 40)


def test_a_single_stage_has_accuracy_but_neither_forgetting_nor_transfer() -> None:
    assert matrix.summary(np.array([[0.5]]), np.array([0.1])) == {
        "average_accuracy": 0.5,
        "average_incremental_accuracy": 0.5,
        "learning_accuracy": 0.5,
        "forgetting": None,
        "backward_transfer": None,
        "forward_transfer": None,
    }


@pytest.mark.parametrize("R", [np.zeros((2, 3)), np.zeros(4), np.zeros((0, 0))])
def test_what_is_no_accuracy_matrix_is_refused(R: np.ndarray) -> None:
    with pytest.raises(BadInput, match="square"):
        matrix.summary(R)


def test_omega_is_the_mean_of_ratios() -> None:
    assert matrix.omega([0.75, 0.5], [1.0, 0.8]) == pytest.approx(float((F(3, 4) + F(5, 8)) / 2), abs=1e-12)
    for scores, offline in (([0.5], [0.5, 0.5]), ([0.5], [0.0]), ([], [])):
        with pytest.raises(BadInput, match="Omega"):
            matrix.omega(scores, offline)


# ---- per sample -----------------------------------------------------------------------------------


def halves_equal_whole(metric: object, output: object, target: np.ndarray) -> dict:
    """Values, after checking that batches and merged halves give the same, and that states stay untouched."""
    whole = metric.update(metric.start(), output, target)
    at = len(target) // 3
    first = metric.update(metric.start(), output[:at], target[:at])
    before = repr(first)
    parts = metric.merge(first, metric.update(metric.start(), output[at:], target[at:]))
    onward = metric.update(first, output[at:], target[at:])
    assert repr(first) == before
    assert repr(metric.compute(whole)) == repr(metric.compute(parts)) == repr(metric.compute(onward))
    return metric.compute(whole)


def test_accuracy_and_top_k_count_as_a_plain_sort_does() -> None:
    rng = np.random.default_rng(0)
    scores, target = rng.integers(0, 4, (300, 7)).astype(np.float32), rng.integers(0, 7, 300)
    order = [sorted(range(7), key=lambda c, row=row: (-row[c], c)) for row in scores.tolist()]
    for k in (1, 2, 5):
        expected = np.mean([t in o[:k] for t, o in zip(target.tolist(), order, strict=True)])
        name = "accuracy" if k == 1 else f"top{k}"
        assert halves_equal_whole(TopK(k), scores, target) == {name: pytest.approx(expected, abs=1e-12)}
    assert halves_equal_whole(TopK(), scores.argmax(1), target) == TopK().compute(
        TopK().update(TopK().start(), scores, target)
    )


def test_equal_scores_do_not_count_as_a_hit() -> None:
    assert rank_of(np.zeros((3, 4)), np.array([0, 1, 3])).tolist() == [0, 1, 3]


def test_scores_that_are_no_numbers_are_wrong_and_counted() -> None:
    scores = np.array([[np.nan, 1.0], [0.0, 1.0], [1.0, np.nan]])
    assert classes_of(scores).tolist() == [-1, 1, -1]
    for k in (1, 2):
        metric = TopK(k)
        values = metric.compute(metric.update(metric.start(), scores, np.array([0, 1, 1])))
        assert list(values.values()) == [pytest.approx(1 / 3), 2.0]


def test_a_class_without_a_score_is_missed_by_top_k() -> None:
    assert rank_of(np.ones((1, 3)), np.array([5])).tolist() == [3]


def test_no_samples_have_no_accuracy() -> None:
    assert TopK().compute(TopK().start()) == {"accuracy": None}
    assert Answers(("a",)).compute(Answers(("a",)).start())["accuracy"] is None
    assert Confusion(("a", "b")).compute(Confusion(("a", "b")).start()) == {"mean_recall": None}


def test_predictions_and_samples_must_be_as_many() -> None:
    with pytest.raises(Mismatch, match="2 predictions for 3 samples"):
        TopK().update(TopK().start(), np.zeros(2, int), np.zeros(3, int))


def stream_of(names: tuple[str, ...]) -> Stream:
    samples = ArraySamples({"x": Field(shape=(), dtype="float32", kind="vector")}, {"x": np.zeros(1)})
    stage = Stage(index=0, name="all", train=samples)
    return Stream(
        name="s",
        task="x -> class",
        stages=[stage],
        test=samples,
        test_sets={"all": np.zeros(1, int)},
        class_names=names,
    )


def test_a_metric_that_could_only_be_perfect_or_has_no_classes_is_refused() -> None:
    with pytest.raises(BadInput, match="among 2 classes"):
        build_top5(None, stream_of(("a", "b")))
    with pytest.raises(BadInput, match="names no classes"):
        build_confusion(None, stream_of(()))


def test_confusion_counts_pairs_and_recalls() -> None:
    target, predicted = np.array([0, 0, 1, 1, 1, 1]), np.array([0, 1, 1, 1, 1, 2])
    metric = Confusion(("cat", "dog", "owl"))
    values = halves_equal_whole(metric, predicted, target)
    assert values == {"mean_recall": pytest.approx(0.625), "recall/cat": 0.5, "recall/dog": 0.75}


def test_confusion_matrix_drops_void_and_refuses_wrong_predictions() -> None:
    truth, predicted = (np.array([[0, 1, 255], [2, 3, 1]], np.uint8), np.array([[0, 2, 1], [2, 0, 1]], np.uint8))
    assert confusion_matrix(truth, predicted, 3).tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 1]]
    with pytest.raises(Mismatch, match="run from 0 to 2, but there are 2 classes"):
        confusion_matrix(truth, predicted, 2)
    with pytest.raises(Mismatch, match="shape"):
        confusion_matrix(truth, predicted.T, 3)


# Rows truth, columns prediction. By hand for classes {0, 1, 2} of 4; row 3 is dropped:
#   columns: 8, 7, 5, 2; right 6, 5, 3.
M4 = np.array([[6, 1, 2, 1], [0, 5, 0, 1], [2, 1, 3, 0], [9, 9, 9, 9]])


def test_segmentation_scores_equal_the_rationals_derived_by_hand() -> None:
    scores = class_scores(M4, [0, 1, 2])
    iou = [F(6, 10 + 8 - 6), F(5, 6 + 7 - 5), F(3, 6 + 5 - 3)]
    assert scores.iou[:3] == pytest.approx([float(v) for v in iou], abs=1e-12)
    assert scores.precision[:3] == pytest.approx([6 / 8, 5 / 7, 3 / 5], abs=1e-12)
    assert scores.recall[:3] == pytest.approx([6 / 10, 5 / 6, 3 / 6], abs=1e-12)
    assert np.isnan([scores.iou[3], scores.precision[3], scores.recall[3]]).all()
    assert scores.mean("iou") == pytest.approx(float(sum(iou) / 3), abs=1e-12)
    assert scores.mean("iou", [0, 2]) == pytest.approx(float((iou[0] + iou[2]) / 2), abs=1e-12)
    assert scores.pixel_accuracy == pytest.approx(14 / 22, abs=1e-12)
    assert scores.seen_pixel_accuracy == pytest.approx(14 / 20, abs=1e-12)


def test_a_class_that_is_neither_there_nor_predicted_has_no_iou() -> None:
    scores = class_scores(np.array([[4, 0, 0], [0, 0, 0], [1, 0, 0]]))
    assert scores.iou[0] == 4 / 5
    assert np.isnan(scores.iou[1])
    assert scores.iou[2] == 0
    assert scores.mean("iou") == pytest.approx(0.4)
    assert class_scores(np.zeros((2, 2), int)).mean("iou") is None


def test_segmentation_splits_old_from_new_with_background_old() -> None:
    metric = Segmentation(("background", "a", "b", "c"), ((1,), (2,), (3,)))
    state = {"matrix": M4}
    scores = class_scores(M4, [0, 1, 2])
    values = metric.compute(state, 1)
    assert list(values)[:3] == ["miou", "miou_old", "miou_new"]
    assert values["miou_old"] == scores.mean("iou", [0, 1])
    assert values["miou_new"] == scores.mean("iou", [2])
    assert "miou_old" not in metric.compute(state, 0)
    assert [key for key in metric.compute(state, 0) if key.startswith("iou/")] == ["iou/background", "iou/a"]


def test_segmentation_takes_masks_of_any_size() -> None:
    rng = np.random.default_rng(0)
    masks = np.empty(6, object)
    masks[:] = [rng.choice([0, 1, 2, 255], (4 + i, 5)).astype(np.uint8) for i in range(6)]
    guesses = [rng.integers(0, 3, m.shape).astype(np.uint8) for m in masks]
    metric = Segmentation(("background", "a", "b"), ((1,), (2,)))
    values = halves_equal_whole(metric, guesses, masks)
    truth, guess = (np.concatenate([m.ravel() for m in part]) for part in (masks, guesses))
    valid = truth != 255
    iou = [
        np.mean(
            (truth == c)[valid & ((truth == c) | (guess == c))] & (guess == c)[valid & ((truth == c) | (guess == c))]
        )
        for c in range(3)
    ]
    assert values["miou"] == pytest.approx(np.mean(iou), abs=1e-12)
    assert values["pixel_accuracy"] == pytest.approx((truth == guess)[valid].mean(), abs=1e-12)
    with pytest.raises(Mismatch, match="5 predicted masks for 6 images"):
        metric.update(metric.start(), guesses[:5], masks)


def test_answers_are_scored_overall_and_by_type() -> None:
    metric = Answers(("count", "exist", "colour"))
    target = np.array([[3, 0], [1, 0], [0, 1], [0, 1], [2, 0]])
    values = halves_equal_whole(metric, np.array([3, 2, 0, 0, 0]), target)
    assert values == {
        "accuracy": pytest.approx(3 / 5),
        "mean_per_type": pytest.approx(float((F(1, 3) + 1 + 0) / 3)),
        "type/count": pytest.approx(1 / 3),
        "type/exist": 1.0,
        "type/colour": None,
    }
    assert halves_equal_whole(Answers(), np.eye(4)[[3, 2, 0]], np.array([3, 1, 0])) == {
        "accuracy": pytest.approx(2 / 3)
    }
    with pytest.raises(Mismatch, match="answer and question type"):
        metric.update(metric.start(), np.zeros(2, int), np.zeros(2, int))
    with pytest.raises(Mismatch, match="question types run from 0 to 7"):
        metric.update(metric.start(), np.zeros(2, int), np.array([[0, 0], [0, 7]]))
