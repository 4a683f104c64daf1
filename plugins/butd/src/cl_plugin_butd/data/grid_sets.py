"""Pictures of grids, drawn once and kept: every source of characters, Omniglot by languages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import numpy as np

from cl_kernel import BadInput, Resources, content_key, write_json
from cl_plugin_butd.data import glyphs, grid
from cl_plugin_butd.data.asking import Drawn
from cl_plugin_butd.data.prepare import MANIFEST, SHARD, data_folder
from cl_plugin_butd.data.sources import source_of

if TYPE_CHECKING:
    from cl_plugin_butd.settings import GridStream


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
        "version": 3,
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
    with resources.cache.claimed("butd-grid", inputs):
        if not (folder / MANIFEST).exists():
            _draw_sides(folder, recipe, source, usable, sizes, resources, tag)
            write_json(folder / MANIFEST, {"inputs": inputs})
    for shard in folder.glob("*.part.npz"):
        shard.unlink(missing_ok=True)
    return folder


def _draw_sides(
    folder: Path,
    recipe: grid.GridRecipe,
    source: glyphs.Glyphs,
    usable: tuple[int, ...],
    sizes: dict[str, int],
    resources: Resources,
    tag: int,
) -> None:
    """Layouts, pictures and boxes of both sides, a shard at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    halves = split_instances(source)
    for side, n in sizes.items():
        layout = grid.layouts(recipe, usable, n, resources.rng("layout", side, tag))
        np.save(folder / f"{side}-layout.npy", layout)
        shards = []
        for start in range(0, n, SHARD):
            shard = folder / f"{side}-{start // SHARD:05d}.part.npz"
            if not shard.exists():
                rng = resources.rng("draw", side, tag, start)
                image, box = grid.draw(recipe, halves[side], layout[start : start + SHARD], rng)
                temporary = shard.with_suffix(".tmp")
                with temporary.open("wb") as handle:
                    np.savez(handle, image=image, box=box)
                temporary.rename(shard)
            shards.append(shard)
        for name in ("image", "box"):
            parts = []
            for shard in shards:
                with np.load(shard) as part:
                    parts.append(part[name])
            np.save(folder / f"{side}-{name}.npy", np.concatenate(parts))


def drawn_sides(folder: Path) -> dict[str, Drawn]:
    """What :func:`grid_pictures` left: ``train`` and ``test``, pictures memory-mapped."""
    return {
        side: (
            np.load(folder / f"{side}-image.npy", mmap_mode="r"),
            np.load(folder / f"{side}-box.npy"),
            np.load(folder / f"{side}-layout.npy"),
        )
        for side in ("train", "test")
    }


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


INITIAL_LANGUAGES = 5


LATER_LANGUAGES = (49, 43, 42, 41, 40)
"""Languages by count of characters: 48 to 44 are learnt first, together; then these, as published."""


def language_groups(source: glyphs.Glyphs) -> list[tuple[int, ...]]:
    """Languages of each stage: the published ones of all fifty, or some of a smaller set.

    :raises BadInput: for a single language.
    """
    n = len(source.language_names)
    if n == 50:
        first = tuple(range(n - 2, n - 2 - INITIAL_LANGUAGES, -1))
        return [first, *((language,) for language in LATER_LANGUAGES)]
    if n < 2:
        raise BadInput(
            f"{n} alphabet cannot be learnt one after another",
            where="omniglot-py",
            fix="bring images_background and images_evaluation whole: 50 alphabets",
        )
    # a part of Omniglot: the larger half of the alphabets first, at most five, the others one by one
    first_count = min(INITIAL_LANGUAGES, -(-n // 2))
    order = range(n - 1, -1, -1)
    return [tuple(order[:first_count]), *((language,) for language in order[first_count:])]


# ---- grids ------------------------------------------------------------------------------------------
def prepare_grid(settings: GridStream, resources: Resources) -> Path:
    """``clk data prepare butd:fashion`` and the other grids; for Omniglot, a set for each stage of languages."""
    source = source_of(resources, settings.source)
    if settings.source != "omniglot":
        return grid_pictures(settings, resources, source)
    folder = Path()
    languages = np.asarray(source.languages)
    for task, group in enumerate(language_groups(source)):
        usable = tuple(np.flatnonzero(np.isin(languages, group)).tolist())
        folder = grid_pictures(settings, resources, source, usable, task)
    return folder.parent
