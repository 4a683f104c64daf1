"""Batches go on from any position, the end of an epoch included."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cl_kernel import ArraySamples, Field
from cl_kernel.torch.loaders import Batches

SPEC = {
    "vector": Field(shape=(2,), dtype="float32", kind="vector"),
    "class": Field(shape=(), dtype="int64", kind="class", n=3),
}


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize(("start", "rows"), [(0, [4, 3, 2, 1, 0]), (2, [2, 1, 0]), (4, [0]), (5, []), (6, [])])
def test_batches_start_at_any_position(start, rows, resident):
    values = np.arange(10, dtype=np.float32).reshape(5, 2)
    samples = ArraySamples(SPEC, {"vector": values, "class": np.array([0, 1, 2, 0, 1])})
    batches = Batches(samples, torch.device("cpu"), limit=10**6 if resident else 0)
    seen = list(batches(np.arange(5)[::-1].copy(), 2, start))
    assert [row for part, _, _ in seen for row in part.tolist()] == rows
    assert all(torch.equal(inputs, torch.from_numpy(values[part])) for part, inputs, _ in seen)
    assert [label for _, _, labels in seen for label in labels.tolist()] == [[0, 1, 2, 0, 1][row] for row in rows]
