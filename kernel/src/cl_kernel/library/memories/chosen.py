"""A policy that has no mind of its own: its learner says which examples are kept."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Any

import numpy as np


class Chosen:
    """Newcomers take free slots, the lowest first; slots are freed by :meth:`drop` alone."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._group_of = np.full(capacity, -1, np.int64)
        self._free = list(range(capacity))
        self._top = 0

    def place(self, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A free slot for each newcomer, int64 [n]; -1 where there is none left."""
        slots = np.full(len(groups), -1, np.int64)
        for at in range(min(len(groups), len(self._free))):
            slots[at] = heappop(self._free)
        kept = slots[slots >= 0]
        self._group_of[kept] = groups[: len(kept)]
        self._top = max([self._top, *(kept + 1).tolist()])
        return slots

    def drop(self, slots: np.ndarray) -> None:
        """Free these slots."""
        slots = np.asarray(slots, np.int64)
        self._group_of[slots] = -1
        for slot in slots.tolist():
            heappush(self._free, slot)
        while self._top and self._group_of[self._top - 1] < 0:
            self._top -= 1

    def draw(self, n: int, rng: np.random.Generator, groups: np.ndarray | None = None) -> np.ndarray:
        """Up to n different occupied slots, uniform, of these groups or of all."""
        held = self._group_of
        slots = np.flatnonzero(held >= 0 if groups is None else np.isin(held, groups) & (held >= 0))
        return rng.permutation(slots)[:n]

    def counts(self) -> dict[int, int]:
        """Examples kept of each group."""
        groups, sizes = np.unique(self._group_of[self._group_of >= 0], return_counts=True)
        return dict(zip(groups.tolist(), sizes.tolist(), strict=True))

    def __len__(self) -> int:
        """One more than the highest occupied slot: the slots below it are saved."""
        return self._top

    @property
    def nbytes(self) -> int:
        """Bytes of bookkeeping."""
        return self._group_of.nbytes

    def state(self) -> dict[str, Any]:
        """Group of each slot, -1 for free ones."""
        return {"group_of": self._group_of.copy()}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        self._group_of[:] = state["group_of"]
        self._free = np.flatnonzero(self._group_of < 0).tolist()
        occupied = np.flatnonzero(self._group_of >= 0)
        self._top = int(occupied[-1]) + 1 if len(occupied) else 0


def build(settings: object, capacity: int) -> Chosen:
    """Policy ``chosen``."""
    return Chosen(capacity)
