"""Characters in cells and questions about neighbours: the EMNIST spatial generator, for any glyph source.

The order of draws from numpy's legacy generator is the published one, so layouts, held-out strings and questions
come out the same. Right-of and left-of only; other grids and directions are in :mod:`cl_plugin_butd.data.grid`.

Shapes: M characters a picture, Q questions a picture, H W canvas.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import lru_cache

import numpy as np
from attrs import field, frozen

from cl_kernel import BadInput
from cl_plugin_butd.data.glyphs import Glyphs

RIGHT, LEFT = 0, 1
SPLITS = ("test", "train", "val")
"""In the order they are generated; pictures are never repeated across them."""
SPLIT_SEEDS = {"test": 0, "train": 1, "val": 2}


@frozen(kw_only=True)
class SpatialRecipe:
    """Everything that decides a spatial data set besides the glyphs.

    :param n_characters: in a picture; a multiple of ``per_row``, or at most ``per_row``.
    :param extended: all questions of many pictures instead of a few of fewer.
    :param n_train: pictures; None for the published count (2000 or 10,000).
    :param cell: pixels of a cell's side.
    :param canvas: cells (rows, columns); characters start in column 1.
    :param scale: smallest and largest size of a character, in cells.
    :param shift: largest shift, in cells.
    :param n_held_strings: strings of characters whose neighbouring pairs are kept for the test.
    :param questions: questions a picture and direction; None for the published count.
    """

    n_characters: int = 6
    extended: bool = False
    n_train: int | None = None
    n_test: int = 2000
    n_val: int = 2000
    per_row: int = 6
    cell: int = 28
    canvas: tuple[int, int] = field(default=(4, 8), converter=tuple)
    scale: tuple[float, float] = field(default=(0.5, 1.0), converter=tuple)
    shift: float = 0.2
    n_held_strings: int = 1
    string_seed: int = 777
    questions: int | None = None

    def __attrs_post_init__(self) -> None:
        where = "dataset settings"
        if self.n_characters < 2:
            raise BadInput(
                f"{self.n_characters} characters leave nobody to ask about", where=where, fix="use at least 2"
            )
        rows = -(-self.n_characters // self.per_row)
        if rows > self.canvas[0] or min(self.n_characters, self.per_row) + 1 > self.canvas[1]:
            raise BadInput(
                f"{self.n_characters} characters in rows of {self.per_row} do not fit into "
                f"{self.canvas[0]} x {self.canvas[1]} cells",
                where=where,
                fix=f"use a canvas of at least {rows} x {min(self.n_characters, self.per_row) + 1} cells",
            )

    @property
    def size(self) -> tuple[int, int]:
        """Canvas in pixels, height and width."""
        return self.canvas[0] * self.cell, self.canvas[1] * self.cell

    @property
    def columns(self) -> int:
        """Characters in a full row."""
        return min(self.per_row, self.n_characters)

    @property
    def n_pictures(self) -> dict[str, int]:
        """Pictures of each split."""
        published = 10_000 if self.extended or self.n_characters > self.per_row else 2_000
        return {"test": self.n_test, "train": self.n_train or published, "val": self.n_val}

    @property
    def both_directions(self) -> bool:
        """Whether a training picture is asked about in both directions (the 24-character sets)."""
        return self.n_characters > self.per_row

    @property
    def n_questions(self) -> int:
        """Questions a training picture and direction."""
        legal = self.n_characters - -(-self.n_characters // self.per_row)
        if self.questions is not None:
            return min(self.questions, legal)
        return legal if self.extended or self.n_characters <= self.per_row else min(5, legal)


@frozen(kw_only=True)
class Picture:
    """One layout and what is asked about it.

    :param characters: class of each place [M].
    :param instances: row in the glyph source [M].
    :param scales: [M].
    :param top_left: row and column of each character's box [M, 2].
    :param questions: (direction, place) pairs.
    """

    characters: np.ndarray
    instances: np.ndarray
    scales: np.ndarray
    top_left: np.ndarray
    questions: tuple[tuple[int, int], ...]


def held_strings(recipe: SpatialRecipe, usable: tuple[int, ...]) -> np.ndarray:
    """Strings of different characters reserved for the test, int64 [n, M]."""
    if recipe.n_characters > len(usable):
        raise BadInput(
            f"{recipe.n_characters} different characters wanted, the source has {len(usable)}",
            where="dataset.n_characters",
            fix="use fewer characters or another source",
        )
    draw = np.random.RandomState(recipe.string_seed)
    return np.stack(
        [draw.choice(usable, recipe.n_characters, replace=False) for _ in range(recipe.n_held_strings)]
    ).astype(np.int64)


def allowed_pairs(recipe: SpatialRecipe, strings: np.ndarray, n_classes: int, usable: tuple[int, ...]) -> np.ndarray:
    """Pairs (left, right) training pictures may hold, bool [K, K]."""
    allowed = np.zeros((n_classes, n_classes), bool)
    allowed[np.ix_(usable, usable)] = True
    np.fill_diagonal(allowed, False)
    for string in strings:
        for start in range(0, recipe.n_characters, recipe.per_row):
            row = string[start : start + recipe.per_row]
            allowed[row[:-1], row[1:]] = False
    return allowed


def excluded_percentage(allowed: np.ndarray, usable: tuple[int, ...]) -> float:
    """Share of ordered pairs that training never sees, in percent."""
    total = len(usable) * (len(usable) - 1)
    return 100.0 * (total - int(allowed.sum())) / total


def _draw_string(
    recipe: SpatialRecipe, allowed: np.ndarray, usable: np.ndarray, draw: np.random.RandomState
) -> np.ndarray:
    """A string whose neighbours are all allowed; starts over on a dead end."""
    for _ in range(10_000):
        string = [int(usable[draw.randint(len(usable))])]
        while len(string) < recipe.n_characters:
            # the published generator heeds the last character of the row above, too
            free = allowed[string[-1]].copy()
            free[string] = False
            follow = np.flatnonzero(free)
            if not len(follow):
                break
            string.append(int(follow[draw.randint(len(follow))]))
        else:
            return np.asarray(string)
    raise BadInput(
        "no picture avoids the held-out pairs",
        where="dataset.n_held_strings",
        fix="hold out fewer strings or use fewer characters",
    )


def pictures(
    recipe: SpatialRecipe, glyphs: Glyphs, seeds: Mapping[str, int] = SPLIT_SEEDS
) -> Iterator[tuple[str, Picture]]:
    """Every picture of every split, in the published order.

    :param seeds: of each split.
    """
    usable = np.asarray(glyphs.usable)
    strings = held_strings(recipe, glyphs.usable)
    allowed = allowed_pairs(recipe, strings, len(glyphs.class_names), glyphs.usable)
    instances = glyphs.instances()
    if empty := [glyphs.class_names[c] for c in usable if not len(instances[c])]:
        raise BadInput(f"no instance of {', '.join(empty)}", where=f"glyph source {glyphs.name!r}")
    seen: set[tuple[int, ...]] = set()
    for split in SPLITS:
        draw = np.random.RandomState(seeds[split])
        for _ in range(recipe.n_pictures[split]):
            picture = _draw_picture(recipe, split, strings, allowed, usable, instances, draw, seen)
            if picture is not None:
                yield split, picture


def _draw_picture(
    recipe: SpatialRecipe,
    split: str,
    strings: np.ndarray,
    allowed: np.ndarray,
    usable: np.ndarray,
    instances: list[np.ndarray],
    draw: np.random.RandomState,
    seen: set[tuple[int, ...]],
) -> Picture | None:
    if split == "test":
        characters = strings[draw.randint(len(strings))]
    else:
        characters = _draw_string(recipe, allowed, usable, draw)
    rows = np.asarray([instances[c][draw.randint(0, len(instances[c]))] for c in characters])
    key = tuple(rows.tolist())
    if key in seen:
        return None
    seen.add(key)
    low, high = recipe.scale
    scales, corners = np.empty(len(rows)), np.empty((len(rows), 2), np.int64)
    height, width = recipe.size
    for i in range(len(rows)):
        scales[i] = draw.rand() * (high - low) + low
        side = int(recipe.cell * scales[i])
        cell = np.asarray([i // recipe.per_row, 1 + i % recipe.per_row])
        corner = cell * recipe.cell + (draw.rand(2) * (recipe.shift * recipe.cell)).astype(np.int64)
        corners[i] = np.minimum(corner, [height - side, width - side])
    return Picture(
        characters=characters,
        instances=rows,
        scales=scales,
        top_left=corners,
        questions=tuple(_draw_questions(recipe, split, draw)),
    )


def _draw_questions(recipe: SpatialRecipe, split: str, draw: np.random.RandomState) -> Iterator[tuple[int, int]]:
    if split == "train" and recipe.both_directions:
        directions = [RIGHT, LEFT]
    else:
        directions = [int(draw.randint(2))]
    for direction in directions:
        places = legal_places(recipe, direction)
        chosen = draw.choice(places, recipe.n_questions, replace=False) if split == "train" else draw.choice(places, 1)
        yield from ((direction, int(place)) for place in chosen)


def legal_places(recipe: SpatialRecipe, direction: int) -> np.ndarray:
    """Places with a neighbour in that direction; a border answer would tell nothing about pairs."""
    places = np.arange(recipe.n_characters)
    column = places % recipe.per_row
    last = (column == recipe.per_row - 1) | (places == recipe.n_characters - 1)
    return places[~last] if direction == RIGHT else places[column > 0]


def neighbour(characters: np.ndarray, direction: int, place: int, per_row: int, border: int) -> int:
    """What stands right or left of a place in its row; ``border`` at its end."""
    step = 1 if direction == RIGHT else -1
    beyond = place + step
    if beyond < 0 or beyond >= len(characters) or beyond // per_row != place // per_row:
        return border
    return int(characters[beyond])


def render(recipe: SpatialRecipe, glyphs: Glyphs, picture: Picture, only: int | None = None) -> np.ndarray:
    """Draw a picture.

    :param only: draw this place alone (the queried object).
    :return: uint8 [H, W], or [H, W, 3] for glyphs in colour.
    """
    height, width = recipe.size
    canvas = np.zeros((height, width, *glyphs.images.shape[3:]), np.float64)
    for i in range(len(picture.characters)) if only is None else (only,):
        stamp(canvas, glyphs.images[picture.instances[i]], int(recipe.cell * picture.scales[i]), picture.top_left[i])
    return (canvas * 255).astype(np.uint8)


def stamp(canvas: np.ndarray, glyph: np.ndarray, side: int, corner: np.ndarray) -> None:
    """Paste a glyph's lit pixels, resized, into a canvas of 0..1."""
    y, x = (int(v) for v in corner)
    small = resized(glyph, side)
    target = canvas[y : y + side, x : x + side]
    lit = small > 0
    target[lit] = small[lit]


