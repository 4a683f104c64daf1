"""``clk plot``: one figure of several methods for a paper. Needs matplotlib (extra ``plots``), imported when drawing.

Means over seeds, with bands or bars of one sample standard deviation. A method is told by colour, marker and line
style together, so that the figure is read in grey and by colour-blind readers.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cl_kernel.contract.errors import BadSetting, MissingAsset, RunConflict
from cl_kernel.reports.compare import Group, mean_std
from cl_kernel.reports.series import BYTES, costs_of, forgetting_curve, over_seeds
from cl_kernel.running.plan import importable

PALETTE = ("#1a1a1a", "#00b5f2", "#b22c00", "#693cf2", "#d89d61", "#671f7f")
"""Chosen by search: any two stay apart also for protanopia, deuteranopia and tritanopia (a test simulates them)."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p", "h")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.2, 1.2, 1.2)), (0, (8, 2)))
WIDTHS = {"single": 3.35, "double": 6.9}
"""Inches: a column, and both columns, of most proceedings."""
KINDS = ("curves", "forgetting", "matrix", "bytes", "time")
FORMATS = ("pdf", "svg", "png")
STYLE: Mapping[str, Any] = {
    "font.size": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.3,
    "lines.markersize": 5,
    "pdf.fonttype": 42,  # fonts as they are, embedded: text stays text
    "ps.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "clk",
}


def width_of(text: str) -> float:
    """Inches of ``single``, ``double`` or a number.

    :raises BadSetting: for anything else.
    """
    if text in WIDTHS:
        return WIDTHS[text]
    try:
        inches = float(text)
    except ValueError:
        inches = math.nan
    if not 1 <= inches <= 30:
        raise BadSetting(f"a width of {text!r} inches", where="--width", fix="single, double, or inches from 1 to 30")
    return inches


def comparable_or_refuse(groups: Sequence[Group], kind: str) -> None:
    """Refuse a figure of runs that do not compare.

    :raises RunConflict: with what differs, and between which runs.
    """
    first = groups[0]
    for group in groups[1:]:
        if reason := _apart(first, group):
            raise RunConflict(
                f"{first.label!r} and {group.label!r} do not compare: {reason}",
                where=str(_one(group).folder),
                fix="plot them one by one, or give the runs that do; clk compare shows all of them",
            )
    if wanting := [group.label for group in groups if not group.metric]:
        raise RunConflict(f"{', '.join(wanting)}: no scores by stage, so there is nothing to plot", where="clk plot")
    if kind == "bytes" and not any(costs_of(group, BYTES) for group in groups):
        raise RunConflict("none of these runs keeps a memory", where="--kind bytes", fix="--kind time")
    if kind == "forgetting" and all(len(_one(group).results["stages"]) < 2 for group in groups):
        raise RunConflict("forgetting needs two stages, these runs have one", where="--kind forgetting")


def _one(group: Group) -> Any:
    return next(iter(group.runs.values()))


def _apart(a: Group, b: Group) -> str:
    """Why two groups do not belong into one figure; empty when they do."""
    if a.profile != b.profile:
        return f"profile {a.profile} and profile {b.profile}"
    if a.metric != b.metric:
        return f"{a.metric} and {b.metric}; give --metric NAME"
    mine, others = a.data, b.data
    for key in sorted(mine.keys() | others.keys()):
        if mine.get(key) != others.get(key):
            return f"{key} is {mine.get(key, 'not there')} and {others.get(key, 'not there')}"
    n_stages, n_others = len(_one(a).results.get("stages", ())), len(_one(b).results.get("stages", ()))
    return "" if n_stages == n_others else f"{n_stages} stages and {n_others}"


def draw(groups: Sequence[Group], kind: str, path: Path, *, width: float, title: str = "") -> None:
    """Draw a figure into a file; its suffix says the format.

    :param width: inches.
    :raises MissingAsset: without matplotlib.
    """
    if not importable("matplotlib"):
        raise MissingAsset(
            "figures need the package matplotlib", where="clk plot", fix="pip install 'cl-kernel[plots]'"
        )
    import matplotlib

    matplotlib.use("Agg", force=False)
    from matplotlib.figure import Figure

    with matplotlib.rc_context(dict(STYLE)):
        figure = Figure(
            figsize=(width, 0.66 * min(width, 5.0) + 0.12 * _legend_rows(groups, width)), layout="constrained"
        )
        DRAWERS[kind](figure, groups)
        if title:
            figure.suptitle(title, fontsize=9)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=300, metadata=_metadata(path))


def _metadata(path: Path) -> dict[str, Any]:
    """Equal runs give equal files: no date."""
    return {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}.get(path.suffix, {})


