"""Images to pretrain on: toy ones, or a folder of one's own.

Shapes: N images, S their side.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cl_kernel import BadInput, MissingAsset
from cl_plugin_crumb.data import toy
from cl_plugin_crumb.data.images import is_image, read_image

SMALL_BASE = toy.BASE_HUES[:1]
"""Hues of the small base set: four classes instead of twenty."""


def base_images(base: str, skip: int, *, n_images: int = 150, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images to pretrain on: toy ones (``main`` or ``small``), or those of a folder ``CLASS/*``.

    :param skip: images left out at the start of each class of a folder. :param n_images: toy images a class.
    :return: uint8 [N, 32, 32, 3] in random order, int64 [N].
    """
    if base in ("main", "small"):
        return toy.base(seed, n_images=n_images, hues=SMALL_BASE if base == "small" else toy.BASE_HUES)
    pixels, labels = read_classes(Path(base).expanduser(), toy.SIZE, skip)
    order = np.random.default_rng([seed, 2]).permutation(len(labels))
    return pixels[order], labels[order]


def read_classes(root: Path, size: int, skip: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """All images of a folder ``CLASS/*``, the first ``skip`` of each class (by name) left out.

    :return: uint8 [N, S, S, 3] and int64 [N], class after class.
    :raises MissingAsset: without such a folder. :raises BadInput: for a class without images left.
    """
    classes = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    if not classes:
        raise MissingAsset(
            f"no folder {root} with CLASS/* in it", where="model.base, learner.base", fix="name a folder of classes"
        )
    pixels: list[np.ndarray] = []
    labels: list[int] = []
    for label, place in enumerate(classes):
        files = sorted(p for p in place.glob("*") if is_image(p))[skip:]
        if not files:
            raise BadInput(
                f"class {place.name} has no images after the first {skip}",
                where=str(place),
                fix="a smaller base_skip, or leave the class out",
            )
        pixels += [read_image(path, size) for path in files]
        labels += [label] * len(files)
    return np.stack(pixels), np.array(labels, np.int64)