def resized(glyph: np.ndarray, side: int) -> np.ndarray:
    """A glyph of another size, 0..1.

    The published pictures were made when the smoothing before a reduction ran on whole grey levels; it still does
    here, which makes them equal.

    :param glyph: uint8 [h, w] or [h, w, 3].
    """
    from scipy.ndimage import gaussian_filter

    shape = (side, side, *glyph.shape[2:])
    sigma = np.maximum(0.0, (np.asarray(glyph.shape) / np.asarray(shape) - 1) / 2)
    if sigma.any():
        glyph = gaussian_filter(glyph, sigma, mode="constant", cval=0)
    values = glyph.astype(np.float64) / 255
    out = np.zeros(shape)
    (rows, down), (columns, across) = _taps(values.shape[0], side), _taps(values.shape[1], side)
    for i in (0, 1):
        for j in (0, 1):
            y, x = down[i][:, None], across[j][None]
            out += (
                values[rows[i]][:, columns[j]]
                * (y if out.ndim == 2 else y[..., None])
                * (x if out.ndim == 2 else x[..., None])
            )
    return out


@lru_cache(maxsize=512)
def _taps(n_in: int, n_out: int) -> tuple[np.ndarray, np.ndarray]:
    """The two neighbours [2, n_out] a linear interpolation of ``n_in`` to ``n_out`` values reads, and their weights."""
    from scipy.ndimage import zoom

    impulses = (
        zoom(row, n_out / n_in, output=np.float64, order=1, mode="grid-constant", grid_mode=True)
        for row in np.eye(n_in)
    )
    weights = np.stack(list(impulses), 1)
    first = (weights > 0).argmax(1)
    last = n_in - 1 - (weights[:, ::-1] > 0).argmax(1)
    place = np.arange(n_out)
    return np.stack([first, last]), np.stack([weights[place, first], np.where(last > first, weights[place, last], 0)])


def describe_difficulty(allowed: np.ndarray, usable: tuple[int, ...]) -> str:
    """One line about what is held out."""
    share = excluded_percentage(allowed, usable)
    return f"{share:.4f} % of {math.perm(len(usable), 2)} ordered pairs held out"
