"""The preparer: pictures drawn once into shards, label tables beside them; repeated, it does nothing.

A prepared set is a folder named by a hash of everything it depends on: recipe, its version, the raw data's checksum.
Each shard is written to a temporary name and renamed, so a killed preparation continues with the next shard, and the
result is the same to the byte.

Shapes: N pictures, Q questions, M characters, H W canvas.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
from attrs import define

from cl_kernel import BadInput, Field, MissingAsset, Site, content_key, write_json
from cl_plugin_butd.data import augment, glyphs, persons, spatial
from cl_plugin_butd.data.questions import Questions, question_fields

if TYPE_CHECKING:
    from cl_plugin_butd.settings import GridStream, PersonsData, Spatial

RECIPE_VERSION = 2
SHARD = 500
"""Pictures in a shard."""
MANIFEST = "MANIFEST.json"
STORED = {"task": "u1", "argument": "<i2", "class": "<i2", "box": "<i2", "picture": "<i4"}
"""Narrow types of tables on disk; they are read back as the stream's fields say."""
PER_PICTURE = ("existence", "answers", "answer_weight")
"""Tables with a row a picture; the others have a row a question."""


@define
class Prepared:
    """A finished folder."""

    folder: Path
    manifest: dict[str, Any]

    def array(self, split: str, name: str) -> np.ndarray:
        """A table or the pictures of a split, memory-mapped."""
        return np.load(self.folder / split / f"{name}.npy", mmap_mode="r")

    def samples(self, split: str) -> Questions:
        """The questions of a split."""
        info = self.manifest["info"]
        fields = question_fields(info["n_tasks"], info["n_arguments"], info["n_occurrence"], info["n_classes"])
        names = [f.stem for f in sorted((self.folder / split).glob("*.npy")) if f.stem not in ("image", "seg")]
        picture = np.asarray(self.array(split, "picture"), np.int64)
        tables = {name: np.asarray(self.array(split, name)) for name in names if name != "picture"}
        for name in tables:
            if name in PER_PICTURE:
                tables[name] = tables[name][picture]
            if name in fields:
                tables[name] = tables[name].astype(fields[name].dtype, copy=False)
            else:
                fields[name] = Field(shape=tuple(tables[name].shape[1:]), dtype=str(tables[name].dtype), kind="vector")
        has_seg = (self.folder / split / "seg.npy").exists()
        return Questions(
            self.array(split, "image"),
            picture,
            tables,
            fields,
            tuple(info["shape"]),
            tuple(info["corner"]),
            self.array(split, "seg") if has_seg else None,
        )


def prepare(
    kind: str,
    inputs: Mapping[str, Any],
    root: Path,
    info: Mapping[str, Any],
    pictures: Callable[[], Iterator[tuple[str, Any]]],
    draw: Callable[[str, int, Any], dict[str, Any]],
) -> Prepared:
    """Make a set, or find it made.

    :param inputs: everything the result depends on.
    :param pictures: all (split, layout) in order; cheap, drawn again when a preparation is continued.
    :param draw: (split, number, layout) -> ``image`` (one picture or one per question), optional ``seg``, and label
        rows, one a question; those of :data:`PER_PICTURE` one in all.
    :raises BadInput: when a folder of that name holds something else.
    """
    key = content_key({"version": RECIPE_VERSION, "kind": kind, **inputs})
    folder = root / f"{kind}-{key[:16]}"
    done, shards = folder / MANIFEST, folder / "shards"
    if done.exists():
        manifest = json.loads(done.read_text(encoding="utf-8"))
        shutil.rmtree(shards, ignore_errors=True)  # killed between the last two steps
        if manifest["key"] != key:
            raise BadInput(
                f"prepared data of another recipe: {manifest['key'][:12]}, wanted {key[:12]}",
                where=str(done),
                fix="remove the folder or choose another dataset.directory",
            )
        return Prepared(folder, manifest)
    shards.mkdir(parents=True, exist_ok=True)
    position: dict[str, int] = {}
    for split, chunk, first in _chunks(pictures(), SHARD):
        number = position.get(split, 0)
        position[split] = number + 1
        target = shards / f"{split}-{number:05d}.npz"
        if not target.exists():
            _write_shard(target, split, first, chunk, draw)
    files = {}
    for split in sorted(position):
        files[split] = _join(shards, folder / split, split, position[split])
    manifest = {
        "key": key,
        "kind": kind,
        "version": RECIPE_VERSION,
        "inputs": dict(inputs),
        "info": dict(info),
        "splits": files,
    }
    write_json(done, manifest)
    shutil.rmtree(shards)
    return Prepared(folder, manifest)


