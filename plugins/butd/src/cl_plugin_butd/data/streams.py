"""From settings to streams: prepared sets, grids of any source, Omniglot's languages, classes for transfer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from cl_kernel import (
    ArraySamples,
    Field,
    Resources,
    Stage,
    Stream,
    class_incremental,
    content_key,
    fingerprint,
    write_json,
)
from cl_plugin_butd import standin
from cl_plugin_butd.data import glyphs, grid
from cl_plugin_butd.data.prepare import MANIFEST, SHARD, Prepared, data_folder
from cl_plugin_butd.data.sets import persons_set, source_of, spatial_set

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
    test = standin.stacked(held, seen)
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


def recipe_of(settings: GridStream) -> grid.GridRecipe:
    """The recipe of the settings."""
    return grid.GridRecipe(
        rows=settings.rows,
        columns=settings.columns,
        cell=settings.cell,
        margin=settings.margin,
        scale=settings.scale,
        shift=settings.shift,
        ink=settings.ink,
    )


def grid_pictures(
    settings: GridStream,
    resources: Resources,
    source: glyphs.Glyphs,
    usable: tuple[int, ...] | None = None,
    tag: int = 0,
) -> Path:
    """Layouts and pictures of a grid, drawn once, in shards; a killed preparation goes on with the next shard.

    Pictures of the test come from other instances than those of training.

    :param usable: classes to draw; None for all the source allows.
    """
    recipe, usable = recipe_of(settings), usable or source.usable
    recipe.check(source)
    sizes = {"train": settings.n_train, "test": settings.n_test}
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in attrs.asdict(recipe).items()}
    inputs = {
        "version": 2,
        "recipe": plain,
        "raw": source.checksum,
        "sizes": sizes,
        "usable": list(usable),
        "seed": resources.seed,
        "tag": tag,
    }
    folder = data_folder("", resources) / f"grid-{source.name}-{content_key(inputs)[:16]}"
    if (folder / MANIFEST).exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    halves = split_instances(source)
    for side, n in sizes.items():
        layout = grid.layouts(recipe, usable, n, resources.rng("layout", side, tag))
        np.save(folder / f"{side}-layout.npy", layout)
        shards = []
        for start in range(0, n, SHARD):
            shard = folder / f"{side}-{start // SHARD:05d}.part.npy"
            if not shard.exists():
                drawn = grid.draw(
                    recipe, halves[side], layout[start : start + SHARD], resources.rng("draw", side, tag, start)
                )
                temporary = shard.with_suffix(".tmp")
                with temporary.open("wb") as handle:
                    np.save(handle, drawn)
                temporary.rename(shard)
            shards.append(shard)
        np.save(folder / f"{side}-image.npy", np.concatenate([np.load(shard) for shard in shards]))
    write_json(folder / MANIFEST, {"inputs": inputs})
    for shard in folder.glob("*.part.npy"):
        shard.unlink()
    return folder


def split_instances(source: glyphs.Glyphs, share: float = 0.8) -> dict[str, glyphs.Glyphs]:
    """The first part of each character's instances for training, the rest for the test; all where there is one."""
    train, test = [], []
    for rows in source.instances():
        cut = max(1, int(share * len(rows)))
        train.append(rows[:cut])
        test.append(rows[cut:] if cut < len(rows) else rows)
    return {
        side: attrs.evolve(source, images=source.images[rows], labels=source.labels[rows])
        for side, rows in (("train", np.concatenate(train)), ("test", np.concatenate(test)))
    }


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
    return standin.staged(
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


INITIAL_LANGUAGES = 5
LATER_LANGUAGES = (49, 43, 42, 41, 40)
"""Languages by count of characters: 48 to 44 are learnt first, together; then these (spec 4.4)."""


def language_groups(source: glyphs.Glyphs) -> list[tuple[int, ...]]:
    """Languages of each stage."""
    n = len(source.language_names)
    first = tuple(range(n - 2, n - 2 - INITIAL_LANGUAGES, -1))
    return [first, *((language,) for language in LATER_LANGUAGES if language < n)]


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
            made[side] = standin.language_questions(
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
    tests = [standin.widened(t, width) for t in tests]
    stages = [attrs.evolve(stage, train=standin.widened(stage.train, width)) for stage in stages]
    test = tests[0]
    for more in tests[1:]:
        test = standin.stacked(test, more)
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
    """CIFAR-100's training pictures in ten stages of ten classes; a tenth, drawn with seed 0, is the test (spec 5)."""
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
    """scikit-learn's digits in three stages: 4, 3 and 3 classes; a small stand-in for a stream of data sets."""
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
