"""One contact sheet a run: what was asked, what the top-down network looks at and draws, what was answered.

Shapes: n questions of a task, H W pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cl_kernel import Stream
from cl_plugin_butd.evaluate.figures import frame
from cl_plugin_butd.evaluate.looking import enlarged
from cl_plugin_butd.evaluate.words import Words

if TYPE_CHECKING:
    from pathlib import Path

    from cl_plugin_butd.evaluate.looking import Looked

MOST_TASKS = 8
"""Rows of a sheet at most; a longer stream shows its first tasks."""
SMALL = 40
"""Pictures of fewer pixels a side are smoothed for the eye."""
EACH = 2
"""Questions of a task, about one picture where it asks several."""


def questions_of(stream: Stream) -> list[tuple[int, np.ndarray]]:
    """Rows of the test samples to show, by task."""
    tasks = np.asarray(stream.test.take(np.arange(len(stream.test)), ["task"])["task"])
    return [(int(task), np.flatnonzero(tasks == task)[:EACH]) for task in np.unique(tasks)[:MOST_TASKS]]


def draw_sheet(path: Path, learner: Any, stream: Stream) -> None:
    """A row a question: the picture with the queried object framed, every top-down map over it, the drawn object,
    answer and truth.

    :param learner: with a method ``look(image, task, argument)``.
    """
    from matplotlib.figure import Figure

    shown = questions_of(stream)
    found = []
    for task, rows in shown:
        taken = stream.test.take(rows, ["image", "argument", "box", "class"])
        found.append((task, taken, learner.look(taken["image"], task, taken["argument"])))
    n_maps = len(found[0][2].maps)
    drawn = found[0][2].drawn is not None
    titles = ["queried object framed", *(f"top-down, level {n_maps - i}" for i in range(n_maps))]
    titles += ["drawn from level 1"] if drawn else []
    height, width = found[0][1]["image"].shape[1:3]
    n_rows = sum(len(rows) for _, rows in shown)
    across = 1.3 * float(np.clip((width / height) ** 0.5, 1, 2))
    size = (len(titles) * across + 0.3, 0.9 + n_rows * (across * height / width + 0.32))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(n_rows, len(titles), squeeze=False)
    line = 0
    for task, taken, look in found:
        for i in range(len(taken["image"])):
            _draw_line(grid[line], taken, look, i, task, Words(stream))
            line += 1
    for axis, title in zip(grid[0], titles, strict=True):
        axis.annotate(
            title,
            (0.5, 1.0),
            (0, 24),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color="0.35",
        )
    figure.suptitle(
        "Each row is a question. Bright: where the top-down network depends on what is asked about.", fontsize=9
    )
    figure.savefig(path, dpi=120)


def _draw_line(axes: Any, taken: dict[str, np.ndarray], look: Looked, i: int, task: int, words: Words) -> None:
    image = taken["image"][i]
    smooth = "bicubic" if min(image.shape[:2]) < SMALL else "antialiased"
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
    axes[0].imshow(image, cmap="gray", vmin=0, vmax=255, interpolation=smooth)
    frame(axes[0], taken["box"][i])
    for axis, level in zip(axes[1:], look.maps, strict=False):
        axis.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation=smooth)
        axis.imshow(
            enlarged(level[i], image.shape[:2]), cmap="inferno", alpha=0.7, vmin=0, vmax=1, interpolation=smooth
        )
    if look.drawn is not None:
        axes[-1].imshow(look.drawn[i], cmap="gray", vmin=0, vmax=255, interpolation=smooth)
    given, right = int(look.logits[i].argmax()), int(taken["class"][i])
    text = f"{words.ask(task, int(taken['argument'][i]))}? says {words.answer(task, given)}"
    if given != right:
        text += f", is {words.answer(task, right)}"
    axes[0].set_title(text, fontsize=8, color="black" if given == right else "firebrick", loc="left")
