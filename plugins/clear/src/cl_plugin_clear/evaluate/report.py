"""What the benchmark writes beside the kernel's own files: the five figures, a heat map, a table row."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cl_kernel import atomic, load_tree, write_json, write_text
from cl_plugin_clear.curation.retrieval import BACKGROUND
from cl_plugin_clear.evaluate import metrics

if TYPE_CHECKING:
    from cl_kernel import StreamContext


def matrix_of(rows: list[dict[str, Any]], names: list[str], metric: str) -> np.ndarray:
    """Accuracy matrix float64 [T, T] of a run's records, NaN where not measured."""
    R = np.full((len(rows), len(names)), np.nan)
    for i, row in enumerate(rows):
        for j, name in enumerate(names):
            values = row["values"][metric].get(name) or {}
            first = next(iter(values.values()), None)
            R[i, j] = np.nan if first is None else first
    return R


def write_benchmark(ctx: StreamContext, protocol: str) -> dict[str, Any]:
    """``clear/`` in the run folder: matrix.json, metrics.json, per_class.parquet, heatmap.png, row.tex."""
    names = list(ctx.stream.test_sets)
    metric = ctx.scorers[0].record.name
    R = matrix_of(ctx.progress.rows, names, metric)
    folder = ctx.folder / "clear"
    write_json(folder / "matrix.json", {"buckets": names, "R": np.where(np.isnan(R), None, R).tolist()})
    if R.shape[0] != R.shape[1] or np.isnan(R).any():
        return {}
    rows = class_rows(ctx)
    scores = {
        "protocol": protocol,
        **metrics.clear_metrics(R, protocol=protocol),
        "next_domain_compat": metrics.clear_metrics(R, compat_next=True)["next_domain"],
        "gem_style": metrics.gem_style(R),
        "column_averaged": metrics.column_averaged(R),
        "nap": metrics.nap(R),
        **class_means(rows),
    }
    write_json(folder / "metrics.json", scores)
    per_class = pa.Table.from_pylist(rows)
    with atomic(folder / "per_class.parquet") as file:
        pq.write_table(per_class, file)
    write_text(
        folder / "row.tex", metrics.latex_row("run", metrics.over_seeds([{k: scores[k] for k in metrics.NAMES}])) + "\n"
    )  # type: ignore[index]
    heat_map(folder / "heatmap.png", R, names)
    ctx.note("CLEAR: " + ", ".join(f"{k} {scores[k]:.3f}" for k in metrics.NAMES if scores[k] is not None))
    return scores


def class_rows(ctx: StreamContext) -> list[dict[str, Any]]:
    """Time, bucket, class -> test items and hits, from the predictions that the kernel keeps of each stage."""
    from cl_kernel.torch.loaders import label_name

    stream, label = ctx.stream, label_name(ctx.stream.spec)
    names = stream.class_names or tuple(str(c) for c in range(stream.n_classes))
    truth = stream.test.take(np.arange(len(stream.test)), [label])[label]
    rows = []
    for time in range(len(ctx.progress.rows)):
        kept = load_tree(ctx.folder / "scores" / f"stage-{time:03d}.tree")
        predicted = np.full(len(truth), -1, np.int64)
        predicted[kept["rows"]] = kept["class"]
        for bucket, members in stream.test_sets.items():
            labels, right = truth[members], predicted[members] == truth[members]
            n, hits = (np.bincount(labels, weights=w, minlength=len(names)) for w in (None, right))
            rows += [
                {"time": time, "bucket": bucket, "class": c, "label": names[c], "n": int(n[c]), "correct": int(hits[c])}
                for c in np.flatnonzero(n)
            ]
    return rows


def class_means(rows: list[dict[str, Any]]) -> dict[str, list[float | None]]:
    """Of each time, over all buckets: the mean of the classes' accuracies, and the accuracy without the background."""
    out: dict[str, list[float | None]] = {"mean_class_accuracy": [], "positives_accuracy": []}
    for time in range(1 + max(row["time"] for row in rows)):
        mine = [row for row in rows if row["time"] == time]
        labels = sorted({row["label"] for row in mine})
        share = {
            label: sum(row["correct"] for row in mine if row["label"] == label)
            / sum(row["n"] for row in mine if row["label"] == label)
            for label in labels
        }
        positives = [row for row in mine if row["label"] != BACKGROUND]
        out["mean_class_accuracy"].append(float(np.mean(list(share.values()))))
        out["positives_accuracy"].append(
            sum(row["correct"] for row in positives) / sum(row["n"] for row in positives) if positives else None
        )
    return out


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
