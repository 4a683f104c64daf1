"""Samples as arrays, some rows of them, several one after the other; splits into stages.

Shapes: N samples, n a batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from attrs import define, field

from cl_kernel.contract.errors import BadInput
from cl_kernel.contract.interfaces import Contents, Samples
from cl_kernel.contract.stream import Field, Stage, Stream


@define
class ArraySamples:
    """Samples held as arrays of equal length."""

    spec: Mapping[str, Field]
    arrays: Mapping[str, np.ndarray]

    def __attrs_post_init__(self) -> None:
        lengths = {name: len(array) for name, array in self.arrays.items()}
        if len(set(lengths.values())) > 1:
            raise BadInput(f"fields of different lengths: {lengths}")
        if missing := set(self.spec) ^ set(self.arrays):
            raise BadInput(f"fields without array or arrays without field: {sorted(missing)}")

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def take(self, rows: np.ndarray, fields: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Rows of each field: one fancy index a field."""
        return {name: self.arrays[name][rows] for name in (fields or self.arrays)}

    def identify(self, files: Contents, rows: np.ndarray | None = None) -> str:
        """Digest of what the rows hold."""
        return files.content({name: files.array(array, rows) for name, array in self.arrays.items()})


@define
class Subset:
    """Some rows of other samples, in the given order, nothing copied."""

    base: Samples
    rows: np.ndarray

    @property
    def spec(self) -> Mapping[str, Field]:
        """Fields of the base."""
        return self.base.spec

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: np.ndarray, fields: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Rows of the subset, one index into the base."""
        taken: dict[str, np.ndarray] = self.base.take(self.rows[rows], fields)
        return taken

    def identify(self, files: Contents, rows: np.ndarray | None = None) -> str:
        """Digest of what the rows hold: that of the same rows of the base."""
        return identify_samples(self.base, files, self.rows if rows is None else self.rows[rows])


@define
class Concatenation:
    """Several samples one after the other, nothing copied."""

    parts: Sequence[Samples]
    _starts: np.ndarray = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._starts = np.cumsum([0, *(len(part) for part in self.parts)])

    @property
    def spec(self) -> Mapping[str, Field]:
        """Fields of the first part."""
        return self.parts[0].spec

    def __len__(self) -> int:
        return int(self._starts[-1])

    def take(self, rows: np.ndarray, fields: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Rows across parts, in the order asked for."""
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        pieces: list[dict[str, np.ndarray]] = []
        places = []
        for part in np.unique(owner):
            at = np.flatnonzero(owner == part)
            places.append(at)
            pieces.append(self.parts[part].take(rows[at] - self._starts[part], fields))
        if len(pieces) == 1:
            return pieces[0]
        back = np.argsort(np.concatenate(places), kind="stable")
        return {name: np.concatenate([piece[name] for piece in pieces])[back] for name in pieces[0]}

    def identify(self, files: Contents, rows: np.ndarray | None = None) -> str:
        """Digest of what the rows hold, part by part, and of their order."""
        rows = np.arange(len(self)) if rows is None else rows
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        held = [
            identify_samples(self.parts[part], files, rows[owner == part] - self._starts[part])
            for part in np.unique(owner)
        ]
        return files.content(held, files.array(owner))


def identify_samples(samples: Samples, files: Contents, rows: np.ndarray | None = None) -> str:
    """Digest of what some rows of samples hold: fields, labels and pictures.

    :raises Unidentified: for samples without a method ``identify(files, rows)``.
    """
    if (make := getattr(samples, "identify", None)) is None:
        raise Unidentified(f"{type(samples).__name__} has no method identify(files, rows)")
    return str(make(files, rows))


class Unidentified(TypeError):
    """Samples that cannot say what they hold."""


def subset(samples: Samples, rows: np.ndarray) -> Samples:
    """Some rows of ``samples``; a subset of a subset stays one index deep."""
    rows = np.asarray(rows, dtype=np.int64)
    if isinstance(samples, Subset):
        return Subset(samples.base, samples.rows[rows])
    return Subset(samples, rows)


