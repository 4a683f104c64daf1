"""Characters on a grid and questions in any direction: the continual streams and their toy data.

y grows downwards: dy = -1 is up.

Shapes: N pictures, M characters a picture, K classes, H W canvas.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import field, frozen

from cl_kernel import BadInput
from cl_plugin_butd.data import spatial
from cl_plugin_butd.data.directions import NAMES
from cl_plugin_butd.data.glyphs import Glyphs

DIRECTIONS = {name: direction for direction, name in NAMES.items()}


@frozen(kw_only=True)
class GridRecipe:
    """How pictures of a grid are drawn.

    :param rows: of characters.
    :param cell: pixels of a cell's side.
    :param margin: empty pixels around the grid (y, x).
    :param scale: smallest and largest size of a character in cells; (0, 0) pastes glyphs as they are.
    :param shift: largest shift in pixels.
    :param ink: range of the intensity of each character.
    :param held_out: ordered pairs (left, right) that training pictures never show side by side.
    """

    rows: int = 1
    columns: int = 3
    cell: int = 8
    margin: tuple[int, int] = field(default=(0, 0), converter=tuple)
    scale: tuple[float, float] = field(default=(0.0, 0.0), converter=tuple)
    shift: float = 1.0
    ink: tuple[float, float] = field(default=(0.7, 1.0), converter=tuple)
    held_out: tuple[tuple[int, int], ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Canvas in pixels."""
        return self.rows * self.cell + 2 * self.margin[0], self.columns * self.cell + 2 * self.margin[1]

    @property
    def n_characters(self) -> int:
        """In a picture."""
        return self.rows * self.columns

    def check(self, glyphs: Glyphs) -> None:
        """Refuse what cannot be drawn.

        :raises BadInput: when the grid is too small for the characters, or wants more than there are.
        """
        side = max(glyphs.images.shape[1:3]) if not self.scale[1] else int(self.scale[1] * self.cell)
        if (side > self.cell + self.margin[0] * 2 and self.rows == 1) or side > 2 * self.cell:
            raise BadInput(
                f"characters of {side} pixels do not fit into cells of {self.cell}",
                where="dataset.cell, dataset.scale",
                fix=f"use cells of at least {side} pixels",
            )
        if self.n_characters > len(glyphs.usable):
            raise BadInput(
                f"{self.rows} x {self.columns} places but only {len(glyphs.usable)} different characters",
                where="dataset.rows, dataset.columns",
                fix="use a smaller grid or another source",
            )


def parse_direction(name: str, rows: int, columns: int) -> tuple[int, int]:
    """A direction by name or as ``dx,dy``.

    :raises BadInput: for an unknown word, or one that leaves the grid from every place.
    """
    if name in DIRECTIONS:
        dx, dy = DIRECTIONS[name]
    else:
        try:
            dx, dy = (int(part) for part in name.split(","))
        except ValueError:
            raise BadInput(
                f"unknown direction {name!r}",
                where="dataset.directions",
                fix=f"use one of {', '.join(DIRECTIONS)}, or dx,dy",
            ) from None
    if abs(dx) >= columns or abs(dy) >= rows or (dx, dy) == (0, 0):
        raise BadInput(
            f"direction {name!r} leaves a grid of {rows} x {columns} from every place",
            where="dataset.directions",
            fix="use a larger grid or a shorter step",
        )
    return dx, dy


def parse_directions(names: Sequence[str], rows: int, columns: int) -> list[tuple[int, int]]:
    """Directions of a stream, a stage each.

    :raises BadInput: for one that :func:`parse_direction` refuses, or that stands there twice, whatever it is called.
    """
    ways = [parse_direction(name, rows, columns) for name in names]
    for at, way in enumerate(ways):
        if way in ways[:at]:
            raise BadInput(
                f"direction {names[at]!r} is in the stream already, as {names[ways.index(way)]!r}",
                where="dataset.directions",
                fix="name every direction once",
            )
    return ways


def layouts(
    recipe: GridRecipe, usable: Sequence[int], n: int, rng: np.random.Generator, *, with_held: bool = False
) -> np.ndarray:
    """Different characters in every place, int64 [n, rows, columns].

    :param with_held: every layout shows a held-out pair side by side; otherwise none does.
    """
    held = np.zeros((max(usable) + 1,) * 2, bool)
    if recipe.held_out:
        held[tuple(np.asarray(recipe.held_out).T)] = True
    usable_array = np.asarray(usable)
    kept: list[np.ndarray] = []
    count = 0
    for _ in range(1000):
        if count >= n:
            return np.concatenate(kept)[:n]
        order = rng.random((2 * n, len(usable_array))).argsort(1)[:, : recipe.n_characters]
        drawn = usable_array[order].reshape(-1, recipe.rows, recipe.columns)
        shows = held[drawn[:, :, :-1], drawn[:, :, 1:]].any((1, 2))
        drawn = drawn[shows == with_held]
        kept.append(drawn)
        count += len(drawn)
    raise BadInput("the held-out pairs leave no layout to draw", where="dataset.held_out", fix="hold out fewer pairs")


