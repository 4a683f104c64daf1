"""Figures of a run: the learning curve, confusion matrices, pictures with the query framed, methods side by side.

Shapes: H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cl_kernel import Samples, Stream
from cl_plugin_butd.evaluate.board import RIGHT, WRONG, Cell, draw_board
from cl_plugin_butd.evaluate.words import Words

if TYPE_CHECKING:
    from pathlib import Path

MOST_NAMES = 30
"""Classes whose names still fit beside a confusion matrix."""
ABREAST = 4
"""Confusion matrices side by side."""


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

    figure = Figure(figsize=(6, 3.5))
    axes = figure.add_axes((0.12, 0.15, 0.85, 0.8))
    axes.plot([row[2] for row in curve], color="0.2")
    for i, row in enumerate(curve):
        if i and row[0] != curve[i - 1][0]:
            axes.axvline(i - 0.5, color="0.7", linestyle="--")
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss of the last batch")
    figure.savefig(folder / "curve.png", dpi=110)
    draw_confusions(folder / "confusion.png", tables, stream.class_names)
    for name, rows in stream.test_sets.items():
        draw_predictions(
            folder / f"pictures-{safe(name)}.png", stream.test, rows[:n_pictures], labels, predicted, stream
        )


def draw_confusions(path: Path, tables: Mapping[str, Sequence[Sequence[int]]], names: Sequence[str]) -> None:
    """A confusion matrix a test set, side by side in one picture."""
    from matplotlib.figure import Figure

    columns = min(len(tables), ABREAST)
    rows = -(-len(tables) // columns)
    figure = Figure(figsize=(4.5 * columns, 4 * rows))
    edge = min(0.4, 0.08 + 0.014 * max(map(len, names), default=0))  # by hand: a layout that is found draws twice
    for k, (name, table) in enumerate(tables.items()):
        left, bottom = k % columns, rows - 1 - k // columns
        axes = figure.add_axes(
            ((left + edge) / columns, (bottom + edge) / rows, (0.97 - edge) / columns, (0.9 - edge) / rows)
        )
        axes.imshow(np.asarray(table), cmap="Greys")
        axes.set_title(f"{name}: right answer down, given across", fontsize=10)
        if len(table) <= MOST_NAMES:
            axes.set_xticks(range(len(table)), names[: len(table)], rotation=90, fontsize=7)
            axes.set_yticks(range(len(table)), names[: len(table)], fontsize=7)
    figure.savefig(path, dpi=110)


def draw_predictions(
    path: Path, samples: Samples, rows: np.ndarray, labels: np.ndarray, predicted: np.ndarray, stream: Stream
) -> None:
    """Pictures with what was asked, answered and right; the queried place is framed where the samples know it."""
    fields = [name for name in ("task", "argument", "box") if name in samples.spec]
    taken = samples.take(rows, ["image", *fields])
    words, cells = Words(stream), []
    for i, row in enumerate(rows):
        task = int(taken["task"][i]) if "task" in taken else 0
        asked = f"{words.ask(task, int(taken['argument'][i]))}: " if "argument" in taken else ""
        given, right = (words.answer(task, int(labels_[row])) for labels_ in (predicted, labels))
        text = f"{asked}{given}" + ("" if given == right else f" (is {right})")
        box = taken["box"][i] if "box" in taken else None
        cells.append(Cell(taken["image"][i], box, text, RIGHT if given == right else WRONG))
    draw_board(path, [cells[at : at + 3] for at in range(0, len(cells), 3)], width=320)


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
