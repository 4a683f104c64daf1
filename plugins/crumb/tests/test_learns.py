"""CRUMB beats fine-tuning and no replay on the toy clips, and joint training is above it: mean of three orders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cl_kernel import Request, discover, plan, run_plan

pytestmark = pytest.mark.slow
REGISTRY = discover()


def finals(label: str, scenario: str, folder: Path) -> tuple[float, float]:
    """Final accuracy over all classes and over the first task's, mean of three class orders."""
    every, first = [], []
    for seed in range(3):
        values: dict[str, Any] = {
            "run.seed": seed,
            "dataset.scenario": scenario,
            "learner.write_tables": False,
            "run.plots": False,
        }
        if label not in ("", "no replay"):
            values.pop("learner.write_tables")
        asked = Request(
            test="ministream", plugin="crumb", profile="tiny", overrides=(("test", values),), comparison=label
        )
        out = run_plan(
            REGISTRY, plan(REGISTRY, asked), folder / f"{label or 'crumb'}-{scenario}-{seed}", comparisons=False
        )
        last = out.results["metrics"]["accuracy"]["matrix"][-1]
        every.append(np.mean(last))
        first.append(last[0])
    return float(np.mean(every)), float(np.mean(first))


@pytest.mark.parametrize("scenario", ["class_instance", "class_iid"])
def test_crumb_beats_fine_tuning_and_no_replay(scenario: str, tmp_path: Path) -> None:
    ours, ours_first = finals("", scenario, tmp_path)
    naive, naive_first = finals("fine-tuning", scenario, tmp_path)
    without, _ = finals("no replay", scenario, tmp_path)
    joint, _ = finals("joint", scenario, tmp_path)
    assert ours >= naive + 0.45
    assert ours >= without + 0.45
    assert joint >= ours
    assert ours_first >= 0.6
    assert naive_first <= 0.05
