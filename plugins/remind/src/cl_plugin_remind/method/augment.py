"""Augmentation of stored feature maps: random resized crops, all at once, and mixup.

Shapes: n tensors, C channels, H W their side, S side of the result, r replayed examples.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import torch
from attrs import define
from torch import Tensor

SCALE = (2 / 7, 1.0)
RATIO = (3 / 4, 4 / 3)


class Chance(Protocol):
    """Where a streaming step gets its random decisions from."""

    def crops(self, n: int, height: int, width: int) -> np.ndarray:
        """Crop windows (top, left, height, width), int64 [n, 4]."""

    def share(self, alpha: float) -> float:
        """Share of the first half in a mixture."""


@define(eq=False, repr=False)
class Drawn:
    """Decisions from a numpy generator, all crops of a step at once."""

    rng: np.random.Generator
    scale: tuple[float, float] = SCALE
    ratio: tuple[float, float] = RATIO

    def crops(self, n: int, height: int, width: int) -> np.ndarray:
        """Up to ten attempts each; a tensor for which none fits is kept whole."""
        windows = np.tile(np.array([0, 0, height, width], np.int64), (n, 1))
        left = np.arange(n)
        log_ratio = np.log(self.ratio)
        for _ in range(10):
            u = self.rng.random((4, len(left)))
            area = height * width * (self.scale[0] + u[0] * (self.scale[1] - self.scale[0]))
            aspect = np.exp(log_ratio[0] + u[1] * (log_ratio[1] - log_ratio[0]))
            w, h = np.rint(np.sqrt(area * aspect)).astype(np.int64), np.rint(np.sqrt(area / aspect)).astype(np.int64)
            fits = (w <= width) & (h <= height) & (w > 0) & (h > 0)
            top, side = (u[2] * (height - h + 1)).astype(np.int64), (u[3] * (width - w + 1)).astype(np.int64)
            windows[left[fits]] = np.stack([top, side, h, w], 1)[fits]
            left = left[~fits]
            if not len(left):
                break
        return windows

    def share(self, alpha: float) -> float:
        """Beta(alpha, alpha); 1 for alpha <= 0."""
        return float(self.rng.beta(alpha, alpha)) if alpha > 0 else 1.0


@define(eq=False, repr=False)
class AsPublished:
    """Decisions in the authors' order from the generators they used: Python's for crops, numpy's old one for shares.

    :param python: a ``random.Random``. :param old: a ``numpy.random.RandomState``.
    """

    python: object
    old: np.random.RandomState
    scale: tuple[float, float] = SCALE
    ratio: tuple[float, float] = RATIO

    def crops(self, n: int, height: int, width: int) -> np.ndarray:
        """One tensor after the other."""
        return np.array([crop_window(self.python, height, width, self.scale, self.ratio) for _ in range(n)], np.int64)

    def share(self, alpha: float) -> float:
        """Beta(alpha, alpha); 1 for alpha <= 0."""
        return float(self.old.beta(alpha, alpha)) if alpha > 0 else 1.0

    def draw(self, n: int, q: int) -> np.ndarray:
        """Distinct positions below n in order of first occurrence, min(n, q) of them."""
        return distinct(self.old, n, q)


def crop_window(
    python: object, height: int, width: int, scale: tuple[float, float] = SCALE, ratio: tuple[float, float] = RATIO
) -> tuple[int, int, int, int]:
    """One window (top, left, height, width), drawn as torchvision did: area, aspect, top, left."""
    uniform, randint = python.uniform, python.randint  # type: ignore[attr-defined]
    log_ratio = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
        area = height * width * uniform(*scale)
        aspect = math.exp(uniform(*log_ratio))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if w <= width and h <= height:
            return randint(0, height - h), randint(0, width - w), h, w
    in_ratio = width / height
    if in_ratio < min(ratio):
        w, h = width, round(width / min(ratio))
    elif in_ratio > max(ratio):
        w, h = round(height * max(ratio)), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


def distinct(old: np.random.RandomState, n: int, q: int) -> np.ndarray:
    """The authors' sampler: vectors of q uniform numbers below n until min(n, q) different ones are found."""
    wanted = min(n, q)
    found: dict[int, None] = {}
    while len(found) < wanted:
        found.update(dict.fromkeys(old.randint(0, n, q).tolist()))
    return np.fromiter(found, np.int64, len(found))[:wanted]


def crop(maps: Tensor, windows: np.ndarray, side: tuple[int, int] | None = None) -> Tensor:
    """Cut a window out of each tensor and resize it bilinearly (corners not aligned), all tensors at once.

    :param maps: float32 [n, C, H, W]. :param windows: int [n, 4] (top, left, height, width).
    :param side: of the result; by default that of the input.
    :return: float32 [n, C, S, S], channels last in memory.
    """
    down, across = matrices(windows, *maps.shape[2:], side=side)
    return resample(maps, down.to(maps.device), across.to(maps.device))


def matrices(
    windows: np.ndarray, height: int, width: int, side: tuple[int, int] | None = None
) -> tuple[Tensor, Tensor]:
    """What :func:`crop` multiplies with: float32 [n, S, H] for rows and [n, S, W] for columns, on the CPU."""
    rows, columns = side or (height, width)
    return (
        _resize_matrix(windows[:, 0], windows[:, 2], rows, height),
        _resize_matrix(windows[:, 1], windows[:, 3], columns, width),
    )


def resample(maps: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Rows and columns of each tensor weighted anew.

    :param maps: float32 [n, C, H, W]. :param down: [n, S, H]. :param across: [n, S, W].
    :return: float32 [n, C, S, S], channels last in memory.
    """
    n, channels, height, width = maps.shape
    rows, columns = down.shape[1], across.shape[1]
    last = maps.permute(0, 2, 3, 1)  # [n, H, W, C]
    if rows * columns * height * width <= 64 * 64:
        # small maps: one product of the window's positions
        both = (down[:, :, None, :, None] * across[:, None, :, None, :]).reshape(n, rows * columns, -1)
        result = torch.bmm(both, last.reshape(n, height * width, channels))
    else:
        tall = torch.bmm(down, last.reshape(n, height, width * channels)).reshape(-1, width, channels)
        wide = across.unsqueeze(1).expand(-1, rows, -1, -1).reshape(-1, columns, width)
        result = torch.bmm(wide, tall)
    return result.reshape(n, rows, columns, channels).permute(0, 3, 1, 2)


def _resize_matrix(start: np.ndarray, length: np.ndarray, out: int, size: int) -> Tensor:
    """Weights that take ``length`` positions from ``start`` to ``out`` positions: float32 [n, out, size]."""
    start, length = np.asarray(start, np.int64)[:, None], np.asarray(length, np.int64)[:, None]
    # single precision in torch's order of operations, so that results agree to the last digits
    scale = (length / np.float32(out)).astype(np.float32)
    source = np.maximum((np.arange(out, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5), 0)
    low = np.minimum(source.astype(np.int64), length - 1)
    high = np.minimum(low + 1, length - 1)
    weight = (source - low).astype(np.float32)
    matrix = np.zeros((len(start), out, size), np.float32)
    example, place = np.arange(len(start))[:, None], np.arange(out)[None]
    matrix[example, place, start + low] = 1 - weight
    matrix[example, place, start + high] += weight
    return torch.from_numpy(matrix)


def mix(first: Tensor, second: Tensor, share: float | Tensor) -> Tensor:
    """``share * first + (1 - share) * second``."""
    return share * first + (1 - share) * second
