"""Procedural data of the papers' shapes: coloured figures, short clips of objects.

Shapes: n images, H W their side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import frozen

from cl_kernel import ArraySamples, BadSetting, Field, Resources, Stream, class_incremental

if TYPE_CHECKING:
    from cl_plugin_remind.settings import TinyCore, TinyQuestions, TinyShapes

FIGURES = ("disc", "square", "triangle", "cross")
HUES = ("red", "green", "blue")
_COLOURS = np.array([[0.9, 0.2, 0.15], [0.2, 0.8, 0.25], [0.2, 0.35, 0.95]], np.float32)
IMAGE = {"image": Field(shape=(32, 32, 3), dtype="uint8", kind="image")}


def tinyshapes(settings: TinyShapes, resources: Resources) -> Stream:
    """Twelve classes, four figures in three hues, on 32x32 images; the base classes cover every figure and hue."""
    rng = resources.rng("tinyshapes")
    names = tuple(f"{hue}-{figure}" for figure in FIGURES for hue in HUES)
    sides = {}
    for side, count in (("train", settings.n_train), ("test", settings.n_test)):
        labels = np.repeat(np.arange(len(names)), count)
        images = draw_figures(labels // 3, _COLOURS[labels % 3], rng, radius=(7.0, 12.0))
        sides[side] = ArraySamples(spec(len(names)), {"image": images, "class": labels})
    order = tiny_order(rng) if settings.diagonal else rng.permutation(len(names)).tolist()
    sizes = [settings.base, *[settings.increment] * ((len(names) - settings.base) // settings.increment)]
    return class_incremental("tinyshapes", sides["train"], sides["test"], names, sizes=sizes, order=order)


def spec(n_classes: int) -> dict[str, Field]:
    """Fields of an image stream."""
    return {**IMAGE, "class": Field(shape=(), dtype="int64", kind="class", n=n_classes)}


def tiny_order(rng: np.random.Generator) -> list[int]:
    """Six classes that cover every figure and every hue twice, then the other six."""
    shift = int(rng.integers(3))
    base = [figure * 3 + (figure + shift) % 3 for figure in range(4)]
    base += [figure * 3 + (figure + shift + 1) % 3 for figure in ((1, 2) if shift % 2 else (0, 3))]
    rest = [c for c in range(12) if c not in base]
    return [*rng.permutation(base).tolist(), *rng.permutation(rest).tolist()]


def draw_figures(
    figures: np.ndarray,
    colours: np.ndarray,
    rng: np.random.Generator,
    *,
    radius: tuple[float, float],
    side: int = 32,
    centres: np.ndarray | None = None,
    backgrounds: np.ndarray | None = None,
) -> np.ndarray:
    """Images of one figure each on a tinted, noisy background.

    :param figures: int [n], index into FIGURES. :param colours: float [n, 3] in [0, 1].
    :param radius: of the figures, pixels. :param centres: float [n, 2]; drawn inside the frame by default.
    :param backgrounds: float [n, 3]; drawn by default.
    :return: uint8 [n, side, side, 3].
    """
    n = len(figures)
    size = rng.uniform(*radius, n)
    if centres is None:
        reach = np.minimum(size, side / 2 - 1)
        centres = np.stack([rng.uniform(reach, side - reach) for _ in range(2)], 1)
    turn = rng.uniform(-0.35, 0.35, n)
    grid = np.arange(side, dtype=np.float32) + 0.5
    y, x = np.meshgrid(grid, grid, indexing="ij")
    dx, dy = x - centres[:, 0, None, None], y - centres[:, 1, None, None]
    u = (np.cos(turn)[:, None, None] * dx + np.sin(turn)[:, None, None] * dy) / size[:, None, None]
    v = (np.cos(turn)[:, None, None] * dy - np.sin(turn)[:, None, None] * dx) / size[:, None, None]
    inside = np.stack(
        [
            u**2 + v**2 - 1,
            np.maximum(abs(u), abs(v)) - 0.85,
            np.maximum(abs(u) * 0.866 + v * 0.5 - 0.5, -v - 0.5) * 1.0,
            np.maximum(np.minimum(abs(u), abs(v)) - 0.3, np.maximum(abs(u), abs(v)) - 0.95),
        ]
    )[figures, np.arange(n)]
    inside[figures == 2] = np.maximum(abs(u) * 0.866 + v * 0.5 - 0.48, -v - 0.8)[figures == 2]
    cover = np.clip(0.5 - inside * size[:, None, None] * 0.7, 0, 1)[..., None]
    tint = colours + rng.normal(0, 0.08, (n, 3))
    if backgrounds is None:
        backgrounds = rng.uniform(0.05, 0.45, (n, 1)) + rng.uniform(-0.08, 0.08, (n, 3))
    noise = rng.uniform(-0.12, 0.12, (n, side, side, 3))
    image = cover * tint[:, None, None] + (1 - cover) * backgrounds[:, None, None] + noise
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)


def tinycore(settings: TinyCore, resources: Resources) -> Stream:
    """Clips of four figures, three instances (hues) each, in four sessions with a background each; session 3 tests."""
    from cl_plugin_remind.data.core50 import Frames, ordered_stream

    rng = resources.rng("tinycore")
    n = settings.n_frames
    grid = np.stack(np.meshgrid(np.arange(4), np.arange(3), np.arange(1, 5), indexing="ij"), -1).reshape(-1, 3)
    table = np.repeat(grid, n, 0)  # figure, instance, session of each frame
    time = np.tile(np.arange(n), len(grid))
    start, speed = rng.uniform(11, 21, (len(grid), 2)), rng.uniform(-4, 4, (len(grid), 2))
    centres = np.repeat(start, n, 0) + np.repeat(speed, n, 0) * (time / n)[:, None]
    hues = np.array([[0.9, 0.2, 0.15], [0.2, 0.8, 0.25], [0.95, 0.85, 0.2]])
    backgrounds = rng.uniform(0.05, 0.5, (5, 3))[table[:, 2]]
    images = draw_figures(
        table[:, 0], hues[table[:, 1]], rng, radius=(7.0, 10.0), centres=centres, backgrounds=backgrounds
    )
    is_test = table[:, 2] == 3
    sides = {
        name: ArraySamples(spec(4), {"image": images[mask], "class": table[mask, 0]})
        for name, mask in (("train", ~is_test), ("test", is_test))
    }
    frames = Frames(
        label=table[~is_test, 0], instance=table[~is_test, 1], session=table[~is_test, 2], time=time[~is_test]
    )
    share = len(frames.label) // 5
    return ordered_stream(
        "tinycore",
        settings.order,
        sides["train"],
        frames,
        sides["test"],
        table[is_test, 0],
        FIGURES,
        resources.rng("order", settings.permutation),
        base_classes=2,
        increment_classes=1,
        base=share,
        increment=share,
    )


COLOURS = {"red": (0.9, 0.15, 0.1), "green": (0.1, 0.8, 0.2), "blue": (0.15, 0.3, 0.95), "yellow": (0.9, 0.85, 0.1)}
SOLIDS = ("cube", "sphere", "cylinder")


@frozen(kw_only=True)
class Scene:
    """One to three things in the quarters of a picture: (quarter, solid, colour)."""

    things: tuple[tuple[int, str, str], ...]


def draw_scenes(n: int, rng: np.random.Generator) -> tuple[list[Scene], np.ndarray]:
    """Scenes and their pictures, float32 [n, 3, 16, 16]."""
    names = list(COLOURS)
    scenes, pictures = [], 0.1 + 0.05 * rng.random((n, 3, 16, 16)).astype(np.float32)
    y, x = np.mgrid[:8, :8] - 3.5
    masks = {
        "cube": (abs(x) < 3) & (abs(y) < 3),
        "sphere": x**2 + y**2 < 9.5,
        "cylinder": (abs(x) < 1.6) & (abs(y) < 3.6),
    }
    for index in range(n):
        quarters = rng.permutation(4)[: int(rng.integers(1, 4))]
        things = tuple((int(q), SOLIDS[int(rng.integers(3))], names[int(rng.integers(4))]) for q in quarters)
        for quarter, solid, colour in things:
            top, left = 8 * (quarter // 2), 8 * (quarter % 2)
            place = pictures[index, :, top : top + 8, left : left + 8]
            place[:, masks[solid]] = np.array(COLOURS[colour], np.float32)[:, None] + 0.05 * rng.standard_normal((3, 1))
        scenes.append(Scene(things=things))
    return scenes, pictures


def region_features(pictures: np.ndarray) -> np.ndarray:
    """A fixed random convolution of each 4x4 region: float32 [n, 16, 32]."""
    rng = np.random.default_rng(7)
    n = len(pictures)
    regions = pictures.reshape(n, 3, 4, 4, 4, 4).transpose(0, 2, 4, 1, 3, 5).reshape(n, 16, 48)
    weights = rng.standard_normal((48, 32)).astype(np.float32) / np.sqrt(48) * 3
    return np.maximum((regions - 0.3) @ weights + 0.2, 0).astype(np.float32)


def ask_clevr(kind: str, scene: Scene, rng: np.random.Generator) -> tuple[str, str, list[dict[str, str]]] | None:
    """A question of one of CLEVR's five types about a scene, its answer, and its program; None where none fits."""
    solids, colours = [t[1] for t in scene.things], [t[2] for t in scene.things]
    names = list(COLOURS)
    yes = {True: "yes", False: "no"}
    one, other = (names[int(i)] for i in rng.permutation(4)[:2])
    match kind:
        case "count":
            one = colours[0] if rng.random() < 0.7 else one
            return f"How many {one} things are there?", str(colours.count(one)), [{"function": "count"}]
        case "exist":
            pair = (
                (scene.things[0][1], scene.things[0][2]) if rng.random() < 0.5 else (SOLIDS[int(rng.integers(3))], one)
            )
            found = any((t[1], t[2]) == pair for t in scene.things)
            return f"Is there a {pair[1]} {pair[0]}?", yes[found], [{"function": "exist"}]
        case "query_attribute":
            single = [s for s in SOLIDS if solids.count(s) == 1]
            if not single:
                return None
            solid = single[int(rng.integers(len(single)))]
            return f"What color is the {solid}?", colours[solids.index(solid)], [{"function": "query_color"}]
        case "compare_attribute":
            single = [s for s in SOLIDS if solids.count(s) == 1]
            if len(single) < 2:
                return None
            a, b = single[:2]
            same = colours[solids.index(a)] == colours[solids.index(b)]
            return f"Do the {a} and the {b} have the same color?", yes[same], [{"function": "equal_color"}]
        case _:
            if rng.random() < 0.6:
                one = colours[0]
            other = next(c for c in names if c != one) if other == one else other
            more = colours.count(one) > colours.count(other)
            return f"Are there more {one} things than {other} things?", yes[more], [{"function": "greater_than"}]


