"""Gaussian classes: a stream that needs nothing but numpy."""

from __future__ import annotations

import numpy as np

from cl_kernel.contract.stream import Field, Stream
from cl_kernel.data.samples import ArraySamples, class_incremental
from cl_kernel.library.settings import Blobs
from cl_kernel.running.resources import Resources


def build(settings: Blobs, resources: Resources) -> Stream:
    """Classes around normally drawn means, new ones each stage; the data depend on the seed.

    :raises BadInput: when the classes do not divide into the stages.
    """
    rng, n_classes = resources.rng("blobs"), settings.n_classes
    spec = {
        "vector": Field(shape=(settings.n_features,), dtype="float32", kind="vector"),
        "class": Field(shape=(), dtype="int64", kind="class", n=n_classes),
    }
    means = 1 + rng.standard_normal((n_classes, settings.n_features))  # a common part makes classes interfere

    def draw(n: int) -> ArraySamples:
        labels = np.repeat(np.arange(n_classes), n)
        noise = settings.spread * rng.standard_normal((len(labels), settings.n_features))
        return ArraySamples(spec, {"vector": (means[labels] + noise).astype(np.float32), "class": labels})

    train, test = draw(settings.n_train), draw(settings.n_test)
    return class_incremental(
        "blobs",
        train,
        test,
        [f"blob{c}" for c in range(n_classes)],
        n_stages=settings.n_stages,
        order=settings.order or None,
        task="vector -> class",
        shuffle=resources.rng("blobs", "order"),
    )
