"""One contact sheet a run: what was asked, what the top-down network looks at and draws, what was answered.

Shapes: n questions of a task, H W pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cl_kernel import Stream
from cl_plugin_butd.evaluate.board import RIGHT, WRONG, Cell, draw_board
from cl_plugin_butd.evaluate.looking import enlarged
from cl_plugin_butd.evaluate.words import Words

if TYPE_CHECKING:
    from pathlib import Path

    from cl_plugin_butd.evaluate.looking import Looked

MOST_TASKS = 8
"""Rows of a sheet at most; a longer stream shows its first tasks."""
EACH = 2
"""Questions of a task, about one picture where it asks several."""
DARK = 0.45
"""How bright the picture stays under the light of a map."""
LEGEND = (
    "Each row is a question about the framed object, with the network's answer. Bright: where the top-down network, "
    "from its coarse level to its fine one, depends on what is asked about. Drawn: what an image head makes of level "
    "1. Every panel has its own scale."
)


def questions_of(stream: Stream) -> list[tuple[int, np.ndarray]]:
    """Rows of the test samples to show, by task."""
    tasks = np.asarray(stream.test.take(np.arange(len(stream.test)), ["task"])["task"])
    return [(int(task), np.flatnonzero(tasks == task)[:EACH]) for task in np.unique(tasks)[:MOST_TASKS]]


def draw_sheet(path: Path, learner: Any, stream: Stream) -> None:
    """A row a question: the picture, every top-down map over it, the drawn object over it, answer and truth.

    The queried object is framed everywhere; every map has a scale of its own.

    :param learner: with a method ``look(image, task, argument)``.
    """
    words, lines, titles = Words(stream), [], [""]
    for task, rows in questions_of(stream):
        taken = stream.test.take(rows, ["image", "argument", "box", "class"])
        look = learner.look(taken["image"], task, taken["argument"])
        lines += [_line(taken, look, i, task, words) for i in range(len(rows))]
        titles = _titles(look)
    draw_board(path, lines, titles=titles, legend=LEGEND)


def _titles(look: Looked) -> list[str]:
    n = len(look.maps)
    levels = [f"top-down, level {n - i}" for i in range(n)]
    return ["the picture", *levels, *(["drawn from level 1"] if look.drawn is not None else [])]


def _line(taken: dict[str, np.ndarray], look: Looked, i: int, task: int, words: Words) -> list[Cell]:
    image, box = taken["image"][i], taken["box"][i]
    text, colour = _said(words, taken, look, i, task)
    lights = [enlarged(level[i], image.shape[:2]) for level in look.maps]
    lights += [] if look.drawn is None else [stretched(look.drawn[i])]
    return [Cell(image, box, text, colour), *(Cell(lit(image, light), box) for light in lights)]


def stretched(drawn: np.ndarray) -> np.ndarray:
    """A drawing [H, W] on its own scale, 0..1: black where it is darkest, full where it is brightest."""
    low, high = np.percentile(drawn, (50, 99.5))
    return np.clip((drawn - low) / max(float(high - low), 1e-12), 0, 1)


def lit(image: np.ndarray, light: np.ndarray) -> np.ndarray:
    """A picture as a dark ground under light of a warm colour, uint8 [H, W, 3].

    :param image: uint8 [H, W] or [H, W, 3].
    :param light: 0..1, [H, W].
    """
    from matplotlib import colormaps

    ground = image if image.ndim == 3 else np.repeat(image[..., None], 3, 2)
    warm = colormaps["inferno"](light)[..., :3] * 255
    return np.clip(DARK * ground + (1 - DARK) * warm * (1.2 * light[..., None] ** 0.7), 0, 255).astype(np.uint8)


def _said(
    words: Words, taken: dict[str, np.ndarray], look: Looked, i: int, task: int
) -> tuple[str, tuple[int, int, int]]:
    """Question, answer and, where that is wrong, the truth; and the colour of it."""
    given, right = int(look.logits[i].argmax()), int(taken["class"][i])
    text = f"{words.ask(task, int(taken['argument'][i]))}? {words.answer(task, given)}"
    if given == right:
        return f"{text}, correct", RIGHT
    return f"{text}, wrong: it is {words.answer(task, right)}", WRONG
