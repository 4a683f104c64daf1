"""EMNIST balanced as NIST ships it: ``gzip.zip`` (idx files, compressed or not) or ``matlab.zip`` (one .mat file).

Source: Cohen et al. 2017, https://arxiv.org/abs/1702.05373; https://www.nist.gov/itl/products-and-services/emnist-dataset.
Pictures lie on their side in both forms, as in torchvision's.

Shapes: N pictures of 28 x 28.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cl_kernel import BadInput, MissingAsset

PREFIX = "emnist-balanced"
SIDES = ("train", "test")
KINDS = {"images": "idx3", "labels": "idx1"}
IDX_BYTES = 0x08
"""What idx calls unsigned bytes."""
ANEW = "remove the file and unpack NIST's archive again"


def folders(root: Path) -> list[Path]:
    """Where the unpacked archives may lie below a data root."""
    return [base / sub for base in (root, root / "EMNIST", root / "emnist") for sub in ("", "gzip", "matlab")]


def reader(root: Path) -> Callable[[], list[tuple[np.ndarray, np.ndarray]]] | None:
    """How to read what lies below a root: training and test side, pictures [N, 28, 28] and labels [N]; or None."""
    for folder in folders(root):
        files = {(side, kind): _idx_file(folder, side, kind) for side in SIDES for kind in KINDS}
        if any(files.values()):
            return lambda files=files, folder=folder: _idx_sides(folder, files)  # type: ignore[misc]
        if (mat := folder / f"{PREFIX}.mat").is_file():
            return lambda mat=mat: _mat_sides(mat)  # type: ignore[misc]
    return None


def _name(side: str, kind: str) -> str:
    return f"{PREFIX}-{side}-{kind}-{KINDS[kind]}-ubyte"


def _idx_file(folder: Path, side: str, kind: str) -> Path | None:
    plain = folder / _name(side, kind)
    return next((path for path in (plain.with_name(plain.name + ".gz"), plain) if path.is_file()), None)


def _idx_sides(folder: Path, files: dict[tuple[str, str], Path | None]) -> list[tuple[np.ndarray, np.ndarray]]:
    missing = [_name(*key) + ".gz" for key, path in files.items() if path is None]
    if missing:
        raise MissingAsset(f"{missing[0]} is not there", where=str(folder), fix="unpack gzip.zip of NIST whole")
    read = {key: read_idx(path) for key, path in files.items() if path is not None}
    for side in SIDES:
        _fits(read[side, "images"], read[side, "labels"], str(folder))
    return [(read[side, "images"], read[side, "labels"]) for side in SIDES]


def read_idx(path: Path) -> np.ndarray:
    """An idx file of unsigned bytes.

    :raises BadInput: for another kind of file, or one that is too short or too long.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"{path.name} cannot be unpacked: {error}", where=str(path), fix=ANEW) from error
    n_axes = data[3] if len(data) >= 4 else 0
    if len(data) < 4 or data[:3] != bytes([0, 0, IDX_BYTES]) or len(data) < 4 + 4 * n_axes:
        raise BadInput(f"{path.name} is no idx file of unsigned bytes", where=str(path), fix=ANEW)
    shape = [int(n) for n in np.frombuffer(data, ">u4", n_axes, 4)]
    held = len(data) - 4 - 4 * n_axes
    if held != math.prod(shape):
        raise BadInput(f"{path.name} says {shape} and holds {held} bytes", where=str(path), fix=ANEW)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * n_axes).reshape(shape)


def _mat_sides(path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise MissingAsset("reading a .mat file needs scipy", where=str(path), fix="pip install scipy") from error
    try:
        content = loadmat(path, simplify_cells=True)["dataset"]
        sides = [(np.asarray(content[side]["images"]), np.asarray(content[side]["labels"]).ravel()) for side in SIDES]
    except Exception as error:  # scipy raises whatever a damaged file brings it to
        raise BadInput(
            f"{path.name} is not NIST's: {type(error).__name__} {error}",
            where=str(path),
            fix="unpack matlab.zip of NIST again",
        ) from error
    made = []
    for images, labels in sides:
        if images.ndim != 2 or images.shape[1] != 28 * 28 or images.dtype != np.uint8:
            raise BadInput(f"pictures are {images.dtype} of shape {images.shape}", where=str(path), fix=ANEW)
        made.append((images.reshape(-1, 28, 28), labels))
        _fits(*made[-1], str(path))
    return made


def _fits(images: np.ndarray, labels: np.ndarray, where: str) -> None:
    if images.ndim != 3 or images.shape[1:] != (28, 28) or labels.shape != (len(images),):
        raise BadInput(f"pictures of shape {images.shape} and labels of shape {labels.shape}", where=where, fix=ANEW)
