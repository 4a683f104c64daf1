"""Draw the README's picture: ``python docs/recall_figure.py DIR`` after ``clk recall ablate --output DIR``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

METHODS = {
    "joint": ("joint training (upper bound)", "#888888"),
    "recall-gan": ("RECALL, generated images", "#0b6e4f"),
    "recall-flickr": ("RECALL, photo search", "#6bbf59"),
    "replay-gan": ("replay only", "#d99a1c"),
    "inpainting": ("fine-tuning + inpainting", "#c05299"),
    "fine-tuning": ("fine-tuning", "#b3261e"),
}


def curves(folder: Path, method: str, what: str) -> np.ndarray:
    """MIoU in per cent after each step, [seeds, steps], of the finished runs of a method."""
    rows = []
    for path in sorted(folder.glob(f"{method}-s*/metrics.json")):
        results = json.loads(path.read_text())
        if results["finished"]:
            rows.append([_percent(row, what) for row in results["metrics"]["segmentation"]["seen"]])
    return np.array(rows)


def _percent(row: dict[str, Any], what: str) -> float:
    """A joint run knows no old classes, so these are always the first fifteen after background."""
    if what != "old":
        return 100 * (row[what] or 0)
    return 100 * float(np.mean([value for name, value in row.items() if name.startswith("iou/")][1:16]))


def draw(folder: Path, target: Path) -> None:
    """Old classes and all classes after each step; mean and range over seeds."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, what, title in zip(
        figure.subplots(1, 2, sharey=True),
        ("old", "all"),
        ("the first fifteen classes", "all classes seen"),
        strict=True,
    ):
        for method, (label, colour) in METHODS.items():
            values = curves(folder, method, what)
            if not values.size:
                continue
            if values.shape[1] == 1:
                axes.axhline(values.mean(), color=colour, linestyle="--", label=label)
                continue
            steps = np.arange(values.shape[1])
            axes.plot(steps, values.mean(0), color=colour, marker="o", markersize=3, label=label)
            axes.fill_between(steps, values.min(0), values.max(0), color=colour, alpha=0.15, linewidth=0)
        axes.set_title(title)
        axes.set_xlabel("classes added")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("mIoU, per cent")
    figure.axes[0].set_ylim(0, 100)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8, frameon=False)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(__file__).parent / "images" / "recall-demo.png")
