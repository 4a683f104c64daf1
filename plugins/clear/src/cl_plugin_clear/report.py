"""What the benchmark writes beside the kernel's own files: the five figures, a heat map, a table row."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cl_kernel import write_json, write_text
from cl_plugin_clear import evaluate

if TYPE_CHECKING:
    from cl_kernel import Context


def matrix_of(rows: list[dict[str, Any]], names: list[str], metric: str) -> np.ndarray:
    """Accuracy matrix float64 [T, T] of a run's records, NaN where not measured."""
    R = np.full((len(rows), len(names)), np.nan)
    for i, row in enumerate(rows):
        for j, name in enumerate(names):
            values = row["values"][metric].get(name) or {}
            first = next(iter(values.values()), None)
            R[i, j] = np.nan if first is None else first
    return R


def write_benchmark(ctx: Context, protocol: str) -> dict[str, Any]:
    """``clear/`` in the run folder: matrix.json, metrics.json, per_class.parquet where known, heatmap.png, row.tex."""
    names = list(ctx.stream.test_sets)
    metric = ctx.scorers[0].record.name
    R = matrix_of(ctx.progress.rows, names, metric)
    folder = ctx.folder / "clear"
    write_json(folder / "matrix.json", {"buckets": names, "R": np.where(np.isnan(R), None, R).tolist()})
    if R.shape[0] != R.shape[1] or np.isnan(R).any():
        return {}
    scores = {
        "protocol": protocol,
        **evaluate.clear_metrics(R, protocol=protocol),
        "next_domain_compat": evaluate.clear_metrics(R, compat_next=True)["next_domain"],
        "gem_style": evaluate.gem_style(R),
        "column_averaged": evaluate.column_averaged(R),
        "nap": evaluate.nap(R),
    }
    write_json(folder / "metrics.json", scores)
    write_text(
        folder / "row.tex",
        evaluate.latex_row("run", evaluate.over_seeds([{k: scores[k] for k in evaluate.NAMES}])) + "\n",
    )  # type: ignore[index]
    heat_map(folder / "heatmap.png", R, names)
    ctx.note("CLEAR: " + ", ".join(f"{k} {scores[k]:.3f}" for k in evaluate.NAMES if scores[k] is not None))
    return scores


def heat_map(path: Path, R: np.ndarray, names: list[str], title: str = "accuracy") -> None:
    """Draw an accuracy matrix; without matplotlib nothing is drawn."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(1.2 + 0.55 * len(names), 1.0 + 0.5 * len(names)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(R * 100, cmap="viridis")
    for i in range(R.shape[0]):
        for j in range(R.shape[1]):
            shade = "white" if R[i, j] < (np.nanmin(R) + np.nanmax(R)) / 2 else "black"
            axes.text(j, i, f"{100 * R[i, j]:.1f}", ha="center", va="center", color=shade, fontsize=7)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("tested on bucket")
    axes.set_ylabel("trained up to bucket")
    axes.set_title(title)
    figure.colorbar(image, ax=axes, shrink=0.8, label="%")
    figure.savefig(path, dpi=110)