def _chunks(pictures: Iterator[tuple[str, Any]], size: int) -> Iterator[tuple[str, list[Any], int]]:
    chunk: list[Any] = []
    current, first = "", 0
    for split, picture in pictures:
        if split != current or len(chunk) == size:
            if chunk:
                yield current, chunk, first
                first += len(chunk)
            if split != current:
                current, first = split, 0
            chunk = []
        chunk.append(picture)
    if chunk:
        yield current, chunk, first


def _write_shard(
    target: Path, split: str, first: int, chunk: list[Any], draw: Callable[[str, int, Any], dict[str, Any]]
) -> None:
    rows = [draw(split, first + i, picture) for i, picture in enumerate(chunk)]
    arrays: dict[str, np.ndarray] = {}
    for name in rows[0]:
        if name in PER_PICTURE:
            arrays[name] = np.concatenate([np.repeat(row[name], len(row["image"]), 0) for row in rows])
        else:
            joined = np.concatenate([row[name] for row in rows])
            arrays[name] = joined.astype(STORED[name], casting="same_kind") if name in STORED else joined
    temporary = target.with_suffix(".tmp")
    with temporary.open("wb") as handle:
        np.savez(handle, **arrays)
        handle.flush()
        os.fsync(handle.fileno())
    temporary.rename(target)


def _join(shards: Path, folder: Path, split: str, n: int) -> dict[str, Any]:
    """Shards of a split as one memory-mappable array a table; pictures are numbered through."""
    folder.mkdir(exist_ok=True)
    names: list[str] = []
    sizes: dict[str, list[tuple[int, ...]]] = {}
    for i in range(n):
        with np.load(shards / f"{split}-{i:05d}.npz") as part:
            names = list(part.files)
            for name in names:
                sizes.setdefault(name, []).append(part[name].shape)
                if i == 0:
                    sizes[f"{name}.dtype"] = part[name].dtype.str  # type: ignore[assignment]
    for name in names:
        total = sum(shape[0] for shape in sizes[name])
        temporary = folder / f".{name}.tmp"
        out = np.lib.format.open_memmap(
            temporary,
            "w+",
            np.dtype(sizes[f"{name}.dtype"]),  # type: ignore[arg-type]
            (total, *sizes[name][0][1:]),
        )
        start = offset = 0
        for i in range(n):
            with np.load(shards / f"{split}-{i:05d}.npz") as part:
                value = part[name]
                if name == "picture":
                    value = value + offset
                    offset += len(part["image"])
                out[start : start + len(value)] = value
                start += len(value)
        out.flush()
        del out
        temporary.rename(folder / f"{name}.npy")
    return {"questions": sum(shape[0] for shape in sizes["class"]), "pictures": sum(s[0] for s in sizes["image"])}


def data_folder(directory: str, site: Site) -> Path:
    """Where prepared data lies: as set, or below the cache; never relative to the working directory."""
    return Path(directory).expanduser().resolve() if directory else site.cache.root.resolve() / "butd"


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


def raw_root(site: Site, name: str, source: str) -> Path | None:
    """Folder of the raw files of a source below the data roots; None where it needs none.

    :raises MissingAsset: saying what was looked for.
    """
    if source == glyphs.DIGITS:
        return None
    for root in site.roots:
        if (root / name).exists():
            return root
    raise MissingAsset(
        f"no raw files of {source} ({name})",
        where=f"data roots: {', '.join(map(str, site.roots)) or 'none given'}",
        fix="pass --data-root DIR; `clk data list` says where to get them",
    )


RAW_FOLDER = {
    "emnist": "EMNIST",
    "fashion": "FashionMNIST",
    "kmnist": "KMNIST",
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
    "omniglot": "omniglot-py",
    "digits": "",
}


