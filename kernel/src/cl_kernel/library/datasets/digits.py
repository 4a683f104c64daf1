"""Handwritten digits that come with scikit-learn: real images without a download."""

from __future__ import annotations

import numpy as np

from cl_kernel.contract.stream import ArraySamples, Field, Stream, class_incremental, subset
from cl_kernel.library.settings import Digits
from cl_kernel.running.resources import Resources


def build(settings: Digits, resources: Resources) -> Stream:
    """1,797 images, float32 [8, 8, 1] in [0, 1]; the same split into training and test whatever the seed.

    :raises BadInput: when the ten classes do not divide into the stages.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    labels = data.target.astype(np.int64)
    spec = {
        "image": Field(shape=(8, 8, 1), dtype="float32", kind="image"),
        "class": Field(shape=(), dtype="int64", kind="class", n=10),
    }
    samples = ArraySamples(spec, {"image": (data.images[..., None] / 16).astype(np.float32), "class": labels})
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
