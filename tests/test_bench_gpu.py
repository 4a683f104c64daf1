"""The script for a GPU machine also runs without one, shortened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_gpu_script_runs_shortened_on_any_machine(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHON": sys.executable, "OUT": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "bench/gpu.sh", "--quick"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert {"remind", "crumb", "butd", "moco", "imagenet"} <= set(results)
    assert all(results[name]["step_ms"] > 0 for name in ("remind", "crumb", "butd", "moco"))
    assert results["imagenet"]["hours"] > 0
