"""Every baseline on a stream and a network of others: learns, keeps within its memory, resumes bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cl_kernel import Interrupted, Request, discover, plan, resume, run_plan
from cl_plugin_crumb import experiments

REGISTRY = discover()
NAMES = [row[0] for row in experiments.BASELINES]
SHORT: dict[str, Any] = {
    "dataset": "clk:blobs",
    "dataset.n_classes": 4,
    "dataset.n_stages": 2,
    "dataset.n_train": 24,
    "dataset.n_test": 20,
    "model": "clk:mlp",
    "model.hidden": [16],
    "learner.batch_size": 8,
    "learner.first_epochs": 3,
    "learner.epochs": 2,
    "learner.lr": 0.05,
    "run.plots": False,
}
REMEMBERS = {row[0] for row in experiments.BASELINES if row[4]}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def request(name: str, **more: Any) -> Request:
    values = {**SHORT, "learner": f"crumb:{name}", **more}
    if name in REMEMBERS:
        values["run.memory"] = "10"
    return Request(plugin="crumb", profile="tiny", overrides=(("test", values),))


@pytest.mark.parametrize("name", NAMES)
def test_a_baseline_learns_elsewhere_and_resumes_bit_for_bit(name: str, tmp_path: Path) -> None:
    whole = run_plan(REGISTRY, plan(REGISTRY, request(name)), tmp_path / "whole")
    matrix = whole.results["metrics"]["accuracy"]["matrix"]
    assert matrix[0][0] > 0.6  # two classes, just learnt
    assert sum(matrix[1]) > 0.1
    cost = whole.results["cost"]
    assert cost["memory_examples"] <= cost["memory_capacity"] == (10 if name in REMEMBERS else 0)
    # Stopped inside the second task and taken up again.
    stop = cost["steps"] - 4
    with pytest.raises(Interrupted):
        run_plan(REGISTRY, plan(REGISTRY, request(name, **{"run.stop_at_step": stop})), tmp_path / "stopped")
    again = resume(REGISTRY, tmp_path / "stopped")
    assert again.results["metrics"] == whole.results["metrics"]
    assert again.results["state_digest"] == whole.results["state_digest"]
