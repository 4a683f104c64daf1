"""Shift, turn and brighten pictures: on the device while training, or once when a data set is prepared.

Shapes: B batch, C channels, H W.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor


@frozen(kw_only=True)
class Augmentation:
    """Largest shifts (parts of the side), rotation (degrees) and added grey levels."""

    shift_x: float = 0.1
    shift_y: float = 0.05
    rotation: float = 2.0
    add: int = 51

    @property
    def off(self) -> bool:
        """Whether it does nothing."""
        return not (self.shift_x or self.shift_y or self.rotation or self.add)


SPATIAL = Augmentation()
PERSONS = Augmentation(shift_x=0.1, shift_y=0.1, rotation=10.0, add=51)


def augment(images: Tensor, how: Augmentation, rng: np.random.Generator) -> Tensor:
    """One affine map and one added grey level a picture; what comes in from outside repeats the edge.

    :param images: float [B, C, H, W], 0..255.
    """
    if how.off:
        return images
    n, _, height, width = images.shape
    angle = np.radians(rng.uniform(-how.rotation, how.rotation, n))
    shift = rng.uniform(-1, 1, (n, 2)) * (how.shift_x, how.shift_y)
    # grid_sample works in units of half a side: turn in pixels, so that an oblong picture is not sheared
    cos, sin = np.cos(angle), np.sin(angle)
    ratio = height / width
    theta = np.stack(
        [np.stack([cos, -sin * ratio, -2 * shift[:, 0]], 1), np.stack([sin / ratio, cos, -2 * shift[:, 1]], 1)], 1
    )
    matrix = torch.from_numpy(theta.astype(np.float32)).to(images.device)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    add = torch.from_numpy(rng.integers(-how.add, how.add + 1, n).astype(np.float32)).to(images.device)
    return (moved + add.view(-1, 1, 1, 1)).clamp_(0, 255)


def augment_one(image: np.ndarray, how: Augmentation, seed: int) -> np.ndarray:
    """The offline variant: one uint8 picture [H, W] or [H, W, 3], seeded by its number."""
    planes = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
    out = augment(torch.from_numpy(planes[None].astype(np.float32)), how, np.random.default_rng(seed))
    back = out[0].round().to(torch.uint8).numpy()
    return back[0] if image.ndim == 2 else back.transpose(1, 2, 0)
