"""Settings chosen on validation samples; a finished run scored again; what makes rows no fair comparison."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from cl_kernel.contract.errors import ClkError
from cl_kernel.library.metrics.calibration import Calibration
from cl_kernel.registry import discover
from cl_kernel.sweeps.differences import of_tasks
from cl_kernel.sweeps.select import (
    Tried,
    by_choice,
    called,
    chosen,
    direction,
    final,
    named_rows,
    on_validation,
    parted,
    tried,
)
from cl_kernel.sweeps.sweep import Spec, tasks_of

SPEC = Spec(
    name="some",
    base={"dataset": "clk:blobs", "run.plots": False},
    grid={"learner": ["clk:linear"], "learner.lr": [0.003, 0.3], "stream.stages": [2, 5], "seed": [0, 1]},
)


def test_what_is_varied_falls_in_rows_choices_and_seeds() -> None:
    values = {"learner": "clk:er", "stream.stages": 2, "learner.lr": 0.1, "memory": 50, "seed": 3}
    assert parted(values) == ({"learner": "clk:er", "stream.stages": 2, "memory": 50}, {"learner.lr": 0.1}, "3")


def test_named_arms_of_pieces_are_rows_under_their_names_and_their_own_grid_is_chosen(tmp_path: Path) -> None:
    registry = discover(only=())
    spec = Spec(
        name="some",
        base={"dataset": "clk:blobs"},
        grid={
            "method": {
                "softmax": {"learner": "clk:linear", "grid": {"learner.lr": [0.01, 0.1]}},
                "newest": {
                    "learner": "clk:linear",
                    "replay": "ring",
                    "memory": 20,
                    "grid": {"learner.n_epochs": [1, 2]},
                },
            },
            "pace": {"slow": {"learner.batch_size": 8}, "fast": {"learner.batch_size": 16}},
            "seed": [0, 1],
        },
    )
    spec = on_validation(spec, "accuracy", registry)
    assert named_rows(spec) == {"method"}
    tasks = tasks_of(registry, spec, tmp_path)
    assert len(tasks) == 16

    def score(folder: Path) -> float:
        values = next(task.values for task in tasks if task.folder == folder)
        return float(values.get("learner.lr", 0) + values.get("learner.n_epochs", 0) + (values["pace"] == "fast"))

    winners = chosen(tried(tasks, score, named_rows(spec)), higher=True)
    assert [(one.row, one.settings) for one in winners] == [
        ({"method": "softmax"}, {"learner.lr": 0.1, "pace": "fast"}),
        ({"method": "newest"}, {"learner.n_epochs": 2, "pace": "fast"}),
    ]
    last, repeats = final(spec, tasks, winners)
    assert {item["stream.scored"] for item in last.list} == {"test"}
    finals = called(tasks_of(registry, last, tmp_path / "chosen"), repeats)
    assert [task.arm["method"] for task in finals] == ["softmax", "softmax", "newest", "newest"]
    assert [dict(task.values) for task in finals[:3]] == [
        {"method": "softmax", "learner.lr": 0.1, "pace": "fast", "seed": 0},
        {"method": "softmax", "learner.lr": 0.1, "pace": "fast", "seed": 1},
        {"method": "newest", "learner.n_epochs": 2, "pace": "fast", "seed": 0},
    ]
    tested = by_choice(finals, spec, lambda folder: 1.0)
    assert {repr((one.row, one.settings)): [1.0, 1.0] for one in winners} == tested


def test_the_best_mean_of_each_row_is_chosen_and_one_that_lacks_a_seed_is_passed_over(tmp_path: Path) -> None:
    spec = on_validation(SPEC, "accuracy", discover(only=()))
    assert spec.base["stream.validation"] == 0.1 and spec.base["stream.scored"] == "validation"
    tasks = tasks_of(discover(only=()), spec, tmp_path)
    assert len(tasks) == 8

    def score(folder: Path) -> float | None:
        task = next(task for task in tasks if task.folder == folder)
        lr, stages, seed = (task.values[key] for key in ("learner.lr", "stream.stages", "seed"))
        if (lr, stages, seed) == (0.3, 5, 1):
            return None  # did not finish: its other seed is not enough
        return float(lr) + seed

    found = tried(tasks, score)
    winners = {one.row["stream.stages"]: one.settings["learner.lr"] for one in chosen(found, higher=True)}
    assert winners == {2: 0.3, 5: 0.003}
    worst = {one.row["stream.stages"]: one.settings["learner.lr"] for one in chosen(found, higher=False)}
    assert worst == {2: 0.003, 5: 0.003}
    last, repeats = final(spec, tasks, chosen(found, higher=True))
    assert [(i["learner.lr"], i["stream.stages"], i["seed"], i["stream.scored"]) for i in last.list] == [
        (0.003, 5, 0, "test"),
        (0.003, 5, 1, "test"),
        (0.3, 2, 0, "test"),
        (0.3, 2, 1, "test"),
    ]
    assert len(tasks_of(discover(only=()), last, tmp_path / "chosen")) == 4 and len(repeats) == 4


def test_directions_and_names_of_what_is_chosen_by() -> None:
    registry = discover(only=())
    assert direction(registry, "accuracy", ()) and not direction(registry, "calibration", ())
    assert not direction(registry, "forgetting", ("forgetting",))
    with pytest.raises(ClkError, match="unknown metric or column 'acuracy'"):
        direction(registry, "acuracy", ())
    assert Tried(row={}, settings={}, scores={"0": 0.2, "1": 0.4}).mean == pytest.approx(0.3)


def test_a_sweep_that_says_itself_what_is_scored_is_refused() -> None:
    spec = Spec(name="some", base={"stream.scored": "test"}, grid={"seed": [0]})
    with pytest.raises(ClkError, match=r"says stream\.scored"):
        on_validation(spec, "accuracy", discover(only=()))


def test_the_commands_choose_score_again_and_warn(clk: Any) -> None:
    sweep = {
        "base": {"dataset": "clk:blobs", "run.plots": False, "train": {"batch_size": 8, "momentum": 0.9}},
        "grid": {"learner": ["clk:linear"], "learner.lr": [0.0001, 0.05], "seed": [0]},
    }
    (clk.folder / "some.yaml").write_text(yaml.safe_dump(sweep))
    assert "train.momentum is left out: clk:linear has no setting momentum" in clk("show", "some.yaml").stdout
    clk("sweep", "some.yaml", "--select", "accuracy", "--output", "out", "--n-jobs", "1")
    row = json.loads((clk.folder / "out" / "selection.json").read_text())["rows"][0]
    best = max(row["tried"], key=lambda one: one["validation"])
    assert len(row["tried"]) == 2 and (row["chosen"], row["validation"]) == (best["settings"], best["validation"])
    tested = [json.loads(path.read_text()) for path in (clk.folder / "out" / "chosen").glob("*/metrics.json")]
    assert [run["metrics"]["accuracy"]["seen"][-1]["accuracy"] for run in tested] == row["test by run"]
    assert all(sum(run["test_sizes"]) == 400 for run in tested)
    folder = next((clk.folder / "out" / "chosen").glob("*/metrics.json")).parent
    again = clk.json("score", folder, "--metric", "accuracy", "--metric", "calibration")
    assert again["seen"]["accuracy"]["accuracy"] == row["test"]
    assert 0 <= again["seen"]["calibration"]["calibration_error"] <= 1
    assert "digits has" in clk("score", folder, "--dataset", "digits", code=2).stderr
    clk("run", "--dataset", "blobs", "--learner", "linear", "--set", "learner.n_epochs=2", "--output", "two")
    said = clk("compare", "out/chosen", "two").stdout.replace("\n", " ")
    assert all(part in said for part in ("rows differ in learner.n_epochs:", "5 for", "2 for"))


def test_learners_that_differ_in_a_setting_that_both_have_are_told_apart(tmp_path: Path) -> None:
    registry = discover(only=())
    items = [{"learner": "clk:linear", "learner.lr": 0.5}, {"learner": "clk:er"}, {"learner": "clk:ncm"}]
    spec = Spec(name="some", base={"dataset": "clk:blobs"}, list=items)
    found, _ = of_tasks(registry, tasks_of(registry, spec, tmp_path))
    assert found["learner.lr"] == {"clk:linear": 0.5, "clk:er": 0.1}
    assert found["learner.batch_size"] == {"clk:linear": 16, "clk:er": 32, "clk:ncm": 32}
    assert "learner.n_replayed" not in found  # only one has it


def test_calibration_is_the_gap_of_each_bin_weighed_by_its_samples() -> None:
    rng = np.random.default_rng(0)
    scores, target = rng.standard_normal((200, 4)) * 3, rng.integers(0, 4, 200)
    metric = Calibration()
    state = metric.merge(
        metric.update(metric.start(), scores[:70], target[:70]), metric.update(metric.start(), scores[70:], target[70:])
    )
    shares = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    expected = 0.0
    for b in range(15):
        inside = [
            i for i in range(200) if b / 15 <= shares[i].max() < (b + 1) / 15 or (b == 14 and shares[i].max() == 1)
        ]
        if inside:
            right = np.mean([shares[i].argmax() == target[i] for i in inside])
            expected += len(inside) / 200 * abs(right - np.mean([shares[i].max() for i in inside]))
    assert metric.compute(state)["calibration_error"] == pytest.approx(expected)
    nothing = metric.compute(metric.update(metric.start(), np.full((3, 2), -np.inf), np.zeros(3, int)))
    assert nothing == {"calibration_error": 0.0, "confidence": 0.0, "accuracy": 0.0}


def test_calibration_is_offered_as_one_that_need_not_prefer_right_answers() -> None:
    record = next(o.record for o in discover(only=()).all("metric") if o.record.name == "calibration")
    assert not record.judges and not record.higher_is_better
