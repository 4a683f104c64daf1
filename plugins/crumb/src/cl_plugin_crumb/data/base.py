"""Images to pretrain on: toy ones, or a folder of one's own.

Shapes: N images, S their side.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cl_kernel import ArraySamples, BadInput, MissingAsset, Samples
from cl_plugin_crumb.data import toy
from cl_plugin_crumb.data.images import ImageFiles, image_fields, is_image, read_image

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


def base_samples(base: str, skip: int, side: int, *, n_workers: int = 0) -> Samples:
    """The same, with fields ``image`` and ``class``; those of a folder are read when they are taken.

    :param side: size at which a folder's images are read; toy ones have their own.
    """
    if base in ("main", "small"):
        pixels, labels = base_images(base, skip)
        fields = image_fields(pixels.shape[1], int(labels.max()) + 1)
        return ArraySamples(fields, {"image": pixels, "class": labels})
    root = Path(base).expanduser()
    paths, labels = _list_classes(root, skip)
    order = np.random.default_rng([0, 2]).permutation(len(labels))
    names = [str(paths[row].relative_to(root)) for row in order]
    return ImageFiles(root, names, labels[order], side, int(labels.max()) + 1, n_workers)


def _list_classes(root: Path, skip: int) -> tuple[list[Path], np.ndarray]:
    """Images of a folder ``CLASS/*``, class after class, and their labels."""
    classes = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    if not classes:
        raise MissingAsset(
            f"no folder {root} with CLASS/* in it", where="model.base, learner.base", fix="name a folder of classes"
        )
    paths: list[Path] = []
    labels: list[int] = []
    for label, place in enumerate(classes):
        files = sorted(p for p in place.glob("*") if is_image(p))[skip:]
        if not files:
            raise BadInput(
                f"class {place.name} has no images after the first {skip}",
                where=str(place),
                fix="a smaller base_skip, or leave the class out",
            )
        paths += files
        labels += [label] * len(files)
    return paths, np.array(labels, np.int64)


def read_classes(root: Path, size: int, skip: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """All images of a folder ``CLASS/*``, the first ``skip`` of each class (by name) left out.

    :return: uint8 [N, S, S, 3] and int64 [N], class after class.
    :raises MissingAsset: without such a folder. :raises BadInput: for a class without images left.
    """
    paths, labels = _list_classes(root, skip)
    return np.stack([read_image(path, size) for path in paths]), labels
