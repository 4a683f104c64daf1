"""Images with label pictures as files: read when asked for, and checked once before training.

Shapes: N images, K classes without background, H W image.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from attrs import field, frozen
from PIL import Image

from cl_kernel import BadInput, Resources, load_tree, save_tree
from cl_plugin_recall.data.files import LabelMaps, encode_png
from cl_plugin_recall.data.masks import Coloured, Indexed
from cl_plugin_recall.data.steps import presence

IMAGES = (".jpg", ".jpeg", ".png")
"""Endings of images."""


@frozen
class FilePairs:
    """Image and label files, row by row.

    :param reading: how label pictures become class numbers.
    """

    images: Sequence[Path]
    labels: Sequence[Path]
    reading: Indexed | Coloured
    _maps: LabelMaps = field(init=False, factory=LabelMaps, eq=False, repr=False)

    def __len__(self) -> int:
        return len(self.images)

    def image(self, row: int) -> bytes:
        """Encoded image."""
        return self.images[row].read_bytes()

    def mask(self, row: int) -> np.ndarray:
        """Class numbers, uint8 [H, W]."""
        return self._maps.get(row, lambda: self.decoded(row))

    def decoded(self, row: int) -> np.ndarray:
        """The same straight from the file, and not kept."""
        return self.reading.read(self.labels[row].read_bytes(), str(self.labels[row]))

    def encoded(self, row: int) -> tuple[bytes, bytes]:
        """Encoded image, and its class numbers as PNG."""
        return self.image(row), encode_png(self.mask(row))

    def where(self, row: int) -> str:
        """Image file."""
        return str(self.images[row])

    def select(self, rows: Sequence[int]) -> FilePairs:
        """Some of the rows."""
        return FilePairs([self.images[r] for r in rows], [self.labels[r] for r in rows], self.reading)

    def identify(self, files: Any, rows: np.ndarray | None = None) -> str:
        """By what the files hold and how labels are read; not by where they lie."""
        chosen = range(len(self)) if rows is None else [int(row) for row in rows]
        both = [path for row in chosen for path in (self.images[row], self.labels[row])]
        digest: str = files.content("image files with masks", files.digests(both), self.reading.describe())
        return digest


def check_pair(pairs: FilePairs, row: int) -> np.ndarray:
    """The label map of an image, both decoded once to be sure.

    :raises BadInput: for a missing or undecodable file, or different sizes.
    """
    image, label = pairs.images[row], pairs.labels[row]
    for path, what, other in ((image, "image", label), (label, "label", image)):
        if not path.is_file():
            raise BadInput(
                f"{what} is missing for {other.name}", where=str(path), fix="add the file, or take it off the list"
            )
    mask = pairs.decoded(row)
    try:
        with Image.open(io.BytesIO(pairs.image(row))) as picture:
            if picture.format not in ("JPEG", "PNG"):
                raise BadInput(
                    f"image is {picture.format}; JPEG and PNG are read",
                    where=str(image),
                    fix="convert it to JPEG or PNG",
                )
            picture.load()
            size = (picture.height, picture.width)
    except (OSError, SyntaxError) as error:
        raise BadInput(
            f"image cannot be decoded: {error}", where=str(image), fix="replace the file, or --on-bad-sample skip"
        ) from error
    if size != mask.shape:
        raise BadInput(f"image is {size[1]}x{size[0]}, its label {mask.shape[1]}x{mask.shape[0]}", where=str(image))
    return mask


def scan(pairs: FilePairs, n_classes: int, resources: Resources, root: Path) -> tuple[FilePairs, np.ndarray]:
    """Check every pair once and say which classes each image shows; remembered for as long as no file changes.

    :return: usable pairs, and bool [N, K + 1].
    :raises BadInput: for the first bad pair, under ``--on-bad-sample fail``; when none is left.
    """
    missing = [row for row in range(len(pairs)) if not (pairs.images[row].is_file() and pairs.labels[row].is_file())]
    if missing and resources.on_bad_sample != "skip":
        check_pair(pairs, missing[0])
    absent = set(missing)
    there = pairs.select([row for row in range(len(pairs)) if row not in absent])
    for row in missing:
        resources.bad_sample(str(pairs.images[row]), "image or label is missing")
    artefact = resources.artefact(
        "recall-scan", revision=2, pairs=there, classes=n_classes, skip=resources.on_bad_sample
    )

    def check(row: int) -> np.ndarray | BadInput:
        try:
            return presence([check_pair(there, row)], n_classes, [str(there.labels[row])])[0]
        except BadInput as error:
            return error

    def make(place: Path) -> None:
        with ThreadPoolExecutor(max(1, resources.n_workers)) as pool:
            results = list(pool.map(check, range(len(there))))
        bad = {row: result for row, result in enumerate(results) if isinstance(result, BadInput)}
        if bad and resources.on_bad_sample != "skip":
            raise bad[min(bad)]
        shown = [result for result in results if not isinstance(result, BadInput)]
        present = np.stack(shown) if shown else np.zeros((0, n_classes + 1), bool)
        skipped = {str(row): error.what for row, error in bad.items()}
        save_tree(place / "scan.tree", {"present": present, "skipped": skipped})

    tree = load_tree(artefact.make(make) / "scan.tree")
    skipped = {int(row): reason for row, reason in tree["skipped"].items()}
    for row, reason in skipped.items():
        resources.bad_sample(str(there.images[row]), reason)
    good = [row for row in range(len(there)) if row not in skipped]
    if not good:
        raise BadInput("no image is left", where=str(root))
    return there.select(good), tree["present"]
