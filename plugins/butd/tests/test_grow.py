"""A finished run grows by two directions through kills, and one of its tasks answers in another run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from butd_cases.short_runs import content

TWO, FOUR = "dataset.directions=[right,left]", "dataset.directions=[right,left,right2,left2]"
SHORT = (
    *("--set", "dataset.n_train=500", "--set", "learner.epochs=2", "--set", "learner.later_epochs=6"),
    *("--set", "run.checkpoint_every_s=0.1", "--set", "run.plots=false", "--set", "learner.pictures=0"),
)


def start(*arguments: object) -> subprocess.Popen[str]:
    """``clk`` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "cl_kernel.cli.main", *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def clk(*arguments: object) -> str:
    process = start(*arguments)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    return said


def happened(folder: Path) -> str:
    """The stage the run is in, and whether a checkpoint of it lies there."""
    lines = (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines if line.endswith("}")]
    names = [event["name"] for event in events if event["event"] == "StageStarted"]
    return names[-1] if names else ""


def newest(folder: Path) -> int:
    """Steps of the newest checkpoint."""
    return max((int(path.stem) for path in (folder / "checkpoints").glob("*.ckpt")), default=0)


def kill_inside(process: subprocess.Popen[str], folder: Path, stage: str) -> None:
    """Kill a run once it has written a checkpoint inside a stage."""
    began, deadline = None, time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if happened(folder) == stage:
            began = newest(folder) if began is None else began
            if newest(folder) > began:
                break
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()[0]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert content(folder, "run.json")["status"] != "finished"


@pytest.mark.slow
def test_an_extension_that_is_killed_ends_as_one_that_is_not(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    clk("run", "--plugin", "butd", "--no-comparisons", "--set", TWO, *SHORT, "--output", whole)
    first = content(whole, "metrics.json")
    shutil.copytree(whole, killed)
    clk("extend", whole, "--set", FOUR)

    kill_inside(start("extend", killed, "--set", FOUR), killed, "right2")
    kill_inside(start("resume", killed), killed, "left2")
    clk("resume", killed)

    ended = [content(folder, "metrics.json") for folder in (whole, killed)]
    for name in ("digest", "state_digest", "metrics", "stages"):
        assert ended[0][name] == ended[1][name], name
    matrix = ended[0]["metrics"]["accuracy"]["matrix"]
    assert [row[:2] for row in matrix[:2]] == first["metrics"]["accuracy"]["matrix"]
    assert matrix[1][:2] == matrix[2][:2] == matrix[3][:2]
    promise = content(killed, "reports/zero-forgetting.json")
    assert promise["bit_equal"]
    assert sorted(promise["largest_difference"]) == ["left", "left2", "right", "right2"]

    other = tmp_path / "other"
    clk("run", "--plugin", "butd", "--no-comparisons", "--set", TWO.replace("left", "left2"), *SHORT, "--output", other)
    clk("butd", "export-task", killed, "right2", "--output", tmp_path / "tasks")
    clk("butd", "import-task", other, tmp_path / "tasks" / "right2.task")
    there, here = ended[1], content(other, "metrics.json")
    assert here["stages"] == ["right", "left2", "right2"]
    accuracies = [m["metrics"]["accuracy"]["sets"][-1]["right2"]["accuracy"] for m in (there, here)]
    assert accuracies[0] == accuracies[1]
    assert content(other, "reports/zero-forgetting.json")["bit_equal"]

    page = tmp_path / "report.html"
    clk("report", killed, "--output", page)
    said = page.read_text(encoding="utf-8")
    assert all(name in said for name in ("right", "left", "right2", "left2"))
    assert said.count("killed") >= 1
