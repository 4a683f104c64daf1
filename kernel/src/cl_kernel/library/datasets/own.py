"""Data of one's own as arrays: ``module:FILE.py:CALLABLE``, and what ``cl_kernel.run(dataset=...)`` is given.

Taken are arrays ``(x, y)`` or a mapping with ``x``, ``y``, ``stage`` and ``split``; a sequence of (picture, class), as
data sets of torchvision are; a data set of the library ``datasets``; and a mapping of ``train`` and ``test`` to any
of these.

Shapes: N samples, H W picture, C channels, D vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cl_kernel.contract.errors import BadInput, ClkError
from cl_kernel.contract.stream import Stream
from cl_kernel.data.python_files import load_callable
from cl_kernel.library.datasets.arrays import stream_of
from cl_kernel.library.datasets.folder_settings import Own
from cl_kernel.library.datasets.folders import TEST_NAMES, fit
from cl_kernel.library.pictures import eight_bits
from cl_kernel.running.resources import Resources

Arrays = dict[str, np.ndarray]
PARTS = ("x", "y", "stage", "split")


def build_images(settings: Own, resources: Resources) -> Stream:
    """Pictures that a callable gives."""
    return _build("image", settings, resources)


def build_vectors(settings: Own, resources: Resources) -> Stream:
    """Vectors that a callable gives."""
    return _build("vector", settings, resources)


def _build(kind: str, settings: Own, resources: Resources) -> Stream:
    make = load_callable(settings.path, where="--dataset module:...")
    try:
        given = make()
    except ClkError:
        raise
    except Exception as error:
        raise BadInput(f"raised {type(error).__name__}: {error}", where=settings.path) from error
    arrays = as_arrays(given, where=settings.path, size=settings.size)
    return stream_of(kind, arrays, make.__name__, settings.path, settings, resources)


def as_arrays(given: Any, *, where: str, size: int = 0) -> Arrays:
    """Arrays x and y, and stage and split where given, of anything the module's docstring names.

    :param size: edge to which pictures of Pillow are brought; 0 leaves them.
    :raises BadInput: naming what was given instead, or the row that does not fit.
    """
    if isinstance(given, Mapping) and "train" in given:
        return _sides(given, where, size)
    if isinstance(given, Mapping):
        return _plain({name: given[name] for name in PARTS if name in given}, where)
    if isinstance(given, (tuple, list)) and len(given) == 2 and all(hasattr(part, "shape") for part in given):
        return _plain({"x": given[0], "y": given[1]}, where)
    if hasattr(given, "column_names") and hasattr(given, "features"):
        return _of_columns(given, where, size)
    if hasattr(given, "__getitem__") and hasattr(given, "__len__"):
        return _of_pairs(given, where, size)
    raise BadInput(
        f"a {type(given).__name__} is no data set",
        where=where,
        fix="give arrays (x, y), a mapping with x and y, a torch data set of (picture, class), or one of datasets",
    )


def _sides(given: Mapping[str, Any], where: str, size: int) -> Arrays:
    """A training and a test side, one after the other, with ``split``."""
    test = next((name for name in TEST_NAMES if name in given), "")
    if not test:
        raise BadInput(
            f"train, but none of {', '.join(TEST_NAMES)}", where=where, fix="give both sides, or one data set"
        )
    sides = [as_arrays(given[name], where=f"{where}[{name!r}]", size=size) for name in ("train", test)]
    shapes = [side["x"].shape[1:] for side in sides]
    if shapes[0] != shapes[1]:
        raise BadInput(f"samples of shape {shapes[0]} to train, {shapes[1]} to test", where=where)
    joined = {name: np.concatenate([side[name] for side in sides]) for name in ("x", "y")}
    return {**joined, "split": np.repeat([0, 1], [len(side["y"]) for side in sides])}


def _plain(parts: Mapping[str, Any], where: str) -> Arrays:
    if missing := [name for name in ("x", "y") if name not in parts]:
        raise BadInput(f"no {' and '.join(missing)} in it", where=where, fix='{"x": pictures, "y": classes}')
    arrays = {name: _array(value) for name, value in parts.items()}
    return {**arrays, "x": _bytes(arrays["x"], where)}


def _array(value: Any) -> np.ndarray:
    """Anything with numbers, tensors of any device included."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    array: np.ndarray = np.asarray(value)
    return array


def _bytes(x: np.ndarray, where: str) -> np.ndarray:
    """Pictures as uint8 [N, H, W, C]; channels may come first, and numbers be k / 255 in [0, 1] (ToTensor's)."""
    if x.ndim not in (3, 4):
        return x
    if x.ndim == 4 and x.shape[1] in (1, 3) and x.shape[3] not in (1, 3, 4):
        x = x.transpose(0, 2, 3, 1)
    if x.dtype == np.uint8:
        return np.ascontiguousarray(x)
    whole = x * 255.0 if x.dtype.kind == "f" else x.astype(float)
    rounded = np.rint(whole)
    if not np.isfinite(whole).all() or rounded.min() < 0 or rounded.max() > 255 or np.abs(whole - rounded).max() > 1e-3:
        raise BadInput(
            f"x is {x.dtype} from {x.min():g} to {x.max():g}: pictures are uint8, or k / 255 in [0, 1]",
            where=where,
            fix="give the pictures before they are normalised; the network brings its own mean and deviation",
        )
    return np.ascontiguousarray(rounded.astype(np.uint8))


def _of_pairs(given: Any, where: str, size: int) -> Arrays:
    """A map-style sequence of (picture or vector, class)."""
    if not len(given):
        raise BadInput("no samples", where=where)
    first = given[0]
    if not isinstance(first, (tuple, list)) or len(first) != 2:
        raise BadInput(f"sample 0 is a {type(first).__name__}, not (picture, class)", where=where)
    rows = (given[row] for row in range(len(given)))
    return _stacked(((x, y) for x, y in rows), where, size)


def _of_columns(given: Any, where: str, size: int) -> Arrays:
    """A data set of the library ``datasets``: its first picture or sequence column, and its first class column."""
    kinds = {name: type(feature).__name__ for name, feature in given.features.items()}
    picture = next((n for n, kind in kinds.items() if kind == "Image"), None)
    label = next((n for n, kind in kinds.items() if kind == "ClassLabel"), None) or (
        "label" if "label" in kinds else None
    )
    if picture is None or label is None:
        raise BadInput(
            f"no picture and class among its columns: {', '.join(f'{n} ({k})' for n, k in kinds.items())}", where=where
        )
    return _stacked(((row[picture], row[label]) for row in given), where, size)


def _stacked(pairs: Any, where: str, size: int) -> Arrays:
    samples: list[np.ndarray] = []
    labels: list[Any] = []
    for row, (x, y) in enumerate(pairs):
        one = _picture(x, size)
        if samples and one.shape != samples[0].shape:
            raise BadInput(
                f"sample {row} has shape {one.shape}, sample 0 {samples[0].shape}",
                where=where,
                fix="dataset.size=64 brings pictures of Pillow to one size",
            )
        samples.append(one)
        labels.append(_class(y, row, where))
    return {"x": _bytes(np.stack(samples), where), "y": np.array(labels)}


def _picture(value: Any, size: int) -> np.ndarray:
    if not hasattr(value, "convert"):
        return _array(value)
    picture = eight_bits(value)
    return fit(picture, size) if size else np.asarray(picture, np.uint8)


def _class(value: Any, row: int, where: str) -> Any:
    found = _array(value)
    if found.shape != () or found.dtype.kind not in "iubUS":
        raise BadInput(f"the class of sample {row} is {value!r}: an integer or text is wanted", where=where)
    return found.item()
