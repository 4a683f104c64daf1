"""The codec that keeps examples as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from attrs import define

from cl_kernel.contract.errors import Mismatch
from cl_kernel.contract.interfaces import Batch
from cl_kernel.contract.stream import Field
from cl_kernel.running.resources import Resources


@define
class RawCodec:
    """Every field as one numpy array of its declared shape and dtype.

    :raises Mismatch: for a field without a fixed size: text, encoded bytes, images of varying size.
    """

    fields: Mapping[str, Field]

    def __attrs_post_init__(self) -> None:
        for name, field in self.fields.items():
            if field.dtype == "object" or None in field.shape:
                kind = "encoded bytes or text" if field.dtype == "object" else f"shape {field.shape}"
                raise Mismatch(
                    f"the codec raw cannot keep the field {name!r}: {kind} has no fixed size",
                    where="--replay",
                    fix="use a data set or learner setting that gives one size, or another codec (clk list replays)",
                )

    @property
    def nbytes(self) -> int:
        """Nothing is shared."""
        return 0

    def bytes_per_example(self) -> int:
        """Bytes of all fields."""
        return sum(field.nbytes for field in self.fields.values())

    def allocate(self, capacity: int) -> dict[str, np.ndarray]:
        """Zeroed slots, [capacity, *shape] a field."""
        return {
            name: np.zeros((capacity, *(axis or 0 for axis in field.shape)), field.dtype)
            for name, field in self.fields.items()
        }

    def encode(self, batch: Batch) -> dict[str, np.ndarray]:
        """The fields as declared.

        :raises Mismatch: for a missing field, another shape, or a dtype that would lose values.
        """
        stored = {}
        for name, field in self.fields.items():
            if name not in batch:
                raise Mismatch(f"a batch for the memory lacks the field {name!r}; it has {sorted(batch)}")
            array = np.asarray(batch[name])
            if array.shape[1:] != field.shape or not np.can_cast(array.dtype, field.dtype, "same_kind"):
                raise Mismatch(
                    f"the memory keeps {name!r} as {field.dtype} {list(field.shape)}, but was given "
                    f"{array.dtype} {list(array.shape[1:])}"
                )
            stored[name] = array
        return stored

    def decode(self, stored: Batch) -> dict[str, np.ndarray]:
        """The rows as they are."""
        return dict(stored)

    def state(self) -> dict[str, Any]:
        """Nothing is trained."""
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Nothing to restore."""


def build(settings: object, fields: Mapping[str, Field], resources: Resources) -> RawCodec:
    """Raw storage of these fields."""
    return RawCodec(fields)
