"""Splits lose nothing silently."""

from __future__ import annotations

import numpy as np
import pytest

from cl_kernel.contract.errors import BadInput
from cl_kernel.contract.stream import Field
from cl_kernel.data.samples import ArraySamples, Concatenation, class_groups, class_incremental, fingerprint, subset

SPEC = {
    "vector": Field(shape=(2,), dtype="float64", kind="vector"),
    "class": Field(shape=(), dtype="int64", kind="class", n=4),
}


def samples(labels):
    labels = np.asarray(labels)
    return ArraySamples(SPEC, {"vector": np.stack([labels, np.arange(len(labels))], 1).astype(float), "class": labels})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((10, None, 3, None), "10 classes do not divide into 3 equal stages"),
        ((10, None, 0, None), "do not divide"),
        ((10, [4, 4], 0, None), "adding up to 10"),
        ((10, [10, 0], 0, None), "not positive"),
        ((3, None, 3, [0, 1, 1]), r"repeated \[1\], missing \[2\]"),
        ((3, None, 3, [0, 1, 5]), r"unknown \[5\]"),
        ((3, None, 3, [0, 1]), r"missing \[2\]"),
    ],
)
def test_a_split_that_drops_a_class_is_refused(arguments, message):
    with pytest.raises(BadInput, match=message):
        class_groups(*arguments)


def test_sizes_and_order_make_the_stages():
    assert class_groups(4, [1, 3], 0, [3, 1, 0, 2]) == [(3,), (1, 0, 2)]
    assert class_groups(4, None, 2, None) == [(0, 1), (2, 3)]


def test_every_sample_is_in_exactly_one_stage():
    stream = class_incremental("x", samples([0, 1, 2, 3, 0, 1, 2, 3]), samples([3, 2, 1, 0]), "abcd", n_stages=2)
    stream.check()
    rows = np.concatenate([stage.train.take(np.arange(len(stage.train)))["vector"][:, 1] for stage in stream.stages])
    assert sorted(rows.tolist()) == list(range(8))
    assert [rows.tolist() for rows in stream.test_sets.values()] == [[2, 3], [0, 1]]
    assert [stage.name for stage in stream.stages] == ["a+b", "c+d"]


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ([0, 1, 2], [0, 1, 2, 3], "no training samples of class d"),
        ([0, 1, 2, 3], [0, 1, 2], "no test samples of class d"),
        ([0, 1, 2, 4], [0, 1, 2, 3], "training labels run from 0 to 4"),
        ([0, 1, 2, -1], [0, 1, 2, 3], "training labels run from -1"),
    ],
)
def test_classes_without_samples_and_strange_labels_are_named(train, test, message):
    with pytest.raises(BadInput, match=message):
        class_incremental("x", samples(train), samples(test), "abcd", n_stages=2)


def test_duplicate_class_names_are_refused():
    stream = class_incremental(
        "x", samples([0, 1, 2, 3]), samples([0, 1, 2, 3]), ["a", "b", "c", "a"], sizes=[1, 1, 1, 1]
    )
    with pytest.raises(BadInput, match="share a name"):
        stream.check()


def test_concatenation_and_subset_keep_order():
    joined = Concatenation([samples([0, 1]), samples([2, 3, 0])])
    assert joined.take(np.array([4, 0, 3, 1]))["class"].tolist() == [0, 0, 3, 1]
    part = subset(subset(joined, np.array([3, 2, 0])), np.array([2, 0]))
    assert part.take(np.array([0, 1]))["class"].tolist() == [0, 3]
    assert joined.take(np.array([1]), ["class"]).keys() == {"class"}


def test_fields_of_different_length_are_refused():
    with pytest.raises(BadInput, match="different lengths"):
        ArraySamples(SPEC, {"vector": np.zeros((3, 2)), "class": np.zeros(2, int)})


def test_fingerprints_see_content_and_dtype():
    a = np.arange(4)
    assert fingerprint(a) == fingerprint(np.arange(4))
    assert (
        len(
            {fingerprint(a), fingerprint(a.astype("int32")), fingerprint(a.reshape(2, 2)), fingerprint(a[::2], a[1::2])}
        )
        == 4
    )
