"""Every method on class-, task- and domain-incremental digits: ``python bench/scenarios.py``.

The rate is chosen for each method and scenario on a tenth of the training samples kept apart (seed 0), never on the
test samples; the chosen one is scored once on the test samples, on three seeds. The task-incremental figure is of the
class-incremental run with its answers restricted to the task's classes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from _report import table, write

from cl_kernel.methods.catalogue import METHODS
from cl_kernel.registry import Registry, discover
from cl_kernel.running.plan import make_request, plan
from cl_kernel.running.session import run_plan

SEEDS = (0, 1, 2)
RATES = (0.03, 0.1)
STREAMS: dict[str, dict[str, Any]] = {
    "class": {"stream.scenario": "class", "stream.stages": 5, "train.epochs": 2},
    "domain": {"stream.scenario": "domain", "stream.transform": "rotation", "stream.stages": 3, "train.epochs": 1},
}
COMMON = {"run.plots": False, "stream.validation": 0.1, "train.batch_size": 32}
OWN: dict[str, dict[str, Any]] = {
    "gdumb": {"learner.epochs": 20},
    "ranpac": {"learner.n_projected": 500},
    "bic": {"learner.bias_epochs": 50},
}


def run(registry: Registry, method: str, seed: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """One run; final accuracy among all classes and among the task's, bytes kept."""
    remembers = {"memory": "200"} if "memory" in registry.find("learner", f"clk:{method}")[0].record.accepts else {}
    asked = {**COMMON, **settings, **OWN.get(method, {})}
    request = make_request(
        dataset="digits", learner=f"clk:{method}", seed=seed, device="cpu", settings=asked, **remembers
    )
    with tempfile.TemporaryDirectory() as place:
        results = run_plan(registry, plan(registry, request), Path(place) / "run").results
    return {
        "accuracy": results["metrics"]["accuracy"]["summary"]["average_accuracy"],
        "task_aware": results["task_aware"]["accuracy"]["summary"]["average_accuracy"],
        "kept": sum(results["cost"]["kept"].values()),
        "seconds": results["cost"]["seconds"],
    }


def chosen_rate(registry: Registry, method: str, stream: Mapping[str, Any]) -> tuple[float | None, dict[str, float]]:
    """The rate with the best validation score on seed 0; None for a method without one."""
    settings = registry.find("learner", f"clk:{method}")[0].record.settings
    if "lr" not in {a.name for a in settings.__attrs_attrs__}:
        return None, {}
    tried = {
        str(rate): run(registry, method, 0, {**stream, "train.lr": rate, "stream.scored": "validation"})["accuracy"]
        for rate in RATES
    }
    return max(RATES, key=lambda rate: tried[str(rate)]), tried


def measure(registry: Registry, method: str, name: str) -> dict[str, Any]:
    """Choose on validation samples, then score on the test samples."""
    rate, tried = chosen_rate(registry, method, STREAMS[name])
    settings = {**STREAMS[name], **({} if rate is None else {"train.lr": rate})}
    runs = [run(registry, method, seed, settings) for seed in SEEDS]
    return {"method": method, "stream": name, "lr": rate, "validation": tried, "runs": runs}


def cell(rows: list[dict[str, Any]], key: str) -> str:
    """Mean and deviation in per cent."""
    values = [100 * row[key] for row in rows]
    return f"{statistics.fmean(values):.1f} ± {statistics.stdev(values):.1f}"


def main() -> None:
    """Measure what the file of earlier measurements lacks, and store the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--done", type=Path, default=None, metavar="FILE", help="keep each measurement there, and go on"
    )
    parser.add_argument("--methods", default=",".join(name for name, *_ in METHODS))
    namespace = parser.parse_args()
    torch.set_num_threads(1)
    registry, found = discover(), []
    if namespace.done and namespace.done.exists():
        found = [json.loads(line) for line in namespace.done.read_text().splitlines()]
    for method in namespace.methods.split(","):
        for name in STREAMS:
            if any((one["method"], one["stream"]) == (method, name) for one in found):
                continue
            found.append(measure(registry, method, name))
            if namespace.done:
                with namespace.done.open("a") as file:
                    file.write(json.dumps(found[-1]) + "\n")
    rows = []
    for method in namespace.methods.split(","):
        mine = {one["stream"]: one for one in found if one["method"] == method}
        if set(mine) == set(STREAMS):
            by_class, by_domain = mine["class"], mine["domain"]
            rates = " / ".join("" if one["lr"] is None else f"{one['lr']:g}" for one in (by_class, by_domain))
            rows.append(
                (
                    f"`clk:{method}`",
                    cell(by_class["runs"], "accuracy"),
                    cell(by_class["runs"], "task_aware"),
                    cell(by_domain["runs"], "accuracy"),
                    rates,
                    by_class["runs"][0]["kept"],
                )
            )
    head = ("method", "class, %", "task, %", "domain, %", "rates chosen (class / domain)", "bytes kept")
    note = (
        "Mean over test sets after the last stage, 3 seeds with standard deviation. Class and task: five stages of two "
        "digits, 2 passes. Domain: all digits turned by 0, 45 and 90 degrees, 1 pass. MLP 64-128-10, SGD, batches of "
        "32, 200 examples where a method remembers; rates of 0.03 and 0.1 tried on validation samples with seed 0. "
        f"{len(rows)} of the library's {len(METHODS)} methods are measured here."
    )
    write("scenarios", "Methods in three scenarios", {"measured": found}, [table(head, rows), note])


if __name__ == "__main__":
    main()
