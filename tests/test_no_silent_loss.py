"""Ways to lose something without being told: each is refused in one clear line, or handled and stated."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from cl_kernel.cli.main import main
from cl_kernel.contract.errors import ClkError
from cl_kernel.contract.offers import Metric
from cl_kernel.contract.stream import Field, Stream
from cl_kernel.data.samples import ArraySamples, class_groups, class_incremental, subset
from cl_kernel.library.memories.policies import ClassBalanced, Reservoir
from cl_kernel.library.memories.raw import RawCodec
from cl_kernel.library.metrics.classification import TopK, build_confusion
from cl_kernel.library.metrics.segmentation import Segmentation, class_scores, confusion_matrix
from cl_kernel.memory import Memory, build_memory
from cl_kernel.running import accuracy_matrix as matrix
from cl_kernel.running.resources import Resources
from cl_kernel.running.scoring import Scorer, score

RUN = ("run", "--dataset", "blobs", "--learner", "linear", "--set", "run.plots=false")
KEEP = ("--replay", "reservoir")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, the kernel's own pieces alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLK_PLUGINS", "")
    monkeypatch.setenv("CLK_CACHE", str(tmp_path / "cache"))
    (tmp_path / "twice.yaml").write_text("learner:\n  lr: 0.1\n  lr: 0.2\n")
    (tmp_path / "both.yaml").write_text("learner:\n  lr: 0.1\nlearner.lr: 0.3\n")
    (tmp_path / "typo.yaml").write_text("learner:\n  batchsize: 4\n")
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "run.json").write_text('{"status": "finished"}')
    return tmp_path


# ---- refused on the command line ------------------------------------------------------------------
REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "classes that do not divide into the stages": (
        (*RUN, "--set", "dataset.n_stages=3"),
        "10 classes do not divide into 3 equal stages",
    ),
    "more stages than classes": ((*RUN, "--set", "dataset.n_stages=20"), "do not divide into 20"),
    "no stages": ((*RUN, "--set", "dataset.n_stages=0"), "'n_stages' must be >= 1: 0"),
    "no training samples": ((*RUN, "--set", "dataset.n_train=0"), "'n_train' must be >= 1: 0"),
    "no test samples": ((*RUN, "--set", "dataset.n_test=0"), "'n_test' must be >= 1: 0"),
    "a class order that leaves classes out": (
        (*RUN, "--set", "dataset.order=[0,1]"),
        "missing [2, 3, 4, 5, 6, 7, 8, 9]",
    ),
    "a class order that repeats": ((*RUN, "--set", "dataset.order=[0,1,2,3,4,5,6,7,8,8]"), "repeated [8], missing [9]"),
    "a class order with an unknown class": ((*RUN, "--set", "dataset.order=[0,1,2,3,4,5,6,7,8,10]"), "unknown [10]"),
    "a misspelt setting": ((*RUN, "--set", "learner.n_epoch=9"), "did you mean learner.n_epochs"),
    "a setting of a misspelt section": ((*RUN, "--set", "lerner.lr=1"), "did you mean learner.lr"),
    "a setting of a piece that is not there": ((*RUN, "--set", "policy.alpha=2"), "unknown setting 'policy.alpha'"),
    "words for a number": ((*RUN, "--set", "learner.lr=fast"), "learner.lr = 'fast' is not a number"),
    "a fraction for a whole number": ((*RUN, "--set", "learner.batch_size=2.5"), "learner.batch_size = 2.5 is not"),
    "a number for yes or no": ((*RUN, "--set", "run.plots=7"), "run.plots = 7 is not"),
    "a value out of range": ((*RUN, "--set", "learner.lr=-1"), "'lr' must be > 0.0: -1"),
    "a setting without a value": ((*RUN, "--set", "learner.lr"), "does not read key=value"),
    "an unknown flag": ((*RUN, "--lr", "3"), "unrecognized arguments: --lr 3"),
    "an abbreviated flag": ((*RUN, "--mem", "3"), "unrecognized arguments: --mem 3"),
    "a settings file that is not there": ((*RUN, "--config-file", "none.yaml"), "none.yaml does not exist"),
    "a settings file that sets a key twice": ((*RUN, "--config-file", "twice.yaml"), "'lr' appears twice"),
    "a settings file that sets a key in two ways": ((*RUN, "--config-file", "both.yaml"), "learner.lr is set twice"),
    "a settings file with a misspelt key": ((*RUN, "--config-file", "typo.yaml"), "did you mean learner.batch_size"),
    "a memory of nothing": ((*RUN, *KEEP, "--memory", "0"), "memory '0' keeps nothing"),
    "a memory smaller than an example": (
        (*RUN, *KEEP, "--memory", "39B"),
        "39 bytes hold no example: one takes 40 bytes",
    ),
    "a memory in an unknown unit": ((*RUN, *KEEP, "--memory", "3pints"), "unknown unit 'pints'"),
    "half an example": ((*RUN, *KEEP, "--memory", "7.5"), "no whole number of examples"),
    "a memory size without a memory": ((*RUN, "--memory", "100"), "runs without a memory"),
    "a memory size beside --replay none": ((*RUN, "--replay", "none", "--memory", "9"), "runs without a memory"),
    "a memory for a learner without room": (
        ("run", "--dataset", "blobs", "--learner", "naive", *KEEP),
        "accepts no memory",
    ),
    "two policies": ((*RUN, "--replay", "reservoir+ring"), "two pieces of kind policy"),
    "a policy that does not exist": ((*RUN, "--replay", "resevoir"), "did you mean reservoir"),
    "a network for a learner without room": ((*RUN, "--model", "mlp"), "accepts no model"),
    "a network that does not exist": ((*RUN, "--model", "mpl"), "did you mean"),
    "an argument for a data set that takes none": ((*RUN, "--dataset", "blobs:5"), "takes no argument, but '5'"),
    "a profile that nobody has": ((*RUN, "--profile", "papr"), "unknown profile 'papr'; did you mean paper"),
    "a test that does not exist": (("run", "--test", "ADD_ONE"), "unknown test 'ADD_ONE'"),
    "a metric that compares with an absent field": ((*RUN, "--metric", "miou"), "compares with 'mask'"),
    "a metric that can only be perfect": (
        (*RUN, "--set", "dataset.n_classes=4", "--set", "dataset.n_stages=2", "--metric", "top5"),
        "among 4 classes every one is in the top 5",
    ),
    "a metric that does not exist": ((*RUN, "--metric", "acuracy"), "did you mean"),
    "a negative seed": ((*RUN, "--seed", "-1"), "'seed' must be >= 0: -1"),
    "a seed that is no whole number": ((*RUN, "--seed", "1.5"), "invalid int value: '1.5'"),
    "a device that cannot be": ((*RUN, "--device", "gpu9"), "'device' must match"),
    "fewer than no workers": ((*RUN, "--n-workers", "-1"), "'n_workers' must be >= 0: -1"),
    "a way to treat bad samples that there is not": ((*RUN, "--on-bad-sample", "ignore"), "invalid choice: 'ignore'"),
    "a data root that is not there": ((*RUN, "--data-root", "nowhere"), "data root nowhere is no folder"),
    "a tracker that does not exist": ((*RUN, "--tracker", "wandbee"), "unknown tracker 'wandbee'"),
    "a folder that holds a run": ((*RUN, "--output", "held"), "the folder already holds a run"),
    "resuming what is no run": (("resume", "nowhere"), "is no run folder"),
    "a data set without a learner": (("run", "--dataset", "blobs"), "nothing to run"),
    "a misspelt command": (("rnu", "--dataset", "blobs"), "unknown command 'rnu'; did you mean run"),
}


@pytest.mark.parametrize("way", REFUSED)
def test_it_is_refused_in_one_clear_message_and_exit_code_2(
    way: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, message = REFUSED[way]
    try:
        code = main(arguments)
    except SystemExit as stopped:  # argparse
        code = int(stopped.code or 0)
    err = capsys.readouterr().err
    assert code == 2
    assert message in " ".join(err.split())
    assert "Traceback" not in err
    assert err.count("error: ") == 1


# ---- refused in Python ----------------------------------------------------------------------------
SPEC = {
    "vector": Field(shape=(2,), dtype="float32", kind="vector"),
    "class": Field(shape=(), dtype="int64", kind="class", n=4),
}


def samples(*labels: int) -> ArraySamples:
    classes = np.array(labels, np.int64)
    return ArraySamples(SPEC, {"vector": np.zeros((len(classes), 2), np.float32), "class": classes})


def stream(**changes: Any) -> Stream:
    made = class_incremental("small", samples(0, 1, 2, 3), samples(0, 1, 2, 3), "abcd", n_stages=2, fingerprint="f")
    return attrs.evolve(made, **changes)


def stages(**changes: Any) -> list[Any]:
    first, second = stream().stages
    return [first, attrs.evolve(second, **changes)]


class Short:
    """A learner that predicts one sample too few."""

    def predict(self, rows: Any) -> Any:
        yield {"scores": np.zeros((len(rows) - 1, 4))}


def scorers() -> list[Scorer]:
    return [Scorer(Metric(name="accuracy", summary="share", build="a:b"), TopK())]


def memory(capacity: int = 4) -> Memory:
    return Memory(Reservoir(capacity), RawCodec(SPEC), capacity, np.random.default_rng(0))


def offer(**changes: Any) -> None:
    batch = {"vector": np.zeros((3, 2), np.float32), "class": np.zeros(3, np.int64), **changes}
    memory().add({name: array for name, array in batch.items() if array is not None}, np.zeros(3, np.int64))


def saved_elsewhere() -> None:
    memory(4).load(memory(5).state())


IN_PYTHON: dict[str, tuple[Callable[[], Any], str]] = {
    "a stream without stages": (lambda: stream(stages=[]).check(), "no stages"),
    "a stage without samples": (
        lambda: stream(stages=stages(train=subset(samples(0), np.zeros(0, int)))).check(),
        r"stage 1 .* has no training samples",
    ),
    "stages out of order": (lambda: stream(stages=stages(index=5)).check(), "has index 5, expected 1"),
    "two stages of one name": (lambda: stream(stages=stages(name="a+b")).check(), "two stages share a name"),
    "a stage with other fields": (
        lambda: stream(
            stages=stages(train=ArraySamples({"class": SPEC["class"]}, {"class": np.zeros(2, int)}))
        ).check(),
        "other fields than stage 0",
    ),
    "a stage of unknown classes": (lambda: stream(stages=stages(classes=(2, 9))).check(), r"unknown classes \[9\]"),
    "two classes of one name": (lambda: stream(class_names=("a", "b", "b", "d")).check(), "two classes share a name"),
    "no test sets": (lambda: stream(test_sets={}).check(), "no test sets"),
    "an empty test set": (lambda: stream(test_sets={"x": np.zeros(0, int)}).check(), "test set 'x' is empty"),
    "a test set beyond the samples": (lambda: stream(test_sets={"x": np.array([4])}).check(), "names rows outside"),
    "stage sizes that leave classes over": (lambda: class_groups(10, [4, 4], 0, None), "adding up to 10 classes"),
    "a class missing from training": (
        lambda: class_incremental("x", samples(0, 1, 2), samples(0, 1, 2, 3), "abcd", n_stages=2),
        "no training samples of class d",
    ),
    "a class missing from the test set": (
        lambda: class_incremental("x", samples(0, 1, 2, 3), samples(0, 1, 2), "abcd", n_stages=2),
        "no test samples of class d",
    ),
    "a label without a name": (
        lambda: class_incremental("x", samples(0, 1, 2, 4), samples(0, 1, 2, 3), "abcd", n_stages=2),
        "training labels run from 0 to 4",
    ),
    "fields of different lengths": (
        lambda: ArraySamples(SPEC, {"vector": np.zeros((3, 2)), "class": np.zeros(2)}),
        "fields of different lengths",
    ),
    "a declared field without data": (lambda: ArraySamples(SPEC, {"class": np.zeros(2)}), "fields without array"),
    "groups for another number of examples": (
        lambda: offer(vector=np.zeros((2, 2), np.float32)),
        "3 groups for fields",
    ),
    "an example without a field": (lambda: offer(**{"class": None}), "lacks the field 'class'"),
    "fractions into whole numbers": (lambda: offer(**{"class": np.full(3, 0.5)}), "keeps 'class' as int64"),
    "an example of another shape": (lambda: offer(vector=np.zeros((3, 5), np.float32)), r"keeps 'vector' as float32"),
    "a memory of another size": (saved_elsewhere, "the saved memory has 5 slots"),
    "predictions for too few samples": (
        lambda: score(Short(), stream(), scorers(), ["a+b", "c+d"]),
        "predicted 3 of 4 samples",
    ),
    "predictions of another length": (
        lambda: TopK().update(TopK().start(), np.zeros(2), np.zeros(3)),
        "2 predictions for 3 samples",
    ),
    "a mask of another size": (
        lambda: confusion_matrix(np.zeros((4, 4)), np.zeros((2, 2)), 2),
        r"predictions of shape \(2, 2\)",
    ),
    "a predicted class that there is not": (
        lambda: confusion_matrix(np.zeros(3), np.array([0, 1, 2]), 2),
        "predictions run from 0 to 2",
    ),
    "a matrix with fewer columns than stages": (lambda: matrix.summary(np.zeros((3, 2))), "accuracy matrix is square"),
    "dividing by an offline score of nothing": (lambda: matrix.omega([0.5], [0.0]), "positive offline scores"),
    "a metric by class without class names": (
        lambda: build_confusion(None, stream(class_names=())),
        "names no classes",
    ),
    "a corrupt sample": (lambda: Resources().bad_sample("cat.jpg", "cut short"), "cannot use cat.jpg: cut short"),
}


@pytest.mark.parametrize("way", IN_PYTHON)
def test_it_is_an_error_that_names_the_thing(way: str) -> None:
    call, message = IN_PYTHON[way]
    with pytest.raises(ClkError, match=message):
        call()


# ---- handled and stated ---------------------------------------------------------------------------
def results_of(here: Path, *arguments: str) -> dict[str, Any]:
    assert main([*RUN, *arguments, "--output", "out"]) == 0
    content: dict[str, Any] = json.loads((here / "out" / "metrics.json").read_text())
    return content


def test_a_memory_larger_than_the_stream_holds_it_all_and_says_so(here: Path) -> None:
    cost = results_of(here, *KEEP, "--memory", "5000")["cost"]
    assert (cost["memory_examples"], cost["memory_capacity"], cost["memory_bytes"]) == (600, 5000, 5000 * 40)


def test_a_memory_smaller_than_a_stage_is_never_exceeded(here: Path) -> None:
    cost = results_of(here, *KEEP, "--memory", "7")["cost"]
    assert cost["memory_examples"] == cost["memory_capacity"] == 7


def test_a_memory_for_everything_has_the_size_of_the_stream(here: Path) -> None:
    cost = results_of(here, *KEEP, "--memory", "all")["cost"]
    assert cost["memory_examples"] == cost["memory_capacity"] == 600


def test_bytes_that_are_no_multiple_of_an_example_are_not_exceeded(here: Path) -> None:
    cost = results_of(here, *KEEP, "--memory", "1023B")["cost"]
    assert (cost["memory_capacity"], cost["memory_bytes"]) == (25, 1000)


def test_a_policy_without_codec_gets_one_and_the_run_names_it(here: Path) -> None:
    results_of(here, *KEEP)
    pieces = json.loads((here / "out" / "run.json").read_text())["pieces"]
    assert (pieces["policy"], pieces["codec"]) == ("clk:reservoir", "clk:raw")


def test_the_last_batch_is_used_although_it_is_smaller(here: Path) -> None:
    steps = results_of(here, "--set", "learner.batch_size=50", "--set", "learner.n_epochs=1")["cost"]["steps"]
    assert steps == 5 * 3  # 120 samples a stage: 50, 50 and 20


def test_a_batch_larger_than_a_stage_is_the_whole_stage(here: Path) -> None:
    assert results_of(here, "--set", "learner.batch_size=999", "--set", "learner.n_epochs=1")["cost"]["steps"] == 5


def test_scores_that_were_not_asked_for_are_null_and_what_needs_them_too(here: Path) -> None:
    table = results_of(here, "--evaluate", "seen")["metrics"]["accuracy"]
    assert [[v is None for v in row] for row in table["matrix"]] == [[j > i for j in range(5)] for i in range(5)]
    assert table["summary"]["forward_transfer"] is None
    assert table["summary"]["forgetting"] is not None


def test_forgetting_of_a_single_stage_is_undefined_and_not_zero(here: Path) -> None:
    summary = results_of(here, "--set", "dataset.n_stages=1")["metrics"]["accuracy"]["summary"]
    assert summary["forgetting"] is summary["backward_transfer"] is None
    assert summary["average_accuracy"] is not None


def test_the_profile_and_every_origin_are_written_down(here: Path) -> None:
    results_of(here, "--set", "learner.lr=0.2")
    assert json.loads((here / "out" / "run.json").read_text())["profile"] == "tiny"
    assert "lr: 0.2  # --set" in (here / "out" / "settings.yaml").read_text()


def test_a_skipped_sample_is_counted() -> None:
    resources = Resources(on_bad_sample="skip")
    resources.bad_sample("cat.jpg", "cut short")
    assert resources.skipped == {"cat.jpg": "cut short"}


def test_scores_that_are_no_numbers_are_wrong_and_counted() -> None:
    values = TopK().compute(TopK().update(TopK().start(), np.full((2, 3), np.nan), np.zeros(2, int)))
    assert values == {"accuracy": 0.0, "not_numbers": 2.0}


def test_a_class_that_is_nowhere_has_no_iou_instead_of_zero() -> None:
    values = Segmentation(("sky", "car"), ((0, 1),)).compute({"matrix": np.array([[5, 0], [0, 0]])}, 0)
    assert values["iou/car"] is None
    assert values["miou"] == 1.0


def test_void_pixels_are_left_out_of_every_count() -> None:
    assert class_scores(confusion_matrix(np.array([0, 255, 1]), np.array([0, 0, 1]), 2)).pixel_accuracy == 1.0


def test_a_capacity_below_the_number_of_classes_keeps_the_policy_within_it() -> None:
    kept = build_memory(ClassBalanced, RawCodec(SPEC), 2, np.random.default_rng(0))
    groups = np.arange(6)
    slots = kept.add({"vector": np.zeros((6, 2), np.float32), "class": groups}, groups)
    assert len(kept) == 2
    assert sorted(slots[slots >= 0].tolist()) == [0, 1]


def test_asking_for_more_than_there_is_gives_what_there_is() -> None:
    kept = memory(50)
    kept.add({"vector": np.zeros((3, 2), np.float32), "class": np.arange(3)}, np.arange(3))
    assert sorted(kept.sample(10)["class"].tolist()) == [0, 1, 2]
    assert len(kept.sample(10, np.array([77]))["class"]) == 0


def test_there_are_at_least_forty_ways() -> None:
    assert len(REFUSED) + len(IN_PYTHON) >= 40
