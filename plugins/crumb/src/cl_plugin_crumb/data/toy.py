"""Embedded data of the papers' form: short clips of turning objects, and still images of other hues to pretrain on.

Stream classes are 4 shapes in 2 hues; an object has its own shade and size; a session has its own background, light
and start pose; a clip turns and drifts slowly over 12 frames. Objects of the base set have the same shapes in five
other hues. Nothing is downloaded; everything follows from the seed.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from attrs import frozen

SIZE = 32
SHAPES = ("disc", "square", "triangle", "cross")
STREAM_HUES = (0.1, 0.5)
BASE_HUES = (0.0, 0.25, 0.38, 0.65, 0.8)
TEST_SESSIONS = (2, 4)
N_SESSIONS = 6


@frozen(kw_only=True)
class Images:
    """Rendered images with a dirmap row each.

    :param pixels: uint8 [N, 32, 32, 3].
    :param table: dirmap, row i of image i; classes counted from 0.
    :param names: name of each class.
    """

    pixels: np.ndarray
    table: pd.DataFrame
    names: tuple[str, ...]


def _rgb(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """HSV to RGB, arrays of one shape to [..., 3]."""
    k = (np.stack([np.full_like(hue, 5), np.full_like(hue, 3), np.full_like(hue, 1)], -1) + hue[..., None] * 6) % 6
    return value[..., None] * (1 - saturation[..., None] * np.clip(np.minimum(k, 4 - k), 0, 1))


def _inside(shape: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Signed distance-like value, negative inside, of each image's shape at object coordinates [n, H, W]."""
    disc = np.sqrt(u**2 + v**2) - 1
    square = np.maximum(np.abs(u), np.abs(v)) - 0.85
    triangle = np.maximum(np.maximum(-v - 0.6, 0.87 * u + 0.5 * v - 0.55), -0.87 * u + 0.5 * v - 0.55)
    cross = np.minimum(np.maximum(np.abs(u) - 0.32, np.abs(v) - 1), np.maximum(np.abs(v) - 0.32, np.abs(u) - 1))
    return np.choose(shape[:, None, None], [disc, square, triangle, cross])


def render(
    rng: np.random.Generator,
    *,
    shape: np.ndarray,
    hue: np.ndarray,
    radius: np.ndarray,
    angle: np.ndarray,
    centre: np.ndarray,
    background: np.ndarray,
    light: np.ndarray,
    noise: float = 0.04,
) -> np.ndarray:
    """Draw n images.

    :param shape: number in :data:`SHAPES`; ``radius`` and ``centre`` [n, 2] in half image widths; ``angle`` radians.
    :param background: RGB [n, 3]; ``light``: direction of the shading, radians.
    :return: uint8 [n, 32, 32, 3].
    """
    axis = (np.arange(SIZE) + 0.5) / SIZE * 2 - 1
    y, x = np.meshgrid(axis, axis, indexing="ij")
    dx = (x[None] - centre[:, 0, None, None]) / radius[:, None, None]
    dy = (y[None] - centre[:, 1, None, None]) / radius[:, None, None]
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    u, v = cos * dx + sin * dy, -sin * dx + cos * dy
    cover = np.clip(0.5 - _inside(shape, u, v) * radius[:, None, None] * SIZE / 2, 0, 1)[..., None]
    shade = 0.78 + 0.22 * (np.cos(light)[:, None, None] * dx + np.sin(light)[:, None, None] * dy)
    value = np.clip(shade, 0.35, 1)
    colour = _rgb(np.broadcast_to(hue[:, None, None] % 1, value.shape), np.full(value.shape, 0.8), value)
    ground = (
        background[:, None, None]
        * (0.9 + 0.1 * (x * np.cos(light)[:, None, None] + y * np.sin(light)[:, None, None]))[..., None]
    )
    image = cover * colour + (1 - cover) * ground + noise * rng.standard_normal((len(shape), SIZE, SIZE, 3))
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8)


def _background(rng: np.random.Generator, n: int) -> np.ndarray:
    return _rgb(rng.random(n), rng.uniform(0.1, 0.45, n), rng.uniform(0.25, 0.75, n))


def stream(seed: int = 0, *, n_objects: int = 6, n_frames: int = 12) -> Images:
    """The clips: 8 classes x objects x 6 sessions x frames, in dirmap order."""
    rng = np.random.default_rng([seed, 1])
    rows, parts = [], []
    t = np.arange(n_frames)
    for label, (shape, hue) in enumerate((s, h) for s in range(len(SHAPES)) for h in STREAM_HUES):
        for one in range(n_objects):
            tone, size = hue + rng.uniform(-0.03, 0.03), rng.uniform(0.45, 0.65)
            for session in range(N_SESSIONS):
                angle = rng.uniform(0, 2 * np.pi) + rng.choice([-1, 1]) * 0.08 * t
                start, drift = rng.uniform(-0.2, 0.2, 2), rng.uniform(-0.02, 0.02, 2)
                background, light = _background(rng, 1), rng.uniform(0, 2 * np.pi)
                parts.append(
                    render(
                        rng,
                        shape=np.full(n_frames, shape),
                        hue=np.full(n_frames, tone),
                        radius=np.full(n_frames, size),
                        angle=angle,
                        centre=start + drift * t[:, None],
                        background=np.repeat(background, n_frames, 0),
                        light=np.full(n_frames, light),
                    )
                )
                rows += [
                    (label, one, session, frame, f"c{label}/o{one}/s{session}/{frame:02d}.png")
                    for frame in range(n_frames)
                ]
    names = tuple(f"{shape}-{'orange' if hue == STREAM_HUES[0] else 'cyan'}" for shape in SHAPES for hue in STREAM_HUES)
    return Images(
        pixels=np.concatenate(parts),
        names=names,
        table=pd.DataFrame(rows, columns=["class", "object", "session", "im_num", "im_path"]),
    )


def base(seed: int = 0, *, n_images: int = 150, hues: tuple[float, ...] = BASE_HUES) -> tuple[np.ndarray, np.ndarray]:
    """Still images to pretrain on: 4 shapes in hues the stream never shows.

    :return: uint8 [N, 32, 32, 3] in random order, and int64 [N] with ``4 x len(hues)`` classes.
    """
    rng = np.random.default_rng([seed, 2])
    labels = rng.permutation(np.repeat(np.arange(len(SHAPES) * len(hues)), n_images))
    n = len(labels)
    hue = np.asarray(hues)[labels % len(hues)] + rng.uniform(-0.03, 0.03, n)
    pixels = render(
        rng,
        shape=labels // len(hues),
        hue=hue,
        radius=rng.uniform(0.4, 0.68, n),
        angle=rng.uniform(0, 2 * np.pi, n),
        centre=rng.uniform(-0.3, 0.3, (n, 2)),
        background=_background(rng, n),
        light=rng.uniform(0, 2 * np.pi, n),
    )
    return pixels, labels
