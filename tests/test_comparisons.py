"""Comparison runs in processes of their own: the same numbers, nothing lost by a signal, an error or a crash."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from cl_kernel import Experiment, hookimpl
from cl_kernel.contract import events
from cl_kernel.contract.errors import Interrupted
from cl_kernel.registry import Registry, discover
from cl_kernel.running.plan import Request, plan
from cl_kernel.running.session import run_plan
from cl_kernel.sweeps.comparisons import Comparisons

BASE: dict[str, Any] = {"dataset": "blobs", "learner": "linear", "dataset.n_stages": 2, "run.plots": False}
LONG = {**BASE, "learner.n_epochs": 3000, "run.checkpoint_every_s": 0.1}
ENDED = events.StageEnded(stage=0, seconds=1.0)


@pytest.fixture(autouse=True)
def only_built_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CLK_PLUGINS", "")
    monkeypatch.setenv("CLK_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def registry() -> Registry:
    return discover(only=())


def request(values: dict[str, Any] = BASE, **more: Any) -> Request:
    return Request(overrides=(("test", {**values, **more}),))


def asked(values: dict[str, Any] = BASE, **more: Any) -> dict[str, Any]:
    return attrs.asdict(request(values, **more))


def stored(folder: Path, name: str = "metrics.json") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / name).read_text())
    return content


def digests(folder: Path) -> tuple[str, str]:
    return stored(folder)["digest"], stored(folder)["state_digest"]


def test_processes_begin_after_the_first_stage_and_their_numbers_are_those_of_a_run_alone(
    tmp_path: Path, registry: Registry
) -> None:
    heard: list[events.Event] = []
    runs = {"a": (tmp_path / "a", asked()), "b": (tmp_path / "b", asked(**{"run.seed": 1}))}
    with Comparisons(runs, 1, [heard.append]) as alongside:
        alongside(events.StageStarted(stage=0, name="", n_samples=1))
        assert not (tmp_path / "a").exists()
        alongside(ENDED)
        alongside(ENDED)  # of the second stage: nothing more begins
        alongside.wait()
    assert alongside.take() is None
    assert [event.text.split()[0] for event in heard if isinstance(event, events.Noted)] == ["a", "b"]
    for name, seed in (("a", 0), ("b", 1)):
        run_plan(registry, plan(registry, request(**{"run.seed": seed})), tmp_path / f"{name}-alone")
        assert digests(tmp_path / name) == digests(tmp_path / f"{name}-alone")


def test_what_no_process_has_begun_is_left_to_the_caller(tmp_path: Path) -> None:
    with Comparisons({"a": (tmp_path / "a", asked()), "b": (tmp_path / "b", asked())}, 0) as alongside:
        alongside(ENDED)
        assert [alongside.take(), alongside.take(), alongside.take()] == ["a", "b", None]
        alongside.wait()
    assert not (tmp_path / "a").exists()


def checkpoint_in(folder: Path) -> None:
    until = time.monotonic() + 300
    while not list(folder.glob("checkpoints/*.ckpt")):
        assert time.monotonic() < until, "no checkpoint within five minutes"
        time.sleep(0.02)


def test_a_signal_while_waiting_saves_and_the_run_goes_on_to_the_same_numbers(
    tmp_path: Path, registry: Registry
) -> None:
    def strike() -> None:
        checkpoint_in(tmp_path / "a")
        os.kill(os.getpid(), signal.SIGTERM)

    with (
        pytest.raises(Interrupted) as stopped,
        Comparisons({"a": (tmp_path / "a", asked(LONG)), "b": (tmp_path / "b", asked())}, 1) as alongside,
    ):
        alongside(ENDED)
        threading.Thread(target=strike).start()
        alongside.wait()
    assert stopped.value.signum == signal.SIGTERM
    assert stored(tmp_path / "a", "run.json")["status"] == "interrupted"
    assert not (tmp_path / "b").exists()
    run_plan(registry, plan(registry, request(LONG)), tmp_path / "a", resume=True)
    run_plan(registry, plan(registry, request(LONG)), tmp_path / "alone")
    assert digests(tmp_path / "a") == digests(tmp_path / "alone")


def test_an_error_of_the_run_beside_has_the_others_save_themselves(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Comparisons({"a": (tmp_path / "a", asked(LONG))}, 1) as alongside:
        alongside(ENDED)
        checkpoint_in(tmp_path / "a")
        raise ZeroDivisionError
    assert stored(tmp_path / "a", "run.json")["status"] == "interrupted"


def test_a_process_that_fails_leaves_its_run_to_the_one_that_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = Experiment(
        name="only-here", summary="no other process knows it", settings=BASE, comparisons={"b": {"learner.lr": 0.2}}
    )
    plugin = SimpleNamespace(clk_experiments=hookimpl(lambda: [experiment]))
    registry = discover(only=())
    registry.add("here", lambda: plugin, "here", "1")
    outcome = run_plan(registry, plan(registry, Request(test="only-here")), tmp_path / "run", n_comparisons=1)
    comparisons = tmp_path / "run" / "beside" / "b"
    assert "unknown test" in (comparisons / "log.txt").read_text()
    assert outcome.comparisons["b"]["digest"] == stored(comparisons)["digest"] != outcome.results["digest"]


BESIDE = f"""
    from cl_kernel import Experiment, hookimpl

    @hookimpl
    def clk_experiments():
        comparisons = {{"b": {{"learner.lr": 0.2}}}}
        return [Experiment(name="two", summary="and one beside", settings={BASE!r}, comparisons=comparisons)]
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs taskset's system call")
@pytest.mark.parametrize("n", [1, 2])
def test_the_command_line_uses_the_cores_there_are(n: int, clk: Any, tmp_path: Path) -> None:
    clk.add_plugin("mine", BESIDE)
    before = os.sched_getaffinity(0)
    if len(before) < n:
        pytest.skip("needs two cores")
    os.sched_setaffinity(0, sorted(before)[:n])
    try:
        shown = clk("run", "--test", "two", "--output", "out").stdout
    finally:
        os.sched_setaffinity(0, before)
    assert "b: accuracy" in shown
    assert (tmp_path / "out" / "beside" / "b" / "log.txt").exists() == (n == 2)
    flags = ("--dataset", "blobs", "--learner", "linear", "--set", "dataset.n_stages=2", "--set", "learner.lr=0.2")
    clk("run", *flags, "--output", "alone")
    assert stored(tmp_path / "alone")["digest"] == stored(tmp_path / "out" / "beside" / "b")["digest"]
