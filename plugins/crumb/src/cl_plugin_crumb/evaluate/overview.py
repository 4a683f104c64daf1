"""Every method in one table: final accuracy, what is left of the first task, bytes and seconds, from finished runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from attrs import frozen

from cl_kernel import MissingAsset


@frozen(kw_only=True)
class Row:
    """One method on one stream.

    :param final: accuracy over all classes after the last task, percent, one a seed; ``first`` on the first task.
    :param n_bytes: of the memory, 0 when nothing was kept; ``seconds``: of a run, median over seeds.
    """

    stream: str
    method: str
    final: tuple[float, ...]
    first: tuple[float, ...]
    n_bytes: int
    seconds: float

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over seeds."""
        return float(np.std(self.final, ddof=1)) if len(self.final) > 1 else None


def rows(folders: Sequence[Path]) -> list[Row]:
    """Finished runs below these folders, those of one method and stream together, the most accurate first.

    :raises MissingAsset: when there is none.
    """
    found: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for path in sorted(path for folder in folders for path in folder.rglob("run.json")):
        run = json.loads(path.read_text())
        if run["status"] == "finished" and (path.parent / "metrics.json").is_file():
            results = json.loads((path.parent / "metrics.json").read_text())
            settings = yaml.safe_load((path.parent / "settings.yaml").read_text())
            dataset, learner = settings["dataset"], settings["learner"]
            name = dataset.get("scenario", "") + (" offline" if dataset.get("offline") else "")
            stream = " ".join(filter(None, (results["data"]["name"], name)))
            method = run["label"] or run["pieces"]["learner"].rpartition(":")[2]
            method = "no replay" if learner.get("replay_times") == 0 else method
            found.setdefault((stream, method), {})[run["seed"]] = results
    if not found:
        raise MissingAsset("no finished run", where=", ".join(map(str, folders)), fix="clk run, or clk sweep")
    out = []
    for (stream, method), by_seed in found.items():
        runs = [by_seed[seed] for seed in sorted(by_seed)]
        tables = [next(iter(run["metrics"].values())) for run in runs]
        row = Row(
            stream=stream,
            method=method,
            final=tuple(100 * next(iter(table["seen"][-1].values())) for table in tables),
            first=tuple(100 * table["matrix"][-1][0] for table in tables),
            n_bytes=max(run["cost"]["memory_bytes"] if run["cost"]["memory_examples"] else 0 for run in runs),
            seconds=float(np.median([run["cost"]["seconds"] for run in runs])),
        )
        out.append(row)
    return sorted(out, key=lambda row: (row.stream, -np.mean(row.final)))
