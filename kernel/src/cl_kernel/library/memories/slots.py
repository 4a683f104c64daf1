"""Which group sits in which slot, and uniform draws from them.

Shapes: n a batch, S slots, G groups seen. Cost is per example, never per slot.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heapify, heappop, heappush
from itertools import islice
from typing import Any

import numpy as np
from attrs import define, field


def without_replacement(n_all: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """``min(n, n_all)`` different numbers below ``n_all``, uniform and in random order, in O(n)."""
    if 2 * n >= n_all:
        return rng.permutation(n_all)[:n]
    # Repeats are thrown away and drawn again; the set of first occurrences in order is uniform.
    drawn = dict.fromkeys((rng.random(n) * n_all).astype(np.int64).tolist())
    while len(drawn) < n:
        drawn.update(dict.fromkeys((rng.random(n) * n_all).astype(np.int64).tolist()))
    return np.fromiter(islice(drawn, n), np.int64, n)


class GroupTables:
    """The slots of each group in arrays with swap-remove: add, remove and pick in O(1), largest by a heap.

    Groups have ranks in order of first appearance, and keep them when they become empty. Scalars go through
    memoryviews, which are several times faster than indexing a numpy array with an int.
    """

    def __init__(self, capacity: int) -> None:
        self.ids: list[int] = []
        self.sizes: list[int] = []
        self._rank: dict[int, int] = {}
        self._tables: list[np.ndarray] = []
        self._views: list[memoryview] = []
        self._position = np.zeros(capacity, np.int64)
        self._rank_of = np.full(capacity, -1, np.int64)
        self._position_view, self._rank_view = self._position.data, self._rank_of.data
        self._heap: list[tuple[int, int]] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self._position.nbytes + self._rank_of.nbytes + sum(table.nbytes for table in self._tables)

    def rank(self, group: int) -> int:
        """Rank of a group, new ones included."""
        if (rank := self._rank.get(group)) is None:
            rank = self._rank[group] = len(self.ids)
            self.ids.append(group)
            self.sizes.append(0)
            self._tables.append(np.zeros(8, np.int64))
            self._views.append(self._tables[-1].data)
        return rank

    def add(self, slot: int, rank: int) -> None:
        """Put an empty slot at the end of a group's table."""
        size = self.sizes[rank]
        if size == len(self._views[rank]):
            self._resize(rank, 2 * size)
        self._views[rank][size] = slot
        self._position_view[slot], self._rank_view[slot] = size, rank
        self._resized(rank, size + 1)

    def remove(self, slot: int) -> None:
        """Take a slot out of its group, the group's last one takes its place; an empty slot stays empty."""
        if (rank := self._rank_view[slot]) < 0:
            return
        view, place, last = self._views[rank], self._position_view[slot], self.sizes[rank] - 1
        moved = view[last]
        view[place] = moved
        self._position_view[moved] = place
        self._rank_view[slot] = -1
        self._resized(rank, last)
        if last * 4 < len(view) and len(view) > 8:
            self._resize(rank, len(view) // 2)

    def at(self, rank: int, place: int) -> int:
        """The slot at a place of a group's table, ``0 <= place < sizes[rank]``."""
        return int(self._views[rank][place])

    def largest(self) -> int:
        """Rank of the group with most slots; of equals the one seen first."""
        heap = self._heap
        if heap is None or len(heap) > 4 * len(self.sizes) + 64:
            heap = self._heap = [(-size, rank) for rank, size in enumerate(self.sizes)]
            heapify(heap)
        while -heap[0][0] != self.sizes[heap[0][1]]:
            heappop(heap)
        return heap[0][1]

    def extend(self, slots: np.ndarray, groups: np.ndarray) -> None:
        """:meth:`add` for many empty slots at once, groups as ids; the same tables as one by one."""
        _, first = np.unique(groups, return_index=True)
        for group in groups[np.sort(first)].tolist():
            rank, mine = self.rank(group), slots[groups == group]
            size = self.sizes[rank]
            if (total := size + len(mine)) > len(self._views[rank]):
                self._resize(rank, 1 << (total - 1).bit_length())
            self._tables[rank][size:total] = mine
            self._position[mine] = np.arange(size, total)
            self._rank_of[mine] = rank
            self.sizes[rank] = total
        self._heap = None

    def draw(self, n: int, rng: np.random.Generator, groups: Iterable[int]) -> np.ndarray:
        """Up to ``n`` different slots of these groups, uniform over their union; unknown groups have none."""
        ranks = [self._rank[g] for g in dict.fromkeys(groups) if g in self._rank]
        ends = np.cumsum([self.sizes[r] for r in ranks], dtype=np.int64)
        if not len(ends) or not ends[-1]:
            return np.zeros(0, np.int64)
        picks = without_replacement(int(ends[-1]), n, rng)
        owner = np.searchsorted(ends, picks, side="right")
        slots = np.empty(len(picks), np.int64)
        for i in np.unique(owner).tolist():
            mine = owner == i
            slots[mine] = self._tables[ranks[i]][picks[mine] - (ends[i] - self.sizes[ranks[i]])]
        return slots

    def counts(self) -> dict[int, int]:
        """Occupied slots of each group that has any."""
        return {group: size for group, size in zip(self.ids, self.sizes, strict=True) if size}

    def state(self) -> dict[str, Any]:
        """Tables as arrays."""
        slots = [table[:size] for table, size in zip(self._tables, self.sizes, strict=True)]
        return {
            "ids": np.array(self.ids, np.int64),
            "sizes": np.array(self.sizes, np.int64),
            "slots": np.concatenate([np.zeros(0, np.int64), *slots]),
        }

    @classmethod
    def of(cls, capacity: int, state: dict[str, Any]) -> GroupTables:
        """Tables from what :meth:`state` gave."""
        tables = cls(capacity)
        for group in state["ids"].tolist():
            tables.rank(group)
        tables.extend(state["slots"], np.repeat(state["ids"], state["sizes"]))
        return tables

    def _resized(self, rank: int, size: int) -> None:
        self.sizes[rank] = size
        if self._heap is not None:
            heappush(self._heap, (-size, rank))

    def _resize(self, rank: int, length: int) -> None:
        table = np.zeros(length, np.int64)
        size = self.sizes[rank]
        table[:size] = self._tables[rank][:size]
        self._tables[rank], self._views[rank] = table, table.data


@define
class SlotGroups:
    """Groups of slots ``0 .. n-1``, with tables only once a draw from chosen groups needs them.

    After the first draw from chosen groups, changed slots are noted and worked in at the next such draw, all
    anew when more than a quarter changed. What a draw gives thus depends on the placements, not on how they
    were batched.
    """

    capacity: int
    n: int = 0
    group_of: np.ndarray = field(init=False)
    _tables: GroupTables | None = field(default=None, init=False)
    _changed: list[np.ndarray] = field(factory=list, init=False)
    _n_changed: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self.group_of = np.zeros(self.capacity, np.int64)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.group_of.nbytes + (self._tables.nbytes if self._tables else 0)

    def put(self, slots: np.ndarray, groups: np.ndarray) -> None:
        """Occupy slots; of repeated slots the last counts. New slots come in order."""
        self.group_of[slots] = groups
        if self.n < self.capacity:
            self.n = max(self.n, int(slots.max()) + 1)
        if self._tables is not None:
            self._n_changed += len(slots)
            self._changed.append(slots)
            if self._stale:
                self._changed.clear()

    def draw(self, n: int, rng: np.random.Generator, groups: np.ndarray | None = None) -> np.ndarray:
        """Up to ``n`` different occupied slots, uniform, of all or of the given groups."""
        if groups is None:
            return without_replacement(self.n, n, rng)
        return self._current().draw(n, rng, np.asarray(groups).tolist())

    def counts(self) -> dict[int, int]:
        """Occupied slots of each group that has any."""
        ids, sizes = np.unique(self.group_of[: self.n], return_counts=True)
        return dict(zip(ids.tolist(), sizes.tolist(), strict=True))

    def state(self) -> dict[str, Any]:
        """Groups, tables and what is still to be worked in."""
        return {
            "group_of": self.group_of[: self.n].copy(),
            "n_changed": self._n_changed,
            "changed": np.concatenate([np.zeros(0, np.int64), *self._changed]),
            "tables": self._tables.state() if self._tables else None,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state` gave."""
        self.n = len(state["group_of"])
        self.group_of[: self.n] = state["group_of"]
        self._n_changed, self._changed = (state["n_changed"], [state["changed"]] if len(state["changed"]) else [])
        self._tables = GroupTables.of(self.capacity, state["tables"]) if state["tables"] else None

    @property
    def _stale(self) -> bool:
        return 4 * self._n_changed > self.capacity

    def _current(self) -> GroupTables:
        if self._tables is None or self._stale:
            self._tables = GroupTables(self.capacity)
            self._tables.extend(np.arange(self.n), self.group_of[: self.n])
        elif self._changed:
            for slot in np.unique(np.concatenate(self._changed)).tolist():
                self._tables.remove(slot)
                self._tables.add(slot, self._tables.rank(int(self.group_of[slot])))
        self._changed.clear()
        self._n_changed = 0
        return self._tables
