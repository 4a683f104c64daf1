"""Accuracy matrices of several finished runs: the same experiment, or none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from cl_kernel import BadInput, differences

HARMLESS = ("seed", "device", "n_workers", "plots", "checkpoint_every_s", "stop_at_step", "on_bad_sample")
"""Settings of a run that seeds of one experiment may differ in."""


def matrices(runs: Sequence[Path], *, mixed: bool = False) -> list[Any]:
    """The matrix of each run.

    :param mixed: also runs that are not alike.
    :raises BadInput: for a run without a matrix, or one that differs from the first in more than its seed.
    """
    found, first = [], None
    for run in runs:
        path = run / "clear" / "matrix.json"
        if not path.exists():
            raise BadInput("no matrix in this run", where=str(path), fix="a run of learner clear:buckets writes one")
        found.append(json.loads(path.read_text()))
        about = described(run)
        first = about if first is None else first
        if not mixed and (unlike := differences(first, about)):
            raise BadInput(
                f"not a run like {runs[0]}: {'; '.join(unlike[:5])}",
                where=str(run),
                fix="one table for each experiment, or --mixed for the mean over unlike runs",
            )
    shapes = {len(entry["R"]) for entry in found}
    if len(shapes) > 1:
        raise BadInput(f"matrices of {sorted(shapes)} buckets have no mean", where=", ".join(map(str, runs)))
    return [entry["R"] for entry in found]


def described(run: Path) -> dict[str, Any]:
    """What runs of one experiment share: its name, pieces, settings; without seed and machine."""
    about = json.loads((run / "run.json").read_text())
    settings = yaml.safe_load((run / "settings.yaml").read_text()) or {}
    settings["run"] = {k: v for k, v in (settings.get("run") or {}).items() if k not in HARMLESS}
    return {"test": about.get("test"), "pieces": about.get("pieces"), "settings": settings}
