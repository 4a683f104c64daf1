"""Every method of the library: it learns, also where classes repeat, keeps within its memory, resumes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cl_kernel import ArraySamples, Field, Mismatch, Stage, Stream, discover, make_request, plan
from cl_kernel.library.memories.chosen import Chosen
from cl_kernel.library.memories.policies import ClassBalanced, GreedyBalanced, Reservoir
from cl_kernel.library.memories.raw import RawCodec
from cl_kernel.library.networks import build_mlp
from cl_kernel.library.torch_settings import Mlp
from cl_kernel.memory import Memory
from cl_kernel.methods.catalogue import METHODS
from cl_kernel.registry import resolve
from cl_kernel.running.resources import Resources, Setup
from cl_kernel.storage.checkpoint import digest_tree, load_tree, save_tree

NAMES = [name for name, *_ in METHODS]
REMEMBERS = {name for name, _, _, replay in METHODS if replay}
ISOLATED = {"packnet", "piggyback", "hat", "supsup"}  # tell tasks by their classes
FIRST_COME = {"gdumb"}  # a full memory takes no more examples of the classes that it holds, as in the paper
ONE_PASS = {"slda", "ncm", "ranpac", "fecam"}
VARIANTS = ["lwf", "gem", "agem", "icarl", "bic", "rainbow", "aan"]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


# ---- streams whose classes come again --------------------------------------------------------


class Stopped(Exception):
    pass


class Ctx:
    """What a learner asks of a run, with the notes it leaves."""

    def __init__(self, stages: list[Stage]) -> None:
        self.stages, self.resources, self.notes = stages, Resources(seed=0), []
        self.n_steps = self.stop_at = 0

    def rng(self, *names: Any) -> np.random.Generator:
        return self.resources.rng(*names)

    def phase(self, name: str, n_steps: int = 0) -> None: ...

    def step(self, **values: Any) -> None:
        self.n_steps += 1
        if self.n_steps == self.stop_at:
            raise Stopped

    def note(self, text: str, **values: Any) -> None:
        self.notes.append(text)

    def bad_sample(self, what: str, error: Exception) -> None:
        raise error


def stream(classes: list[list[int]], n: int = 12) -> Stream:
    """Stages of vectors around class centres; the centres of a class move a little from stage to stage."""
    rng = np.random.default_rng(0)
    centres = 3 * rng.standard_normal((5, 6)).astype(np.float32)
    spec = {
        "vector": Field(shape=(6,), dtype="float32", kind="vector"),
        "class": Field(shape=(), dtype="int64", kind="class", n=5),
    }
    stages = []
    for index, these in enumerate(classes):
        labels = rng.permutation(np.repeat(these, n))
        vectors = centres[labels] + 0.3 * index + rng.standard_normal((len(labels), 6)).astype(np.float32)
        samples = ArraySamples(spec, {"vector": vectors.astype(np.float32), "class": labels.astype(np.int64)})
        stages.append(Stage(index=index, name=str(index), train=samples, classes=tuple(these)))
    test = stages[-1].train
    names = tuple("abcde")
    return Stream(
        name="repeating",
        task="vector -> class",
        stages=stages,
        test=test,
        test_sets={str(at): np.arange(len(test)) for at in range(len(stages))},
        class_names=names,
    )


POLICIES = {"class-balanced": ClassBalanced, "chosen": Chosen, "reservoir": Reservoir, "gdumb": GreedyBalanced}


def learner(name: str, given: Stream, capacity: int = 12, **choices: Any) -> Any:
    module, replay = next((module, replay) for other, module, _, replay in METHODS if other == name)
    resources = Resources(seed=0, device="cpu")
    policy = POLICIES[replay.partition("+")[0].removeprefix("clk:")] if replay else None
    settings = resolve(f"cl_kernel.methods.{module}:Settings")(batch_size=8, **choices)
    setup = Setup(
        stream=given,
        resources=resources,
        model=lambda fields, n: build_mlp(Mlp(hidden=(16,)), fields, n, resources),
        memory=(
            (lambda fields: Memory(policy(capacity), RawCodec(fields), capacity, np.random.default_rng(0)))
            if policy
            else None
        ),
    )
    return resolve(f"cl_kernel.methods.{module}:build")(settings, setup)


def taught(name: str, classes: list[list[int]], **choices: Any) -> tuple[Any, Ctx, Stream]:
    given = stream(classes)
    made, ctx = learner(name, given, **choices), Ctx(list(given.stages))
    for stage in given.stages:
        made.learn(stage, ctx)
    return made, ctx, given


def found(made: Any, samples: ArraySamples) -> np.ndarray:
    return np.concatenate([out["class"] for out in made.predict(samples)])


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ISOLATED])
@pytest.mark.parametrize("classes", [[[0, 1], [0, 1]], [[0, 1], [1, 2], [2, 0]], [[0, 1, 2]] * 3])
def test_a_method_learns_where_classes_come_again(name: str, classes: list[list[int]]) -> None:
    made, _, given = taught(name, classes, **({} if name in ONE_PASS else {"epochs": 4}))
    last = given.stages[-1].train
    assert (found(made, last) == last.arrays["class"]).mean() > 0.6
    if name in REMEMBERS:
        assert len(made.memory) <= 12


@pytest.mark.parametrize(("name", "variant"), [(name, "") for name in NAMES] + [(name, "crumb") for name in VARIANTS])
def test_a_method_goes_on_bit_for_bit_after_any_step(name: str, variant: str, tmp_path: Path) -> None:
    given = stream(
        [[0, 1], [2, 3] if name in ISOLATED else [1, 2]], n=9
    )  # 18 samples a stage in batches of 8: the last one is short
    choices: dict[str, Any] = {} if name in ONE_PASS else {"epochs": 2, "momentum": 0.9, "lr": 0.02}
    choices |= {"variant": variant} if variant else {}
    whole, ctx = learner(name, given, **choices), Ctx(list(given.stages))
    for stage in given.stages:
        whole.learn(stage, ctx)
    expected, answers = digest_tree(whole.state()), found(whole, given.test)
    assert ctx.n_steps >= 6
    for stop in range(1, ctx.n_steps + 1):
        first, stopping = learner(name, given, **choices), Ctx(list(given.stages))
        stopping.stop_at = stop
        begun: list[int] = []
        with pytest.raises(Stopped):
            for stage in given.stages:
                begun.append(stage.index)
                first.learn(stage, stopping)
        save_tree(tmp_path / "state", first.state())
        second, going_on = learner(name, given, **choices), Ctx(list(given.stages))
        second.load(load_tree(tmp_path / "state"))
        for stage in given.stages[begun[-1] :]:
            second.learn(stage, going_on)
        assert stop + going_on.n_steps == ctx.n_steps
        assert digest_tree(second.state()) == expected, f"stopped after step {stop}"
        assert np.array_equal(found(second, given.test), answers)


@pytest.mark.parametrize("name", ["icarl", "bic", "rainbow", "aan"])
def test_a_memory_smaller_than_the_classes_keeps_what_it_can_and_says_so(name: str) -> None:
    given = stream([[0, 1], [2, 3, 4]])
    made, ctx = learner(name, given, capacity=3), Ctx(list(given.stages))
    for stage in given.stages:
        made.learn(stage, ctx)
    assert {c: len(slots) for c, slots in made.sets.slots.items() if len(slots)} == {0: 1, 1: 1, 2: 1}
    assert any("memory of 3" in note for note in ctx.notes)
    found(made, given.test)


@pytest.mark.parametrize("name", ["icarl", "rainbow", "bic"])
def test_exemplars_of_a_class_are_chosen_again_when_it_comes_again(name: str) -> None:
    given = stream([[0, 1], [0, 1]])
    made, ctx = learner(name, given), Ctx(list(given.stages))
    made.learn(given.stages[0], ctx)
    before, _ = made.sets.all(given.stages[0])
    before = before.clone()
    made.learn(given.stages[1], ctx)
    after, _ = made.sets.all(given.stages[1])
    new = torch.from_numpy(given.stages[1].train.arrays["vector"])
    assert len(after) == 12
    assert any((new == row).all(1).any() for row in after)
    assert not torch.equal(before, after)


def two_domains(n: int = 24) -> Stream:
    """Two stages of the same three classes; what tells them apart lies in other components in the second."""
    rng = np.random.default_rng(1)
    spec = {
        "vector": Field(shape=(12,), dtype="float32", kind="vector"),
        "class": Field(shape=(), dtype="int64", kind="class", n=3),
    }
    stages = []
    for index in range(2):
        labels = rng.permutation(np.repeat(np.arange(3), n))
        vectors = 0.3 * rng.standard_normal((len(labels), 12))
        vectors[:, 6 * index : 6 * index + 6] += 2 * rng.standard_normal((3, 6))[labels]
        samples = ArraySamples(spec, {"vector": vectors.astype(np.float32), "class": labels.astype(np.int64)})
        stages.append(Stage(index=index, name=str(index), train=samples, classes=(0, 1, 2)))
    test = stages[-1].train
    sets = {str(at): np.arange(len(test)) for at in range(2)}
    return Stream(
        name="domains", task="vector -> class", stages=stages, test=test, test_sets=sets, class_names=("a", "b", "c")
    )


@pytest.mark.parametrize("name", [name for name in NAMES if name not in {*ISOLATED, *FIRST_COME}])
def test_a_new_domain_of_old_classes_is_learnt(name: str) -> None:
    given = two_domains()
    schedule = {} if name in ONE_PASS else {"epochs": 10, "lr": 0.05}
    made, ctx = learner(name, given, capacity=24, **schedule), Ctx(list(given.stages))
    made.learn(given.stages[0], ctx)
    before = (found(made, given.test) == given.test.arrays["class"]).mean()
    made.learn(given.stages[1], ctx)
    after = (found(made, given.test) == given.test.arrays["class"]).mean()
    assert after > max(0.8, before)


def test_old_columns_are_those_of_classes_seen_before() -> None:
    made, _, _ = taught("lwf", [[0, 1], [1, 2], [0, 1, 2]])
    assert [made.seen.n_before(index) for index in range(3)] == [0, 2, 3]
    assert [made.seen.n_absent(index) for index in range(3)] == [1, 1, 0]


# ---- methods for frozen networks, beside loops over samples ------------------------------------


def features_and_labels(made: Any, given: Stream) -> Iterator[tuple[np.ndarray, int]]:
    for stage in given.stages:
        features = made.features(torch.from_numpy(stage.train.arrays["vector"])).numpy()
        yield from zip(features, stage.train.arrays["class"].tolist(), strict=True)


def scores_of(made: Any, given: Stream) -> tuple[np.ndarray, np.ndarray]:
    """Features of the test samples, and the scores that the learner gives them."""
    features = made.features(torch.from_numpy(given.test.arrays["vector"])).numpy()
    return features, np.concatenate([out["scores"] for out in made.predict(given.test)])


def test_slda_equals_one_example_at_a_time() -> None:
    made, _, given = taught("slda", [[0, 1], [1, 2]], shrinkage=0.01)
    mean, n, covariance = np.zeros((3, 16)), np.zeros(3), np.zeros((16, 16))
    for t, (f, c) in enumerate(features_and_labels(made, given)):
        away = f - mean[c] if n[c] else np.zeros(16)
        covariance = (t * covariance + t / (t + 1) * np.outer(away, away)) / (t + 1)
        mean[c] = (n[c] * mean[c] + f) / (n[c] + 1)
        n[c] += 1
    precision = np.linalg.inv(0.99 * covariance + 0.01 * np.eye(16))
    features, scores = scores_of(made, given)
    expected = features @ precision @ mean.T - 0.5 * np.einsum("kd,de,ke->k", mean, precision, mean)
    np.testing.assert_allclose(scores[:, :3], expected, rtol=1e-4, atol=1e-4)
    assert np.isneginf(scores[:, 3:]).all()


def test_the_nearest_class_mean_is_that_of_all_samples_seen() -> None:
    made, _, given = taught("ncm", [[0, 1], [1, 2]], normalise=False)
    pairs = list(features_and_labels(made, given))
    means = np.stack([np.mean([f for f, c in pairs if c == k], axis=0) for k in range(3)])
    features, scores = scores_of(made, given)
    expected = -((features[:, None] - means[None]) ** 2).sum(2)
    np.testing.assert_allclose(scores[:, :3], expected, rtol=1e-4, atol=1e-4)


def test_ranpac_is_ridge_regression_in_any_order_of_stages() -> None:
    made, _, given = taught("ranpac", [[0, 1], [1, 2]], n_projected=40, ridge=3.0)
    pairs = list(features_and_labels(made, given))
    projection = Resources(seed=0).rng("ranpac").standard_normal((16, 40))
    h = np.maximum(np.stack([f for f, _ in pairs]) @ projection, 0)
    y = np.eye(3)[[c for _, c in pairs]]
    weights = np.linalg.solve(h.T @ h + 3.0 * np.eye(40), h.T @ y)
    features, scores = scores_of(made, given)
    np.testing.assert_allclose(scores[:, :3], np.maximum(features @ projection, 0) @ weights, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shared", [False, True])
def test_fecam_is_the_mahalanobis_distance_to_each_class(shared: bool) -> None:
    made, _, given = taught("fecam", [[0, 1], [1, 2]], shared=shared)
    pairs = list(features_and_labels(made, given))
    of = [np.stack([f for f, c in pairs if c == k]) for k in range(3)]
    within = sum(np.cov(part.T) * (len(part) - 1) for part in of) / (len(pairs) - 3)
    features, scores = scores_of(made, given)
    for k, part in enumerate(of):
        c = within if shared else np.cov(part.T)
        off = ~np.eye(16, dtype=bool)
        shrunk = c + np.where(off, c[off].mean(), np.diag(c).mean())
        deviation = np.sqrt(np.maximum(np.diag(shrunk), 1e-9))
        correlation = shrunk / np.outer(deviation, deviation)
        np.fill_diagonal(correlation, 1.0)
        away = features - part.mean(0)
        expected = -np.einsum("nd,de,ne->n", away, np.linalg.pinv(correlation, hermitian=True), away)
        np.testing.assert_allclose(scores[:, k], expected, rtol=1e-3, atol=1e-4)


# ---- replay methods --------------------------------------------------------------------------


def test_dark_replay_holds_on_to_the_scores_of_the_day() -> None:
    given = stream([[0, 1], [2, 3]])
    made, ctx = learner("derpp", given, capacity=40, alpha=0.3, beta=0.7), Ctx(list(given.stages))
    made.learn(given.stages[0], ctx)
    kept = made.memory.take(np.arange(len(made.memory)))
    assert kept["scores"].shape == (24, 5)
    x, y = torch.from_numpy(kept["vector"]), made.seen.columns_of(torch.from_numpy(kept["class"]))
    z = torch.from_numpy(kept["scores"])
    scores = made.upper(x)
    whole = 0.3 * ((scores - z) ** 2).mean() + 0.7 * torch.nn.functional.cross_entropy(scores, y)
    torch.testing.assert_close(made.dark_loss(given.stages[0]), whole)  # both draws are the whole memory


def test_gdumb_learns_from_its_memory_alone() -> None:
    made, _, given = taught("gdumb", [[0, 1], [2, 3]], epochs=3)
    labels = made.memory.take(np.arange(len(made.memory)))["class"]
    assert np.bincount(labels).tolist() == [3, 3, 3, 3]
    other = learner("gdumb", given, epochs=3)
    other.memory.load(made.memory.state())
    first = Ctx(list(given.stages))
    other.seen.load(made.seen.state())
    other.offer = lambda *args, **more: np.zeros(0)  # nothing more enters: the memory is that of the end
    other.learn(given.stages[1], first)
    assert np.array_equal(found(made, given.test), found(other, given.test))


def test_cwr_keeps_the_body_of_the_first_stage() -> None:
    given = stream([[0, 1], [2, 3]])
    made, ctx = learner("cwr", given), Ctx(list(given.stages))
    made.learn(given.stages[0], ctx)
    body = made.upper[1][0].weight.detach().clone()
    kept = made.weight.clone()
    made.learn(given.stages[1], ctx)
    assert torch.equal(made.upper[1][0].weight, body)
    assert torch.equal(made.weight[:2], kept[:2])  # classes that did not come keep their weights
    assert not torch.equal(made.weight[2:4], kept[2:4])


def test_a_stage_of_old_classes_fits_no_bias_and_a_new_one_corrects_the_newest_only() -> None:
    made, _, given = taught("bic", [[0, 1], [0, 1], [2, 3]], epochs=4)
    assert made.bias[0] == made.bias[1] == (1.0, 0.0)
    scale, shift = made.bias[2]
    assert (scale, shift) != (1.0, 0.0)
    x = torch.from_numpy(given.test.arrays["vector"])
    with torch.no_grad():
        raw = made.upper(x)[:, :4]
    scores = np.concatenate([out["scores"] for out in made.predict(given.test)])
    expected = torch.cat([raw[:, :2], raw[:, 2:] * scale + shift], 1)
    np.testing.assert_allclose(scores[:, made.seen.order], expected.numpy(), rtol=1e-5, atol=1e-5)


# ---- dark replay beside loops over samples ---------------------------------------------------


def cross_entropy(scores: torch.Tensor, column: int) -> float:
    return math.log(sum(math.exp(float(s)) for s in scores)) - float(scores[column])


@pytest.mark.parametrize("name", ["der", "derpp"])
def test_the_loss_is_over_all_columns_and_holds_the_remembered_scores(name: str) -> None:
    given = stream([[3, 1], [0, 1]])
    made = learner(name, given, capacity=100, epochs=1)
    ctx = Ctx(list(given.stages))
    made.learn(given.stages[0], ctx)
    stage = given.stages[0]
    inputs = torch.from_numpy(stage.train.arrays["vector"])
    labels = torch.from_numpy(stage.train.arrays["class"])
    scores = made.upper(inputs).detach()
    columns = [[3, 1].index(int(c)) for c in labels]  # in order of appearance
    expected = np.mean([cross_entropy(row, c) for row, c in zip(scores, columns, strict=True)])
    assert float(made.labelled_loss(scores, labels)) == pytest.approx(expected, rel=1e-5)
    drawn = made.memory.take(np.arange(6))
    made.memory.sample = lambda n: drawn
    now = made.upper(torch.from_numpy(drawn["vector"])).detach().numpy()
    distance = np.mean(
        [(a - b) ** 2 for x, y in zip(now, drawn["scores"], strict=True) for a, b in zip(x, y, strict=True)]
    )
    labelled = np.mean(
        [cross_entropy(torch.from_numpy(x), [3, 1].index(int(c))) for x, c in zip(now, drawn["class"], strict=True)]
    )
    wanted = made.settings.alpha * distance + (made.settings.beta * labelled if name == "derpp" else 0.0)
    assert float(made.dark_loss(stage).detach()) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(("update", "n"), [("batch", 48), ("stage", 24)])
def test_every_pass_offers_its_scores_or_the_stage_those_of_its_end(update: str, n: int) -> None:
    given = stream([[0, 1]])
    made = learner("der", given, capacity=100, epochs=2, update=update)
    made.learn(given.stages[0], Ctx(list(given.stages)))
    assert len(made.memory) == n
    kept = made.memory.take(np.arange(n))
    final = made.upper(torch.from_numpy(kept["vector"])).detach().numpy()
    gap = np.abs(final - kept["scores"]).max(1)
    assert gap.max() > 0.1 if update == "batch" else gap.max() < 1e-6


# ---- a head a task ---------------------------------------------------------------------------

HEADED = ["fine-tuning", "l2", "ewc", "online-ewc", "si", "mas", "gem", "agem", "naive-rehearsal", "er"]


@pytest.mark.parametrize("name", HEADED)
def test_with_a_head_a_task_the_other_heads_get_no_gradient_from_a_task_s_examples(name: str) -> None:
    given = stream([[3, 1], [0, 2]])
    made = learner(name, given, heads="task", epochs=3)
    ctx = Ctx(list(given.stages))
    made.learn(given.stages[0], ctx)
    rows = [0, 2] if name == "er" else [2, 3]  # er's columns are labels, the others' in order of appearance
    fresh = learner(name, given, heads="task", epochs=3)
    before = list(fresh.network.upper.parameters())[-2].detach()
    now = list(made.network.upper.parameters())[-2].detach()
    assert torch.equal(now[rows], before[rows]) and not torch.equal(now, before)


def test_losses_among_a_task_s_classes_are_those_of_a_loop_over_samples() -> None:
    from cl_kernel.methods.seen_classes import SeenClasses

    seen = SeenClasses(order=[3, 1, 0, 2], by_stage=[[3, 1], [0, 2]], by_task=True)
    scores = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([3, 1, 0, 2, 2, 0, 1, 3, 3])
    total = 0.0
    for row, label in zip(scores, labels.tolist(), strict=True):
        head = row[:2] if label in (3, 1) else row[2:4]
        total += cross_entropy(head, {3: 0, 1: 1, 0: 0, 2: 1}[label])
    assert float(seen.cross_entropy(scores, labels)) == pytest.approx(total / 9, rel=1e-5)


def test_ewc_measures_what_matters_to_the_newest_head_alone() -> None:
    made, _, _ = taught("ewc", [[3, 1], [0, 2]], heads="task", epochs=2)
    first, second = [list(anchor.importance.values())[-1] for anchor in made.consolidation.anchors]
    assert (first[2:] == 0).all() and (first[:2] > 0).all()
    assert (second[[0, 1, 4]] == 0).all() and (second[2:4] > 0).all()


@pytest.mark.parametrize("name", ["ewc", "er"])
def test_tasks_that_share_classes_are_refused_a_head_each(name: str) -> None:
    with pytest.raises(Mismatch, match="class 1 is in stages 0 and 1"):
        learner(name, stream([[0, 1], [1, 2]]), heads="task")


def test_a_stream_of_tasks_gives_a_head_a_task_and_a_learner_without_use_for_it_is_named() -> None:
    def planned(name: str, **settings: Any) -> Any:
        asked = {key.replace("__", "."): value for key, value in settings.items()}
        return plan(discover(only=()), make_request(dataset="clk:blobs", learner=name, settings=asked))

    assert planned("clk:ewc", stream__scenario="task").resolved.flat()["learner.heads"] == "task"
    assert planned("clk:ewc", stream__scenario="class").resolved.flat()["learner.heads"] == "one"
    asked = planned("clk:ewc", stream__scenario="task", learner__heads="one")
    assert asked.resolved.flat()["learner.heads"] == "one"
    with pytest.raises(Mismatch, match="clk:ncm cannot use the label of a task"):
        planned("clk:ncm", learner__heads="task")
