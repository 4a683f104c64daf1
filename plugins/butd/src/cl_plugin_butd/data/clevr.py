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
WORDS = ("right of", "left of", "in front of", "behind")
SCENES = ("scenes.json", "scenes/CLEVR_train_scenes.json", "scenes/CLEVR_val_scenes.json")
"""Below CLEVR's folder: scenes of one's own, or as published."""
BOX = 14
"""Side of the square around an object, in pixels of the reduced picture; scenes give centres only."""
SIZE = (80, 120)
"""Pictures are reduced to this height and width."""


def scenes_file(resources: Resources) -> Path:
    """``scenes.json`` below a data root.

    :raises MissingAsset: saying what to bring.
    """
    for root in resources.roots:
        if (found := scenes_below(root)) is not None:
            return found
    raise MissingAsset(
        "CLEVR needs its scenes: no scenes.json",
        where=f"data roots: {', '.join(map(str, resources.roots)) or 'none given'}",
        fix="unzip CLEVR_v1.0.zip (scenes/ and images/) and pass its folder: --data-root DIR",
    )


def scenes_below(root: Path) -> Path | None:
    """A file of scenes below a data root."""
    places = (folder / name for folder in (root, root / "clevr", root / "CLEVR_v1.0") for name in SCENES)
    return next((place for place in places if place.exists()), None)


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


def picture_of(source: Path, scene: dict[str, Any]) -> Path:
    """The picture of a scene: in ``images/`` beside the scenes, or in ``images/SPLIT/`` as published."""
    name = str(scene.get("image_filename", ""))
    if source.parent.name == "scenes":
        return source.parent.parent / "images" / source.name.split("_")[1] / name
    return source.parent / "images" / name


def scenes_of(source: Path) -> list[dict[str, Any]]:
    """The scenes of a file.

    :raises BadInput: naming the file.
    """
    try:
        scenes = json.loads(source.read_text(encoding="utf-8"))["scenes"]
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"no scenes: {error}", where=str(source)) from error
    if not isinstance(scenes, list) or not all(isinstance(scene, dict) for scene in scenes):
        raise BadInput("scenes is no list of scenes", where=str(source))
    return scenes


def make(resources: Resources, folder: Path, source: Path) -> None:
    """Read scenes and pictures into arrays."""
    from PIL import Image

    images, rows = [], []
    for number, scene in enumerate(scenes_of(source)):
        file = picture_of(source, scene)
        try:
            with Image.open(file) as picture:
                across, down = picture.size
                images.append(np.asarray(picture.convert("RGB").resize(SIZE[::-1], Image.Resampling.BILINEAR)))
        except OSError as error:
            resources.bad_sample(str(file), error)
            continue
        centres = {describe(thing): thing["pixel_coords"][:2] for thing in scene.get("objects", ())}
        for relation, about, nearest in questions_of(scene, f"{source}, scene {number}"):
            x, y = centres[about]
            corner = int(y / down * SIZE[0]) - BOX // 2, int(x / across * SIZE[1]) - BOX // 2
            rows.append((len(images) - 1, relation, about, nearest, *corner))
    if not rows:
        raise BadInput("no scene asks anything", where=str(source))
    names = sorted({word for row in rows for word in row[2:4]})
    index = {name: i for i, name in enumerate(names)}
    np.save(folder / "image.npy", np.stack(images))
    np.save(
        folder / "rows.npy",
        np.asarray([(p, RELATIONS.index(r), index[a], index[b], y, x) for p, r, a, b, y, x in rows]),
    )
    (folder / "names.json").write_text(json.dumps(names), encoding="utf-8")


def prepare(settings: Scenes, resources: Resources) -> Path:
    """``clk data prepare butd:clevr``."""
    source = scenes_file(resources)
    there = sorted(file for scene in scenes_of(source) if (file := picture_of(source, scene)).is_file())
    if not there:
        raise MissingAsset("no picture of any scene", where=str(source), fix="bring the folder images/ of CLEVR, too")
    pictures = resources.files.content([file.name for file in there], resources.files.digests(there))
    made = resources.artefact("butd-clevr", revision=2, scenes=source, pictures=pictures)
    return made.make(lambda folder: make(resources, folder, source))


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
        "box": np.concatenate([rows[:, 4:], np.full((len(rows), 2), BOX)], 1),
    }
    every = Questions(images, rows[:, 0], tables, question_fields(len(RELATIONS), n, n, n))
    cut = int(0.8 * len(images))
    stages, sets, chosen, start = [], {}, [], 0
    for task, relation in enumerate(RELATIONS):
        mine = rows[:, 1] == task
        train = np.flatnonzero(mine & (rows[:, 0] < cut))
        test = np.flatnonzero(mine & (rows[:, 0] >= cut))[: settings.n_test]
        stages.append(
            Stage(
                index=task,
                name=relation,
                train=picked(every, train),
                info={"task": task, "tasks": list(WORDS), "arguments": names},
            )
        )
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
