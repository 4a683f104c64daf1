"""Arrays of one's own as a stream: ``arrays:FILE.npz`` with ``x`` and ``y``, and ``stage`` and ``split`` where wanted.

Shapes: N samples, H W image, C channels, D vector.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cl_kernel.contract.errors import BadInput, BadSetting, MissingAsset
from cl_kernel.contract.stream import Field, Stage, Stream
from cl_kernel.data.samples import ArraySamples, class_incremental, subset
from cl_kernel.library.datasets.folder_settings import Arrays, Staged
from cl_kernel.running.resources import Resources

SPLITS = {"train": False, "test": True, "0": False, "1": True, "False": False, "True": True}


def build_images(settings: Arrays, resources: Resources) -> Stream:
    """Images of one's own; see :func:`build`."""
    return build("image", settings, resources)


def build_vectors(settings: Arrays, resources: Resources) -> Stream:
    """Vectors of one's own; see :func:`build`."""
    return build("vector", settings, resources)


def build(kind: str, settings: Arrays, resources: Resources) -> Stream:
    """Images uint8 [N, H, W, C] or [N, H, W], or vectors [N, D], with a class each.

    New classes each stage, unless the file says with ``stage`` which sample belongs where: then stages are those
    numbers in ascending order, and classes may come again.

    :raises ClkError: naming the array that is missing or does not fit.
    """
    path = Path(settings.path).expanduser()
    return stream_of(kind, _read(path, settings), path.stem, str(path), settings, resources)


def stream_of(
    kind: str, arrays: Mapping[str, np.ndarray], name: str, where: str, settings: Staged, resources: Resources
) -> Stream:
    """The stream of arrays x and y, and stage and split where wanted.

    :param kind: ``image`` or ``vector``: what a sample is to be.
    :param where: for messages, where the arrays come from.
    """
    check(arrays, where)
    names, labels = np.unique(_labels(arrays["y"], where), return_inverse=True)
    samples = ArraySamples(*_fields(arrays["x"], labels, len(names), where))
    if kind not in samples.spec:
        raise BadInput(
            f"x is {arrays['x'].dtype} of shape {arrays['x'].shape}, which is no {kind} a sample",
            where=where,
            fix={"image": "--dataset vectors:FILE or module-vectors:", "vector": "--dataset arrays:FILE or module:"}[
                kind
            ],
        )
    held = _held(arrays.get("split"), labels, settings.test_share, where)
    if "stage" in arrays:
        return _given(name, samples, held, np.asarray(arrays["stage"]), [str(n) for n in names], where, resources)
    return class_incremental(
        name,
        subset(samples, np.flatnonzero(~held)),
        subset(samples, np.flatnonzero(held)),
        [str(name) for name in names],
        n_stages=settings.n_stages,
        sizes=settings.stage_sizes or None,
        order=settings.order or None,
        task=_task(samples),
        shuffle=resources.rng(name, "order"),
    )


def _read(path: Path, settings: Arrays) -> Mapping[str, np.ndarray]:
    if not settings.path:
        raise BadSetting("no file named", where="--dataset arrays", fix="--dataset arrays:FILE.npz")
    if not path.is_file():
        raise MissingAsset(f"no file {path.name}", where=str(path), fix="--set dataset.path=FILE.npz")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files if name in ("x", "y", "stage", "split")}
    except (ValueError, OSError, zipfile.BadZipFile, AttributeError) as error:
        raise BadInput(
            f"cannot be read as an .npz of plain arrays: {error}", where=str(path), fix="numpy.savez(FILE, x=x, y=y)"
        ) from error
    if missing := {"x", "y"} - set(arrays):
        raise BadInput(f"no array {' and '.join(sorted(missing))}", where=str(path), fix="numpy.savez(FILE, x=x, y=y)")
    return arrays


def check(arrays: Mapping[str, np.ndarray], where: str) -> None:
    """Refuse arrays without samples or of different lengths."""
    n = len(arrays["x"]) if arrays["x"].ndim else 0
    if n == 0:
        raise BadInput("x holds no samples", where=where)
    for name, array in arrays.items():
        if array.ndim == 0 or len(array) != n:
            raise BadInput(f"{name} has shape {array.shape}, but x has {n} samples", where=where)


