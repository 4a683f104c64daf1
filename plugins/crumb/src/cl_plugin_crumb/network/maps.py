"""What may be done to a map before the head sees it: disturbances, random resized crops, mirroring.

Shapes: B batch, C channels, h w map at the cut.
"""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor
from torch.nn import functional as F

from cl_kernel import BadSetting

PERTURBATIONS = ("spatial", "feature", "spatial_shuffle_rows_cols", "feature_complete", "feature_swap")


def perturb(features: Tensor, kind: str, generator: torch.Generator | None = None) -> Tensor:
    """Disturb each map on its own before the head sees it.

    ``spatial`` mixes all places, ``spatial_shuffle_rows_cols`` mixes rows and columns, ``feature`` zeroes half of
    the channels, ``feature_complete`` mixes all channels, ``feature_swap`` copies half of them onto others.

    :raises BadSetting: for an unknown kind.
    """
    if kind not in PERTURBATIONS:
        raise BadSetting(
            f"unknown perturbation {kind!r}", where="perturbation", fix=f"one of {', '.join(PERTURBATIONS)}"
        )
    _, channels, height, width = features.shape
    half = round(0.5 * channels)

    def order(n: int) -> Tensor:
        return torch.randperm(n, generator=generator).to(features.device)

    out = features.clone(memory_format=torch.contiguous_format)
    for one in out:
        match kind:
            case "spatial":
                one.copy_(one.flatten(1)[:, order(height * width)].view_as(one))
            case "spatial_shuffle_rows_cols":
                one.copy_(one[:, order(height)][:, :, order(width)])
            case "feature":
                one[order(channels)[:half]] = 0
            case "feature_complete":
                one.copy_(one[order(channels)])
            case "feature_swap":
                target, source = order(channels)[:half], order(channels)[:half]
                one[target] = one[source].clone()
    return out


def crop_box(
    height: int, width: int, scale: tuple[float, float], rng: random.Random, ratio: tuple[float, float] = (3 / 4, 4 / 3)
) -> tuple[int, int, int, int]:
    """A random part of a map: top, left, height, width; ten tries, then the whole map."""
    log_ratio = (math.log(ratio[0]), math.log(ratio[1]))
    for _ in range(10):
        area = rng.uniform(*scale) * height * width
        aspect = math.exp(rng.uniform(*log_ratio))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return rng.randint(0, height - h), rng.randint(0, width - w), h, w
    return 0, 0, height, width


def crop_scale(size: int) -> tuple[float, float]:
    """Range of the area a crop keeps, for maps of this size: ``(round(2 h / 7) / h, 1)``."""
    return round(2 * size / 7) / size, 1.0


def resized_crops(features: Tensor, rng: random.Random, scale: tuple[float, float] | None = None) -> Tensor:
    """A random resized crop of each map on its own, bilinear, corners not aligned."""
    height, width = features.shape[2:]
    scale = scale or crop_scale(height)
    out = []
    for one in features:
        top, left, h, w = crop_box(height, width, scale, rng)
        part = one[None, :, top : top + h, left : left + w]
        out.append(F.interpolate(part, size=(height, width), mode="bilinear", align_corners=False))
    return torch.cat(out)


def flip(features: Tensor, rng: random.Random, *, axis: int = 3) -> Tensor:
    """Mirror each map with probability one half: the width (axis 3), or the height as shipped (axis 2)."""
    chosen = torch.tensor([rng.random() < 0.5 for _ in range(len(features))], device=features.device)
    return torch.where(chosen[:, None, None, None], features.flip(axis), features)
