"""Accuracy per byte of memory: raw maps, product-quantiser codes and memory blocks at equal budgets.

``python bench/bytes.py`` runs ``docs/examples/bytes.yaml`` in this process (``clk sweep`` does the same in many) and
draws ``docs/images/accuracy-per-byte.svg``.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
from _report import machine, table, write
from matplotlib.figure import Figure

from cl_kernel import discover, plan, run_plan
from cl_kernel.contract.errors import BadSetting
from cl_kernel.reports import compare
from cl_kernel.sweeps.sweep import read_spec, tasks_of

ROOT = Path(__file__).parent.parent
NAMES = {"clk:raw": "raw maps", "remind:pq": "product-quantiser codes", "crumb:blocks": "memory blocks"}


def draw(points: dict[str, list[tuple[float, float, float]]], target: Path) -> None:
    """One line a codec over bytes."""
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    for codec, found in points.items():
        sizes, means, spreads = zip(*sorted(found), strict=True)
        axes.errorbar([size / 1000 for size in sizes], means, spreads, marker="o", capsize=3, label=NAMES[codec])
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set_xticks(sorted({round(size / 1000, -1) for found in points.values() for size, _, _ in found}))
    axes.set_xlabel("bytes of replay memory, codebooks included (kB)")
    axes.set_ylabel("accuracy after the last stage")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    target.parent.mkdir(exist_ok=True)
    figure.savefig(target, metadata={"Date": None})
    figure.savefig(target.with_suffix(".png"), dpi=130)


def main() -> None:
    """Run what is missing, then table and figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/bytes"))
    namespace = parser.parse_args()
    torch.set_num_threads(1)
    registry = discover()
    spec = read_spec(ROOT / "docs" / "examples" / "bytes.yaml")
    too_small = []
    for task in tasks_of(registry, spec, namespace.output):
        if (task.folder / "metrics.json").exists():
            continue
        try:
            run_plan(registry, plan(registry, task.request), task.folder, resume=(task.folder / "run.json").exists())
        except BadSetting as error:
            too_small.append(f"{task.values['kept']} in {task.values['memory']}: {error.what}")
    rows, points, results = [], {}, []
    for group in compare.group_runs(compare.find_runs([namespace.output])[0]):
        codec = group.identity["codec"]
        mean, std = compare.mean_std(group.values("score").values())
        figures = {key: statistics.fmean(group.values(key).values()) for key in ("memory bytes", "memory examples")}
        budget = group.identity["run.memory"]
        points.setdefault(codec, []).append((figures["memory bytes"], mean, std or 0.0))
        row: dict[str, Any] = {
            "codec": codec,
            "budget": budget,
            "score": mean,
            "std": std,
            "n": len(group.runs),
            **figures,
        }
        results.append(row)
        kept = int(figures["memory examples"])
        rows.append(
            (NAMES[codec], budget, int(figures["memory bytes"]), kept, mean, std, 1000 * mean / figures["memory bytes"])
        )
    rows.sort(key=lambda row: (row[0], row[2]))
    draw(points, ROOT / "docs" / "images" / "accuracy-per-byte.svg")
    head = ("kept as", "budget", "bytes", "examples", "accuracy", "std", "accuracy per kB")
    text = [
        table(head, rows),
        "One stream (remind:tinyshapes), one learner (clk:er), one frozen network (crumb:tiny), "
        f"{len(spec.grid['seed'])} seeds.",
    ]
    if too_small:
        text.append("No example fits: " + "; ".join(sorted(set(too_small))) + ".")
    write("bytes", "Accuracy per byte of memory", {"rows": results}, text, about=machine("torch", "numpy"))


if __name__ == "__main__":
    main()
