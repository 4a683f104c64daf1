"""SLURM sweeps: wrong parameters are one message, and a watcher that comes back finds its jobs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from cl_kernel.contract.errors import BadSetting
from cl_kernel.registry import discover
from cl_kernel.sweeps import sweep

pytest.importorskip("submitit")
BASE = {"dataset": "blobs", "learner": "linear", "dataset.n_train": 30}


def refused(tmp_path: Path, **slurm: object) -> str:
    registry = discover(only=())
    spec = sweep.Spec(name="s", base=BASE, grid={"seed": [0, 1]}, executor="slurm", slurm=slurm)
    with pytest.raises(BadSetting) as error:
        sweep.run_sweep(spec, sweep.tasks_of(registry, spec, tmp_path / "out"), registry=registry)
    return str(error.value)


@pytest.mark.parametrize(
    ("key", "value"), [("timeout_min", "an hour"), ("mem_gb", [1]), ("gpus_per_node", "two"), ("no_such_thing", 1)]
)
def test_a_parameter_that_submitit_does_not_take_is_refused_naming_it(tmp_path, key, value):
    said = refused(tmp_path, cluster="local", **{key: value})
    assert key in said and repr(value) in said


def test_without_slurm_nothing_runs_here_instead(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no command sbatch" in refused(tmp_path, timeout_min=5)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_sweep_whose_watcher_dies_is_not_submitted_twice(tmp_path):
    settings = {**BASE, "learner.n_epochs": 2500, "run.checkpoint_every_s": 0.3}
    content = {
        "base": settings,
        "grid": {"seed": [0, 1]},
        "executor": "slurm",
        "slurm": {"cluster": "local", "timeout_min": 5},
    }
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(content))
    command = [sys.executable, "-m", "cl_kernel.cli.main", "sweep", "s.yaml", "--output", "out"]
    environment = {**os.environ, "CLK_PLUGINS": "", "CLK_CACHE": str(tmp_path / "cache")}
    watcher = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    until = time.monotonic() + 120
    while len(list(tmp_path.glob("out/*/checkpoints/*.ckpt"))) < 1 and time.monotonic() < until:
        time.sleep(0.05)
    watcher.send_signal(signal.SIGKILL)
    watcher.wait()
    jobs = json.loads((tmp_path / "out/slurm/jobs.json").read_text())
    assert len(jobs) == 2
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out/slurm/jobs.json").read_text()) == jobs
    assert len(list(tmp_path.glob("out/slurm/*_submitted.pkl"))) == 2
    for path in tmp_path.glob("out/*/metrics.json"):
        assert json.loads(path.read_text())["finished"]
    assert len(list(tmp_path.glob("out/*/metrics.json"))) == 2
