"""Images on disk: reading one, a data set of them, the same in another style.

Shapes: N images, n a batch, S side of the square images.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from attrs import define, field
from PIL import Image

from cl_kernel import BadInput, BadSetting, Field, Files, MissingAsset, Samples, eight_bits

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def is_image(path: Path) -> bool:
    """Whether a name ends like a picture's, in small or capital letters; hidden files are none."""
    return path.suffix.lower() in IMAGE_ENDINGS and not path.name.startswith(".")


def read_image(path: Path, size: int, *, reduced: bool = False) -> np.ndarray:
    """An image as uint8 [S, S, 3], resized bilinearly without keeping its aspect.

    :param reduced: decode a JPEG at a half, a quarter or an eighth where it stays at least as large as asked.
    :raises BadInput: naming the file that cannot be read.
    """
    try:
        with Image.open(path) as image:
            if reduced:
                image.draft("RGB", (size, size))
            rgb = eight_bits(image)
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
    """Images on disk with their labels, decoded when a batch is taken.

    :param reduced: see :func:`read_image`. :param n_workers: threads that decode; 0: one a core.
    """

    root: Path
    paths: Sequence[str]
    labels: np.ndarray
    size: int
    n_classes: int
    n_workers: int = 0
    reduced: bool = False
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
            self._pool = ThreadPoolExecutor(self.n_workers or os.cpu_count() or 1, thread_name_prefix="decode")
        paths = [self.root / self.paths[row] for row in rows]
        read = functools.partial(read_image, size=self.size, reduced=self.reduced)
        return np.stack(list(self._pool.map(read, paths)))

    def identify(self, files: Files, rows: np.ndarray | None = None) -> str:
        """What these rows hold: bytes of the files, labels, size and way of decoding."""
        rows = np.arange(len(self)) if rows is None else rows
        pictures = files.digests([self.root / self.paths[row] for row in rows])
        return files.content(self.size, self.reduced, pictures, files.array(self.labels, rows))


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
    return ImageFiles(root, paths, files.labels[rows], files.size, files.n_classes, files.n_workers, files.reduced)


def image_fields(size: int, n_classes: int) -> dict[str, Field]:
    """Fields of labelled square images."""
    return {
        "image": Field(shape=(size, size, 3), dtype="uint8", kind="image"),
        "class": Field(shape=(), dtype="int64", kind="class", n=n_classes),
    }
