"""Twelve methods beside Avalanche's: ``python bench/methods.py --avalanche PYTHON``.

PYTHON is the interpreter of an environment of its own with ``avalanche-lib==0.6.0``. Both sides get the same rows in
the same order of classes, the same network with the same first weights, optimiser, rate, batch, passes and memory; each
has its own generator for the order of rows and for what is remembered.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _report import machine, table, write

from cl_kernel.registry import Registry, discover
from cl_kernel.running.build import build
from cl_kernel.running.plan import Plan, make_request, plan
from cl_kernel.running.session import make_resources, run_plan

HERE = Path(__file__).parent
SEEDS = range(5)
COMMON = {"learner.lr": 0.1, "learner.batch_size": 32, "learner.epochs": 5, "run.plots": False}
METHODS: dict[str, dict[str, Any]] = {
    "naive": {},
    "er": {},
    "ewc": {"learner.strength": 100.0},
    "si": {"learner.strength": 1.0},
    "mas": {"learner.strength": 0.1},
    "lwf": {},
    "icarl": {},
    "gem": {},
    "agem": {},
    "gss": {},
    "gdumb": {},
    "der": {"learner.alpha": 0.5},
}
T975 = {4: 2.776, 3: 3.182, 2: 4.303, 1: 12.706}
"""Two-sided 95 % points of Student's t by degrees of freedom."""


def planned(registry: Registry, method: str, seed: int, settings: Mapping[str, Any] = {}) -> Plan:
    """One run of ours."""
    remembers = {"memory": "200"} if "memory" in registry.find("learner", f"clk:{method}")[0].record.accepts else {}
    request = make_request(
        dataset="digits",
        learner=f"clk:{method}",
        seed=seed,
        device="cpu",
        settings={**COMMON, **METHODS[method], **settings},
        **remembers,
    )
    return plan(registry, request)


def export(registry: Registry, folder: Path, seed: int) -> None:
    """Rows, order of classes and first weights of a seed, for the other side."""
    one = planned(registry, "naive", seed)
    built = build(one, make_resources(registry, one, None, lambda event: None))
    stages = [stage.train.take(np.arange(len(stage.train))) for stage in built.stream.stages]
    test = built.stream.test.take(np.arange(len(built.stream.test)))
    weights = [parameter.detach().numpy() for parameter in built.learner.network.upper.parameters()]
    np.savez(
        folder / f"seed-{seed}.npz",
        x_train=np.concatenate([stage["image"] for stage in stages]).transpose(0, 3, 1, 2).copy(),
        y_train=np.concatenate([stage["class"] for stage in stages]),
        x_test=test["image"].transpose(0, 3, 1, 2).copy(),
        y_test=test["class"],
        order=np.array([c for stage in built.stream.stages for c in stage.classes]),
        **dict(zip(("w1", "b1", "w2", "b2"), weights, strict=True)),
    )


def ours(registry: Registry, method: str, seed: int, settings: Mapping[str, Any] = {}) -> dict[str, Any]:
    """One run: final share of right answers on every test image, and the steps it took."""
    with tempfile.TemporaryDirectory() as place:
        results = run_plan(registry, planned(registry, method, seed, settings), Path(place) / "run").results
    return {
        "method": method,
        "seed": seed,
        "accuracy": results["metrics"]["accuracy"]["seen"][-1]["accuracy"],
        "steps": results["cost"]["steps"],
        "seconds": results["cost"]["seconds"],
    }


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return statistics.fmean(values), T975.get(len(values) - 1, 1.96) * spread / len(values) ** 0.5


def cell(rows: Sequence[Mapping[str, Any]]) -> str:
    """Mean and interval in per cent."""
    mean, half = interval([100 * row["accuracy"] for row in rows])
    return f"{mean:.1f} ± {half:.1f}"


def theirs(python: str, folder: Path, methods: Sequence[str]) -> None:
    """Avalanche's runs into ``avalanche.jsonl``, versions first."""
    output = folder / "avalanche.jsonl"
    subprocess.run(
        [python, str(HERE / "_avalanche_methods.py"), str(folder), str(output), ",".join(methods)],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )


def main() -> None:
    """Run both sides, and store the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--avalanche", default=os.environ.get("CLK_AVALANCHE_PYTHON", ""), metavar="PYTHON")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--exported", type=Path, default=None, metavar="DIR", help="keep what Avalanche gets and gave")
    namespace = parser.parse_args()
    if not namespace.avalanche and not namespace.exported:
        sys.stdout.write("methods: no interpreter with avalanche-lib given (--avalanche PYTHON); nothing measured\n")
        return
    import torch

    torch.set_num_threads(1)
    registry, methods = discover(), namespace.methods.split(",")
    with tempfile.TemporaryDirectory() as place:
        folder = namespace.exported or Path(place)
        if not (folder / "avalanche.jsonl").exists():
            for seed in SEEDS:
                export(registry, folder, seed)
            theirs(namespace.avalanche, folder, methods)
        peers = [json.loads(line) for line in (folder / "avalanche.jsonl").read_text().splitlines()]
    mine = [ours(registry, method, seed) for method in methods for seed in SEEDS]
    rows = []
    for method in methods:
        sides = [[row for row in side if row.get("method") == method] for side in (mine, peers)]
        gap = statistics.fmean(row["accuracy"] for row in sides[0]) - statistics.fmean(
            row["accuracy"] for row in sides[1]
        )
        rows.append((method, *map(cell, sides), f"{100 * gap:+.1f}", *(side[0]["steps"] for side in sides)))
    text = table(("method", "clk, %", "Avalanche, %", "difference", "steps", "steps there"), rows)
    note = (
        "Final accuracy over all ten digits, mean of 5 seeds with its 95 % interval (Student's t); five stages of two "
        "classes, MLP 64-128-10 from the same first weights, SGD at 0.1, batches of 32, 5 passes, 200 examples kept."
    )
    versions = ", ".join(f"{name} {version}" for name, version in peers[0]["versions"].items())
    write(
        "methods",
        "Methods beside Avalanche",
        {"clk": mine, "avalanche": peers[1:], "versions": peers[0]["versions"]},
        [text, note, f"Avalanche ran in an environment of its own ({versions})."],
        about=machine("torch"),
    )


if __name__ == "__main__":
    main()
