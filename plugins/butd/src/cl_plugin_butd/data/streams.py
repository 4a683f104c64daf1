"""From settings to streams: prepared sets, grids of any source, Omniglot's languages, classes for transfer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from cl_kernel import ArraySamples, Field, Resources, Stage, Stream, class_incremental, fingerprint
from cl_plugin_butd.data import glyphs, grid
from cl_plugin_butd.data.asking import language_questions, staged
from cl_plugin_butd.data.grid_sets import grid_pictures, language_groups, recipe_of, split_instances
from cl_plugin_butd.data.prepare import Prepared
from cl_plugin_butd.data.questions import stacked, widened
from cl_plugin_butd.data.sets import persons_set, spatial_set
from cl_plugin_butd.data.sources import source_of

if TYPE_CHECKING:
    from cl_plugin_butd.settings import GridStream, PersonsData, Spatial

TASK = "image + instruction -> class"


def build_spatial(settings: Spatial, resources: Resources) -> Stream:
    """One stage; test sets are held-out combinations (``cg_test``) and unseen pictures of seen ones (``iid_val``)."""
    return _prepared_stream("spatial", spatial_set(settings, resources), ["right", "left"])


def build_persons(settings: PersonsData, resources: Resources) -> Stream:
    """One stage; test sets as for the spatial set."""
    return _prepared_stream("persons", persons_set(settings, resources), [])


def _prepared_stream(name: str, prepared: Prepared, directions: list[str]) -> Stream:
    info = prepared.manifest["info"]
    held, seen = prepared.samples("test"), prepared.samples("val")
    test = stacked(held, seen)
    return Stream(
        name=name,
        task=TASK,
        stages=[Stage(index=0, name=name, train=prepared.samples("train"), info={"task": 0})],
        test=test,
        test_sets={"cg_test": np.arange(len(held)), "iid_val": np.arange(len(held), len(test))},
        class_names=tuple(info["class_names"]),
        fingerprint=prepared.manifest["key"][:16],
        info={"n_arguments": [info["n_arguments"]], "directions": directions},
    )


def build_grid(settings: GridStream, resources: Resources) -> Stream:
    """A stage for each direction over one set of pictures."""
    source = source_of(resources, settings.source)
    recipe = recipe_of(settings)
    ways = [grid.parse_direction(word, settings.rows, settings.columns) for word in settings.directions]
    folder = grid_pictures(settings, resources, source)
    sides = {
        side: (np.load(folder / f"{side}-layout.npy"), np.load(folder / f"{side}-image.npy", mmap_mode="r"))
        for side in ("train", "test")
    }
    return staged(
        f"{settings.source} grid",
        recipe,
        source,
        settings.directions,
        ways,
        sides,
        settings.per_picture,
        resources,
        border=settings.border,
    )


def build_omniglot(settings: GridStream, resources: Resources) -> Stream:
    """A stage for each language: the first merges five, each later one brings its own arguments and answers."""
    source = source_of(resources, settings.source)
    groups = language_groups(source)
    recipe = recipe_of(settings)
    dx, dy = grid.parse_direction(settings.directions[0], settings.rows, settings.columns)
    languages = np.asarray(source.languages)
    stages, tests, sets, start, n_arguments = [], [], {}, 0, []
    for task, group in enumerate(groups):
        usable = tuple(np.flatnonzero(np.isin(languages, group)).tolist())
        local = {c: i for i, c in enumerate(usable)}
        n_arguments.append(len(usable))
        word = "initial" if task == 0 else source.language_names[group[0]]
        made = {}
        folder = grid_pictures(settings, resources, source, usable, task)
        for side in ("train", "test"):
            layout, image = np.load(folder / f"{side}-layout.npy"), np.load(folder / f"{side}-image.npy")
            numbered = np.vectorize(local.get)(layout).astype(np.int64)
            made[side] = language_questions(
                recipe,
                image,
                numbered,
                len(usable),
                (dx, dy),
                task,
                len(groups),
                settings,
                resources.rng("questions", side, task),
            )
        stages.append(Stage(index=task, name=word, train=made["train"], info={"task": task}))
        tests.append(made["test"])
        sets[word] = np.arange(start, start + len(made["test"]))
        start += len(made["test"])
    width = max(n_arguments)
    tests = [widened(t, width) for t in tests]
    stages = [attrs.evolve(stage, train=widened(stage.train, width)) for stage in stages]
    test = tests[0]
    for more in tests[1:]:
        test = stacked(test, more)
    names = tuple(f"character {i}" for i in range(width)) + ("border",)
    return Stream(
        name="omniglot",
        task=TASK,
        stages=stages,
        test=test,
        test_sets=sets,
        class_names=names,
        fingerprint=fingerprint(source.checksum, groups),
        info={
            "n_arguments": n_arguments,
            "languages": list(range(len(groups))),
            "n_answers": [width + 1] * len(groups),
            "directions": [[dx, dy]] * len(groups),
        },
    )


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
