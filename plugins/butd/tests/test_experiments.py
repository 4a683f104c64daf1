"""Every named test runs on its toy data, cut to a handful of steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cl_kernel import BadInput
from cl_kernel.registry import discover
from cl_kernel.running.plan import make_request, plan
from cl_kernel.running.session import run_plan
from cl_plugin_butd.experiments import EXPERIMENTS

QUICK = (
    "SMOKE",
    "HELD_OUT_PAIRS",
    "PERSONS_SUFFICIENT",
    "COMPOSE",
    "CL_BASELINE_LWF",
    "TRANSFER_MODULATION",
    "TASKSELECT_BUTD",
)
"""Run by default; the others differ by a setting or two."""


def miniature(name: str) -> dict[str, Any]:
    """Settings that leave a few steps of a test."""
    record = next(e for e in EXPERIMENTS if e.name == name)
    tiny = record.profiles["tiny"]
    dataset, learner = str(tiny.get("dataset", record.settings.get("dataset"))), str(record.settings["learner"])
    cut: dict[str, Any] = {"learner.epochs": 1}
    if "patterns" in dataset or "held-out" in dataset:
        cut |= {"dataset.n_train": 110, "dataset.n_test": 40}
    if "patterns" in dataset and name != "COMPOSE":
        cut["dataset.directions"] = ["right", "left"]
    if "persons" in dataset:
        cut |= {"dataset.n_configurations": 15, "dataset.n_test": 5, "dataset.size": 28}
    if record.settings["learner"] not in ("butd:transfer", "butd:vit"):
        cut["learner.pictures"] = 0
    if learner not in ("butd:transfer", "butd:vit", "butd:counter-stream"):
        cut["learner.later_epochs"] = 1
    return cut


def run(name: str, folder: Path, **extra: Any) -> dict[str, Any]:
    registry = discover()
    settings = {**miniature(name), "run.plots": False, **extra}
    planned = plan(registry, make_request(name, plugin="butd", settings=settings, seed=0))
    return run_plan(registry, planned, folder / name, comparisons=name in QUICK).results


@pytest.mark.parametrize("name", QUICK)
def test_runs_in_miniature(name: str, tmp_path: Path) -> None:
    assert run(name, tmp_path)["finished"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [e.name for e in EXPERIMENTS if e.name not in QUICK])
def test_every_other_test_runs_in_miniature(name: str, tmp_path: Path) -> None:
    assert run(name, tmp_path)["finished"]


@pytest.mark.parametrize(
    ("name", "cut"),
    [
        ("HELD_OUT_PAIRS", {"dataset.n_val": 5, "learner.epochs": 1}),
        ("CL_DIRECTIONS", {"learner.epochs": 1, "learner.later_epochs": 1}),
    ],
)
def test_real_handwriting_runs_in_miniature(name: str, cut: dict[str, Any], tmp_path: Path) -> None:
    settings = {"dataset.n_train": 20, "dataset.n_test": 5, "learner.pictures": 0, "run.plots": False, **cut}
    registry = discover()
    planned = plan(registry, make_request(name, plugin="butd", profile="small", settings=settings, seed=0))
    assert run_plan(registry, planned, tmp_path / name, comparisons=False).results["finished"]


def test_two_directions_can_be_asked_about_at_once(tmp_path: Path) -> None:
    run("COMPOUND", tmp_path)
    found = json.loads((tmp_path / "COMPOUND" / "reports" / "compound.json").read_text(encoding="utf-8"))
    assert found["questions"] > 0 and found["all"] <= min(found["accuracy"].values())
    with pytest.raises(BadInput, match="no direction up"):
        run("COMPOUND", tmp_path / "again", **{"learner.compound": ["right", "up"]})


def test_methods_start_from_one_network_and_end_where_they_would_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLK_CACHE", str(tmp_path / "cache"))
    alone = run("CL_BASELINE_EWC", tmp_path / "alone", **{"learner.reuse": False})
    assert not (tmp_path / "cache" / "butd-base").exists()
    run("CL_DIRECTIONS", tmp_path / "first")
    base = list((tmp_path / "cache" / "butd-base").glob("*/base.pth"))
    written = [file.stat().st_mtime_ns for file in base]
    assert len(base) == 1
    after = run("CL_BASELINE_EWC", tmp_path / "after")
    assert after["metrics"] == alone["metrics"]
    assert [file.stat().st_mtime_ns for file in base] == written
    run("CL_BASELINE_SI", tmp_path / "watches")  # follows the first task step by step, so it cannot share
    assert list((tmp_path / "cache" / "butd-base").glob("*/base.pth")) == base


def test_a_finished_run_leaves_its_reports(tmp_path: Path) -> None:
    run("SMOKE", tmp_path, **{"learner.pictures": 3})
    reports = {file.name for file in (tmp_path / "SMOKE" / "reports").iterdir()}
    assert {"confusion.json", "confusion.png", "curve.json", "curve.png", "pictures-left.png"} <= reports


def test_the_best_epoch_can_be_kept(tmp_path: Path) -> None:
    settings = {"learner.best_of": True, "learner.epochs": 2}
    assert run("HELD_OUT_PAIRS", tmp_path, **settings)["finished"]
