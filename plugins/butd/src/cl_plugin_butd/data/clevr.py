"""CLEVR: relations between objects of real scenes files. There is no published code to match.

A question is (relation, object): what stands nearest in that direction? Arguments and answers are descriptions
(size, colour, material, shape) that name exactly one object of a scene.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cl_kernel import BadInput, MissingAsset, Resources, Stage, Stream, fingerprint
from cl_plugin_butd.data.questions import Questions, question_fields
from cl_plugin_butd.data.toy import picked

if TYPE_CHECKING:
    from cl_plugin_butd.settings import Scenes

RELATIONS = ("right", "left", "front", "behind")
SIZE = (80, 120)
"""Pictures are reduced to this height and width."""


def scenes_file(resources: Resources) -> Path:
    """``scenes.json`` below a data root.

    :raises MissingAsset: saying what to bring.
    """
    for root in resources.roots:
        for place in (root / "scenes.json", root / "clevr" / "scenes.json"):
            if place.exists():
                return place
    raise MissingAsset(
        "CLEVR needs its scenes: no scenes.json",
        where=f"data roots: {', '.join(map(str, resources.roots)) or 'none given'}",
        fix="bring scenes.json and the folder images/ of CLEVR and pass --data-root DIR",
    )


def describe(thing: dict[str, Any]) -> str:
    """An object in words."""
    return " ".join(str(thing[key]) for key in ("size", "color", "material", "shape"))


def questions_of(scene: dict[str, Any], where: str) -> list[tuple[str, str, str]]:
    """(relation, object asked about, nearest object that way), only where both descriptions name one object.

    :raises BadInput: for a scene without objects or relationships.
    """
    try:
        objects, relations = scene["objects"], scene["relationships"]
        words = [describe(thing) for thing in objects]
        pixels = np.asarray([thing["pixel_coords"][:2] for thing in objects], float)
    except (KeyError, TypeError) as error:
        raise BadInput(f"a scene lacks {error}", where=where) from error
    found = []
    for relation in RELATIONS:
        for i, others in enumerate(relations.get(relation, [])):
            if not others or words.count(words[i]) > 1:
                continue
            nearest = min(others, key=lambda j: float(np.hypot(*(pixels[j] - pixels[i]))))
            if words.count(words[nearest]) == 1:
                found.append((relation, words[i], words[nearest]))
    return found


def make(resources: Resources, folder: Path, source: Path) -> None:
    """Read scenes and pictures into arrays."""
    from PIL import Image

    try:
        content = json.loads(source.read_text(encoding="utf-8"))["scenes"]
    except (ValueError, KeyError) as error:
        raise BadInput(f"no scenes: {error}", where=str(source)) from error
    images, rows = [], []
    for number, scene in enumerate(content):
        file = source.parent / "images" / str(scene.get("image_filename", ""))
        try:
            with Image.open(file) as picture:
                images.append(np.asarray(picture.convert("RGB").resize(SIZE[::-1], Image.Resampling.BILINEAR)))
        except OSError as error:
            resources.bad_sample(str(file), error)
            continue
        rows += [(len(images) - 1, *question) for question in questions_of(scene, f"{source}, scene {number}")]
    if not rows:
        raise BadInput("no scene asks anything", where=str(source))
    names = sorted({word for row in rows for word in row[2:]})
    index = {name: i for i, name in enumerate(names)}
    np.save(folder / "image.npy", np.stack(images))
    np.save(folder / "rows.npy", np.asarray([(p, RELATIONS.index(r), index[a], index[b]) for p, r, a, b in rows]))
    (folder / "names.json").write_text(json.dumps(names), encoding="utf-8")


def prepare(settings: Scenes, resources: Resources) -> Path:
    """``clk data prepare butd:clevr``."""
    source = scenes_file(resources)
    inputs = {"version": 1, "scenes": fingerprint(np.frombuffer(source.read_bytes(), np.uint8))}
    return resources.cache.make("butd-clevr", inputs, lambda folder: make(resources, folder, source))


def build(settings: Scenes, resources: Resources) -> Stream:
    """A stage for each relation; the last pictures are the test."""
    folder = prepare(settings, resources)
    names = json.loads((folder / "names.json").read_text(encoding="utf-8"))
    images, rows = np.load(folder / "image.npy", mmap_mode="r"), np.load(folder / "rows.npy")
    n = len(names)
    shown = np.zeros((len(images), n), np.uint8)
    shown[rows[:, 0], rows[:, 2]] = 1
    tables = {
        "task": rows[:, 1],
        "argument": rows[:, 2],
        "existence": shown[rows[:, 0]],
        "class": rows[:, 3],
        "box": np.tile(np.asarray([0, 0, *SIZE]), (len(rows), 1)),
    }
    every = Questions(images, rows[:, 0], tables, question_fields(len(RELATIONS), n, n, n))
    cut = int(0.8 * len(images))
    stages, sets, chosen, start = [], {}, [], 0
    for task, relation in enumerate(RELATIONS):
        mine = rows[:, 1] == task
        train = np.flatnonzero(mine & (rows[:, 0] < cut))
        test = np.flatnonzero(mine & (rows[:, 0] >= cut))[: settings.n_test]
        stages.append(Stage(index=task, name=relation, train=picked(every, train), info={"task": task}))
        sets[relation] = np.arange(start, start + len(test))
        chosen.append(test)
        start += len(test)
    return Stream(
        name="clevr",
        task="image + instruction -> class",
        stages=stages,
        test=picked(every, np.concatenate(chosen)),
        test_sets=sets,
        class_names=tuple(names),
        fingerprint=fingerprint(rows),
        info={"n_arguments": [n], "languages": [0] * len(RELATIONS), "directions": list(RELATIONS)},
    )
