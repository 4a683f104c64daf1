"""From settings to streams: prepared sets, grids of any source, Omniglot's languages, classes for transfer."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from cl_kernel import ArraySamples, Field, Resources, Stage, Stream, class_incremental, fingerprint
from cl_plugin_butd.data import glyphs, grid
from cl_plugin_butd.data.asking import Drawn, language_questions, staged
from cl_plugin_butd.data.grid_sets import drawn_sides, grid_pictures, language_groups, split_instances
from cl_plugin_butd.data.prepare import Prepared, imported
from cl_plugin_butd.data.questions import stacked, widened
from cl_plugin_butd.data.sets import persons_set, spatial_set
from cl_plugin_butd.data.sources import source_of

if TYPE_CHECKING:
    from cl_plugin_butd.settings import GridStream, PersonsData, Spatial

TASK = "image + instruction -> class"


def build_spatial(settings: Spatial, resources: Resources) -> Stream:
    """One stage; test sets are held-out combinations (``cg_test``) and unseen pictures of seen ones (``iid_val``)."""
    return _prepared_stream(
        "spatial", imported(settings.directory) or spatial_set(settings, resources), ["right", "left"]
    )


def build_persons(settings: PersonsData, resources: Resources) -> Stream:
    """One stage; test sets as for the spatial set."""
    return _prepared_stream("persons", imported(settings.directory) or persons_set(settings, resources), [])


def _prepared_stream(name: str, prepared: Prepared, directions: list[str]) -> Stream:
    info = prepared.manifest["info"]
    names = {key: info[key] for key in ("tasks", "arguments", "answers") if key in info}
    held, seen = prepared.samples("test"), prepared.samples("val")
    test = stacked(held, seen)
    return Stream(
        name=name,
        task=TASK,
        stages=[Stage(index=0, name=name, train=prepared.samples("train"), info={"task": 0, **names})],
        test=test,
        test_sets={"cg_test": np.arange(len(held)), "iid_val": np.arange(len(held), len(test))},
        class_names=tuple(info["class_names"]),
        fingerprint=prepared.manifest["key"][:16],
        info={"n_arguments": [info["n_arguments"]], "directions": directions},
    )


def build_grid(settings: GridStream, resources: Resources) -> Stream:
    """A stage for each direction over one set of pictures."""
    source = source_of(resources, settings.source)
    ways = grid.parse_directions(settings.directions, settings.rows, settings.columns)
    folder = grid_pictures(settings, resources, source)
    return staged(
        f"{settings.source} grid",
        source,
        settings.directions,
        ways,
        drawn_sides(folder),
        settings.per_picture,
        resources,
        border=settings.border,
    )


def build_omniglot(settings: GridStream, resources: Resources) -> Stream:
    """A stage for each language and direction: five languages merged first, then each with arguments of its own."""
    source = source_of(resources, settings.source)
    groups = language_groups(source)
    ways = grid.parse_directions(settings.directions, settings.rows, settings.columns)
    asked = [(group, way) for group in range(len(groups)) for way in range(len(ways))]
    usable = [tuple(np.flatnonzero(np.isin(source.languages, group)).tolist()) for group in groups]
    drawn = [
        _renumbered(drawn_sides(grid_pictures(settings, resources, source, classes, number)), classes)
        for number, classes in enumerate(usable)
    ]
    width = max(map(len, usable))
    stages, tests, sets, start = [], [], {}, 0
    for task, (group, way) in enumerate(asked):
        language = "initial" if group == 0 else source.language_names[groups[group][0]]
        word = language if len(ways) == 1 else f"{language} {settings.directions[way]}"
        # the first direction keeps the draws of a stream that has no other
        own = () if way == 0 else (settings.directions[way],)
        made = {
            side: language_questions(
                drawn[group][side],
                len(usable[group]),
                ways[way],
                task,
                len(asked),
                settings,
                resources.rng("questions", side, group, *own),
            )
            for side in ("train", "test")
        }
        names = [source.class_names[c] for c in usable[group]]
        info = {"task": task, "direction": list(ways[way]), "arguments": names, "answers": [*names, "border"]}
        stages.append(Stage(index=task, name=word, train=widened(made["train"], width), info=info))
        tests.append(widened(made["test"], width))
        sets[word] = np.arange(start, start + len(tests[-1]))
        start += len(tests[-1])
    return Stream(
        name="omniglot",
        task=TASK,
        stages=stages,
        test=functools.reduce(stacked, tests),
        test_sets=sets,
        class_names=tuple(f"character {i}" for i in range(width)) + ("border",),
        fingerprint=fingerprint(source.checksum, groups, list(settings.directions)),
        info={
            "n_arguments": [len(classes) for classes in usable],
            "languages": [group for group, _ in asked],
            "n_answers": [len(usable[group]) + 1 for group, _ in asked],
            "directions": [list(ways[way]) for _, way in asked],
        },
    )


def _renumbered(sides: dict[str, Drawn], classes: tuple[int, ...]) -> dict[str, Drawn]:
    """The same with characters counted from 0 within their language."""
    local = np.zeros(max(classes) + 1, np.int64)
    local[list(classes)] = np.arange(len(classes))
    return {side: (np.asarray(images), boxes, local[layout]) for side, (images, boxes, layout) in sides.items()}


def build_cifar_classes(settings: Any, resources: Resources) -> Stream:
    """CIFAR-100's training pictures in ten stages of ten classes; a tenth, drawn with seed 0, is the test."""
    source = source_of(resources, "cifar100")
    n = len(source.images) * 5 // 6  # the test pictures come last and are left alone
    order = np.random.RandomState(0).permutation(n)
    spec = {
        "image": Field(shape=source.images.shape[1:], dtype="uint8", kind="image"),
        "class": Field(shape=(), dtype="int64", kind="class", n=len(source.class_names)),
    }
    sides = [
        ArraySamples(spec, {"image": source.images[rows], "class": source.labels[rows]})
        for rows in (np.sort(order[: n * 9 // 10]), np.sort(order[n * 9 // 10 :]))
    ]
    return class_incremental(
        "CIFAR-100 classes",
        *sides,
        source.class_names,
        sizes=[len(source.class_names) // 10] * 10,
        shuffle=resources.rng("order"),
        fingerprint=source.checksum,
    )


def build_digit_classes(settings: Any, resources: Resources) -> Stream:
    """scikit-learn's digits in three stages: 4, 3 and 3 classes; toy data for a stream of data sets."""
    source = glyphs.digits()
    halves = split_instances(source)
    spec = {
        "image": Field(shape=(8, 8), dtype="uint8", kind="image"),
        "class": Field(shape=(), dtype="int64", kind="class", n=10),
    }
    sides = {side: ArraySamples(spec, {"image": half.images, "class": half.labels}) for side, half in halves.items()}
    return class_incremental(
        "digit classes",
        sides["train"],
        sides["test"],
        source.class_names,
        sizes=[4, 3, 3],
        shuffle=resources.rng("order"),
        fingerprint=source.checksum,
    )
