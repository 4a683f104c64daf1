"""Figures: learning curves, epochs, block usage, slices against classes, overlays. matplotlib is imported on use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from cl_plugin_crumb.evaluate.overview import Row


def _axes(width: float = 6.0, height: float = 4.0, n: int = 0) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, n, sharey=True, squeeze=False)[0] if n else figure.subplots()


def read_runs(path: Path) -> np.ndarray:
    """An ``all_runs`` file: runs x tasks."""
    rows = [[float(x) for x in line.split(",")] for line in path.read_text().splitlines() if line]
    return np.array(rows, float).reshape(len(rows), -1)


def learning_curve(
    curves: Mapping[str, np.ndarray], target: Path, *, classes_per_task: int, cutoff: float = 0.0, title: str = ""
) -> Path:
    """Mean accuracy after each task with its standard error over runs, and chance.

    :param curves: label -> runs x tasks, percent.
    :param cutoff: leave out runs whose first-task accuracy is below this.
    """
    figure, axes = _axes()
    longest = 1
    for label, runs in curves.items():
        runs = runs[runs[:, 0] >= cutoff]
        if not len(runs):
            continue
        x = np.arange(1, runs.shape[1] + 1)
        longest = max(longest, runs.shape[1])
        error = runs.std(0, ddof=1) / np.sqrt(len(runs)) if len(runs) > 1 else np.zeros(runs.shape[1])
        axes.errorbar(x, runs.mean(0), error, marker="o", capsize=2, label=f"{label} (n={len(runs)})")
    x = np.arange(1, longest + 1)
    axes.plot(x, 100 / (x * classes_per_task), color="grey", linestyle=":", label="chance")
    axes.set(xlabel="task", ylabel="top-1 accuracy (%)", ylim=(0, 102), title=title, xticks=x)
    axes.legend(frameon=False)
    return _save(figure, target)


def epochs(path: Path, target: Path) -> Path:
    """Accuracy after every epoch, task after task."""
    figure, axes = _axes()
    rows = [[float(x) for x in line.split(",") if x] for line in path.read_text().splitlines() if line]
    at = 0
    for task, values in enumerate(rows):
        axes.plot(range(at, at + len(values)), values, marker="o", label=f"task {task}")
        at += len(values)
    axes.set(xlabel="epoch", ylabel="accuracy (%)", ylim=(0, 102), title=path.stem)
    axes.legend(frameon=False)
    return _save(figure, target)


def block_usage(counts: np.ndarray, target: Path) -> Path:
    """Share of each block, sorted; block 0 is clipped; the five most used others are named."""
    from cl_plugin_crumb.evaluate.batches import usage_shares

    figure, axes = _axes()
    shares = usage_shares(counts.astype(float))
    axes.bar(range(len(shares)), shares, width=1.0)
    order = np.argsort(-np.where(np.arange(len(counts)) == 0, -1, counts), kind="stable")
    for rank, block in enumerate(order[:5]):
        axes.annotate(str(block), (rank, shares[rank]), ha="center", va="bottom")
    axes.set(
        xlabel="memory block, by use",
        ylabel="share of slices",
        title=f"block 0: {counts[0] / max(counts.sum(), 1):.0%} (clipped)",
    )
    return _save(figure, target)


def slice_classes(counts: pd.DataFrame, target: Path) -> Path:
    """Blocks against classes for one slice, each column scaled to its largest count."""
    figure, axes = _axes(5, 6)
    values = counts.to_numpy(float)
    axes.imshow(values / np.maximum(values.max(0, keepdims=True), 1), aspect="auto", cmap="viridis")
    axes.set(xlabel="class", ylabel="memory block", title=target.stem)
    return _save(figure, target)


def overlay(images: Sequence[np.ndarray], hits: Sequence[np.ndarray], target: Path) -> Path:
    """Images with the places that use a block in blue.

    :param images: uint8 [H, W, 3]; ``hits``: how many slices of each place use it, [h, w].
    """
    from PIL import Image

    tiles = []
    for image, counts in zip(images, hits, strict=True):
        mask = (
            np.asarray(Image.fromarray((np.minimum(counts, 1) * 255).astype(np.uint8)).resize(image.shape[1::-1], 0))
            / 255
        )
        blue = np.array([0, 0, 255.0])
        tiles.append((image * (1 - 0.6 * mask[..., None]) + blue * 0.6 * mask[..., None]).astype(np.uint8))
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(tiles, 1)).save(target)
    return target


def methods(rows: Sequence[Row], target: Path) -> Path:
    """Final accuracy of every method with its deviation over seeds, one panel a stream."""
    streams = list(dict.fromkeys(row.stream for row in rows))
    order = list(dict.fromkeys(row.method for row in rows))[::-1]
    figure, panels = _axes(1.8 + 3.2 * len(streams), 1.0 + 0.26 * len(order), n=len(streams))
    for panel, stream in zip(panels, streams, strict=True):
        mine = {row.method: row for row in rows if row.stream == stream}
        for at, name in enumerate(order):
            if name in mine:
                colour = "#c0392b" if name == "crumb" else "#7f8c9a"
                panel.barh(at, np.mean(mine[name].final), xerr=mine[name].spread, color=colour, capsize=2)
        panel.set(title=stream, xlabel="accuracy over all classes (%)", xlim=(0, 102), ylim=(-0.6, len(order) - 0.4))
        panel.set_yticks(range(len(order)), order)
        panel.label_outer()
    return _save(figure, target)


def shape_bias_bars(advantages: Mapping[str, tuple[float, float, bool]], target: Path) -> Path:
    """CRUMB's advantage under each disturbance, with spread over runs; a star where significant."""
    figure, axes = _axes()
    names = list(advantages)
    values = [advantages[n][0] for n in names]
    axes.bar(names, values, yerr=[advantages[n][1] for n in names], capsize=3)
    for at, name in enumerate(names):
        if advantages[name][2]:
            axes.annotate("*", (at, values[at]), ha="center", va="bottom", fontsize=14)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(ylabel="relative drop, control minus CRUMB")
    return _save(figure, target)


def _save(figure: Any, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=120)
    return target
