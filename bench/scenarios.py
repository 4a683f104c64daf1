"""Every method on class-, task- and domain-incremental digits: ``python bench/scenarios.py``.

With ``--photographs DIR`` (a folder a class, or ``train`` and ``val`` with one) the same on photographs: features of a
frozen EfficientNet-Lite0 with ImageNet weights, and what the method teaches the layer on them.

Rate and, where a method has one, the weight of its penalty are chosen for each method and scenario on a tenth of the
training samples kept apart (seed 0), never on the test samples; what was chosen is scored once on the test samples, on
three seeds. The task-incremental figure is of class-incremental runs with the answers restricted to the task's classes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from _report import table, write

from cl_kernel.contract.errors import ClkError
from cl_kernel.methods.catalogue import METHODS
from cl_kernel.registry import Registry, discover
from cl_kernel.running.plan import make_request, plan
from cl_kernel.running.session import run_plan

SEEDS = (0, 1, 2)
RATES = (0.01, 0.03, 0.1)
WEIGHTS: dict[str, tuple[float, ...]] = {
    "l2": (0.1, 1.0),
    "ewc": (100.0, 1000.0),
    "online-ewc": (100.0, 1000.0),
    "si": (1.0, 10.0),
    "mas": (1.0, 10.0),
    "lwf": (1.0, 3.0),
}
STREAMS: dict[str, dict[str, Any]] = {
    "class": {"stream.scenario": "class", "stream.stages": 5, "train.epochs": 5},
    "domain": {"stream.scenario": "domain", "stream.transform": "rotation", "stream.stages": 3, "train.epochs": 5},
}
SCENARIOS = {"class": "class", "task": "class", "domain": "domain"}  # the stream that each is measured on
TOLD = ("packnet", "piggyback", "hat", "supsup")  # answer within the task that a test sample belongs to
COMMON = {"run.plots": False, "stream.validation": 0.1, "train.batch_size": 32}
OWN: dict[str, dict[str, Any]] = {
    "gdumb": {"learner.epochs": 20},
    "ranpac": {"learner.n_projected": 500},
    "bic": {"learner.bias_epochs": 50},
}
NETWORK = {"model.weights": "default", "model.frozen": True, "model.size": 96}


class Bench:
    """Runs on one data set, each kept in memory under what was asked."""

    def __init__(self, photographs: Path | None) -> None:
        self.registry: Registry = discover()
        self.where: dict[str, Any] = {"dataset": "digits"}
        self.common: dict[str, Any] = dict(COMMON)
        if photographs is not None:
            self.where = {"dataset": f"folder:{photographs.resolve()}", "model": "clk:efficientnet-lite0"}
            self.common.update(NETWORK)
        self.done: dict[str, dict[str, float]] = {}

    def run(self, method: str, seed: int, settings: Mapping[str, Any]) -> dict[str, float]:
        """One run; final accuracy among all classes and among the task's, bytes kept."""
        key = json.dumps([method, seed, settings], sort_keys=True)
        if key not in self.done:
            self.done[key] = self._run(method, seed, settings)
        return self.done[key]

    def _run(self, method: str, seed: int, settings: Mapping[str, Any]) -> dict[str, float]:
        record = self.registry.find("learner", f"clk:{method}")[0].record
        asked = {**self.common, **settings, **OWN.get(method, {})}
        memory = {"memory": "200"} if "memory" in record.accepts else {}
        request = make_request(learner=f"clk:{method}", seed=seed, device="cpu", settings=asked, **self.where, **memory)
        with tempfile.TemporaryDirectory() as place:
            results = run_plan(self.registry, plan(self.registry, request), Path(place) / "run").results
        return {
            "class": results["metrics"]["accuracy"]["summary"]["average_accuracy"],
            "task": results["task_aware"]["accuracy"]["summary"]["average_accuracy"],
            "domain": results["metrics"]["accuracy"]["summary"]["average_accuracy"],
            "kept": sum(results["cost"]["kept"].values()),
            "seconds": results["cost"]["seconds"],
        }

    def candidates(self, method: str) -> list[dict[str, float]]:
        """Rates and weights of the penalty to choose from; one empty choice for a method without a rate."""
        settings = self.registry.find("learner", f"clk:{method}")[0].record.settings
        if "lr" not in {a.name for a in settings.__attrs_attrs__}:
            return [{}]
        rates = [{"train.lr": rate} for rate in RATES]
        weights = [{"learner.strength": weight} for weight in WEIGHTS.get(method, ())] or [{}]
        return [{**rate, **weight} for rate, weight in itertools.product(rates, weights)]

    def measure(self, method: str, scenario: str) -> dict[str, Any]:
        """Choose on validation samples, then score on the test samples; or why the scenario is refused."""
        stream, choices = STREAMS[SCENARIOS[scenario]], self.candidates(method)
        row = {"method": method, "scenario": scenario}
        try:
            tried = [
                self.run(method, 0, {**stream, **choice, "stream.scored": "validation"})[scenario]
                for choice in (choices if len(choices) > 1 else ())
            ]
            best = choices[tried.index(max(tried))] if tried else choices[0]
            runs = [self.run(method, seed, {**stream, **best}) for seed in SEEDS]
        except ClkError as error:
            return {**row, "refused": str(error).splitlines()[0]}
        return {**row, "chosen": best, "candidates": choices, "validation": tried, "runs": runs}


