"""CIFAR-100 as published for Python: pickles read without running code from them, and pictures made of them.

Format: https://www.cs.toronto.edu/~kriz/cifar.html ("CIFAR-100 python version"). N images.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen
from PIL import Image

from cl_kernel import BadInput, MissingAsset

FOLDER = "cifar-100-python"
SIDES = {"train": 50_000, "test": 10_000}
"""Published file -> its images."""

_ALLOWED = {
    **dict.fromkeys([("numpy", "ndarray"), ("numpy", "dtype")]),
    **dict.fromkeys([(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")]),
    **dict.fromkeys([(f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")]),
    ("_codecs", "encode"): None,
}
"""What plain arrays, numbers and texts need; everything else in a pickle could run code."""


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which plain arrays and texts do not need")
        if module.startswith("numpy.") and not hasattr(np, "_core"):
            module = module.replace("._core.", ".core.")
        elif module.startswith("numpy.core."):
            module = module.replace(".core.", "._core.")
        return super().find_class(module, name)


def read_pickle(path: Path) -> Any:
    """What a pickle of arrays, numbers, texts, lists and tables holds, whichever Python wrote it; runs nothing of it.

    :return: texts of Python 2 as bytes.
    :raises BadInput: for a file that is no whole pickle, or needs more than that.
    """
    try:
        return _Plain(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except (
        pickle.UnpicklingError,
        EOFError,
        ValueError,
        TypeError,
        AttributeError,
        ImportError,
        IndexError,
        KeyError,
    ) as error:
        raise BadInput(
            f"cannot read the pickle ({path.stat().st_size:,} bytes): {error}",
            where=str(path),
            fix="fetch the archive again: https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        ) from error


@frozen(kw_only=True)
class Side:
    """One of the published files.

    :param pixels: uint8 [N, 32, 32, 3]; ``labels``: [N]; ``names``: file name of each picture.
    """

    pixels: np.ndarray
    labels: np.ndarray
    names: list[str]


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _entry(content: Any, key: str, path: Path) -> Any:
    found = {_text(k): v for k, v in content.items()} if isinstance(content, Mapping) else {}
    if key not in found:
        raise BadInput(f"the pickle has no {key!r}; it has {', '.join(map(str, found)) or 'no table'}", where=str(path))
    return found[key]


def read_side(path: Path, n_classes: int) -> Side:
    """``train`` or ``test``.

    :raises BadInput: for arrays of other shapes, or unequal numbers.
    """
    content = read_pickle(path)
    data, labels = (np.asarray(_entry(content, key, path)) for key in ("data", "fine_labels"))
    if data.ndim != 2 or data.shape[1] != 3072 or data.dtype != np.uint8:
        raise BadInput(f"images are {data.dtype} {list(data.shape)}, not uint8 [N, 3072]", where=str(path))
    names = [_text(name) for name in _entry(content, "filenames", path)]
    if not len(data) == len(labels) == len(names):
        raise BadInput(f"{len(data)} images, {len(labels)} labels, {len(names)} names", where=str(path))
    if len(labels) and not (labels.min() >= 0 and labels.max() < n_classes):
        raise BadInput(f"labels run from {labels.min()} to {labels.max()}, classes are {n_classes}", where=str(path))
    return Side(pixels=data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels=labels, names=names)


def class_names(folder: Path) -> list[str]:
    """The names of the hundred classes.

    :raises BadInput: when there are no distinct names.
    """
    path = folder / "meta"
    found = [_text(name) for name in _entry(read_pickle(path), "fine_label_names", path)]
    if len(set(found)) != len(found) or any(Path(name).name != name for name in found):
        raise BadInput("class names are not distinct names of folders", where=str(path))
    return found


def write_pictures(folder: Path, target: Path, on_step: Callable[[int, int], None] | None = None) -> dict[str, int]:
    """``train|test/CLASS/NAME.png`` from the published pickles; pictures that are there are left alone.

    :param folder: with the files ``train``, ``test`` and ``meta``.
    :return: images of each side.
    :raises MissingAsset: naming the file that is absent. :raises BadInput: for one that cannot be used.
    """
    if absent := [name for name in (*SIDES, "meta") if not (folder / name).is_file()]:
        raise MissingAsset(f"no file {', '.join(absent)}", where=str(folder), fix=f"unpack {FOLDER}.tar.gz again")
    classes = class_names(folder)
    sides = {name: read_side(folder / name, len(classes)) for name in SIDES}
    total, done = sum(len(side.labels) for side in sides.values()), 0
    for name, side in sides.items():
        taken: set[Path] = set()
        for row, (pixels, label) in enumerate(zip(side.pixels, side.labels.tolist(), strict=True)):
            place = target / name / classes[label] / Path(side.names[row]).name
            if place in taken:
                place = place.with_name(f"{place.stem}_{row}{place.suffix}")
            taken.add(place)
            if not place.is_file():
                place.parent.mkdir(parents=True, exist_ok=True)
                part = place.with_name(f".{place.name}.part")
                Image.fromarray(np.ascontiguousarray(pixels)).save(part, format="png")
                part.replace(place)
            done += 1
            if on_step:
                on_step(done, total)
    return {name: len(side.labels) for name, side in sides.items()}
