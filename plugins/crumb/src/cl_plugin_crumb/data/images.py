"""Images on disk: reading one, a data set of them, the same in another style.

Shapes: N images, n a batch, S side of the square images.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from attrs import define, field
from PIL import Image

from cl_kernel import BadInput, BadSetting, Field, MissingAsset, Samples

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".JPEG", ".JPG", ".PNG")


def read_image(path: Path, size: int) -> np.ndarray:
    """An image as uint8 [S, S, 3], resized bilinearly without keeping its aspect.

    :raises BadInput: naming the file that cannot be read.
    """
    try:
        with Image.open(path) as image:
            rgb = image.convert("RGB")
            if rgb.size != (size, size):
                rgb = rgb.resize((size, size), Image.Resampling.BILINEAR)
            return np.asarray(rgb)
    except (OSError, SyntaxError, ValueError) as error:
        raise BadInput(
            f"cannot read the image: {error}",
            where=str(path),
            fix="mend the file, or go on without it: --on-bad-sample skip",
        ) from error


@define
class ImageFiles:
    """Images on disk with their labels, decoded when a batch is taken."""

    root: Path
    paths: Sequence[str]
    labels: np.ndarray
    size: int
    n_classes: int
    n_workers: int = 0
    _pool: ThreadPoolExecutor | None = field(default=None, init=False, repr=False)

    @property
    def spec(self) -> Mapping[str, Field]:
        """``image`` uint8 [S, S, 3] and ``class``."""
        return image_fields(self.size, self.n_classes)

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, rows: np.ndarray, fields: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """A batch; images are decoded side by side. Labels alone touch no file."""
        out: dict[str, np.ndarray] = {}
        for name in fields or ("image", "class"):
            out[name] = self.labels[rows] if name == "class" else self._images(rows)
        return out

    def _images(self, rows: np.ndarray) -> np.ndarray:
        if not len(rows):
            return np.zeros((0, self.size, self.size, 3), np.uint8)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(max(1, self.n_workers or min(4, os.cpu_count() or 1)))
        paths = [self.root / self.paths[row] for row in rows]
        return np.stack(list(self._pool.map(read_image, paths, [self.size] * len(paths))))


def styled(samples: Samples, folder: str) -> ImageFiles:
    """The same images in another style: a parallel tree of ``.png`` files, like Stylized-ImageNet's.

    :raises BadSetting: when the images are no files. :raises MissingAsset: naming the first one without its pair.
    """
    root = Path(folder).expanduser()
    rows = getattr(samples, "rows", np.arange(len(samples)))
    files = getattr(samples, "base", samples)
    if not isinstance(files, ImageFiles):
        raise BadSetting(
            "only images read from files have a pair in another style",
            where="learner.style",
            fix="dataset.in_memory=false",
        )
    paths = [str(Path(files.paths[row]).with_suffix(".png")) for row in rows]
    if absent := [path for path in paths if not (root / path).is_file()]:
        raise MissingAsset(
            f"{len(absent)} of {len(paths)} test images have no pair, the first: {absent[0]}",
            where=str(root),
            fix="lay the stylised images out under the same names, ending in .png",
        )
    return ImageFiles(root, paths, files.labels[rows], files.size, files.n_classes, files.n_workers)


def image_fields(size: int, n_classes: int) -> dict[str, Field]:
    """Fields of labelled square images."""
    return {
        "image": Field(shape=(size, size, 3), dtype="uint8", kind="image"),
        "class": Field(shape=(), dtype="int64", kind="class", n=n_classes),
    }