def cell(row: Mapping[str, Any]) -> str:
    """Mean and deviation of the scenario's accuracy in per cent."""
    if "refused" in row:
        return "refused"
    if row["scenario"] == "class" and row["method"] in TOLD:
        return "told the task"
    values = [100 * run[row["scenario"]] for run in row["runs"]]
    return f"{statistics.fmean(values):.1f} ± {statistics.stdev(values):.1f}"


def choice(row: Mapping[str, Any]) -> str:
    """The chosen settings in short."""
    return " × ".join(f"{value:g}" for value in row.get("chosen", {}).values())


def page(found: list[dict[str, Any]], photographs: bool) -> list[str]:
    """Table and note."""
    rows = []
    for method in (name for name, *_ in METHODS):
        mine = {one["scenario"]: one for one in found if one["method"] == method}
        if set(mine) == set(SCENARIOS):
            kept = next((int(one["runs"][0]["kept"]) for one in mine.values() if "runs" in one), 0)
            chosen = " / ".join(choice(mine[name]) or "-" for name in SCENARIOS)
            rows.append((f"`clk:{method}`", *(cell(mine[name]) for name in SCENARIOS), chosen, kept))
    head = ("method", *(f"{name}, %" for name in SCENARIOS), "chosen (class / task / domain)", "bytes kept")
    what = "photographs of CIFAR-10, frozen EfficientNet-Lite0 at 96 pixels" if photographs else "digits, MLP 64-128-10"
    note = (
        "Mean over test sets after the last stage, 3 seeds with standard deviation. Class and task: five stages of two "
        f"classes. Domain: all images turned by 0, 45 and 90 degrees. Five passes; {what}; SGD, batches of 32, 200 "
        "examples where a method remembers. Chosen on validation samples with seed 0: the rate (.01, .03 or .1), × the "
        f"weight of the penalty where there is one. {len(rows)} of the library's {len(METHODS)} methods."
    )
    return [table(head, rows), note]


def main() -> None:
    """Measure what the file of earlier measurements lacks, and store the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--done", type=Path, metavar="FILE", help="keep each measurement there, and go on")
    parser.add_argument("--methods", default=",".join(name for name, *_ in METHODS))
    parser.add_argument("--photographs", type=Path, metavar="DIR")
    namespace = parser.parse_args()
    torch.set_num_threads(1)
    bench, found = Bench(namespace.photographs), []
    if namespace.done and namespace.done.exists():
        found = [json.loads(line) for line in namespace.done.read_text().splitlines()]
    for method, scenario in itertools.product(namespace.methods.split(","), SCENARIOS):
        if any((one["method"], one["scenario"]) == (method, scenario) for one in found):
            continue
        found.append(bench.measure(method, scenario))
        if namespace.done:
            with namespace.done.open("a") as file:
                file.write(json.dumps(found[-1]) + "\n")
    photographs = namespace.photographs is not None
    name = "scenarios_photographs" if photographs else "scenarios"
    write(name, "Methods in three scenarios", {"measured": found}, page(found, photographs))


if __name__ == "__main__":
    main()
