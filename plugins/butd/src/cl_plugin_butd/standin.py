"""The embedded stand-in: rows of three random patterns, and questions about neighbours; seconds on a laptop.

The design is the one the specification verified (section 4.6): one row, no border answers. A larger grid or border
answers keep the network at chance, so neither is offered here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cl_kernel import Stage, Stream, fingerprint
from cl_plugin_butd.data import grid
from cl_plugin_butd.data.glyphs import Glyphs, patterns
from cl_plugin_butd.data.questions import Questions, question_fields

if TYPE_CHECKING:
    from cl_kernel import Resources
    from cl_plugin_butd.settings import GridStream, HeldOut, Patterns


def existence(layout: np.ndarray, n_classes: int) -> np.ndarray:
    """Which characters a picture shows, uint8 [N, K]."""
    shown = np.zeros((len(layout), n_classes), np.uint8)
    shown[np.arange(len(layout))[:, None], layout.reshape(len(layout), -1)] = 1
    return shown


def questions(
    recipe: grid.GridRecipe,
    images: np.ndarray,
    layout: np.ndarray,
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
    picture, place, argument, answer = grid.ask(layout, *direction, per_picture, rng, border=n if border else None)
    corner = np.stack(np.divmod(place, recipe.columns), 1) * recipe.cell + np.asarray(recipe.margin)
    box = np.concatenate([corner, np.full_like(corner, recipe.cell)], 1)
    tables = {
        "task": np.full(len(picture), task, np.int64),
        "argument": argument.astype(np.int64),
        "existence": existence(layout, n)[picture],
        "class": answer.astype(np.int64),
        "box": box.astype(np.int64),
    }
    return Questions(images, picture, tables, question_fields(n_tasks, n, n, n + border))


def build(settings: Patterns, resources: Resources) -> Stream:
    """Stages are directions; all ask about the same pictures."""
    glyphs = patterns(settings.n_patterns, resources.rng("patterns"))
    return direction_stream(
        "patterns",
        grid.GridRecipe(rows=1, columns=settings.columns),
        glyphs,
        settings.directions,
        settings.n_train,
        settings.n_test,
        settings.per_picture,
        resources,
    )


def direction_stream(
    name: str,
    recipe: grid.GridRecipe,
    glyphs: Glyphs,
    directions: tuple[str, ...],
    n_train: int,
    n_test: int,
    per_picture: int,
    resources: Resources,
    *,
    border: bool = False,
) -> Stream:
    """A stage for each direction over one set of pictures."""
    recipe.check(glyphs)
    ways = [grid.parse_direction(d, recipe.rows, recipe.columns) for d in directions]
    sides = {}
    for side, n in (("train", n_train), ("test", n_test)):
        layout = grid.layouts(recipe, glyphs.usable, n, resources.rng("layout", side))
        sides[side] = layout, grid.draw(recipe, glyphs, layout, resources.rng("draw", side))
    return staged(name, recipe, glyphs, directions, ways, sides, per_picture, resources, border=border)


def staged(
    name: str,
    recipe: grid.GridRecipe,
    glyphs: Glyphs,
    directions: Sequence[str],
    ways: Sequence[tuple[int, int]],
    sides: Mapping[str, tuple[np.ndarray, np.ndarray]],
    per_picture: int,
    resources: Resources,
    *,
    border: bool,
) -> Stream:
    """A stage and a test set for each direction over drawn pictures.

    :param sides: ``train`` and ``test`` -> (layouts, pictures).
    """
    stages, tests, test_sets, start = [], [], {}, 0
    for task, (word, way) in enumerate(zip(directions, ways, strict=True)):
        made = {
            side: questions(
                recipe,
                images,
                layout,
                glyphs,
                way,
                task,
                len(ways),
                per_picture if side == "train" else 1,
                resources.rng("questions", side, word),
                border=border,
            )
            for side, (layout, images) in sides.items()
        }
        stages.append(Stage(index=task, name=word, train=made["train"], info={"task": task, "direction": list(way)}))
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
        fingerprint=fingerprint(sides["train"][0], sides["test"][0], glyphs.checksum, tuple(directions)),
        info={
            "directions": [list(way) for way in ways],
            "n_arguments": [len(glyphs.class_names)],
            "languages": [0] * len(ways),
            "border": border,
        },
    )


def joined(parts: list[Questions]) -> Questions:
    """Questions about the same pictures one after the other."""
    first = parts[0]
    return Questions(
        first.images,
        np.concatenate([p.picture for p in parts]),
        {name: np.concatenate([p.tables[name] for p in parts]) for name in first.tables},
        first.fields,
        first.shape,
        first.corner,
    )


def build_held_out(settings: HeldOut, resources: Resources) -> Stream:
    """One stage of right-of questions; some ordered pairs never occur in training and make the second test set."""
    glyphs = patterns(settings.n_patterns, resources.rng("patterns"))
    rng = resources.rng("held out")
    pairs = [(a, b) for a in range(settings.n_patterns) for b in range(settings.n_patterns) if a != b]
    held = tuple(pairs[i] for i in sorted(rng.permutation(len(pairs))[: settings.n_held_out]))
    recipe = grid.GridRecipe(rows=1, columns=settings.columns, held_out=held)
    recipe.check(glyphs)
    made = {}
    for side, n, with_held in (
        ("train", settings.n_train, False),
        ("seen", settings.n_test, False),
        ("held-out", settings.n_test, True),
    ):
        layout = grid.layouts(recipe, glyphs.usable, n, resources.rng("layout", side), with_held=with_held)
        images = grid.draw(recipe, glyphs, layout, resources.rng("draw", side))
        asked = questions(
            recipe,
            images,
            layout,
            glyphs,
            (1, 0),
            0,
            1,
            settings.per_picture if side == "train" else settings.columns,
            resources.rng("ask", side),
        )
        made[side] = asked
    answers = made["held-out"].tables
    about = np.asarray([(a, b) in set(held) for a, b in zip(answers["argument"], answers["class"], strict=True)])
    test = stacked(made["seen"], picked(made["held-out"], np.flatnonzero(about)))
    return Stream(
        name="held-out",
        task="image + instruction -> class",
        stages=[Stage(index=0, name="right", train=made["train"], info={"task": 0, "direction": [1, 0]})],
        test=test,
        test_sets={
            "seen pairs": np.arange(len(made["seen"])),
            "held-out pairs": np.arange(len(made["seen"]), len(test)),
        },
        class_names=glyphs.class_names,
        fingerprint=fingerprint(made["train"].images, held),
        info={
            "directions": [[1, 0]],
            "n_arguments": [settings.n_patterns],
            "languages": [0],
            "border": False,
            "held_out": [list(pair) for pair in held],
        },
    )


def picked(samples: Questions, rows: np.ndarray) -> Questions:
    """Some questions."""
    return Questions(
        samples.images,
        samples.picture[rows],
        {k: v[rows] for k, v in samples.tables.items()},
        samples.fields,
        samples.shape,
        samples.corner,
    )


def stacked(a: Questions, b: Questions) -> Questions:
    """Questions about different pictures, one after the other."""
    return Questions(
        np.concatenate([a.images, b.images]),
        np.concatenate([a.picture, b.picture + len(a.images)]),
        {k: np.concatenate([a.tables[k], b.tables[k]]) for k in a.tables},
        a.fields,
        a.shape,
        a.corner,
    )


def language_questions(
    recipe: grid.GridRecipe,
    images: np.ndarray,
    layout: np.ndarray,
    n: int,
    direction: tuple[int, int],
    task: int,
    n_tasks: int,
    settings: GridStream,
    rng: np.random.Generator,
) -> Questions:
    """Samples of one language, its characters numbered from 0; the border is the label after them."""
    picture, place, argument, answer = grid.ask(
        layout, *direction, settings.per_picture, rng, border=n if settings.border else None
    )
    corner = np.stack(np.divmod(place, recipe.columns), 1) * recipe.cell + np.asarray(recipe.margin)
    tables = {
        "task": np.full(len(picture), task, np.int64),
        "argument": argument.astype(np.int64),
        "existence": existence(layout, n)[picture],
        "class": answer.astype(np.int64),
        "box": np.concatenate([corner, np.full_like(corner, recipe.cell)], 1).astype(np.int64),
    }
    return Questions(images, picture, tables, question_fields(n_tasks, n, n, n + 1))


def widened(samples: Questions, n: int) -> Questions:
    """The same with presence tables of a common width."""
    tables = dict(samples.tables)
    before = tables["existence"]
    tables["existence"] = np.pad(before, ((0, 0), (0, n - before.shape[1])))
    n_tasks = samples.fields["task"].n
    return Questions(
        samples.images, samples.picture, tables, question_fields(n_tasks, n, n, n + 1), samples.shape, samples.corner
    )
