"""Two random views of a picture, each draw from a generator of its own: the same whatever loads it.

Shapes: S edge of the crop.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageFilter

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)


def view(picture: Image.Image, size: int, rng: np.random.Generator, *, plus: bool) -> np.ndarray:
    """One view, float32 [3, S, S], normalised.

    :param plus: MoCo v2 (jitter with p 0.8, blur with p 0.5); otherwise v1 (gray first, jitter always).
    """
    picture = random_crop(picture, size, rng)
    if plus:
        if rng.random() < 0.8:
            picture = jitter(picture, 0.4, 0.4, 0.4, 0.1, rng)
        if rng.random() < 0.2:
            picture = picture.convert("L").convert("RGB")
        if rng.random() < 0.5:
            picture = picture.filter(ImageFilter.GaussianBlur(radius=float(rng.uniform(0.1, 2.0))))
    else:
        if rng.random() < 0.2:
            picture = picture.convert("L").convert("RGB")
        picture = jitter(picture, 0.4, 0.4, 0.4, 0.4, rng)
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return normalised(picture)


def normalised(picture: Image.Image) -> np.ndarray:
    """float32 [3, H, W], ImageNet mean and deviation taken out."""
    array = np.asarray(picture.convert("RGB"), np.float32) / 255.0
    return np.ascontiguousarray(((array - IMAGENET_MEAN) / IMAGENET_STD).transpose(2, 0, 1))


def random_crop(
    picture: Image.Image, size: int, rng: np.random.Generator, scale: tuple[float, float] = (0.2, 1.0)
) -> Image.Image:
    """A random part of the area with ratio 3:4 to 4:3, resized to S x S; the centre if ten tries do not fit."""
    width, height = picture.size
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
            break
    else:
        ratio = min(max(width / height, 3 / 4), 4 / 3)
        w, h = (width, round(width / ratio)) if width / height < ratio else (round(height * ratio), height)
        w, h = min(w, width), min(h, height)
        left, top = (width - w) // 2, (height - h) // 2
    return picture.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + w, top + h))


def jitter(
    picture: Image.Image, brightness: float, contrast: float, saturation: float, hue: float, rng: np.random.Generator
) -> Image.Image:
    """Brightness, contrast, saturation and hue by random factors, in random order."""
    from PIL import ImageEnhance

    factors = [rng.uniform(max(0, 1 - b), 1 + b) for b in (brightness, contrast, saturation)]
    shift = rng.uniform(-hue, hue)
    kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for which in rng.permutation(4):
        if which < 3:
            picture = kinds[which](picture).enhance(factors[which])
        else:
            h, s, v = picture.convert("HSV").split()
            h = Image.fromarray((np.asarray(h).astype(np.int16) + round(shift * 255)).astype(np.uint8))
            picture = Image.merge("HSV", (h, s, v)).convert("RGB")
    return picture
