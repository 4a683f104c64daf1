"""Handwritten digits that come with scikit-learn: real images without a download."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from cl_kernel.contract.errors import MissingAsset
from cl_kernel.contract.stream import Field, Stream
from cl_kernel.data.samples import ArraySamples, class_incremental, subset
from cl_kernel.library.settings import Digits
from cl_kernel.running.resources import Resources


def build(settings: Digits, resources: Resources) -> Stream:
    """1,797 images, float32 [8, 8, 1] in [0, 1]; the same split into training and test whatever the seed.

    :raises BadInput: when the ten classes do not divide into the stages.
    """
    images, labels = read_digits()
    spec = {
        "image": Field(shape=(8, 8, 1), dtype="float32", kind="image"),
        "class": Field(shape=(), dtype="int64", kind="class", n=10),
    }
    samples = ArraySamples(spec, {"image": (images[..., None] / 16).astype(np.float32), "class": labels})
    test = np.zeros(len(labels), bool)
    for digit in range(10):
        rows = np.random.default_rng(digit).permutation(np.flatnonzero(labels == digit))
        test[rows[: max(1, round(settings.test_share * len(rows)))]] = True
    return class_incremental(
        "digits",
        subset(samples, np.flatnonzero(~test)),
        subset(samples, np.flatnonzero(test)),
        [str(digit) for digit in range(10)],
        n_stages=settings.n_stages,
        order=settings.order or None,
        shuffle=resources.rng("digits", "order"),
    )


def read_digits() -> tuple[np.ndarray, np.ndarray]:
    """What ``sklearn.datasets.load_digits`` gives, read from its file: importing scikit-learn takes seconds.

    :return: images float64 [1797, 8, 8] in 0..16, labels int64 [1797].
    :raises MissingAsset: when scikit-learn is not installed, or without its data.
    """
    found = find_spec("sklearn")
    path = Path(found.origin or "").parent / "datasets" / "data" / "digits.csv.gz" if found else None
    if path is None or not path.exists():
        raise MissingAsset(
            "the digits come with scikit-learn, which is not here with its data",
            where=str(path or "this Python environment"),
            fix="pip install scikit-learn",
        )
    table = np.loadtxt(path, delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)
