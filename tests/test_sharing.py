"""A sweep's folder that others share, and runs of another state of the code in it: said before anything runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from cl_kernel.registry import discover
from cl_kernel.storage.source import code_of, source_digest
from cl_kernel.sweeps import sharing, sweep

WORDS = ("dataset=blobs", "learner=linear", "dataset.n_train=30", "dataset.n_stages=2")


def test_runs_of_another_sweep_and_of_other_code_are_named(clk: Any) -> None:
    first = clk("sweep", *WORDS, "seed=0,1", CLK_PLUGINS="")
    assert "note:" not in first.stderr
    again = clk("sweep", *WORDS, "seed=0,1,2", CLK_PLUGINS="")  # the same and more
    assert "note:" not in again.stderr
    for path in sorted(clk.folder.glob("runs/sweep/*/environment.json"))[:2]:
        stored = json.loads(path.read_text())
        assert list(stored["code"]) == ["cl_kernel"]
        stored["code"]["cl_kernel"] = "0" * 16
        stored["versions"]["numpy"] = "1.0.0"
        path.write_text(json.dumps(stored))
    other = clk("sweep", *WORDS, "dataset.n_stages=3", "seed=0,1", CLK_PLUGINS="", code=2)
    assert "given twice" in other.stderr
    other = clk("sweep", *WORDS, "learner.lr=0.3", "seed=0,1,2", CLK_PLUGINS="")
    assert "also holds 3 runs of another sweep" in other.stderr
    mixed = clk("sweep", *WORDS, "seed=0,1,2", CLK_PLUGINS="")
    assert "2 runs in" in mixed.stderr and "were made with another state of the code (numpy 1.0.0 -> " in mixed.stderr
    assert "sources of cl_kernel changed" in mixed.stderr


@pytest.mark.parametrize("below", [".", "data"])
def test_runs_made_from_files_that_were_written_since_are_said_to_stay(clk: Any, below: str) -> None:
    """Data in a folder of their own, and beside the runs themselves."""
    data = clk.folder / below / "mine.npz"
    data.parent.mkdir(exist_ok=True)
    arrays = {"x": np.arange(80, dtype=np.float32).reshape(20, 4), "y": np.arange(20) % 2}
    np.savez(data, **arrays)
    words = (f"dataset=vectors:{data}", "learner=linear", "dataset.n_stages=2", "seed=0,1")
    assert "note:" not in clk("sweep", *words, CLK_PLUGINS="").stderr
    assert "note:" not in clk("sweep", *words, CLK_PLUGINS="").stderr
    later = time.time() + 5
    os.utime(data, (later, later))
    again = clk("sweep", *words, CLK_PLUGINS="")
    assert f"{data} was written after 2 runs in" in again.stderr and "stay as they were made" in again.stderr


def test_a_sweep_that_works_there_now_is_named_until_it_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from cl_kernel.sweeps.sharing import driving\n"
        "with driving(Path(sys.argv[1])): print('there', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "there\n"
        with sharing.driving(tmp_path) as other:
            assert other == str(process.pid)
            (note,) = sharing.notes(tmp_path, [], other)
        assert f"process {process.pid}, works in" in note
        process.kill()
    with sharing.driving(tmp_path) as other:
        assert other == ""


def test_the_digest_of_sources_follows_names_and_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "clk_sourced"
    package.mkdir()
    (package / "__init__.py").write_text("a = 1\n")
    (tmp_path / "clk_alone.py").write_text("b = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = code_of(["clk_sourced.x:y", "clk_alone:z", "clk_nowhere:z"])
    assert list(before) == ["cl_kernel", "clk_alone", "clk_sourced"]
    (package / "new.py").write_text("")
    (tmp_path / "clk_alone.py").write_text("b = 2\n")
    source_digest.cache_clear()
    after = code_of(["clk_sourced.x:y", "clk_alone:z"])
    assert {name for name in after if after[name] != before[name]} == {"clk_alone", "clk_sourced"}


def test_a_run_is_said_to_be_made_with_the_code_of_its_plugin(tmp_path: Path) -> None:
    registry = discover(only=())
    task = sweep.tasks_of(registry, sweep.read_spec(_file(tmp_path)), tmp_path)[0]
    task = attrs.evolve(task, folder=tmp_path / "run")
    task.folder.mkdir()
    stored = {"versions": {"nosuch-package": "1.0"}, "code": {"nosuch_package": "0"}}
    (task.folder / "environment.json").write_text(json.dumps(stored))
    assert sharing.differences(task.folder) == ["nosuch-package 1.0 -> none", "sources of nosuch_package changed"]
    (task.folder / "environment.json").write_text(json.dumps({"versions": {}}))  # as before digests were kept
    assert sharing.differences(task.folder) == []


def _file(folder: Path) -> Path:
    path = folder / "grid.yaml"
    path.write_text("base: {dataset: blobs, learner: linear}\ngrid: {seed: [0]}\n")
    return path
