"""Executors: the same sweep gives the same numbers on each, whatever happens to its workers."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from cl_kernel.contract.errors import BadSetting, ClkError
from cl_kernel.registry import Registry, discover
from cl_kernel.sweeps import executors, sweep

BASE = {"dataset": "blobs", "learner": "linear", "replay": "reservoir", "dataset.n_train": 30}


@pytest.fixture(scope="module")
def registry() -> Registry:
    return discover(only=())


@pytest.fixture(autouse=True)
def only_built_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLK_PLUGINS", "")


def digests(tasks: list[sweep.Task]) -> list[str]:
    return [json.loads((task.folder / "metrics.json").read_text())["state_digest"] for task in tasks]


def run(executor: str, registry: Registry, output: Path, **values: object) -> tuple[list[sweep.Task], list[dict]]:
    slurm = {"cluster": "local", "timeout_min": 5}
    spec = sweep.Spec(name="s", base={**BASE, **values}, grid={"seed": [0, 1]}, executor=executor, slurm=slurm)
    tasks = sweep.tasks_of(registry, spec, output)
    return tasks, sweep.run_sweep(spec, tasks, registry=registry)


@pytest.mark.slow
def test_local_ray_and_slurm_give_identical_numbers(tmp_path: Path, registry: Registry) -> None:
    pytest.importorskip("ray")
    pytest.importorskip("submitit")
    found = {}
    for name in ("local", "ray", "slurm"):
        tasks, outcomes = run(name, registry, tmp_path / name)
        assert [outcome["status"] for outcome in outcomes] == ["finished"] * 2, outcomes
        found[name] = digests(tasks)
    assert found["local"] == found["ray"] == found["slurm"]
    assert len(set(found["local"])) == 2


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["run", "worker"])
def test_a_worker_killed_during_a_ray_sweep_loses_nothing(tmp_path: Path, registry: Registry, victim: str) -> None:
    pytest.importorskip("ray")
    slow = {"learner.n_epochs": 1500, "run.checkpoint_every_s": 0.3}
    killed: list[int] = []

    def kill() -> None:
        until = time.monotonic() + 120
        while time.monotonic() < until:
            for checkpoint in (tmp_path / "ray").glob("*/checkpoints/*.ckpt"):
                child = int((checkpoint.parents[1] / ".lock").read_text())
                stat = Path(f"/proc/{child}/stat")
                if not stat.exists():
                    continue
                killed.append(child if victim == "run" else int(stat.read_text().rpartition(")")[2].split()[1]))
                os.kill(killed[-1], signal.SIGKILL)
                return
            time.sleep(0.02)

    killer = threading.Thread(target=kill)
    killer.start()
    tasks, outcomes = run("ray", registry, tmp_path / "ray", **slow)
    killer.join()
    assert len(killed) == 1
    assert [outcome["status"] for outcome in outcomes] == ["finished"] * 2, outcomes
    calm, _ = run("local", registry, tmp_path / "local", **slow)
    assert digests(tasks) == digests(calm)


def test_a_cluster_that_is_not_there_is_named(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    executor = executors.build_ray({"address": "127.0.0.1:1"})
    with pytest.raises(ClkError, match="no Ray cluster"):
        next(executor.map([{"folder": str(tmp_path)}], 1))


def test_local_runs_as_many_at_once_as_the_cores_carry(monkeypatch: pytest.MonkeyPatch) -> None:
    running, most = [], []

    def pretend(task: dict, stop: threading.Event, servers: object) -> dict:
        running.append(1)
        most.append(len(running))
        time.sleep(0.05)
        running.pop()
        return {"status": "finished"}

    monkeypatch.setattr(executors, "run_task", pretend)
    monkeypatch.setattr(executors, "n_cores", lambda: 6)
    outcomes = dict(executors.build_local({"threads": 2}).map([{} for _ in range(9)], 0))
    assert sorted(outcomes) == list(range(9))
    assert max(most) == 3
    most.clear()
    assert len(list(executors.build_local({"threads": 2}).map([{} for _ in range(4)], 1))) == 4
    assert max(most) == 1


def test_local_gives_each_task_accelerators_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,7")
    monkeypatch.setattr(
        executors,
        "run_task",
        lambda task, stop, servers: seen.append(task["environment"]["CUDA_VISIBLE_DEVICES"]) or {},
    )
    list(executors.build_local({"gpus": 1}).map([{} for _ in range(6)], 0))
    assert set(seen) <= {"3", "5", "7"}
    with pytest.raises(BadSetting, match="gpus = 4 a task, but this machine shows 3"):
        list(executors.build_local({"gpus": 4}).map([{}], 0))


def test_leaving_a_local_sweep_early_saves_what_runs(tmp_path: Path, registry: Registry) -> None:
    spec = sweep.Spec(name="s", base={**BASE, "learner.n_epochs": 20000}, grid={"seed": [0, 1]}, n_jobs=2)
    quick = sweep.Spec(name="s", base=BASE, grid={"seed": [2]})
    tasks = sweep.tasks_of(registry, spec, tmp_path) + sweep.tasks_of(registry, quick, tmp_path)
    running = executors.build_local({}).map([task.plain(spec) for task in (tasks[2], tasks[0])], 2)
    index, outcome = next(running)
    assert (index, outcome["status"]) == (0, "finished")
    until = time.monotonic() + 60
    while not (tasks[0].folder / "run.json").exists() and time.monotonic() < until:
        time.sleep(0.05)
    running.close()
    # A signal before the first step still finds Python's own handler, so the run may also end without a word.
    assert sweep.outcome_of(tasks[0].folder)["status"] in ("interrupted", "failed")
    assert not list((tasks[0].folder).glob("checkpoints/*.tmp"))