def draw(
    recipe: GridRecipe, glyphs: Glyphs, layout: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw layouts.

    :param layout: [N, rows, columns].
    :return: pictures, uint8 [N, H, W] or [N, H, W, 3], and where each character stands: y, x, height and width,
        int64 [N, M, 4].
    """
    if recipe.scale[1] == 0:
        return _draw_plain(recipe, glyphs, layout, rng)
    height, width = recipe.size
    images = np.zeros((len(layout), height, width, *glyphs.images.shape[3:]), np.uint8)
    boxes = np.zeros((len(layout), recipe.n_characters, 4), np.int64)
    instances = glyphs.instances()
    for image, box, characters in zip(images, boxes, layout.reshape(len(layout), -1), strict=True):
        canvas = np.zeros(image.shape)
        for place, character in enumerate(characters):
            y, x = divmod(place, recipe.columns)
            side = int(recipe.cell * rng.uniform(*recipe.scale))
            corner = np.asarray([y, x]) * recipe.cell + recipe.margin + rng.uniform(0, recipe.shift, 2).astype(int)
            corner = np.clip(corner, 0, np.asarray([height, width]) - side)
            chosen = instances[character][rng.integers(len(instances[character]))]
            box[place] = *corner, side, side
            spatial.stamp(canvas, glyphs.images[chosen], side, corner)
        image[:] = (canvas * 255).astype(np.uint8)
    return images, boxes


def _draw_plain(
    recipe: GridRecipe, glyphs: Glyphs, layout: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """All pictures at once: glyphs as they are, shifted by whole pixels."""
    n, height, width = len(layout), *recipe.size
    gh, gw = glyphs.images.shape[1:3]
    images = np.zeros((n, height + recipe.cell, width + recipe.cell), np.uint8)
    boxes = np.zeros((n, recipe.n_characters, 4), np.int64)
    rows = np.arange(n)[:, None, None]
    instances = glyphs.instances()
    counts = np.asarray([len(i) for i in instances])
    padded = np.zeros((len(instances), counts.max()), np.int64)
    for c, mine in enumerate(instances):
        padded[c, : len(mine)] = mine
    room = int(recipe.shift)
    for place in range(recipe.n_characters):
        y, x = divmod(place, recipe.columns)
        characters = layout[:, y, x]
        pick = (rng.random(n) * counts[characters]).astype(np.int64)
        patch = glyphs.images[padded[characters, pick]] * rng.uniform(*recipe.ink, n)[:, None, None]
        top = y * recipe.cell + recipe.margin[0] + rng.integers(0, room + 1, n)
        left = x * recipe.cell + recipe.margin[1] + rng.integers(0, room + 1, n)
        at = rows, (top[:, None] + np.arange(gh))[:, :, None], (left[:, None] + np.arange(gw))[:, None, :]
        images[at] = np.maximum(images[at], patch.astype(np.uint8))
        boxes[:, place] = np.stack([top, left, np.full(n, gh), np.full(n, gw)], 1)
    return images[:, :height, :width], boxes


def ask(
    layout: np.ndarray, dx: int, dy: int, n_questions: int, rng: np.random.Generator, *, border: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Questions in one direction about every picture.

    :param n_questions: different places asked about in each picture, at most those there are.
    :param border: label beyond the edge; None asks only where there is a neighbour.
    :return: picture [Q], place [Q], argument [Q] (the character at the place), answer [Q].
    """
    n, rows, columns = layout.shape
    y, x = (part.flatten() for part in np.mgrid[:rows, :columns])
    inside = (y + dy >= 0) & (y + dy < rows) & (x + dx >= 0) & (x + dx < columns)
    places = np.flatnonzero(inside) if border is None else np.arange(rows * columns)
    k = min(n_questions, len(places))
    chosen = places[rng.random((n, len(places))).argsort(1)[:, :k]]  # (N, k)
    flat = layout.reshape(n, -1)
    picture = np.repeat(np.arange(n), k)
    at = chosen.flatten()
    argument = flat[picture, at]
    target = np.where(inside, (y + dy) * columns + x + dx, 0)[at]
    answer = flat[picture, target]
    if border is not None:
        answer = np.where(inside[at], answer, border)
    return picture, at, argument, answer
