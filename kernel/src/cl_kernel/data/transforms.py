"""What makes another domain of the same samples: rotation, permutation, tint, blur, or a function of one's own.

Shapes: n a batch, H W image, C channels, D vector.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cl_kernel.contract.errors import BadSetting, ClkError, Mismatch
from cl_kernel.contract.stream import Field
from cl_kernel.data.python_files import load_callable

Transform = Callable[[np.ndarray], np.ndarray]
"""Samples [n, ...] -> samples of the same shape and type."""
NAMES = ("rotation", "permutation", "colour", "blur")
LAST = {"rotation": 90.0, "blur": 1.5, "colour": 0.8, "permutation": 0.0}
"""How much of each the last stage has."""


def rotated(images: np.ndarray, degrees: float) -> np.ndarray:
    """Images [n, H, W, C] turned counter-clockwise about their centre, bilinear, black outside."""
    if degrees == 0:
        return images
    height, width = images.shape[1:3]
    angle = np.deg2rad(degrees)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    cy, cx = (height - 1) / 2, (width - 1) / 2
    from_y = cy + (y - cy) * np.cos(angle) + (x - cx) * np.sin(angle)
    from_x = cx - (y - cy) * np.sin(angle) + (x - cx) * np.cos(angle)
    low_y, low_x = np.floor(from_y).astype(int), np.floor(from_x).astype(int)
    out = np.zeros(images.shape, np.float64)
    for dy in (0, 1):
        for dx in (0, 1):
            at_y, at_x = low_y + dy, low_x + dx
            weight = (1 - np.abs(from_y - at_y)) * (1 - np.abs(from_x - at_x))
            inside = (at_y >= 0) & (at_y < height) & (at_x >= 0) & (at_x < width)
            pixels = images[:, at_y.clip(0, height - 1), at_x.clip(0, width - 1)]
            out += (weight * inside)[None, ..., None] * pixels
    return as_before(out, images.dtype)


def blurred(images: np.ndarray, sigma: float) -> np.ndarray:
    """Images [n, H, W, C] under a Gaussian of ``sigma`` pixels; the edge goes on outside."""
    if sigma == 0:
        return images
    reach = max(1, int(np.ceil(3 * sigma)))
    steps = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (steps / sigma) ** 2)
    weights /= weights.sum()
    out = images.astype(np.float64)
    for axis in (1, 2):
        n = images.shape[axis]
        index = (np.arange(n)[:, None] + steps[None]).clip(0, n - 1)
        taken = np.moveaxis(np.take(out, index, axis=axis), axis + 1, -1)
        out = taken @ weights
    return as_before(out, images.dtype)


def tinted(images: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Images [n, H, W, 3] seen through a filter of this colour [3]."""
    return as_before(images * colour, images.dtype)


def permuted(samples: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Samples [n, ...] with the places of one sample in this order."""
    return samples.reshape(len(samples), -1)[:, order].reshape(samples.shape)


def as_before(values: np.ndarray, dtype: Any) -> np.ndarray:
    """Float values as the type they came from; whole numbers rounded and kept in range."""
    if np.issubdtype(dtype, np.integer):
        info = np.iinfo(dtype)
        return np.asarray(np.rint(values).clip(info.min, info.max).astype(dtype))
    return np.asarray(values.astype(dtype))


def transforms(name: str, amount: float, n_stages: int, spec: Field, rng: np.random.Generator) -> list[Transform]:
    """What each stage's samples go through; the first stage's are left as they are, except by one's own function.

    :param amount: in the last stage; 0 for the usual one.
    :param spec: of the samples.
    :raises ClkError: for a transform that is none, or does not fit the samples.
    """
    if ":" in name:
        function = load_callable(name, where="stream.transform")
        return [functools.partial(_own, function, stage, name) for stage in range(n_stages)]
    if name not in NAMES:
        what = f"no transform {name!r}" if name else "a domain needs a transform"
        raise BadSetting(what, where="stream.transform", fix=f"{', '.join(NAMES)}, or FILE.py:FUNCTION")
    shape = tuple(int(axis) for axis in spec.shape if axis is not None)
    if len(shape) != len(spec.shape):
        raise Mismatch(f"samples of varying size {spec.shape}", where="stream.transform", fix="resize them first")
    if name == "permutation":
        orders = [np.arange(int(np.prod(shape))), *(rng.permutation(int(np.prod(shape))) for _ in range(n_stages - 1))]
        return [functools.partial(permuted, order=order) for order in orders]
    if len(shape) != 3:
        raise Mismatch(
            f"{name} is for images [H, W, C], but a sample is {spec.kind} {list(shape)}",
            where="stream.transform",
            fix="permutation, or FILE.py:FUNCTION",
        )
    steps = [(amount or LAST[name]) * stage / max(1, n_stages - 1) for stage in range(n_stages)]
    if name == "rotation":
        return [functools.partial(rotated, degrees=step) for step in steps]
    if name == "blur":
        return [functools.partial(blurred, sigma=step) for step in steps]
    if shape[2] != 3:
        raise Mismatch(
            f"colour needs images of three channels; these have {shape[2]}",
            where="stream.transform",
            fix="rotation, permutation or blur",
        )
    return [functools.partial(tinted, colour=colour) for colour in _colours(n_stages, amount or LAST[name], rng)]


def _colours(n_stages: int, strength: float, rng: np.random.Generator) -> list[np.ndarray]:
    """White first, then filters that take away up to ``strength`` of each channel."""
    if strength > 1:
        raise BadSetting(f"a tint of strength {strength} is darker than black", where="stream.amount", fix="at most 1")
    return [np.ones(3), *(1 - strength * rng.random(3) for _ in range(n_stages - 1))]


def _own(function: Callable[..., Any], stage: int, name: str, samples: np.ndarray) -> np.ndarray:
    made = np.asarray(function(samples.copy(), stage))
    if made.shape != samples.shape or made.dtype != samples.dtype:
        raise Mismatch(
            f"{name} made {made.dtype} {list(made.shape)} of {samples.dtype} {list(samples.shape)} in stage {stage}; "
            "a transform keeps shape and type",
            where="stream.transform",
        )
    return made


def try_out(made: Sequence[Transform], few: np.ndarray, name: str) -> None:
    """Put a few samples through every stage's transform, before anything is learnt.

    :raises ClkError: naming the stage that fails.
    """
    for stage, transform in enumerate(made):
        try:
            transform(few)
        except ClkError:
            raise
        except (ArithmeticError, LookupError, ValueError, TypeError, AttributeError) as error:
            if ":" not in name:
                raise
            raise BadSetting(
                f"{name} failed on samples {list(few.shape)} of stage {stage}: {type(error).__name__}: {error}",
                where="stream.transform",
            ) from error
