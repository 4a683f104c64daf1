"""Sweeps: what a file means, tasks that find themselves again, failures that stay alone, workers that are killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cl_kernel.contract.errors import BadSetting, ClkError, UnknownName
from cl_kernel.registry import Registry, discover
from cl_kernel.sweeps import sweep

BASE = {"dataset": "blobs", "learner": "linear", "dataset.n_train": 30, "dataset.n_stages": 2}


@pytest.fixture(scope="module")
def registry() -> Registry:
    return discover(only=())


@pytest.fixture(autouse=True)
def only_built_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLK_PLUGINS", "")


def write(folder: Path, text: str) -> Path:
    path = folder / "grid.yaml"
    path.write_text(text)
    return path


def digest(folder: Path) -> tuple[str, str]:
    results = json.loads((folder / "metrics.json").read_text())
    return results["digest"], results["state_digest"]


# ---- the file ---------------------------------------------------------------------------------------


def test_a_grid_is_every_combination_and_a_list_multiplies_it() -> None:
    spec = sweep.Spec(
        name="s",
        base={"learner": "linear"},
        list=[{"dataset": "blobs"}, {"dataset": "digits", "memory": 9}],
        grid={"seed": [0, 1], "kept": {"none": {"replay": "none"}, "ring": {"replay": "ring", "memory": 5}}},
    )
    found = list(sweep.combinations(spec))
    assert len(found) == 8
    shown, values = found[-1]
    assert shown == {"dataset": "digits", "memory": 9, "seed": 1, "kept": "ring"}
    assert values == {"learner": "linear", "dataset": "digits", "memory": 5, "seed": 1, "replay": "ring"}


def test_an_item_of_the_list_and_a_named_arm_may_have_a_grid_of_their_own() -> None:
    spec = sweep.Spec(
        name="s",
        list=[{"learner": "linear", "grid": {"learner.lr": [0.1, 0.2], "learner.n_epochs": [1, 2]}}],
        grid={"kept": {"none": {"replay": "none"}, "ring": {"replay": "ring", "grid": {"memory": [5, 9]}}}},
    )
    found = list(sweep.combinations(spec))
    assert len(found) == 12
    shown, values = found[-1]
    assert shown == {"learner": "linear", "learner.lr": 0.2, "learner.n_epochs": 2, "kept": "ring", "memory": 9}
    assert values == {"learner": "linear", "learner.lr": 0.2, "learner.n_epochs": 2, "replay": "ring", "memory": 9}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds keys such as base and grid"),
        ("base: {a: 1}", "nothing to vary"),
        ("grud: {seed: [0]}", "did you mean grid"),
        ("grid: {seed: 0}", "grid.seed = 0 is no list"),
        ("grid: {seed: []}", "grid.seed = [] is no list"),
        ("grid: {arm: {a: 1}}", "every named arm is a mapping"),
        ("list: [1]", "every item of list"),
        ("list: [{grid: {lr: 1}}]", "list[0].grid = {'lr': 1} holds no lists"),
        ("grid: {kept: {ring: {grid: [5]}}}", "grid.kept.ring.grid = [5] holds no lists"),
        ("grid: {seed: [0]}\nretries: -1", "retries = -1"),
        ("grid: {seed: [0]}\nthreads: true", "threads = True"),
        ("grid: {seed: [0]}\nunfit: maybe", "neither fail nor skip"),
        ("grid: [", "cannot be read"),
    ],
)
def test_a_file_with_a_mistake_is_refused_with_the_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises((BadSetting, UnknownName)) as caught:
        sweep.read_spec(write(tmp_path, text))
    assert message in str(caught.value)
    assert "grid.yaml" in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="does not exist"):
        sweep.read_spec(tmp_path / "none.yaml")


def test_a_folder_is_named_by_what_changes_numbers_and_by_nothing_else(tmp_path: Path, registry: Registry) -> None:
    def folder(**values: object) -> Path:
        spec = sweep.Spec(name="s", base={**BASE, **values}, grid={"seed": [0]})
        return sweep.tasks_of(registry, spec, tmp_path)[0].folder

    same = folder()
    assert same == folder(**{"run.plots": True, "run.checkpoint_every_s": 1.0, "learner.lr": 0.1})
    others = {folder(**{"learner.lr": 0.2}), folder(seed=1), folder(replay="ring"), folder(device="cpu")}
    assert same.parent == tmp_path
    assert len(others | {same}) == 4, "a seed in base is overlaid by the grid's"


def test_combinations_that_mean_one_run_are_one_task(tmp_path: Path, registry: Registry) -> None:
    spec = sweep.Spec(name="s", base=BASE, grid={"learner.lr": [0.1, "0.1", 1e-1]})
    assert len(sweep.tasks_of(registry, spec, tmp_path)) == 1


def test_what_does_not_fit_stops_everything_unless_told_to_skip(tmp_path: Path, registry: Registry) -> None:
    grid = {"model": ["none", "clk:mlp"]}
    with pytest.raises(ClkError) as caught:
        sweep.tasks_of(registry, sweep.Spec(name="s", base=BASE, grid=grid), tmp_path)
    assert "accepts no model" in str(caught.value)
    assert "in the combination model=clk:mlp" in str(caught.value)
    tasks = sweep.tasks_of(registry, sweep.Spec(name="s", base=BASE, grid=grid, unfit="skip"), tmp_path)
    assert ["accepts no model" in task.refused for task in tasks] == [False, True]


# ---- running ----------------------------------------------------------------------------------------


def test_a_sweep_isolates_failures_and_does_only_what_is_left(tmp_path: Path, registry: Registry) -> None:
    spec = sweep.Spec(name="s", base=BASE, grid={"dataset.n_stages": [2, 3], "model": ["none", "mlp"]}, unfit="skip")
    tasks = sweep.tasks_of(registry, spec, tmp_path)
    told: list[str] = []
    first = sweep.run_sweep(spec, tasks, registry=registry, tell=lambda task, outcome: told.append(outcome["status"]))
    assert [outcome["status"] for outcome in first] == ["finished", "refused", "failed", "refused"]
    assert "do not divide into 3 equal stages" in first[2]["error"]
    assert sorted(told) == ["failed", "finished", "refused", "refused"]
    before = (tasks[0].folder / "metrics.json").stat().st_mtime_ns
    again = sweep.run_sweep(spec, tasks, registry=registry)
    assert again[0]["skipped"]
    assert (tasks[0].folder / "metrics.json").stat().st_mtime_ns == before
    assert again[2]["status"] == "failed"


def test_a_task_gives_the_numbers_of_the_same_run_made_directly(tmp_path: Path, registry: Registry) -> None:
    from cl_kernel.running.session import plan, run_plan

    spec = sweep.Spec(name="s", base={**BASE, "replay": "reservoir"}, grid={"seed": [7]})
    (task,) = sweep.tasks_of(registry, spec, tmp_path / "sweep")
    assert sweep.run_task(task.plain(spec))["status"] == "finished"
    direct = run_plan(registry, plan(registry, task.request), tmp_path / "direct")
    assert digest(task.folder) == (direct.results["digest"], direct.results["state_digest"])


def test_an_interrupted_task_goes_on_where_it_stopped(tmp_path: Path, registry: Registry) -> None:
    grid = {"seed": [0]}
    whole = sweep.Spec(name="s", base=BASE, grid=grid)
    cut = sweep.Spec(name="s", base={**BASE, "run.stop_at_step": 30}, grid=grid)
    (task,), (same,) = (sweep.tasks_of(registry, spec, tmp_path) for spec in (cut, whole))
    assert task.folder == same.folder
    (first,) = sweep.run_sweep(cut, [task], registry=registry)
    assert first["status"] == "interrupted"
    (second,) = sweep.run_sweep(whole, [same], registry=registry)
    assert second["status"] == "finished"
    resumed = [json.loads(line) for line in (task.folder / "events.jsonl").read_text().splitlines()]
    assert any(event.get("resumed_at") == 30 for event in resumed)
    fresh = sweep.tasks_of(registry, whole, tmp_path / "fresh")
    sweep.run_sweep(whole, fresh, registry=registry)
    assert digest(task.folder) == digest(fresh[0].folder)


def long_task(registry: Registry, output: Path) -> tuple[sweep.Spec, sweep.Task]:
    slow = {**BASE, "learner.n_epochs": 800, "run.checkpoint_every_s": 0.2, "replay": "ring"}
    spec = sweep.Spec(name="s", base=slow, grid={"seed": [0]})
    return spec, sweep.tasks_of(registry, spec, output)[0]


def wait_for_checkpoint(folder: Path) -> int:
    """Process that works on a task, once it has something to lose."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if list(folder.glob("checkpoints/*.ckpt")):
            return int((folder / ".lock").read_text())
        time.sleep(0.02)
    raise AssertionError("no checkpoint within a minute")


def test_a_killed_run_is_taken_up_again_and_nothing_is_lost(tmp_path: Path, registry: Registry) -> None:
    spec, task = long_task(registry, tmp_path)
    outcome: dict[str, object] = {}
    worker = threading.Thread(target=lambda: outcome.update(sweep.run_task(task.plain(spec))))
    worker.start()
    os.kill(wait_for_checkpoint(task.folder), signal.SIGKILL)
    worker.join(120)
    assert (outcome["status"], outcome["attempts"]) == ("finished", 2)
    resumed = [
        json.loads(line).get("resumed_at", 0) for line in (task.folder / "events.jsonl").read_text().splitlines()
    ]
    assert max(resumed) > 0
    (whole,) = sweep.tasks_of(registry, spec, tmp_path / "whole")
    sweep.run_task(whole.plain(spec))
    assert digest(task.folder) == digest(whole.folder)


def test_a_run_ends_saved_when_the_process_that_started_it_is_killed(tmp_path: Path, registry: Registry) -> None:
    import subprocess

    spec, task = long_task(registry, tmp_path)
    code = f"from cl_kernel.sweeps.sweep import run_task; run_task({task.plain(spec)!r})"
    parent = subprocess.Popen([sys.executable, "-c", code])
    child = wait_for_checkpoint(task.folder)
    parent.kill()
    parent.wait()
    until = time.monotonic() + 30
    while time.monotonic() < until and json.loads((task.folder / "run.json").read_text())["status"] == "running":
        time.sleep(0.05)
    assert json.loads((task.folder / "run.json").read_text())["status"] == "interrupted"
    until = time.monotonic() + 10
    while time.monotonic() < until and Path(f"/proc/{child}").exists():
        time.sleep(0.05)
    assert not Path(f"/proc/{child}").exists()


def test_results_of_a_worker_without_our_files_are_kept(tmp_path: Path, registry: Registry) -> None:
    spec = sweep.Spec(name="s", base=BASE, grid={"seed": [3]}, executor="remote")
    (task,) = sweep.tasks_of(registry, spec, tmp_path / "here")
    there = sweep.run_task({**task.plain(spec), "folder": str(tmp_path / "there")})
    sweep._fetch(task.folder, there["files"])
    assert sweep.outcome_of(task.folder)["status"] == "finished"
    assert digest(task.folder) == digest(tmp_path / "there")


def test_the_command_lists_runs_tables_and_exits_1_when_a_task_failed(clk) -> None:
    write(
        clk.folder,
        "name: mini\nbase: {dataset: blobs, learner: linear, dataset.n_train: 30}\ngrid: {dataset.n_stages: [2, 3]}\n",
    )
    dry = clk.json("sweep", "grid.yaml", "--dry-run")
    assert [task["status"] for task in dry] == ["waiting", "waiting"]
    assert not (clk.folder / "runs").exists()
    done = clk("sweep", "grid.yaml", "--n-jobs", 2, code=1)
    assert "do not divide into 3 equal stages" in done.stdout
    assert "1 of 2 tasks did not finish" in done.stdout
    assert "2/2" in done.stderr
    assert json.loads((clk.folder / "runs" / "mini" / "results.json").read_text())[0]["seeds"] == [0]
    assert (clk.folder / "runs" / "mini" / "results.csv").read_text().count("\n") == 2
    assert "did you mean local" in clk("sweep", "grid.yaml", "--executor", "locl", code=2).stderr


# ---- everything of a plugin ---------------------------------------------------------------------------

EVERYTHING = """
    from cl_kernel import Experiment, Plugin, hookimpl


    @hookimpl
    def clk_plugin():
        items = [{"test": t, "replay": r} for r in ("none", "ring") for t in ("one", "two")]
        return Plugin(name="mine", summary="two tests, with and without a memory", everything=tuple(items))


    @hookimpl
    def clk_experiments():
        small = {"dataset": "blobs", "learner": "linear", "dataset.n_train": 20, "dataset.n_stages": 2}
        return [
            Experiment(name="one", aliases=("1",), summary="slow", settings=small | {"learner.lr": 0.01}),
            Experiment(name="two", summary="fast", settings=small | {"learner.lr": 0.1}),
        ]
"""


def test_all_of_a_plugin_is_a_sweep_that_flags_choose_from(clk) -> None:
    clk.add_plugin("mine", EVERYTHING)
    everything = ("run", "--plugin", "mine", "--all", "--output", "out")
    listed = [task["values"] for task in clk.json(*everything, "--dry-run")]
    assert [(v["test"], v["replay"]) for v in listed] == [(t, r) for r in ("none", "ring") for t in ("one", "two")]
    chosen = ("--test", "1", "--memory", "10", "--set", "learner.n_epochs=1")
    assert "unknown replay" in clk(*everything, "--replay", "rings", code=2).stderr
    done = clk.json(*everything, "--replay", "ring", *chosen)["tasks"]
    assert [(task["values"], task["status"]) for task in done] == [({"test": "one", "replay": "ring"}, "finished")]
    assert clk.json(*everything, "--replay", "ring", *chosen)["tasks"][0]["skipped"]  # the same command goes on
    assert "plugin" in clk("run", "--all", "--learner", "linear", code=2).stderr


BESIDE = """
    from cl_kernel import Experiment, hookimpl

    @hookimpl
    def clk_experiments():
        small = {"dataset": "blobs", "learner": "linear", "dataset.n_stages": 2}
        comparisons = {"more steps": {"learner.n_epochs": 8}}
        return [Experiment(name="two", summary="and one more", settings=small, comparisons=comparisons)]
"""


def test_a_task_is_over_only_when_its_comparison_runs_are(clk: Any, tmp_path: Path) -> None:
    clk.add_plugin("mine", BESIDE)
    write(tmp_path, "name: two\nbase: {plugin: mine, test: two}\ngrid: {seed: [0]}\ncomparisons: true\n")
    clk("sweep", "grid.yaml", "--output", "out")
    (beside,) = tmp_path.glob("out/*/beside/more-steps")
    task = beside.parent.parent
    before = digest(beside)
    assert sweep.outcome_of(task)["status"] == "finished"
    shutil.rmtree(beside)  # as when the task was killed after its own run
    assert sweep.outcome_of(task) == {"status": "interrupted", "error": "", "left": ["more steps"]}
    clk("sweep", "grid.yaml", "--output", "out")
    assert sweep.outcome_of(task)["status"] == "finished"
    assert digest(beside) == before
