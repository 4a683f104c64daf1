"""Small data sets in the forms that the kernel reads, for the conformance kit and for a first try."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

N_CLASSES, N_EACH, SIDE = 4, 6, 12


def _images() -> np.ndarray:
    """uint8 [classes, images a class, H, W, 3], brighter by class."""
    pixels = np.random.default_rng(0).integers(0, 60, (N_CLASSES, N_EACH, SIDE, SIDE, 3), np.uint8)
    return pixels + (np.arange(N_CLASSES, dtype=np.uint8) * 40)[:, None, None, None, None]


def write_folder(folder: Path) -> dict[str, Any]:
    """Images in one folder a class; the settings that name it."""
    from PIL import Image

    for c, images in enumerate(_images()):
        place = folder / f"class {c}"
        place.mkdir()
        for i, pixels in enumerate(images):
            Image.fromarray(pixels).save(place / f"{i}.png")
    return {"dataset.path": str(folder), "dataset.n_stages": 2, "dataset.size": 8}


def write_images(folder: Path) -> dict[str, Any]:
    """Images and classes as arrays in one file; the settings that name it."""
    return _arrays(folder, _images().reshape(-1, SIDE, SIDE, 3))


def write_vectors(folder: Path) -> dict[str, Any]:
    """Vectors and classes as arrays in one file; the settings that name it."""
    return _arrays(folder, _images().reshape(N_CLASSES * N_EACH, -1).astype(np.float32))


def write_callable(folder: Path) -> dict[str, Any]:
    """A Python file whose function gives pictures with their classes; the settings that name it."""
    np.savez(folder / "data.npz", x=_images().reshape(-1, SIDE, SIDE, 3), y=np.repeat(np.arange(N_CLASSES), N_EACH))
    (folder / "own.py").write_text(CALLABLE)
    return {"dataset.path": f"{folder / 'own.py'}:pictures", "dataset.n_stages": 2}


def write_vector_callable(folder: Path) -> dict[str, Any]:
    """A Python file whose function gives vectors with their classes; the settings that name it."""
    made = write_callable(folder)
    return {**made, "dataset.path": f"{folder / 'own.py'}:vectors"}


CALLABLE = '''"""Pictures and vectors beside this file."""

from pathlib import Path

import numpy as np
from PIL import Image

with np.load(Path(__file__).with_name("data.npz")) as file:
    FILE = dict(file)


def pictures():
    """(picture, class) of each sample."""
    return [(Image.fromarray(x), int(y)) for x, y in zip(FILE["x"], FILE["y"])]


def vectors():
    """Vectors and classes."""
    return {"x": FILE["x"].reshape(len(FILE["x"]), -1).astype("float32"), "y": FILE["y"]}
'''


def _arrays(folder: Path, x: np.ndarray) -> dict[str, Any]:
    np.savez(folder / "data.npz", x=x, y=np.repeat(np.arange(N_CLASSES), N_EACH))
    return {"dataset.path": str(folder / "data.npz"), "dataset.n_stages": 2}