CLEVR_TYPES = ("count", "compare_attribute", "exist", "compare_integer", "query_attribute")
TDIUC_TYPES = (
    "object_presence",
    "color",
    "counting",
    "positional_reasoning",
    "other_attributes",
    "scene_recognition",
    "activity_recognition",
    "sport_recognition",
    "sentiment_understanding",
    "object_recognition",
    "utility_affordance",
    "absurd",
)


def ask_tdiuc(kind: str, scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    """A question in the form of one of TDIUC's twelve types about a scene, and its answer."""
    things = sorted(scene.things)
    solids, colours = [t[1] for t in things], [t[2] for t in things]
    one = list(COLOURS)[int(rng.integers(4))]
    first = things[0]
    match kind:
        case "object_presence":
            return f"Is a {one} thing present?", "yes" if one in colours else "no"
        case "color":
            return "What color is the first thing?", first[2]
        case "counting":
            return "How many things are there?", str(len(things))
        case "positional_reasoning":
            return "Where is the first thing?", ("top left", "top right", "bottom left", "bottom right")[first[0]]
        case "other_attributes":
            return "Is the picture crowded?", "crowded" if len(things) == 3 else "sparse"
        case "scene_recognition":
            return "What kind of scene is this?", "warm" if sum(c in ("red", "yellow") for c in colours) * 2 >= len(
                colours
            ) else "cold"
        case "activity_recognition":
            return "What is going on?", "standing" if first[0] < 2 else "lying"
        case "sport_recognition":
            return "What sport is played?", "football" if "green" in colours else "hockey"
        case "sentiment_understanding":
            return "What is the mood?", "happy" if "yellow" in colours else "sad"
        case "object_recognition":
            return f"What is the {first[2]} thing?", solids[0]
        case "utility_affordance":
            return "What can be used here?", "brush" if "blue" in colours else "pen"
        case _:
            return f"What does the {one} dog say?", "doesnotapply"


def tinyclevr(settings: TinyQuestions, resources: Resources) -> Stream:
    """Scenes of one to three solids with questions of CLEVR's five types."""
    return _tiny_questions("tinyclevr", CLEVR_TYPES, settings, resources)


def tinytdiuc(settings: TinyQuestions, resources: Resources) -> Stream:
    """The same scenes with questions in TDIUC's twelve types; regions have unit length."""
    return _tiny_questions("tinytdiuc", TDIUC_TYPES, settings, resources)


def _tiny_questions(name: str, types: tuple[str, ...], settings: TinyQuestions, resources: Resources) -> Stream:
    from cl_plugin_remind.data.questions import rank_by_frequency
    from cl_plugin_remind.data.vqa import Asked, make_stream

    rng = resources.rng(name)
    scenes, pictures = draw_scenes(settings.n_images + settings.n_images // 3, rng)
    sides: dict[str, list[tuple[str, str, int, str]]] = {"train": [], "test": []}
    for side, count, low, high in (
        ("train", settings.n_train, 0, settings.n_images),
        ("test", settings.n_test, settings.n_images, len(scenes)),
    ):
        for kind in types:
            ask = ask_clevr if types is CLEVR_TYPES else ask_tdiuc
            sides[side] += _asked(ask, kind, scenes, range(low, high), count, rng)
        sides[side] = [sides[side][i] for i in rng.permutation(len(sides[side]))]
    answers = rank_by_frequency([row[1] for row in sides["train"]])
    kinds = {kind: number for number, kind in enumerate(types)}
    asked_sides = [
        Asked(
            text=[row[0] for row in rows],
            qid=np.arange(len(rows)) + first,
            image=np.array([row[2] for row in rows]),
            answer=np.array([answers.get(row[1], -1) for row in rows]),
            kind=np.array([kinds[row[3]] for row in rows]),
        )
        for rows, first in ((sides["train"], 0), (sides["test"], len(sides["train"])))
    ]
    return make_stream(
        name,
        settings,
        *asked_sides,
        region_features(pictures),
        n_types=len(types),
        type_names=types,
        answer_names=sorted(answers, key=lambda a: answers[a]),
        unit_regions=types is TDIUC_TYPES,
    )


def _asked(
    ask: Callable[[str, Scene, np.random.Generator], tuple[Any, ...] | None],
    kind: str,
    scenes: Sequence[Scene],
    among: range,
    count: int,
    rng: np.random.Generator,
) -> list[tuple[str, str, int, str]]:
    """(text, answer, scene, type) of so many questions of one type.

    :param among: numbers of the scenes that may be asked about.
    :raises BadSetting: when the scenes are too few for such a question.
    """
    rows: list[tuple[str, str, int, str]] = []
    misses = 0
    while len(rows) < count:
        if misses > 200 * len(among) or not among:
            raise BadSetting(
                f"none of {len(among)} scenes lets a question of type {kind!r} be asked",
                where="dataset.n_images",
                fix="more scenes; a third as many come on top for the test",
            )
        image = int(rng.integers(among.start, among.stop))
        if (asked := ask(kind, scenes[image], rng)) is None:
            misses += 1
        else:
            rows.append((asked[0], asked[1], image, kind))
            misses = 0
    return rows