def _labels(y: np.ndarray, where: str) -> np.ndarray:
    if y.ndim != 1 or y.dtype.kind not in "iubUS":
        raise BadInput(
            f"y is {y.dtype} of shape {y.shape}; classes are integers or text, one a sample",
            where=where,
            fix="y.astype(int)",
        )
    return y


def _fields(x: np.ndarray, labels: np.ndarray, n: int, where: str) -> tuple[dict[str, Field], dict[str, np.ndarray]]:
    """Fields and arrays: uint8 with two or three axes a sample are images, numbers with one axis vectors."""
    kind = Field(shape=(), dtype="int64", kind="class", n=n)
    if x.ndim in (3, 4) and x.dtype == np.uint8:
        x = x[..., None] if x.ndim == 3 else x
        if x.shape[-1] not in (1, 3, 4) and x.shape[1] in (1, 3, 4):
            raise BadInput(
                f"x has shape {x.shape}: images have their channels last", where=where, fix="x.transpose(0, 2, 3, 1)"
            )
        return {"image": Field(shape=x.shape[1:], dtype="uint8", kind="image"), "class": kind}, {
            "image": x,
            "class": labels.astype(np.int64),
        }
    if x.ndim == 2 and x.dtype.kind in "fiub":
        x = x.astype(np.float32)
        if not np.isfinite(x).all():
            row = int(np.flatnonzero(~np.isfinite(x).all(1))[0])
            raise BadInput(f"x[{row}] holds a value that is not finite", where=where)
        return {"vector": Field(shape=x.shape[1:], dtype="float32", kind="vector"), "class": kind}, {
            "vector": x,
            "class": labels.astype(np.int64),
        }
    raise BadInput(
        f"x is {x.dtype} of shape {x.shape}; images are uint8 [N, H, W] or [N, H, W, C], vectors numbers [N, D]",
        where=where,
    )


def _held(split: np.ndarray | None, labels: np.ndarray, share: float, where: str) -> np.ndarray:
    """Which samples are for testing: those that ``split`` says, or a share of each class, whatever the seed."""
    if split is not None:
        words = [str(value) for value in split.tolist()]
        if unknown := sorted(set(words) - set(SPLITS)):
            raise BadInput(f"split says {unknown[0]!r}", where=where, fix="'train' or 'test', or 0 and 1")
        return np.array([SPLITS[word] for word in words])
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels).tolist():
        rows = np.random.default_rng(label).permutation(np.flatnonzero(labels == label))
        if len(rows) < 2:
            raise BadInput(
                f"class number {label} has 1 sample: one to learn from and one to test on are needed",
                where=where,
                fix="more samples of it; or an array split that says 'train' or 'test' for each sample",
            )
        held[rows[: max(1, round(share * len(rows)))]] = True
    return held


def _given(
    name: str,
    samples: ArraySamples,
    held: np.ndarray,
    stage: np.ndarray,
    names: list[str],
    where: str,
    resources: Resources,
) -> Stream:
    """Stages as the file numbers them; test set j holds the test samples of stage j."""
    if stage.ndim != 1 or stage.dtype.kind not in "iu":
        raise BadInput(f"stage is {stage.dtype} of shape {stage.shape}; one integer a sample", where=where)
    labels, shuffle = samples.arrays["class"], resources.rng(name, "order")
    test_rows = np.flatnonzero(held)
    stages, test_sets = [], {}
    for index, number in enumerate(np.unique(stage).tolist()):
        rows = np.flatnonzero(~held & (stage == number))
        tested = np.flatnonzero(stage[test_rows] == number)
        for side, found in (("training", rows), ("test", tested)):
            if len(found) == 0:
                raise BadInput(f"stage {number} has no {side} samples", where=where)
        classes = tuple(np.unique(labels[rows]).tolist())
        stages.append(
            Stage(
                index=index, name=f"stage {number}", train=subset(samples, shuffle.permutation(rows)), classes=classes
            )
        )
        test_sets[f"stage {number}"] = tested
    return Stream(
        name=name,
        task=_task(samples),
        stages=stages,
        test=subset(samples, test_rows),
        test_sets=test_sets,
        class_names=tuple(names),
    )


def _task(samples: ArraySamples) -> str:
    return f"{next(iter(samples.spec))} -> class"
