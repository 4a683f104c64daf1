"""Directions on a grid: their numbers, and who is whose neighbour. y grows downwards: dy = -1 is up."""

from __future__ import annotations

import numpy as np

NAMES = {
    (1, 0): "right",
    (-1, 0): "left",
    (0, -1): "up",
    (0, 1): "down",
    (-2, 0): "left2",
    (2, 0): "right2",
    (0, -2): "up2",
    (0, 2): "down2",
    (1, -1): "right-up",
    (1, 1): "right-down",
    (-1, -1): "left-up",
    (-1, 1): "left-down",
}
"""Directions with a word of their own."""


def direction_index(dx: int, dy: int, reach_x: int, reach_y: int) -> int:
    """A number for a direction, different for every direction within reach.

    The published rule multiplies by ``reach_x + 1`` and collides, so colliding tasks shared their parameters.

    >>> len({direction_index(dx, dy, 1, 2) for dx in (-1, 0, 1) for dy in (-2, -1, 0, 1, 2)})
    15
    """
    return (2 * reach_y + 1) * (dx + reach_x) + (dy + reach_y)


def published_direction_index(dx: int, dy: int, reach_x: int, reach_y: int) -> int:
    """The published number of a direction, as published weights name it; directions may share one."""
    return (reach_x + 1) * (dx + reach_x) + (dy + reach_y)


def adjacency(
    layout: np.ndarray, dx: int, dy: int, n_characters: int, *, border: int | None = None, absent: int | None = None
) -> np.ndarray:
    """Neighbour of every character: labels of the answer-all heads.

    :param layout: characters in their places, int [rows, columns]; -1 where a place is empty.
    :param dx: columns to go, 1 is right.
    :param dy: rows to go, -1 is up.
    :return: int64 [n_characters]: the neighbour, ``border`` beyond the edge (default n_characters), ``absent``
        where the character is not in the picture (default n_characters + 1).
    """
    border = n_characters if border is None else border
    absent = n_characters + 1 if absent is None else absent
    answers = np.full(n_characters, absent, np.int64)
    rows, columns = layout.shape
    for r in range(rows):
        for c in range(columns):
            if layout[r, c] >= 0:
                inside = 0 <= r + dy < rows and 0 <= c + dx < columns
                answers[layout[r, c]] = layout[r + dy, c + dx] if inside else border
    return answers
