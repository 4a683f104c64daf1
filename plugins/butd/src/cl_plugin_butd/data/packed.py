"""Pictures deflated one by one, all in one memory-mapped file: small on disk, inflated when asked for.

Shapes: N pictures, H W pixels.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from attrs import define

from cl_kernel import BadInput

LEVEL = 6


@define
class Packed:
    """Reads like an array of pictures, uint8 [N, H, W] or [N, H, W, 3].

    :param content: deflated pictures one after the other, uint8.
    :param start: where each begins, and the end, int64 [N + 1].
    :param size: shape of a picture.
    """

    content: np.ndarray
    start: np.ndarray
    size: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """As an array's."""
        return len(self), *self.size

    def __len__(self) -> int:
        return len(self.start) - 1

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Pictures by number, each inflated once."""
        wanted, place = np.unique(rows, return_inverse=True)
        out = np.empty((len(wanted), *self.size), np.uint8)
        for target, row in zip(out, wanted, strict=True):
            target[...] = self._inflate(row)
        return out[place]

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return self[np.arange(len(self))].astype(dtype or np.uint8, copy=False)

    def _inflate(self, row: int) -> np.ndarray:
        try:
            pixels = zlib.decompress(self.content[self.start[row] : self.start[row + 1]])
            return np.frombuffer(pixels, np.uint8).reshape(self.size)
        except (zlib.error, ValueError) as error:
            raise BadInput(
                f"picture {row} cannot be inflated: {error}",
                where=str(getattr(self.content, "filename", "packed pictures")),
                fix="remove the prepared folder and prepare it again",
            ) from error


def write(folder: Path, name: str, pictures: Iterable[np.ndarray]) -> None:
    """Leave pictures of one shape as ``NAME.bin`` and ``NAME.index.npz``."""
    start, size = [0], ()
    with (folder / f"{name}.bin").open("wb") as target:
        for picture in pictures:
            size = picture.shape
            start.append(start[-1] + target.write(zlib.compress(np.ascontiguousarray(picture), LEVEL)))
    np.savez(folder / f"{name}.index.npz", start=np.asarray(start, np.int64), size=np.asarray(size, np.int64))


def read(folder: Path, name: str) -> Packed | None:
    """What :func:`write` left; None where it left nothing."""
    index = folder / f"{name}.index.npz"
    if not index.exists():
        return None
    with np.load(index) as table:
        start, size = table["start"], tuple(table["size"].tolist())
    return Packed(np.memmap(folder / f"{name}.bin", np.uint8, "r"), start, size)