def look(index: int) -> dict[str, Any]:
    """Colour, marker and line style of the method at a place."""
    return {
        "color": PALETTE[index % len(PALETTE)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": DASHES[(index + index // len(PALETTE)) % len(DASHES)],
    }


# ---- kinds ----------------------------------------------------------------------------------------


def _curves(figure: Any, groups: Sequence[Group]) -> None:
    axes = figure.subplots()
    for k, group in enumerate(groups):
        _line(axes, k, _aside(k, len(groups)), group, lambda table: [next(iter(row.values())) for row in table["seen"]])
    _stages(axes, groups)
    axes.set_ylabel(f"{groups[0].metric} on all classes seen")
    _legend(figure, axes, groups)


def _forgetting(figure: Any, groups: Sequence[Group]) -> None:
    axes = figure.subplots()
    for k, group in enumerate(groups):
        _line(axes, k, _aside(k, len(groups)), group, lambda table: forgetting_curve(table["matrix"]))
    _stages(axes, groups)
    axes.set_ylabel("forgetting")
    axes.axhline(0, color="0.6", linewidth=0.6, zorder=0)
    _legend(figure, axes, groups)


def _aside(k: int, n: int) -> float:
    """How far the method at place ``k`` of ``n`` stands beside the stage, in stages."""
    return (k - (n - 1) / 2) * min(0.06, 0.36 / n)


def _line(
    axes: Any, k: int, aside: float, group: Group, read: Callable[[Mapping[str, Any]], Sequence[float | None]]
) -> None:
    means, spreads = over_seeds([read(run.results["metrics"][group.metric]) for run in group.runs.values()])
    points = [(i + 1, m, s or 0.0) for i, (m, s) in enumerate(zip(means, spreads, strict=True)) if m is not None]
    if not points:
        return
    x, y, spread = zip(*points, strict=True)
    x = tuple(place + aside for place in x)  # markers that would cover each other stand side by side
    how = look(k)
    if any(spread):
        low, high = ([a + sign * b for a, b in zip(y, spread, strict=True)] for sign in (-1, 1))
        axes.fill_between(x, low, high, color=how["color"], alpha=0.15, linewidth=0)
    axes.plot(x, y, label=group.label, markeredgecolor="white", markeredgewidth=0.5, **how)


def _stages(axes: Any, groups: Sequence[Group]) -> None:
    n = len(_one(groups[0]).results["stages"])
    step = max(1, math.ceil(n / 10))
    axes.set_xticks(range(1, n + 1, step))
    axes.set_xlabel("stages learnt")
    axes.grid(alpha=0.25, linewidth=0.5)


def _scatter(columns: Sequence[str], label: str) -> Callable[[Any, Sequence[Group]], None]:
    def drawn(figure: Any, groups: Sequence[Group]) -> None:
        axes = figure.subplots()
        xs: list[float] = []
        for k, group in enumerate(groups):
            scores, costs = group.values("score"), costs_of(group, columns)
            if not scores:
                continue
            (y, spread), how = mean_std(scores.values()), look(k)
            if costs:
                xs.append(statistics.fmean(costs.values()))
                axes.errorbar(
                    xs[-1], y, yerr=spread, label=group.label, color=how["color"], marker=how["marker"],
                    linestyle="none", capsize=2, elinewidth=0.8, markersize=5,
                )  # fmt: skip
            else:
                text = group.label if "no memory" in group.label else f"{group.label} (no memory)"
                axes.axhline(y, label=text, color=how["color"], linestyle=how["linestyle"], linewidth=1)
        if xs and min(xs) > 0 and max(xs) > 8 * min(xs):
            axes.set_xscale("log")
        axes.set_xlabel(label)
        axes.set_ylabel(f"{groups[0].metric} after the last stage")
        axes.grid(alpha=0.25, linewidth=0.5)
        _legend(figure, axes, groups)

    return drawn


def _matrix(figure: Any, groups: Sequence[Group]) -> None:
    n_columns = min(len(groups), max(1, round(figure.get_figwidth() / 1.9)))
    n_rows = math.ceil(len(groups) / n_columns)
    figure.set_figheight(max(1.6, n_rows * (figure.get_figwidth() / n_columns) * 0.95))
    panels = figure.subplots(n_rows, n_columns, squeeze=False)
    image = None
    for k, axes in enumerate(panels.ravel()):
        if k >= len(groups):
            axes.set_axis_off()
            continue
        image = _heat(axes, groups[k])
    figure.colorbar(image, ax=panels, shrink=0.8, label=groups[0].metric)


def _heat(axes: Any, group: Group) -> Any:
    import numpy as np

    tables = [run.results["metrics"][group.metric]["matrix"] for run in group.runs.values()]
    known = np.array([[[np.nan if v is None else v for v in row] for row in table] for table in tables], float)
    R = np.nanmean(np.ma.masked_invalid(known), 0)
    top = max(1.0, float(np.max(R)))
    image = axes.imshow(R, vmin=min(0.0, float(np.min(R))), vmax=top, cmap="cividis", aspect="auto")
    if R.shape[1] <= 6:
        for (i, j), value in np.ndenumerate(R):
            if value is not np.ma.masked:
                colour = "white" if value < 0.55 * top else "black"
                axes.text(j, i, f"{value:.2f}".removeprefix("0"), ha="center", va="center", fontsize=6, color=colour)
    axes.set_title(group.label, fontsize=7)
    step = max(1, math.ceil(R.shape[1] / 6))
    axes.set_xticks(range(0, R.shape[1], step), [str(j + 1) for j in range(0, R.shape[1], step)])
    axes.set_yticks(range(0, R.shape[0], step), [str(i + 1) for i in range(0, R.shape[0], step)])
    axes.set_xlabel("test set")
    axes.set_ylabel("after stage")
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    return image


def _legend_columns(groups: Sequence[Group], width: float) -> int:
    longest = max(len(group.label) for group in groups) + 8
    return max(1, min(len(groups), int(width * 17 / longest)))


def _legend_rows(groups: Sequence[Group], width: float) -> int:
    return 0 if len(groups) < 2 else math.ceil(len(groups) / _legend_columns(groups, width))


def _legend(figure: Any, axes: Any, groups: Sequence[Group]) -> None:
    """Below the axes, over the whole width: it hides nothing."""
    if len(groups) > 1:
        n_columns = _legend_columns(groups, figure.get_figwidth())
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=n_columns, frameon=False)


DRAWERS: dict[str, Callable[[Any, Sequence[Group]], None]] = {
    "curves": _curves,
    "forgetting": _forgetting,
    "matrix": _matrix,
    "bytes": _scatter(BYTES, "bytes kept beyond the network"),
    "time": _scatter(("seconds",), "seconds of a run"),
}
