"""Bytes of everything that a method keeps beyond its network, reported and limited together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cl_kernel.contract.errors import BadSetting
from cl_kernel.methods.catalogue import METHODS
from cl_kernel.registry import discover
from cl_kernel.running.build import build
from cl_kernel.running.plan import make_request, plan
from cl_kernel.running.session import make_resources, run_plan

SMALL = {"dataset.n_classes": 4, "dataset.n_stages": 2, "dataset.n_train": 12, "model.hidden": [6], "run.plots": False}
QUICK = {"gdumb": {"learner.epochs": 2}, "ranpac": {"learner.n_projected": 16}, "bic": {"learner.bias_epochs": 2}}
NAMES = [name for name, *_ in METHODS]


def planned(name: str, **more: Any) -> Any:
    settings = {**SMALL, **QUICK.get(name, {})}
    return plan(discover(only=()), make_request(dataset="clk:blobs", learner=f"clk:{name}", settings=settings, **more))


def run(name: str, folder: Path, **more: Any) -> dict[str, int]:
    return dict(run_plan(discover(only=()), planned(name, **more), folder / name).results["cost"]["kept"])


@pytest.mark.parametrize("name", NAMES)
def test_what_a_method_keeps_stays_within_its_budget_and_within_what_it_foretold(name: str, tmp_path: Path) -> None:
    one = planned(name)
    learner = build(one, make_resources(discover(only=()), one, None, lambda event: None)).learner
    reserve = learner.reserve() if hasattr(learner, "reserve") else 0
    memory = "memory" in one.pieces["learner"][0].record.accepts
    budget = reserve + (3000 if memory else 0)
    kept = run(name, tmp_path, budget=f"{max(budget, 1)}B")
    beside = sum(size for what, size in kept.items() if what not in ("examples", "similarity"))
    assert sum(kept.values()) <= max(budget, 1)
    assert beside <= reserve
    if memory:
        assert kept["examples"] > 2000
    if reserve > 1:
        with pytest.raises(BadSetting, match="budget"):
            run(name, tmp_path / "less", budget=f"{reserve - 1}B")


def test_sizes_by_hand(tmp_path: Path) -> None:
    parameters = 4 * (8 * 6 + 6 + 6 * 4 + 4)
    assert run("naive", tmp_path) == {}
    assert run("lwf", tmp_path) == {"old network": parameters}
    assert run("ewc", tmp_path) == {"importances": 2 * 2 * parameters}
    assert run("online-ewc", tmp_path) == {"importances": 2 * parameters}
    assert run("si", tmp_path) == {"importances": 4 * parameters}
    assert run("er", tmp_path, memory="10") == {"examples": 10 * (8 * 4 + 8)}
    assert run("icarl", tmp_path, memory="10") == {"examples": 10 * (8 * 4 + 8), "old network": parameters}
    assert run("joint", tmp_path) == {"samples": 4 * 12 * (8 * 4 + 8)}
    assert run("cope", tmp_path, memory="10") == {"examples": 400, "prototypes": 4 * 4 * 6}


@pytest.mark.parametrize(("budget", "message"), [("500", "is no number of bytes"), ("2 mouse", "no number of bytes")])
def test_a_budget_that_is_none_is_named(budget: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match=message):
        run("er", tmp_path, budget=budget)
