"""On the toy data the method beats fine-tuning by its margin; minutes, so only with the slow tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cl_kernel import Request, discover, plan, run_plan
from cl_plugin_remind.evaluate.metrics import omega_of_runs


@pytest.mark.slow
def test_replayed_codes_beat_fine_tuning_by_the_gate(tmp_path: Path) -> None:
    registry = discover()
    gains, omegas, baseline = [], [], []
    for seed in range(3):
        request = Request(
            test="imagenet-cls-iid", plugin="remind", overrides=(("test", {"run.seed": seed, "run.plots": False}),)
        )
        outcome = run_plan(registry, plan(registry, request), tmp_path / str(seed))
        last = {
            label: results["metrics"]["accuracy"]["seen"][-1]["accuracy"]
            for label, results in (("remind", outcome.results), *outcome.comparisons.items())
        }
        gains.append(last["remind"] - last["fine-tuning"])
        omegas.append(omega_of_runs(outcome.results, outcome.comparisons["offline"], "accuracy"))
        baseline.append(omega_of_runs(outcome.comparisons["fine-tuning"], outcome.comparisons["offline"], "accuracy"))
    assert np.mean(gains) >= 0.55
    assert np.mean(omegas) >= 0.93
    assert np.mean(baseline) <= 0.5
