"""Random views of what the learning part of a network reads.

Shapes: B batch, C channels, h w map.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from cl_kernel.methods.lazy import F, torch

if TYPE_CHECKING:
    from torch import Tensor


def augmented(inputs: Tensor, rng: np.random.Generator) -> Tensor:
    """Mirror and shift images or maps [B, C, h, w] at random; vectors get a little noise."""
    if inputs.ndim != 4:
        noise = torch.from_numpy(rng.standard_normal(inputs.shape)).to(inputs)
        return inputs + 0.05 * inputs.std() * noise
    mirrored = torch.from_numpy(rng.random(len(inputs)) < 0.5).to(inputs.device)
    out = torch.where(mirrored[:, None, None, None], inputs.flip(3), inputs)
    reach = max(1, inputs.shape[3] // 8)
    down, right = (int(n) for n in rng.integers(-reach, reach + 1, 2))
    padded = F.pad(out, (reach,) * 4)
    return padded[:, :, reach + down : reach + down + inputs.shape[2], reach + right : reach + right + inputs.shape[3]]


def cutmix(inputs: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor, float]:
    """Paste a random window of a random other image into each.

    :return: mixed images, which other one each got its window from, and the share that is its own.
    """
    share = float(rng.beta(1, 1))
    height, width = inputs.shape[2:]
    h, w = round(height * math.sqrt(1 - share)), round(width * math.sqrt(1 - share))
    top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
    order = torch.from_numpy(rng.permutation(len(inputs))).to(inputs.device)
    mixed = inputs.clone()
    mixed[:, :, top : top + h, left : left + w] = inputs[order][:, :, top : top + h, left : left + w]
    return mixed, order, 1 - h * w / (height * width)
