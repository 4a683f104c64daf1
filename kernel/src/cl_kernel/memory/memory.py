"""A memory: preallocated slots, a policy that says who stays, a codec that says how.

Shapes: n a batch, S slots.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cl_kernel.contract.errors import BadCheckpoint, BadSetting, Mismatch
from cl_kernel.contract.interfaces import Array, Batch, Codec, Policy
from cl_kernel.memory.capacity import Capacity, parse_capacity


class Memory:
    """What is kept of the past, never more than ``capacity`` examples.

    The slots may be numpy arrays or tensors on a device: they are only indexed with integer arrays. What
    enters and what is drawn have a generator each, so that the content does not depend on how often it is
    replayed.

    :param policy: who stays; for ``capacity`` slots.
    :param codec: how an example is kept.
    :param budget: bytes that codec and slots together may not pass, or None.
    :raises BadSetting: when the slots would pass the budget.
    """

    def __init__(
        self, policy: Policy, codec: Codec, capacity: int, rng: np.random.Generator, *, budget: int | None = None
    ) -> None:
        if capacity < 1:
            raise BadSetting(f"a memory of {capacity} examples keeps nothing", where="--memory")
        self.policy, self.codec, self.capacity, self.budget = policy, codec, capacity, budget
        self.seen = 0
        self._place_rng, self._draw_rng = rng.spawn(2)
        self._slots: dict[str, Array] = codec.allocate(capacity)
        if budget is not None and self.nbytes > budget:
            raise BadSetting(
                f"the memory takes {self.nbytes} bytes, its budget is {budget}",
                where="--memory",
                fix=f"the codec {type(codec).__name__} states "
                f"{codec.bytes_per_example()} bytes an example and {codec.nbytes} of its own: mend it",
            )

    def __len__(self) -> int:
        return len(self.policy)

    @property
    def nbytes(self) -> int:
        """Bytes of all slots, empty ones included, and of what the codec shares."""
        return self.codec.nbytes + sum(int(array.nbytes) for array in self._slots.values())

    @property
    def bytes_used(self) -> int:
        """Bytes of the occupied slots and of what the codec shares."""
        return self.codec.nbytes + len(self) * self.codec.bytes_per_example()

    def add(self, batch: Batch, groups: np.ndarray) -> np.ndarray:
        """Offer examples; the policy says who enters. Only those that stay are encoded.

        :param groups: int64 [n], what the policy balances by, usually the class.
        :return: slot of each newcomer, int64 [n], -1 where it was not kept (or a later one of the batch took
            its slot).
        :raises Mismatch: when batch and groups differ in length; nothing is stored then.
        """
        groups = np.asarray(groups, np.int64)
        if any(len(array) != len(groups) for array in batch.values()):
            lengths = {name: len(array) for name, array in batch.items()}
            raise Mismatch(f"{len(groups)} groups for fields of length {lengths}", where="adding to the memory")
        slots = self.policy.place(groups, self._place_rng)
        self.seen += len(groups)
        rows = (slots >= 0).nonzero()[0]
        targets = slots[rows]
        if len(set(targets.tolist())) < len(rows):
            # Assigning repeats to tensors has no defined order: only the last newcomer of a slot counts.
            _, last = np.unique(targets[::-1], return_index=True)
            rows = rows[np.sort(len(rows) - 1 - last)]
            targets, slots = slots[rows], np.full(len(slots), -1)
            slots[rows] = targets
        if len(rows):
            if len(rows) < len(slots):
                batch = {name: array[rows] for name, array in batch.items()}
            encoded = self.codec.encode(batch)
            moved = self._index(targets)
            for name, array in self._slots.items():
                array[targets if isinstance(array, np.ndarray) else moved] = encoded[name]
        return slots

    def draw(self, n: int, groups: np.ndarray | None = None) -> np.ndarray:
        """Up to ``n`` different occupied slots, int64, in random order, of these groups or of all."""
        return self.policy.draw(n, self._draw_rng, groups)

    def take(self, slots: np.ndarray) -> dict[str, Array]:
        """Decoded examples of these slots, in their order."""
        moved = self._index(slots)
        stored = {n: a[slots if isinstance(a, np.ndarray) else moved] for n, a in self._slots.items()}
        return dict(self.codec.decode(stored))

    def _index(self, slots: np.ndarray) -> Any:
        """Slots as the codec's own arrays are indexed: it may offer ``index`` to bring them to its device."""
        move = getattr(self.codec, "index", None)
        return slots if move is None else move(slots)

    def sample(self, n: int, groups: np.ndarray | None = None) -> dict[str, Array]:
        """``min(n, len)`` different examples, decoded; the memory must not be empty."""
        return self.take(self.draw(n, groups))

    def state(self) -> dict[str, Any]:
        """Occupied slots, policy, codec and generators: arrays and plain values."""
        n = len(self)
        return {
            "capacity": self.capacity,
            "seen": self.seen,
            "policy": self.policy.state(),
            "codec": self.codec.state(),
            "place_rng": self._place_rng.bit_generator.state,
            "draw_rng": self._draw_rng.bit_generator.state,
            "slots": {name: _to_numpy(array[:n]) for name, array in self._slots.items()},
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state` gave.

        :raises BadCheckpoint: when it belongs to a memory of another size or other fields.
        """
        if state["capacity"] != self.capacity or set(state["slots"]) != set(self._slots):
            raise BadCheckpoint(
                f"the saved memory has {state['capacity']} slots of {sorted(state['slots'])}, this one "
                f"{self.capacity} of {sorted(self._slots)}"
            )
        self.codec.load(state["codec"])
        self.policy.load(state["policy"])
        self.seen = state["seen"]
        self._place_rng.bit_generator.state = state["place_rng"]
        self._draw_rng.bit_generator.state = state["draw_rng"]
        for name, rows in state["slots"].items():
            array = self._slots[name]
            array[: len(rows)] = rows if isinstance(array, np.ndarray) else array.new_tensor(rows)


def build_memory(
    policy: Callable[[int], Policy],
    codec: Codec,
    capacity: str | int | Capacity,
    rng: np.random.Generator,
    *,
    n_examples: int = 0,
) -> Memory:
    """A memory of a capacity in examples or bytes.

    :param policy: builds the policy for a number of slots.
    :param n_examples: size of the stream, for a capacity of ``all``.
    :raises BadSetting: for a capacity that is none, or that not even one example fits.
    """
    wanted = capacity if isinstance(capacity, Capacity) else parse_capacity(capacity)
    slots = wanted.slots(codec, n_examples)
    return Memory(policy(slots), codec, slots, rng, budget=wanted.nbytes)


def _to_numpy(array: Array) -> np.ndarray:
    """A copy: what ``numpy()`` of a tensor on the host gives shares its memory."""
    return np.array(array if isinstance(array, np.ndarray) else array.detach().cpu().numpy())
