"""The method learns later tasks, forgets nothing, and beats naive fine-tuning on toy data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cl_kernel import Cache, Resources
from cl_kernel.registry import discover
from cl_kernel.running.plan import make_request, plan
from cl_kernel.running.session import run_plan
from cl_plugin_butd.evaluate.composition import compose
from cl_plugin_butd.evaluate.tables import person_table, zero_forgetting


def results(test: str, folder: Path, seed: int, **settings: Any) -> dict[str, Any]:
    registry = discover()
    planned = plan(
        registry,
        make_request(test, plugin="butd", seed=seed, settings={"run.plots": False, "learner.pictures": 0, **settings}),
    )
    return run_plan(registry, planned, folder, comparisons=False).results


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_zero_forgetting_beats_naive_fine_tuning(tmp_path: Path, seed: int) -> None:
    method = results("CL_DIRECTIONS", tmp_path / "method", seed)
    naive = results("CL_BASELINE_NAIVE", tmp_path / "naive", seed)
    of_method, of_naive = (found["metrics"]["accuracy"] for found in (method, naive))
    rows = np.asarray(of_method["matrix"], float)
    assert (rows[-1] == rows.diagonal()).all(), "an earlier task moved"
    assert of_method["summary"]["forgetting"] == 0.0
    assert of_method["summary"]["average_accuracy"] >= of_naive["summary"]["average_accuracy"] + 0.10
    assert (rows.diagonal()[1:] >= 0.85).all()


def test_composition_stays_at_the_border() -> None:
    # a line of five places; going right from the last is the border (9)
    right = {0: 1, 1: 2, 2: 3, 3: 4, 4: 9}

    def answer(image: np.ndarray, task: np.ndarray, argument: np.ndarray) -> np.ndarray:
        return np.asarray([right[a] for a in argument])

    found = compose(answer, np.zeros(5), np.arange(5), [0, 0], 9)
    assert found.tolist() == [2, 3, 4, 9, 9]


def test_the_persons_table_averages_over_what_was_asked() -> None:
    report = person_table(np.array([0, 0, 1]), np.array([1, 1, 3]), np.array([1, 0, 1]))
    assert report["table"][0, 1] == 0.5 and report["table"][1, 3] == 1.0
    assert report["mean"] == pytest.approx(0.75)


def test_a_matrix_that_never_moves_is_exact() -> None:
    report = zero_forgetting([[0.9, 0.1], [0.9, 0.8]])
    assert report["exact"] and report["forgetting"] == 0.0 and report["average"] == pytest.approx(0.85)
    assert zero_forgetting([[0.9, 0.1], [0.5, 0.8]])["forgetting"] == pytest.approx(0.4)


def test_the_stand_in_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    from cl_plugin_butd import settings
    from cl_plugin_butd.data import toy

    made = [
        toy.build(settings.Patterns(n_train=20, n_test=10), Resources(seed=s, cache=Cache(tmp_path))) for s in (0, 0, 1)
    ]
    assert made[0].fingerprint == made[1].fingerprint != made[2].fingerprint
