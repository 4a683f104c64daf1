"""Weights of Keras files: ``layer/weight`` arrays out of HDF5 as ``keras.applications`` publishes it, or out of npz."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cl_kernel import BadCheckpoint

HDF5 = b"\x89HDF\r\n\x1a\n"
"""First bytes of an HDF5 file."""


def read_keras(path: Path) -> dict[str, np.ndarray]:
    """Arrays by ``layer/weight`` name.

    :raises BadCheckpoint: for a file that names no layers, such as Keras 3's ``.weights.h5``.
    """
    with path.open("rb") as file:
        head = file.read(8)
    if head == HDF5:
        return read_h5(path)
    try:
        with np.load(path) as data:
            return {name: data[name] for name in data.files}
    except (OSError, ValueError) as error:
        raise BadCheckpoint(
            f"neither HDF5 nor npz: {error}", where=str(path), fix="give the .h5 file of keras.applications"
        ) from error


def read_h5(path: Path) -> dict[str, np.ndarray]:
    """Arrays of an HDF5 weight file, or of a whole saved model, in the layout that lists its layers by name."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            group: Any = file.get("model_weights", file)
            if "layer_names" not in group.attrs:
                raise BadCheckpoint(
                    "the file does not name its layers",
                    where=str(path),
                    fix="in Keras: np.savez(PATH, **{w.path: w.numpy() for w in model.weights})",
                )
            return dict(_arrays(group))
    except (OSError, KeyError, ValueError) as error:
        raise BadCheckpoint(f"not a Keras weight file: {error}", where=str(path)) from error


def _arrays(group: Any) -> Any:
    for layer in _strings(group.attrs["layer_names"]):
        for name in _strings(group[layer].attrs["weight_names"]):
            short = name.split(":", 1)[0]
            yield f"{layer}/{short.rsplit('/', 1)[-1]}", np.asarray(group[layer][name])


def _strings(values: Any) -> list[str]:
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]
