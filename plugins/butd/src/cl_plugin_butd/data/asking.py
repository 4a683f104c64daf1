"""Questions about pictures of a grid, a stage and a test set for each direction.

Shapes: N pictures, Q questions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cl_kernel import Stage, Stream, fingerprint
from cl_plugin_butd.data import grid
from cl_plugin_butd.data.glyphs import Glyphs
from cl_plugin_butd.data.questions import Questions, existence, joined, question_fields

if TYPE_CHECKING:
    from cl_kernel import Resources
    from cl_plugin_butd.settings import GridStream

Drawn = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Pictures [N, H, W] (or with colours), boxes of their characters [N, M, 4], layouts [N, rows, columns]."""


def questions(
    drawn: Drawn,
    glyphs: Glyphs,
    direction: tuple[int, int],
    task: int,
    n_tasks: int,
    per_picture: int,
    rng: np.random.Generator,
    *,
    border: bool = False,
) -> Questions:
    """Samples of one direction about drawn pictures."""
    n = len(glyphs.class_names)
    images, boxes, layout = drawn
    picture, place, argument, answer = grid.ask(layout, *direction, per_picture, rng, border=n if border else None)
    tables = {
        "task": np.full(len(picture), task, np.int64),
        "argument": argument.astype(np.int64),
        "existence": existence(layout, n)[picture],
        "class": answer.astype(np.int64),
        "box": boxes[picture, place],
    }
    return Questions(images, picture, tables, question_fields(n_tasks, n, n, n + border))


def language_questions(
    drawn: Drawn,
    n: int,
    direction: tuple[int, int],
    task: int,
    n_tasks: int,
    settings: GridStream,
    rng: np.random.Generator,
) -> Questions:
    """Samples of one language, its characters numbered from 0; the border is the label after them."""
    images, boxes, layout = drawn
    picture, place, argument, answer = grid.ask(
        layout, *direction, settings.per_picture, rng, border=n if settings.border else None
    )
    tables = {
        "task": np.full(len(picture), task, np.int64),
        "argument": argument.astype(np.int64),
        "existence": existence(layout, n)[picture],
        "class": answer.astype(np.int64),
        "box": boxes[picture, place],
    }
    return Questions(images, picture, tables, question_fields(n_tasks, n, n, n + 1))


def staged(
    name: str,
    glyphs: Glyphs,
    directions: Sequence[str],
    ways: Sequence[tuple[int, int]],
    sides: Mapping[str, Drawn],
    per_picture: int,
    resources: Resources,
    *,
    border: bool,
) -> Stream:
    """A stage and a test set for each direction over drawn pictures.

    :param sides: ``train`` and ``test`` -> what was drawn.
    """
    stages, tests, test_sets, start = [], [], {}, 0
    for task, (word, way) in enumerate(zip(directions, ways, strict=True)):
        made = {
            side: questions(
                drawn,
                glyphs,
                way,
                task,
                len(ways),
                per_picture if side == "train" else 1,
                resources.rng("questions", side, word),
                border=border,
            )
            for side, drawn in sides.items()
        }
        stages.append(
            Stage(
                index=task,
                name=word,
                train=made["train"],
                info={"task": task, "direction": list(way), "arguments": list(glyphs.class_names)},
            )
        )
        tests.append(made["test"])
        test_sets[word] = np.arange(start, start + len(made["test"]))
        start += len(made["test"])
    return Stream(
        name=name,
        task="image + instruction -> class",
        stages=stages,
        test=joined(tests),
        test_sets=test_sets,
        class_names=(*glyphs.class_names, *(("border",) if border else ())),
        fingerprint=fingerprint(*sides["train"], *sides["test"], glyphs.checksum, tuple(directions)),
        info={
            "directions": [list(way) for way in ways],
            "n_arguments": [len(glyphs.class_names)],
            "languages": [0] * len(ways),
            "border": border,
        },
    )
