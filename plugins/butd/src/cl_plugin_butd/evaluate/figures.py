"""Figures of a run: the learning curve, confusion matrices, pictures with the query framed, methods side by side.

Shapes: H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cl_kernel import Samples, Stream

if TYPE_CHECKING:
    from pathlib import Path


def draw(
    folder: Path,
    stream: Stream,
    tables: Mapping[str, list[list[int]]],
    curve: Sequence[Sequence[float]],
    labels: np.ndarray,
    predicted: np.ndarray,
    n_pictures: int,
) -> None:
    """The same as pictures."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([row[2] for row in curve], color="0.2")
    for i, row in enumerate(curve):
        if i and row[0] != curve[i - 1][0]:
            axes.axvline(i - 0.5, color="0.7", linestyle="--")
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss of the last batch")
    figure.savefig(folder / "curve.png", dpi=110)
    for name, table in tables.items():
        figure = Figure(figsize=(4.5, 4), layout="constrained")
        axes = figure.subplots()
        axes.imshow(np.asarray(table), cmap="Greys")
        axes.set_title(f"{name}: right answer down, given across")
        figure.savefig(folder / f"confusion-{safe(name)}.png", dpi=110)
    for name, rows in stream.test_sets.items():
        draw_predictions(
            folder / f"pictures-{safe(name)}.png", stream.test, rows[:n_pictures], labels, predicted, stream
        )


def draw_predictions(
    path: Path, samples: Samples, rows: np.ndarray, labels: np.ndarray, predicted: np.ndarray, stream: Stream
) -> None:
    """Pictures with what was asked, answered and right; the queried place is framed where the samples know it."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    has_box = "box" in samples.spec
    taken = samples.take(rows, ["image", "task", "argument", *(["box"] if has_box else [])])
    n = len(rows)
    figure = Figure(figsize=(3.2 * min(n, 3), 1.9 * -(-n // 3)), layout="constrained")
    axes = figure.subplots(-(-n // 3), min(n, 3), squeeze=False).flatten()
    for axis in axes:
        axis.axis("off")
    names, tasks = stream.class_names, [stage.name for stage in stream.stages]
    for i, axis in enumerate(axes[:n]):
        axis.imshow(taken["image"][i], cmap="gray", vmin=0, vmax=255)
        task = int(taken["task"][i])
        asked = tasks[task] if task < len(tasks) and len(tasks) > 1 else f"task {task}"
        argument = int(taken["argument"][i])
        about = names[argument] if argument < len(names) else str(argument)
        given, right = names[int(predicted[rows[i]])], names[int(labels[rows[i]])]
        axis.set_title(
            f"{asked} of {about}: {given}" + ("" if given == right else f" (is {right})"),
            fontsize=8,
            color="black" if given == right else "firebrick",
        )
        if has_box:
            y, x, h, w = (int(v) for v in taken["box"][i])
            axis.add_patch(Rectangle((x - 0.5, y - 0.5), w, h, fill=False, edgecolor="tab:orange"))
    figure.savefig(path, dpi=110)


def draw_methods(methods: Mapping[str, Sequence[tuple[float, float]]], path: Path) -> None:
    """A line a method, the best at the top: accuracy just after a task was learnt (open) and at the end (filled).

    :param methods: name -> (learning accuracy, final average accuracy) of each seed.
    """
    from matplotlib.figure import Figure

    means = {name: np.mean(values, 0) for name, values in methods.items()}
    order = sorted(means, key=lambda name: means[name][1])
    figure = Figure(figsize=(6.4, 0.9 + 0.32 * len(order)), layout="constrained")
    axes = figure.subplots()
    for y, name in enumerate(order):
        axes.plot(means[name], [y, y], color="0.75", zorder=1)
        for learnt, final in methods[name]:
            axes.plot(learnt, y, "o", mfc="white", mec="0.3", ms=6, zorder=2)
            axes.plot(final, y, "o", color="tab:blue", ms=6, alpha=0.8, zorder=3)
    axes.plot([], [], "o", mfc="white", mec="0.3", ls="", label="just after a direction was learnt")
    axes.plot([], [], "o", color="tab:blue", ls="", label="after the last direction")
    axes.set_yticks(range(len(order)), order)
    axes.set_xlim(0, 1.02)
    axes.set_ylim(-0.5, len(order) - 0.5)
    axes.set_xlabel("test accuracy, mean over directions")
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(path, dpi=110)


def safe(name: str) -> str:
    """A name as a file name."""
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in name)
