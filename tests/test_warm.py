"""Runs forked from warm servers: the numbers of runs started from nothing, and whatever is killed, nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cl_kernel.library.datasets.digits import read_digits
from cl_kernel.registry import Registry, discover
from cl_kernel.sweeps import sweep
from cl_kernel.sweeps.tasks import run_task
from cl_kernel.sweeps.warm import Servers

SHORT = {"dataset": "blobs", "learner": "linear", "dataset.n_train": 30, "dataset.n_stages": 2}
LONG = {**SHORT, "learner.n_epochs": 4000, "run.checkpoint_every_s": 0.1}


@pytest.fixture(autouse=True)
def only_built_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLK_PLUGINS", "")


@pytest.fixture(scope="module")
def registry() -> Registry:
    return discover(only=())


@pytest.fixture
def servers() -> Iterator[Servers]:
    warm = Servers()
    yield warm
    warm.close()


def task_of(registry: Registry, folder: Path, values: dict[str, Any] = SHORT, **more: Any) -> dict[str, Any]:
    spec = sweep.Spec(name="s", base=values, grid={"seed": [0]})
    (task,) = sweep.tasks_of(registry, spec, folder)
    return task.plain(spec) | more


def stored(task: dict[str, Any], name: str = "metrics.json") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(task["folder"]) / name).read_text())
    return content


def digests(task: dict[str, Any]) -> tuple[str, str]:
    return stored(task)["digest"], stored(task)["state_digest"]


def begin(task: dict[str, Any], servers: Servers) -> tuple[threading.Thread, dict[str, Any], int]:
    """Start a long run; what it gives, and its process once it has a checkpoint."""
    outcome: dict[str, Any] = {}
    thread = threading.Thread(target=lambda: outcome.update(run_task(task, servers=servers)))
    thread.start()
    return thread, outcome, wait_for_checkpoint(Path(task["folder"]))


def wait_for_checkpoint(folder: Path) -> int:
    until = time.monotonic() + 120
    while not list(folder.glob("checkpoints/*.ckpt")):
        assert time.monotonic() < until, (folder / "log.txt").read_text()
        time.sleep(0.02)
    return int((folder / ".lock").read_text())


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def wait_until_gone(pid: int) -> None:
    until = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()


def test_a_forked_run_has_the_numbers_and_the_log_of_one_started_from_nothing(
    tmp_path: Path, registry: Registry, servers: Servers
) -> None:
    warm, cold = task_of(registry, tmp_path / "warm"), task_of(registry, tmp_path / "cold")
    assert run_task(warm, servers=servers)["status"] == run_task(cold)["status"] == "finished"
    assert digests(warm) == digests(cold)
    of_warm, of_cold = stored(warm, "environment.json"), stored(cold, "environment.json")
    assert of_warm.pop("command")[0] == of_cold.pop("command")[0] == "clk"
    assert of_warm == of_cold


def test_runs_share_a_server_and_each_is_a_process_with_the_environment_of_its_own(
    tmp_path: Path, registry: Registry, servers: Servers
) -> None:
    task = task_of(registry, tmp_path)
    folder = Path(task["folder"])
    folder.mkdir(parents=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CLK_PLUGINS": "nothing"}
    first, second = (servers.start(folder, environment, "numpy") for _ in range(2))
    assert first and second
    assert parent_of(first.pid) == parent_of(second.pid) != os.getpid()
    assert b"CLK_PLUGINS" in Path(f"/proc/{parent_of(first.pid)}/environ").read_bytes()
    assert (first.wait(60), second.wait(60)) == (2, 2)  # no task.json, which is said in the log
    assert "task.json" in (folder / "log.txt").read_text()
    for process in (first, second):
        process.stdin.close()


def test_a_killed_run_is_taken_up_again(tmp_path: Path, registry: Registry, servers: Servers) -> None:
    task, whole = task_of(registry, tmp_path / "killed", LONG), task_of(registry, tmp_path / "whole", LONG)
    thread, outcome, pid = begin(task, servers)
    os.kill(pid, signal.SIGKILL)
    thread.join(120)
    assert (outcome["status"], outcome["attempts"]) == ("finished", 2)
    run_task(whole)
    assert digests(task) == digests(whole)


def test_a_killed_server_takes_no_run_with_it_and_the_next_run_has_a_new_one(
    tmp_path: Path, registry: Registry, servers: Servers
) -> None:
    task = task_of(registry, tmp_path / "a", LONG)
    thread, outcome, pid = begin(task, servers)
    os.kill(parent_of(pid), signal.SIGKILL)
    thread.join(120)
    assert (outcome["status"], outcome["attempts"]) == ("finished", 1)
    assert run_task(task_of(registry, tmp_path / "b"), servers=servers)["status"] == "finished"


def test_run_and_server_killed_together_are_a_run_to_take_up_again(
    tmp_path: Path, registry: Registry, servers: Servers
) -> None:
    thread, outcome, pid = begin(task_of(registry, tmp_path, LONG), servers)
    server = parent_of(pid)
    os.kill(server, signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    thread.join(120)
    assert (outcome["status"], outcome["attempts"]) == ("finished", 2)


def test_a_run_saves_itself_and_the_server_ends_when_the_driver_is_killed(tmp_path: Path, registry: Registry) -> None:
    task = task_of(registry, tmp_path, LONG)
    code = (
        "from cl_kernel.sweeps.tasks import run_task\nfrom cl_kernel.sweeps.warm import Servers\n"
        f"run_task({task!r}, servers=Servers())"
    )
    driver = subprocess.Popen([sys.executable, "-c", code])
    pid = wait_for_checkpoint(Path(task["folder"]))
    server = parent_of(pid)
    driver.kill()
    driver.wait()
    wait_until_gone(pid)
    wait_until_gone(server)
    assert stored(task, "run.json")["status"] == "interrupted"


def test_stopping_a_sweep_has_a_forked_run_save_itself(tmp_path: Path, registry: Registry, servers: Servers) -> None:
    task, stop = task_of(registry, tmp_path, LONG), threading.Event()
    outcome: dict[str, Any] = {}
    thread = threading.Thread(target=lambda: outcome.update(run_task(task, stop, servers)))
    thread.start()
    wait_for_checkpoint(Path(task["folder"]))
    stop.set()
    thread.join(60)
    assert outcome["status"] == "interrupted"


def test_a_server_touches_no_accelerator_and_has_no_threads_that_a_fork_would_lose() -> None:
    code = (
        "import os, sys\nfrom cl_kernel.sweeps.server import preload\nfrom cl_kernel.sweeps.warm import PRELOADED\n"
        "preload(list(PRELOADED['torch']))\ntorch = sys.modules['torch']\n"
        "print(torch.cuda.is_initialized(), len(os.listdir('/proc/self/task')), 'torch._dynamo' in sys.modules)"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == ["False", "1", "True"], done.stderr


def test_a_run_of_another_framework_than_its_server_begins_anew(
    tmp_path: Path, registry: Registry, servers: Servers
) -> None:
    task = task_of(registry, tmp_path / "a", framework="torch")
    plain = task_of(registry, tmp_path / "b")
    assert run_task(task, servers=servers)["status"] == run_task(plain)["status"] == "finished"
    assert digests(task) == digests(plain)


def test_digits_are_scikit_learns_without_importing_it() -> None:
    from sklearn.datasets import load_digits

    images, labels = read_digits()
    assert np.array_equal(images, load_digits().images)
    assert np.array_equal(labels, load_digits().target)
    code = (
        "import sys\nfrom cl_kernel.library.datasets import digits\ndigits.read_digits()\n"
        "print([name for name in ('sklearn', 'pandas', 'scipy') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
