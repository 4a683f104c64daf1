"""The published sets, prepared: spatial and persons.

Shapes: Q questions, H W canvas.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from cl_kernel import BadInput, MissingAsset, Resources
from cl_plugin_butd.data import augment, persons, prepare, spatial
from cl_plugin_butd.data.prepare import Prepared, data_folder
from cl_plugin_butd.data.sources import source_of

if TYPE_CHECKING:
    from cl_plugin_butd.settings import PersonsData, Spatial


# ---- spatial ----------------------------------------------------------------------------------------
def spatial_recipe(settings: Spatial) -> spatial.SpatialRecipe:
    """The recipe of the settings."""
    n, extended = settings.n_characters, False
    if settings.variant != "custom":
        count, size = settings.variant.split("-")
        n, extended = int(count), size == "extended"
    return spatial.SpatialRecipe(
        n_characters=n,
        extended=extended,
        n_train=settings.n_train or None,
        n_test=settings.n_test,
        n_val=settings.n_val,
        per_row=settings.per_row,
        cell=settings.cell,
        canvas=settings.canvas,
        scale=settings.scale,
        n_held_strings=settings.n_held_strings,
        string_seed=settings.string_seed,
        questions=settings.questions or None,
    )


def drawn_part(recipe: spatial.SpatialRecipe) -> tuple[tuple[int, int], tuple[int, int]]:
    """Corner and size of the part of the canvas anything is drawn in."""
    rows = -(-recipe.n_characters // recipe.per_row)
    # shift and scale are drawn from half-open ranges
    reach = math.ceil(recipe.shift * recipe.cell) - 1 + math.ceil(recipe.cell * recipe.scale[1]) - 1
    top, left = 0, recipe.cell
    height = min(recipe.size[0], (rows - 1) * recipe.cell + reach) - top
    width = min(recipe.size[1], recipe.columns * recipe.cell + reach) - left
    return (top, left), (height, width)


def spatial_set(settings: Spatial, resources: Resources) -> Prepared:
    """Draw a spatial set, or find it drawn."""
    recipe, source = spatial_recipe(settings), source_of(resources, settings.source)
    if settings.raw_checksum and settings.raw_checksum != source.checksum:
        raise BadInput(
            f"raw files of checksum {source.checksum}, expected {settings.raw_checksum}",
            where=f"{source.name}: dataset.raw_checksum",
            fix="get the raw files again, or leave dataset.raw_checksum empty",
        )
    n_classes = len(source.class_names)
    offline = settings.augment == "offline"
    (top, left), (height, width) = ((0, 0), recipe.size) if offline else drawn_part(recipe)

    def draw(split: str, number: int, picture: spatial.Picture) -> dict[str, Any]:
        whole = spatial.render(recipe, source, picture)
        questions = picture.questions
        n = len(questions)
        if offline and split == "train":
            # the published sets store one augmented picture a question, seeded by its number
            first = number * n
            image = np.stack([augment.augment_one(whole, augment.SPATIAL, first + i) for i in range(n)])
            owner = np.arange(n)
        else:
            image = whole[None, top : top + height, left : left + width]
            owner = np.zeros(n, np.int64)
        answers = [spatial.neighbour(picture.characters, d, p, recipe.per_row, n_classes) for d, p in questions]
        directions, places = np.asarray(questions).T
        row: dict[str, Any] = {
            "image": image,
            "task": directions.astype(np.uint8),
            "argument": picture.characters[places].astype(np.int64),
            "class": np.asarray(answers, np.int64),
            "existence": np.bincount(picture.characters, minlength=n_classes)[None].astype(np.uint8),
            "box": np.concatenate(
                [
                    picture.top_left[places],
                    np.repeat((recipe.cell * picture.scales[places]).astype(np.int64)[:, None], 2, 1),
                ],
                1,
            ).astype(np.int64),
            "owner": owner + 0,
        }
        if settings.segmentation:
            row["seg"] = np.stack(
                [
                    spatial.render(recipe, source, picture, only=p)[top : top + height, left : left + width]
                    for _, p in questions
                ]
            )
        return row

    numbered = _number_pictures(draw)
    inputs = {
        "recipe": _plain(recipe),
        "source": source.name,
        "raw": source.checksum,
        "offline": offline,
        "segmentation": settings.segmentation,
    }
    info = {
        "n_tasks": 2,
        "n_arguments": n_classes,
        "n_occurrence": n_classes,
        "n_classes": n_classes + 2,
        "class_names": [*source.class_names, "border", "not available"],
        "tasks": ["right of", "left of"],
        "arguments": list(source.class_names),
        "shape": list(recipe.size),
        "corner": [top, left],
    }
    held = spatial.allowed_pairs(recipe, spatial.held_strings(recipe, source.usable), n_classes, source.usable)
    resources.say(spatial.describe_difficulty(held, source.usable))
    return prepare.prepare(
        f"spatial-{source.name}",
        inputs,
        data_folder(settings.directory, resources),
        info,
        lambda: spatial.pictures(recipe, source),
        numbered,
        resources.cache,
    )


def _number_pictures(draw: Callable[[str, int, Any], dict[str, Any]]) -> Callable[[str, int, Any], dict[str, Any]]:
    """Turn ``owner`` (picture within a layout) into ``picture`` (picture within a shard)."""
    seen: dict[str, int] = {}

    def numbered(split: str, number: int, layout: Any) -> dict[str, Any]:
        if number % prepare.SHARD == 0:
            seen[split] = 0
        row = draw(split, number, layout)
        row["picture"] = row.pop("owner") + seen[split]
        seen[split] += len(row["image"])
        return row

    return numbered


def prepare_spatial(settings: Spatial, resources: Resources) -> Path:
    """``clk data prepare butd:emnist`` and ``butd:digits``."""
    return spatial_set(settings, resources).folder


def _plain(recipe: Any) -> dict[str, Any]:
    return json.loads(json.dumps(attrs.asdict(recipe)))


# ---- persons ----------------------------------------------------------------------------------------
def people_of(settings: PersonsData, resources: Resources) -> persons.People:
    """Raw people: the converted file below a data root, or procedural ones."""
    if settings.stand_in:
        return persons.procedural(resources.rng("people"))
    for root in resources.roots:
        for place in (root / "avatars_6_raw.npz", root / "persons" / "avatars_6_raw.npz"):
            if place.exists():
                with np.load(place, allow_pickle=False) as raw:
                    return persons.People(
                        images=raw["images"],
                        masks=raw["masks"],
                        labels=raw["labels"],
                        n_people=int(raw["n_people"]) if "n_people" in raw.files else 6,
                    )
    raise MissingAsset(
        "no raw people (avatars_6_raw.npz)",
        where=f"data roots: {', '.join(map(str, resources.roots)) or 'none given'}",
        fix="clk butd import-legacy persons avatars_6_raw.pkl DIR, then --data-root DIR",
    )


def persons_recipe(settings: PersonsData) -> persons.PersonsRecipe:
    """The recipe of the settings."""
    return persons.PersonsRecipe(
        extended=settings.variant == "extended",
        hide_many=settings.hide_many,
        n_configurations=settings.n_configurations or None,
        n_test=settings.n_test or None,
        size=settings.size,
        canvas=(2 * settings.size, 4 * settings.size),
        margin=settings.size // 2,
    )


def persons_set(settings: PersonsData, resources: Resources) -> Prepared:
    """Draw a persons set, or find it drawn."""
    recipe, people = persons_recipe(settings), people_of(settings, resources)
    offline = settings.augment == "offline"

    def draw(split: str, number: int, scene: persons.Scene) -> dict[str, Any]:
        whole = persons.render(recipe, people, scene)
        n = len(scene.questions)
        places, features = np.asarray(scene.questions).T
        if offline and split == "train":
            image = np.stack([augment.augment_one(whole, augment.PERSONS, number * n + i) for i in range(n)])
            owner = np.arange(n)
        else:
            image, owner = whole[None], np.zeros(n, np.int64)
        table, weight = persons.labels_of(scene, people)
        side = (scene.scales * recipe.size).astype(np.int64)
        row: dict[str, Any] = {
            "image": image,
            "task": features.astype(np.uint8),
            "argument": scene.people[places].astype(np.int64),
            "class": people.labels[scene.instances[places], features].astype(np.int64),
            "existence": np.bincount(scene.people, minlength=people.n_people)[None].astype(np.uint8),
            "box": np.concatenate([scene.top_left[places], np.repeat(side[places, None], 2, 1)], 1).astype(np.int64),
            "person": scene.people[places].astype(np.int64),
            "answers": table[None],
            "answer_weight": weight[None],
            "owner": owner + 0,
        }
        if settings.segmentation:
            row["seg"] = np.stack([persons.render(recipe, people, scene, only=int(p)) for p in places])
        return row

    inputs = {
        "recipe": _plain(recipe),
        "raw": people.checksum,
        "draws": 2,
        "offline": offline,
        "segmentation": settings.segmentation,
    }
    n_values = people.absent + 1
    info = {
        "n_tasks": len(persons.FEATURES),
        "n_arguments": people.n_people,
        "n_occurrence": people.n_people,
        "n_classes": n_values,
        "class_names": [*(f"value {v}" for v in range(n_values - 1)), "absent"],
        "tasks": [f"{feature} of" for feature in persons.FEATURES],
        "arguments": [f"person {i}" for i in range(people.n_people)],
        "shape": list(recipe.canvas),
        "corner": [0, 0],
    }
    return prepare.prepare(
        "persons",
        inputs,
        data_folder(settings.directory, resources),
        info,
        lambda: persons.scenes(recipe, people),
        _number_pictures(draw),
        resources.cache,
    )


def prepare_persons(settings: PersonsData, resources: Resources) -> Path:
    """``clk data prepare butd:persons``."""
    return persons_set(settings, resources).folder
