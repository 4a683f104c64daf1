"""The published data layout: three files a sample and pickled tables, read without executing anything.

Pickles are opened by an unpickler that knows numpy arrays, plain containers and the published sample namespace, and
refuses every other name before calling it.
"""

from __future__ import annotations

import io
import pickle
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np

from cl_kernel import BadInput, MissingAsset, write_json
from cl_plugin_butd.data import packed
from cl_plugin_butd.data.glyphs import EMNIST_NAMES
from cl_plugin_butd.data.prepare import MANIFEST, RECIPE_VERSION

_ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.numeric", "_frombuffer"),
    ("builtins", "set"),
    ("builtins", "frozenset"),
    ("builtins", "complex"),
    ("builtins", "slice"),
    ("builtins", "range"),
    ("_codecs", "encode"),
    ("collections", "OrderedDict"),
}
_NAMESPACES = {("types", "SimpleNamespace"), ("argparse", "Namespace")}


class _Restricted(pickle.Unpickler):
    """Finds numpy and plain containers only."""

    def __init__(self, stream: io.BufferedIOBase, where: str) -> None:
        super().__init__(stream)
        self._where = where

    def find_class(self, module: str, name: str) -> Any:
        if (
            (module, name) in _NAMESPACES
            or name in ("Namespace", "SimpleNamespace")
            or (module in ("__main__",) and name.isidentifier())
        ):
            return Namespace  # a bag of attributes, whatever it was called
        if (module, name) not in _ALLOWED:
            raise BadInput(
                f"the pickle wants {module}.{name}, which is not data",
                where=self._where,
                fix="this file is not one of the published tables; do not use it",
            )
        return super().find_class(module, name)


def read_pickle(path: Path) -> Any:
    """A published pickle as plain data.

    :raises BadInput: when it is damaged or asks for anything but data.
    """
    try:
        with path.open("rb") as handle:
            return _Restricted(handle, str(path)).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, IndexError, KeyError, TypeError, ImportError) as error:
        raise BadInput(f"not a readable table: {error}", where=str(path)) from error


def import_people(source: Path, target: Path) -> Path:
    """``avatars_6_raw.pkl`` -> ``avatars_6_raw.npz`` in the target folder."""
    if not source.is_file():
        raise MissingAsset("no raw people", where=str(source), fix="give the path of avatars_6_raw.pkl")
    content = read_pickle(source)
    try:
        images, masks, labels, n_people = content
        arrays = {
            "images": np.stack([np.asarray(i) for i in images]),
            "masks": np.stack([np.asarray(m) for m in masks]),
            "labels": np.asarray(labels).astype(np.int64),
            "n_people": np.asarray(int(n_people)),
        }
    except (TypeError, ValueError) as error:
        raise BadInput(f"not (images, masks, labels, count): {error}", where=str(source)) from error
    target.mkdir(parents=True, exist_ok=True)
    path = target / "avatars_6_raw.npz"
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as handle:
        np.savez_compressed(handle, **arrays)
    temporary.rename(path)
    return path


def _values_of(conf: Any) -> int:
    """Answers that the published ``conf`` counts: the largest of its array of values a question; 0 without one."""
    tables = [np.asarray(part) for part in conf if isinstance(part, np.ndarray) and part.ndim == 1]
    return max((int(table.max()) for table in tables if table.size and table.dtype.kind in "iu"), default=0)


def import_samples(source: Path, target: Path) -> Path:
    """A published ``samples/<name>`` folder -> a prepared folder of this plugin.

    Splits keep their published names; ``test`` holds the held-out combinations.

    :raises BadInput: naming the first file that is missing or unreadable.
    """
    from PIL import Image

    conf = source / "conf"
    if not conf.is_file():
        raise MissingAsset("no conf beside the samples", where=str(conf), fix="give the folder samples/<name>")
    values = read_pickle(conf)
    sizes = {"train": int(values[0]), "test": int(values[1]), "val": int(values[2])}
    splits = {}
    first: dict[str, np.ndarray] = {}
    for split, n in sizes.items():
        rows: dict[str, list[np.ndarray]] = {}
        for i in range(n):
            place = source / split / str(i // 1000)
            picture, table = place / f"{i}_img.jpg", place / f"{i}_raw.pkl"
            if not picture.is_file() or not table.is_file():
                raise BadInput(
                    f"sample {i} of {split} is not whole",
                    where=str(place),
                    fix="create the set again, or import what is complete",
                )
            sample = read_pickle(table)
            try:
                with Image.open(picture) as image:
                    pixels = np.asarray(image)
            except OSError as error:
                raise BadInput(f"unreadable picture: {error}", where=str(picture)) from error
            flag = np.asarray(sample.flag).astype(np.int64).reshape(-1)
            people = hasattr(sample, "label_all")
            row = {
                "image": pixels if pixels.ndim == 2 else pixels[..., 0],
                "task": flag[1] if people else flag[0],
                "argument": flag[0] if people else flag[1],
                "class": np.asarray(sample.label_task).reshape(-1)[0],
                "existence": np.asarray(sample.label_existence).astype(np.uint8).reshape(-1),
            }
            for name, value in row.items():
                rows.setdefault(name, []).append(np.asarray(value))
        folder = target / split
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {name: np.stack(value) for name, value in rows.items()}
        arrays["picture"] = np.arange(n)
        first = first or {name: arrays[name] for name in ("image", "existence")}
        arrays["box"] = np.tile(np.asarray([0, 0, *arrays["image"].shape[1:3]]), (n, 1))
        packed.write(folder, "image", arrays.pop("image"))
        for name, value in arrays.items():
            np.save(folder / f"{name}.npy", value if value.dtype == np.uint8 else value.astype(np.int64))
        splits[split] = {"questions": n, "pictures": n}
    n_occurrence = int(first["existence"].shape[1])
    people = n_occurrence == 6
    seen = int(max(np.load(target / s / "class.npy").max() for s in splits)) + 1
    n_classes = max(seen, _values_of(values))
    names = [f"value {i}" for i in range(n_classes)]
    if not people and n_occurrence == len(EMNIST_NAMES):
        names = [*EMNIST_NAMES, "border", "not available"][:n_classes]
    write_json(
        target / MANIFEST,
        {
            "key": f"imported from {source.name}",
            "kind": "imported",
            "version": RECIPE_VERSION,
            "inputs": {},
            "splits": splits,
            "info": {
                "n_tasks": 7 if people else 2,
                "n_arguments": n_occurrence,
                "n_occurrence": n_occurrence,
                "n_classes": n_classes,
                "class_names": names,
                "shape": list(first["image"].shape[1:3]),
                "corner": [0, 0],
            },
        },
    )
    return target
