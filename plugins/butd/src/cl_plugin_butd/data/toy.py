"""Toy data: rows of three random patterns, and questions about neighbours; seconds on a laptop.

One row, no border answers: a larger grid or border answers keep a network of this size at chance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from attrs import evolve

from cl_kernel import BadSetting, Stage, Stream, fingerprint
from cl_plugin_butd.data import grid
from cl_plugin_butd.data.asking import questions, staged
from cl_plugin_butd.data.glyphs import Glyphs, digits, patterns
from cl_plugin_butd.data.questions import picked, stacked

if TYPE_CHECKING:
    from cl_kernel import Resources
    from cl_plugin_butd.settings import HeldOut, Patterns


def build(settings: Patterns, resources: Resources) -> Stream:
    """Stages are directions; all ask about the same pictures."""
    if settings.source == "digits":
        glyphs, recipe = one_of_each(settings.n_patterns), grid.GridRecipe(columns=settings.columns, margin=(1, 0))
    else:
        glyphs = patterns(settings.n_patterns, resources.rng("patterns"))
        recipe = grid.GridRecipe(columns=settings.columns)
    return direction_stream(
        settings.source,
        recipe,
        glyphs,
        settings.directions,
        settings.n_train,
        settings.n_test,
        settings.per_picture,
        resources,
    )


def one_of_each(n: int) -> Glyphs:
    """The handwritten digit of each class that is nearest to its class mean, 8 x 7 pixels.

    :raises BadSetting: for more than ten classes.
    """
    every = digits()
    if n > len(every.class_names):
        raise BadSetting(f"{n} different digits", where="dataset.n_patterns", fix="use at most 10")
    chosen = []
    for rows in every.instances()[:n]:
        mine = every.images[rows].astype(float)
        chosen.append(rows[np.square(mine - mine.mean(0)).sum((1, 2)).argmin()])
    return evolve(
        every,
        images=every.images[chosen][:, :, 1:],
        labels=np.arange(n, dtype=np.int64),
        class_names=every.class_names[:n],
        usable=tuple(range(n)),
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
    ways = grid.parse_directions(directions, recipe.rows, recipe.columns)
    sides = {}
    for side, n in (("train", n_train), ("test", n_test)):
        layout = grid.layouts(recipe, glyphs.usable, n, resources.rng("layout", side))
        sides[side] = *grid.draw(recipe, glyphs, layout, resources.rng("draw", side)), layout
    return staged(name, glyphs, directions, ways, sides, per_picture, resources, border=border)


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
        drawn = grid.draw(recipe, glyphs, layout, resources.rng("draw", side))
        asked = questions(
            (*drawn, layout),
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
        stages=[
            Stage(
                index=0,
                name="right",
                train=made["train"],
                info={"task": 0, "direction": [1, 0], "tasks": ["right of"], "arguments": list(glyphs.class_names)},
            )
        ],
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
