"""LwF, ILT, MiB, PLOP and RECALL with MiB: losses against plain arithmetic, short runs, resume."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from cl_kernel import ClkError, Interrupted, discover, make_request, plan, run, run_plan
from cl_plugin_recall.backend import tf
from cl_plugin_recall.data.tables import class_table
from cl_plugin_recall.method import lwf, mib, plop, recall_mib
from cl_plugin_recall.method.distillation import balance_new_classes, cross_entropy
from cl_plugin_recall.method.phases import TrainStep
from cl_plugin_recall.network import resnet
from cl_plugin_recall.network.decoder import Decoder
from cl_plugin_recall.settings import Recall

from .conftest import SHORT

rng = np.random.default_rng(0)
NEW, OLD = (rng.normal(0, 2, (2, 5, 7, n)).astype(np.float32) for n in (7, 4))
Y = rng.choice([0, 4, 5, 6, 255], (2, 5, 7)).astype(np.int32)


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z.astype(np.float64))
    return e / e.sum(-1, keepdims=True)


def test_cross_entropy_is_a_mean_over_all_pixels() -> None:
    p = softmax(NEW)
    want = -sum(np.log(p[i][Y[i]]) for i in np.ndindex(Y.shape) if Y[i] != 255) / Y.size
    assert float(cross_entropy(tf.constant(NEW), tf.constant(Y))) == pytest.approx(want, rel=1e-5)


def test_lwf_compares_answers_among_the_old_labels() -> None:
    want = -np.mean(softmax(OLD) * np.log(softmax(NEW[..., :4])))
    assert float(lwf.distance(tf.constant(NEW), tf.constant(OLD))) == pytest.approx(want, rel=1e-5)


def test_mib_sums_over_what_background_may_be() -> None:
    p, q = softmax(NEW), softmax(OLD)
    ground = p[..., :4].sum(-1)
    want = np.array([-np.log(ground[i] if Y[i] < 4 else p[i][Y[i]]) if Y[i] != 255 else 0 for i in np.ndindex(Y.shape)])
    each, counted = mib.unbiased_each(tf.constant(NEW), tf.constant(Y), 4)
    np.testing.assert_allclose(np.where(counted, each, 0).ravel(), want, rtol=1e-4, atol=1e-5)
    both = p[..., 0] + p[..., 4:].sum(-1)
    distance = -np.mean(q[..., 0] * np.log(both) + (q[..., 1:] * np.log(p[..., 1:4])).sum(-1)) / 4
    assert float(mib.unbiased_distance(tf.constant(NEW), tf.constant(OLD))) == pytest.approx(distance, rel=1e-5)


def test_new_classes_begin_as_equal_parts_of_the_background() -> None:
    decoder = Decoder(3, 7, np.random.default_rng(1), (1, 2))
    x = tf.constant(rng.normal(size=(1, 6, 6, 3)).astype(np.float32))
    before = softmax(decoder(x).numpy()[..., :4])
    balance_new_classes(decoder, 4, 3)
    after = softmax(decoder(x).numpy())
    np.testing.assert_allclose(after[..., 1:4], before[..., 1:4], rtol=1e-4)
    for c in (0, 4, 5, 6):
        np.testing.assert_allclose(after[..., c], before[..., 0] / 4, rtol=1e-4)


def test_plop_labels_what_the_network_before_is_sure_of() -> None:
    sure = np.full((1, 2, 2, 4), -9.0, np.float32)
    sure[0, 0, 0, 2] = 9
    sure[0, 1, 1] = 0
    y = np.array([[[0, 5], [255, 0]]], np.int32)
    labels, share = plop.pseudo_labels(tf.constant(y), tf.constant(sure), tf.constant(np.full(4, 0.5, np.float32)))
    assert labels.numpy().tolist() == [[[2, 5], [255, 255]]] and share.numpy().tolist() == [0.5]
    counts = np.zeros((2, plop.BINS), np.int64)
    counts[0, [10, 20, 30]] = 1
    assert plop.medians(counts, 0.001).tolist() == pytest.approx([0.0205, 0.001], abs=1e-6)


def test_plop_pools_rows_and_columns_of_every_part() -> None:
    x = rng.normal(size=(2, 8, 8, 3)).astype(np.float32)
    found = plop.pooled(tf.constant(x), (1, 2)).numpy()
    assert found.shape == (2, (8 + 8) * 3 + 4 * (4 + 4) * 3)
    np.testing.assert_allclose(found[0, :24], x[0].mean(0).ravel(), rtol=1e-5)
    assert float(plop.pooled_distance(tf.constant(x), tf.constant(x), (1, 2, 4))) < 1e-5


def test_recall_with_mib_opens_the_background_of_new_and_replayed_images() -> None:
    p = softmax(NEW)
    old, new = p[..., :4].sum(-1), p[..., 0] + p[..., 4:].sum(-1)
    replayed = np.array([False, True])
    want = 0.0
    for i in np.ndindex(Y.shape):
        if Y[i] != 255:
            want -= np.log((new if replayed[i[0]] else old)[i] if Y[i] == 0 else p[i][Y[i]])
    found = recall_mib.open_background(tf.constant(NEW), tf.constant(Y), tf.constant(replayed), 4)
    assert float(found) == pytest.approx(want / Y.size, rel=1e-5)


def short(learner: str, **more: Any) -> dict[str, Any]:
    kept = {k: v for k, v in SHORT.items() if "helper" not in k and "interleave" not in k}
    if learner == "recall-mib":
        kept = SHORT | {"source.per_class": 2}
    return kept | {"learner": f"recall:{learner}", "learner.training_steps_per_class_incremental": 1} | more


@pytest.mark.parametrize("learner", ["lwf", "ilt", "mib", "plop", "recall-mib"])
def test_a_method_runs_and_resumes_the_same(tmp_path: Path, learner: str) -> None:
    whole = run("15-5", plugin="recall", output=tmp_path / "a", comparisons=False, settings=short(learner))
    seen = whole.results["metrics"]["segmentation"]["seen"][-1]
    assert np.isfinite(seen["all"]) and (whole.folder / "outputs" / "steps.jsonl").read_text().count("loss") == 2
    stopped = short(learner, **{"run.stop_at_step": 17, "learner.reuse": False})
    with pytest.raises(Interrupted):
        run("15-5", plugin="recall", output=tmp_path / "b", comparisons=False, settings=stopped)
    registry = discover()
    planned = plan(registry, make_request("15-5", plugin="recall", settings=stopped))
    again = run_plan(registry, planned, tmp_path / "b", resume=True, comparisons=False)
    assert again.results["state_digest"] == whole.results["state_digest"]


@pytest.fixture
def any_kernel() -> Iterator[None]:
    """TensorFlow as it is before a run asks for determinism, for which there is no public way back."""
    from tensorflow.python.util import _pywrap_determinism as switch

    was = switch.is_enabled()
    switch.enable(False)
    yield
    switch.enable(was)


def test_xla_is_refused_where_runs_are_to_be_deterministic(tmp_path: Path) -> None:
    with pytest.raises(ClkError, match="deterministic"):
        run("15-5", plugin="recall", output=tmp_path / "a", comparisons=False, settings={"learner.xla": True})
    assert not (tmp_path / "a" / "checkpoints").exists()


@pytest.mark.usefixtures("any_kernel")
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("changed, rough", [({"xla": True}, 1e-4), ({"precision": "bfloat16"}, 0.03)])
def test_a_step_compiled_or_at_half_precision_learns_what_the_plain_one_does(
    whole: bool, changed: dict[str, Any], rough: float
) -> None:
    plain, other = (steps_of(attrs.evolve(Recall(), **how), whole) for how in ({}, changed))
    np.testing.assert_allclose(other[0], plain[0], rtol=rough)
    moved = np.concatenate([value.ravel() for value in plain[1].values()])
    also = np.concatenate([other[1][name].ravel() for name in plain[1]])
    assert np.abs(also - moved).max() <= rough * np.abs(moved).max() * 4
    assert np.dot(also, moved) > 0.99 * np.dot(moved, moved)


def test_float16_gradients_too_small_for_it_are_not_lost() -> None:
    """The first layers move as at full precision, though each pixel's share of the mean is tiny."""
    plain, half = (steps_of(Recall(precision=kind), True, side=129) for kind in ("float32", "float16"))
    for name, value in plain[1].items():
        if name.endswith("conv1/BatchNorm/gamma"):
            assert np.dot(half[1][name], value) > 0.9 * np.dot(value, value)


def steps_of(settings: Recall, whole: bool, side: int = 33) -> tuple[list[float], dict[str, np.ndarray]]:
    """Losses of two steps of a small ResNet, and how far its weights have moved."""
    rng = np.random.default_rng(0)
    encoder = resnet.ResNet(resnet.ResNetSpec(divisor=16, units=(1, 1, 1, 1)), rng)
    decoder = Decoder(encoder.depth, 21, rng)
    step = TrainStep(encoder, decoder, class_table(range(21)), settings, whole=whole)
    parts = encoder.values() | decoder.values()
    x = tf.constant(rng.normal(0, 50, (4, side, side, 3)).astype(np.float32))
    y = tf.constant(rng.integers(0, 21, (4, side, side)).astype(np.uint8))
    losses = [float(step(x, y, tf.constant(1e-4))) for _ in range(2)]
    after = encoder.values() | decoder.values()
    return losses, {name: after[name] - parts[name] for name in parts}