def source_of(site: Site, source: str) -> glyphs.Glyphs:
    """Glyphs of a source, raw files looked for below the data roots."""
    if source not in RAW_FOLDER:
        raise BadInput(
            f"unknown glyph source {source!r}", where="dataset.source", fix=f"use one of {', '.join(RAW_FOLDER)}"
        )
    return glyphs.load(source, raw_root(site, RAW_FOLDER[source], source))


def drawn_part(recipe: spatial.SpatialRecipe) -> tuple[tuple[int, int], tuple[int, int]]:
    """Corner and size of the part of the canvas anything is drawn in."""
    rows = -(-recipe.n_characters // recipe.per_row)
    # shift and scale are drawn from half-open ranges
    reach = math.ceil(recipe.shift * recipe.cell) - 1 + math.ceil(recipe.cell * recipe.scale[1]) - 1
    top, left = 0, recipe.cell
    height = min(recipe.size[0], (rows - 1) * recipe.cell + reach) - top
    width = min(recipe.size[1], recipe.columns * recipe.cell + reach) - left
    return (top, left), (height, width)


def spatial_set(settings: Spatial, site: Site) -> Prepared:
    """Draw a spatial set, or find it drawn."""
    recipe, source = spatial_recipe(settings), source_of(site, settings.source)
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
        "shape": list(recipe.size),
        "corner": [top, left],
    }
    return prepare(
        f"spatial-{source.name}",
        inputs,
        data_folder(settings.directory, site),
        info,
        lambda: spatial.pictures(recipe, source),
        numbered,
    )


def _number_pictures(draw: Callable[[str, int, Any], dict[str, Any]]) -> Callable[[str, int, Any], dict[str, Any]]:
    """Turn ``owner`` (picture within a layout) into ``picture`` (picture within a shard)."""
    seen: dict[str, int] = {}

    def numbered(split: str, number: int, layout: Any) -> dict[str, Any]:
        if number % SHARD == 0:
            seen[split] = 0
        row = draw(split, number, layout)
        row["picture"] = row.pop("owner") + seen[split]
        seen[split] += len(row["image"])
        return row

    return numbered


def prepare_spatial(settings: Spatial, site: Site) -> Path:
    """``clk data prepare butd:emnist`` and ``butd:digits``."""
    return spatial_set(settings, site).folder


def _plain(recipe: Any) -> dict[str, Any]:
    return json.loads(json.dumps(attrs.asdict(recipe)))


# ---- persons ----------------------------------------------------------------------------------------
def people_of(settings: PersonsData, site: Site) -> persons.People:
    """Raw people: the converted file below a data root, or procedural ones."""
    if settings.stand_in:
        return persons.procedural(site.rng("people"))
    for root in site.roots:
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
        where=f"data roots: {', '.join(map(str, site.roots)) or 'none given'}",
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


def persons_set(settings: PersonsData, site: Site) -> Prepared:
    """Draw a persons set, or find it drawn."""
    recipe, people = persons_recipe(settings), people_of(settings, site)
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
        "shape": list(recipe.canvas),
        "corner": [0, 0],
    }
    return prepare(
        "persons",
        inputs,
        data_folder(settings.directory, site),
        info,
        lambda: persons.scenes(recipe, people),
        _number_pictures(draw),
    )


def prepare_persons(settings: PersonsData, site: Site) -> Path:
    """``clk data prepare butd:persons``."""
    return persons_set(settings, site).folder


# ---- grids ------------------------------------------------------------------------------------------
def prepare_grid(settings: GridStream, site: Site) -> Path:
    """``clk data prepare butd:fashion`` and the other grids; for Omniglot, a set for each stage of languages."""
    from cl_plugin_butd.data.streams import grid_pictures, language_groups

    source = source_of(site, settings.source)
    if settings.source != "omniglot":
        return grid_pictures(settings, site, source)
    folder = Path()
    languages = np.asarray(source.languages)
    for task, group in enumerate(language_groups(source)):
        usable = tuple(np.flatnonzero(np.isin(languages, group)).tolist())
        folder = grid_pictures(settings, site, source, usable, task)
    return folder.parent
