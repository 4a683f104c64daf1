"""Procedural data of the papers' shapes: coloured figures, short clips of objects.

Shapes: n images, H W their side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cl_kernel import ArraySamples, Field, Site, Stage, Stream, class_incremental, fingerprint

if TYPE_CHECKING:
    from cl_plugin_remind.settings import TinyCore, TinyShapes

FIGURES = ("disc", "square", "triangle", "cross")
HUES = ("red", "green", "blue")
_COLOURS = np.array([[0.9, 0.2, 0.15], [0.2, 0.8, 0.25], [0.2, 0.35, 0.95]], np.float32)
IMAGE = {"image": Field(shape=(32, 32, 3), dtype="uint8", kind="image")}


def tinyshapes(settings: TinyShapes, site: Site) -> Stream:
    """Twelve classes, four figures in three hues, on 32x32 images; the base classes cover every figure and hue."""
    rng = site.rng("tinyshapes")
    names = tuple(f"{hue}-{figure}" for figure in FIGURES for hue in HUES)
    sides = {}
    for side, count in (("train", settings.n_train), ("test", settings.n_test)):
        labels = np.repeat(np.arange(len(names)), count)
        images = draw_figures(labels // 3, _COLOURS[labels % 3], rng, radius=(7.0, 12.0))
        sides[side] = ArraySamples(spec(len(names)), {"image": images, "class": labels})
    order = tiny_order(rng) if settings.diagonal else rng.permutation(len(names)).tolist()
    sizes = [settings.base, *[settings.increment] * ((len(names) - settings.base) // settings.increment)]
    digest = fingerprint("tinyshapes", *(sides[s].arrays[f] for s in sides for f in ("image", "class")))
    return class_incremental("tinyshapes", sides["train"], sides["test"], names, sizes=sizes, order=order,
                             fingerprint=digest)


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


def draw_figures(figures: np.ndarray, colours: np.ndarray, rng: np.random.Generator, *, radius: tuple[float, float],
                 side: int = 32, centres: np.ndarray | None = None, backgrounds: np.ndarray | None = None) -> np.ndarray:
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
    inside = np.stack([
        u**2 + v**2 - 1,
        np.maximum(abs(u), abs(v)) - 0.85,
        np.maximum(abs(u) * 0.866 + v * 0.5 - 0.5, -v - 0.5) * 1.0,
        np.maximum(np.minimum(abs(u), abs(v)) - 0.3, np.maximum(abs(u), abs(v)) - 0.95),
    ])[figures, np.arange(n)]
    inside[figures == 2] = np.maximum(abs(u) * 0.866 + v * 0.5 - 0.48, -v - 0.8)[figures == 2]
    cover = np.clip(0.5 - inside * size[:, None, None] * 0.7, 0, 1)[..., None]
    tint = colours + rng.normal(0, 0.08, (n, 3))
    if backgrounds is None:
        backgrounds = rng.uniform(0.05, 0.45, (n, 1)) + rng.uniform(-0.08, 0.08, (n, 3))
    noise = rng.uniform(-0.12, 0.12, (n, side, side, 3))
    image = cover * tint[:, None, None] + (1 - cover) * backgrounds[:, None, None] + noise
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)