def class_groups(
    n_classes: int,
    sizes: Sequence[int] | None,
    n_stages: int,
    order: Sequence[int] | None,
    *,
    asked: tuple[str, str] = ("dataset.n_stages", "dataset.stage_sizes"),
) -> list[tuple[int, ...]]:
    """Classes of each stage.

    :param sizes: classes a stage brings, in order; must add up to ``n_classes``. None: ``n_stages`` equal stages.
    :param order: a permutation of the classes; None for 0, 1, 2, ...
    :param asked: the settings that give ``n_stages`` and ``sizes``, for the message.
    :raises BadInput: when the split would drop a class or leave a stage empty.
    """
    order = list(range(n_classes)) if order is None else [int(c) for c in order]
    if sorted(order) != list(range(n_classes)):
        twice = sorted({c for c in order if order.count(c) > 1})
        missing = sorted(set(range(n_classes)) - set(order))
        unknown = sorted(set(order) - set(range(n_classes)))
        raise BadInput(
            f"class order is no permutation of 0..{n_classes - 1}: repeated {twice}, missing {missing}, "
            f"unknown {unknown}",
            where="class order",
        )
    if sizes is None:
        if n_stages < 1 or n_classes % n_stages:
            fits = [k for k in range(1, n_classes + 1) if n_classes % k == 0]
            raise BadInput(
                f"{n_classes} classes do not divide into {n_stages} equal stages",
                where="number of stages",
                fix=f"use one of {fits} stages ({asked[0]}), or give the sizes ({asked[1]})",
            )
        sizes = [n_classes // n_stages] * n_stages
    if any(size < 1 for size in sizes) or sum(sizes) != n_classes:
        raise BadInput(
            f"stage sizes {list(sizes)} are not positive numbers adding up to {n_classes} classes", where="stage sizes"
        )
    ends = np.cumsum(sizes)
    return [tuple(order[end - size : end]) for end, size in zip(ends, sizes, strict=True)]


def class_incremental(
    name: str,
    train: Samples,
    test: Samples,
    class_names: Sequence[str],
    *,
    n_stages: int = 0,
    sizes: Sequence[int] | None = None,
    order: Sequence[int] | None = None,
    label: str = "class",
    task: str = "image -> class",
    shuffle: np.random.Generator | None = None,
    fingerprint: str = "",
) -> Stream:
    """Split labelled samples into stages of new classes, one test set a stage.

    :param shuffle: order of the samples inside a stage; None keeps the data's.
    :raises BadInput: for a split that drops a class, or a class without train or test samples.
    """
    groups = class_groups(len(class_names), sizes, n_stages, order)
    labels = {
        side: samples.take(np.arange(len(samples)), [label])[label]
        for side, samples in (("training", train), ("test", test))
    }
    for side, values in labels.items():
        if len(values) and (values.min() < 0 or values.max() >= len(class_names)):
            raise BadInput(
                f"{side} labels run from {values.min()} to {values.max()}, but there are "
                f"{len(class_names)} class names",
                where=f"data set {name!r}",
            )
        missing = [class_names[c] for c in range(len(class_names)) if c not in set(values.tolist())]
        if missing:
            raise BadInput(f"no {side} samples of class {', '.join(missing)}", where=f"data set {name!r}")
    stages, test_sets = [], {}
    for index, classes in enumerate(groups):
        rows = np.flatnonzero(np.isin(labels["training"], classes))
        if shuffle is not None:
            rows = shuffle.permutation(rows)
        stage_name = (
            "+".join(class_names[c] for c in classes)
            if len(classes) <= 3
            else f"{class_names[classes[0]]}..{class_names[classes[-1]]}"
        )
        stages.append(Stage(index=index, name=stage_name, train=subset(train, rows), classes=classes))
        test_sets[stage_name] = np.flatnonzero(np.isin(labels["test"], classes))
    return Stream(
        name=name,
        task=task,
        stages=stages,
        test=test,
        test_sets=test_sets,
        class_names=tuple(class_names),
        fingerprint=fingerprint,
    )


def fingerprint(*parts: Any) -> str:
    """A digest of arrays and plain values, to name data by what is in it."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(str((part.dtype.str, part.shape)).encode())
            digest.update(part.tobytes())
        else:
            digest.update(repr(part).encode())
    return digest.hexdigest()[:16]
