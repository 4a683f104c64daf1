"""Runs of the plugin that take seconds, and what they leave."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cl_kernel.registry import discover
from cl_kernel.running.plan import make_request, plan
from cl_kernel.running.session import run_plan

SHORT: dict[str, Any] = {
    "run.plots": False,
    "learner.epochs": 1,
    "learner.later_epochs": 1,
    "learner.pictures": 0,
    "learner.filters": [8, 12, 16],
    "dataset.n_train": 110,
    "dataset.n_test": 40,
}


def run(test: str, folder: Path, *, seed: int = 0, **values: Any) -> Path:
    """A finished run; a value of None leaves that setting of :data:`SHORT` out."""
    registry = discover()
    chosen = {key: value for key, value in {**SHORT, **values}.items() if value is not None}
    request = make_request(test, plugin="butd", settings=chosen, seed=seed)
    run_plan(registry, plan(registry, request), folder, comparisons=False)
    return folder


def content(folder: Path, name: str, *path: Any) -> Any:
    """A file of a run, or what lies inside it."""
    found = json.loads((folder / name).read_text(encoding="utf-8"))
    for key in path:
        found = found[key]
    return found
