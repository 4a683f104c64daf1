"""Plots of a run: accuracy matrix and learning curves. Needs matplotlib (extra ``plots``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from cl_kernel.contract import events
from cl_kernel.storage.run_folder import read_json


def build_plots(folder: Path) -> Callable[[events.Event], None]:
    """The tracker ``plots``: draws a run when it ends, unless it is a comparison run or ``run.plots`` is false."""

    def tell(event: events.Event) -> None:
        if not isinstance(event, events.RunEnded) or read_json(folder / "run.json").get("label"):
            return
        settings = yaml.safe_load((folder / "settings.yaml").read_text())
        results = read_json(folder / "metrics.json")
        if settings["run"]["plots"] and results.get("metrics"):
            draw_run(folder, results)

    return tell


def draw_run(folder: Path, results: Mapping[str, Any]) -> list[Path]:
    """Draw what ``metrics.json`` holds into ``plots/``, PNG and SVG.

    :return: the pictures written.
    """
    import matplotlib

    matplotlib.use("Agg", force=False)
    from matplotlib.figure import Figure

    target = folder / "plots"
    target.mkdir(exist_ok=True)
    written = []
    for metric, table in results["metrics"].items():
        R = np.array([[np.nan if v is None else v for v in row] for row in table["matrix"]], float)
        if R.size == 0:
            continue
        figure = Figure(
            figsize=(max(4.0, 0.55 * R.shape[1] + 2.2), max(3.2, 0.45 * R.shape[0] + 1.8)), layout="constrained"
        )
        axes = figure.subplots()
        image = axes.imshow(
            R, vmin=np.nanmin([0.0, np.nanmin(R)]), vmax=np.nanmax([1.0, np.nanmax(R)]), cmap="viridis", aspect="auto"
        )
        if R.size <= 225:
            for (i, j), value in np.ndenumerate(R):
                if not np.isnan(value):
                    axes.text(
                        j,
                        i,
                        f"{value:.2f}",
                        ha="center",
                        va="center",
                        fontsize=7,
                        color="white" if value < 0.6 else "black",
                    )
        axes.set_xlabel("test set")
        axes.set_ylabel("after stage")
        axes.set_xticks(range(R.shape[1]), results["test_sets"], rotation=45, ha="right", fontsize=7)
        axes.set_yticks(range(R.shape[0]), results["stages"][: R.shape[0]], fontsize=7)
        axes.set_title(f"{metric} after each stage")
        figure.colorbar(image, ax=axes)
        written += _save(figure, target / f"matrix-{metric}")
        figure = Figure(figsize=(6, 3.6), layout="constrained")
        axes = figure.subplots()
        for name, values in _series(table["seen"]).items():
            axes.plot(range(1, len(values) + 1), values, marker="o", label=name)
        axes.set_xlabel("stages learnt")
        axes.set_ylabel(metric)
        axes.set_ylim(0, 1.02)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
        axes.set_title(f"{metric} over all test samples seen so far")
        written += _save(figure, target / f"curve-{metric}")
    return written


def _series(seen: list[Mapping[str, float | None]]) -> dict[str, list[float]]:
    names = [name for name in (seen[-1] if seen else {}) if "/" not in name]
    return {name: [np.nan if row.get(name) is None else float(row[name] or 0.0) for row in seen] for name in names[:6]}


def _save(figure: Any, stem: Path) -> list[Path]:
    paths = [stem.with_suffix(".png"), stem.with_suffix(".svg")]
    figure.savefig(paths[0], dpi=120)
    figure.savefig(paths[1], metadata={"Date": None})
    return paths
