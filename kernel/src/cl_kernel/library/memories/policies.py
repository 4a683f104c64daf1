"""Who stays in a memory: integers in, slots out. Adding a batch equals adding its examples one at a time.

Filling up costs no random number; after that each newcomer costs one (GDumb's only if it enters), so how
newcomers are batched changes nothing. Slots fill in order 0, 1, 2, ..., so the occupied ones are the first
``len(policy)``.

Shapes: n a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import define, field

from cl_kernel.contract.errors import BadSetting
from cl_kernel.library.memories.slots import GroupTables, SlotGroups, without_replacement

if TYPE_CHECKING:
    from cl_kernel.library import settings as choices


@define
class _Flat:
    """What the policies share that do not weigh groups against each other."""

    capacity: int
    seen: int = field(default=0, init=False)
    _slots: SlotGroups = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._slots = SlotGroups(self.capacity)

    def __len__(self) -> int:
        return self._slots.n

    @property
    def nbytes(self) -> int:
        """Bytes of bookkeeping."""
        return self._slots.nbytes

    def draw(self, n: int, rng: np.random.Generator, groups: np.ndarray | None = None) -> np.ndarray:
        """Occupied slots, int64 [<=n], uniform without replacement, of all or of these groups."""
        return self._slots.draw(n, rng, groups)

    def counts(self) -> dict[int, int]:
        """Examples kept of each group."""
        return self._slots.counts()

    def state(self) -> dict[str, Any]:
        """Everything."""
        return {"seen": self.seen, "slots": self._slots.state()}

    def load(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state` gave."""
        self.seen = state["seen"]
        self._slots.load(state["slots"])

    def _settle(self, slots: np.ndarray, groups: np.ndarray) -> np.ndarray:
        kept = (slots >= 0).nonzero()[0]
        if len(kept):
            self._slots.put(slots[kept], groups[kept])
        return slots


class Ring(_Flat):
    """The newest stay."""

    def place(self, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Slots one after the other, round and round."""
        slots = np.arange(self.seen, self.seen + len(groups)) % self.capacity
        self.seen += len(groups)
        return self._settle(slots, groups)


class Reservoir(_Flat):
    """Every example seen is kept with the same probability (Vitter's algorithm R)."""

    def place(self, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The i-th example ever takes slot floor(u i) if there is such a slot."""
        n_free = min(self.capacity - len(self), len(groups))
        slots = np.arange(self.seen, self.seen + len(groups))
        slots[n_free:] = rng.random(len(groups) - n_free) * (slots[n_free:] + 1)
        slots[slots >= self.capacity] = -1
        self.seen += len(groups)
        return self._settle(slots, groups)


@define
class BiasedReservoir(_Flat):
    """A reservoir that prefers the past (alpha < 1) or the present (alpha > 1), from the CLEAR paper.

    The n-th example is accepted with p = min(1, alpha capacity / n), or p = min(1, alpha) when ``dynamic``;
    while there is room all are. Accepted ones overwrite a uniformly drawn slot. alpha = 1, fixed, is the
    plain reservoir.

    ``by_bucket`` is the paper's own form, in which a call is a whole time bucket and p is the same for all of
    it, with n counted at the bucket's end; the accepted replace examples of *earlier* buckets, so an example
    of bucket j is still there after bucket i with probability p_j prod_{t=j+1..i} (1 - p_t) when buckets fill
    the memory. Here, and only here, a batch is not the same as its examples one at a time.
    """

    alpha: float = 1.0
    dynamic: bool = False
    by_bucket: bool = False

    def place(self, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Slots of the accepted; see the class."""
        n_free = min(self.capacity - len(self), len(groups))
        return self._bucket(groups, rng) if self.by_bucket else self._stream(groups, n_free, rng)

    def _stream(self, groups: np.ndarray, n_free: int, rng: np.random.Generator) -> np.ndarray:
        slots = np.arange(len(self), len(self) + len(groups))
        nth = np.arange(self.seen + n_free, self.seen + len(groups)) + 1
        p = np.minimum(1.0, self.alpha if self.dynamic else self.alpha * self.capacity / nth) * np.ones(len(nth))
        u = rng.random(len(nth))
        # Given u < p, u / p is uniform again: one number both accepts and chooses the slot.
        chosen = np.minimum(u / np.maximum(p, 1e-300) * self.capacity, self.capacity - 1)
        slots[n_free:] = np.where(u < p, chosen, -1)
        self.seen += len(groups)
        return self._settle(slots, groups)

    def _bucket(self, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        first = self.seen == 0
        self.seen += len(groups)
        p = 1.0 if first else min(1.0, self.alpha if self.dynamic else self.alpha * self.capacity / self.seen)
        accepted = np.flatnonzero(rng.random(len(groups)) <= p)
        if len(accepted) > self.capacity:
            accepted = np.sort(accepted[without_replacement(len(accepted), self.capacity, rng)])
        n_old = len(self)
        n_free = min(self.capacity - n_old, len(accepted))
        leaving = without_replacement(n_old, len(accepted) - n_free, rng)
        slots = np.full(len(groups), -1)
        slots[accepted] = np.concatenate([np.arange(n_old, n_old + n_free), leaving])
        return self._settle(slots, groups)


@define
class _Balanced:
    """What the policies share that keep the tables of every group at hand."""

    capacity: int
    n: int = field(default=0, init=False)
    tables: GroupTables = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.tables = GroupTables(self.capacity)

    def __len__(self) -> int:
        return self.n

    @property
    def nbytes(self) -> int:
        """Bytes of bookkeeping."""
        return self.tables.nbytes

    def draw(self, n: int, rng: np.random.Generator, groups: np.ndarray | None = None) -> np.ndarray:
        """Occupied slots, int64 [<=n], uniform without replacement, of all or of these groups."""
        if groups is None:
            return without_replacement(self.n, n, rng)
        return self.tables.draw(n, rng, np.asarray(groups).tolist())

    def counts(self) -> dict[int, int]:
        """Examples kept of each group."""
        return self.tables.counts()

    def state(self) -> dict[str, Any]:
        """Everything."""
        return {"n": self.n, "tables": self.tables.state()}

    def load(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state` gave."""
        self.n = state["n"]
        self.tables = GroupTables.of(self.capacity, state["tables"])

    def _place(self, groups: np.ndarray, rng: np.random.Generator, turn: Callable[[int, float], int]) -> np.ndarray:
        """Free slots first, then ``turn(group, uniform number)`` for each newcomer."""
        n_free = min(self.capacity - self.n, len(groups))
        slots = np.arange(self.n, self.n + len(groups))
        self.tables.extend(slots[:n_free], groups[:n_free])
        self.n += n_free
        late = groups[n_free:]
        slots[n_free:] = [
            turn(group, u) for group, u in zip(late.tolist(), rng.random(len(late)).tolist(), strict=True)
        ]
        return slots

    def _replace(self, rank: int, place: int, newcomer: int) -> int:
        """The newcomer's group takes over a slot of another group, or of its own."""
        slot = self.tables.at(rank, place)
        self.tables.remove(slot)
        self.tables.add(slot, newcomer)
        return slot


@define
class LargestClass(_Balanced):
    """Every newcomer enters; a uniformly drawn example of the largest group (of equals the first) leaves.

    :param newcomer_may_leave: the newcomer is counted before the eviction and may itself be drawn (REMIND's
        image streams); otherwise room is made first (its VQA streams).
    """

    newcomer_may_leave: bool = True

    def place(self, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Free slots first, then one eviction for each newcomer."""
        return self._place(groups, rng, self._turn)

    def _turn(self, group: int, u: float) -> int:
        tables = self.tables
        mine = tables.rank(group)
        if not self.newcomer_may_leave:
            largest = tables.largest()
            return self._replace(largest, int(u * tables.sizes[largest]), mine)
        largest = tables.largest()
        size, grown = tables.sizes[largest], tables.sizes[mine] + 1
        if grown > size or (grown == size and mine < largest):
            largest, size = mine, grown
        place = int(u * size)
        if largest == mine and place == size - 1:
            return -1
        return self._replace(largest, place, mine)


@define
class ClassBalanced(_Balanced):
    """Class-balancing reservoir sampling (Chrysakis and Moens): groups level off, each a reservoir.

    With the memory full, a newcomer whose group never was a largest one replaces a uniformly drawn example of
    the largest group (of equals the one seen first); a group that is or was a largest one is a plain
    reservoir: its m examples stay a uniform sample of the n seen (the newcomer enters with probability m / n,
    in place of one of its own).
    """

    _n_seen: list[int] = field(factory=list, init=False)
    _was_largest: set[int] = field(factory=set, init=False)

    def place(self, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Free slots first, then each newcomer by the state of its group."""
        filling = groups[: self.capacity - self.n]
        _, first, counts = np.unique(filling, return_index=True, return_counts=True)
        for i in np.argsort(first).tolist():
            self._count(self.tables.rank(int(filling[first[i]])), int(counts[i]))
        return self._place(groups, rng, self._turn)

    def state(self) -> dict[str, Any]:
        """Everything."""
        return {**super().state(), "n_seen": list(self._n_seen), "was_largest": sorted(self._was_largest)}

    def load(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state` gave."""
        super().load(state)
        self._n_seen, self._was_largest = list(state["n_seen"]), set(state["was_largest"])

    def _count(self, rank: int, n: int = 1) -> int:
        self._n_seen.extend([0] * (rank + 1 - len(self._n_seen)))
        self._n_seen[rank] += n
        return self._n_seen[rank]

    def _turn(self, group: int, u: float) -> int:
        tables = self.tables
        mine, largest = tables.rank(group), tables.largest()
        n_seen = self._count(mine)
        if mine in self._was_largest or tables.sizes[mine] == tables.sizes[largest]:
            self._was_largest.add(mine)
            place = int(u * n_seen)
            return tables.at(mine, place) if place < tables.sizes[mine] else -1
        self._was_largest.add(largest)
        return self._replace(largest, int(u * tables.sizes[largest]), mine)


@define
class GreedyBalanced(_Balanced):
    """GDumb's greedy sampler: newcomers enter while their group is below its share, capacity / groups.

    With the memory full they replace a uniformly drawn example of the largest group. Newcomers of a group at
    its share are dropped, so within a group the earliest stay. The share counts the groups seen before the
    newcomer; a new group always enters.
    """

    def place(self, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """One newcomer after the other: even with room left, a group at its share is refused."""
        slots = np.empty(len(groups), np.int64)
        tables, capacity = self.tables, self.capacity
        for i, group in enumerate(groups.tolist()):
            n_groups = len(tables.ids)
            mine = tables.rank(group)
            if mine < n_groups and tables.sizes[mine] * n_groups >= capacity:
                slots[i] = -1
            elif self.n < capacity:
                slots[i] = self.n
                tables.add(self.n, mine)
                self.n += 1
            else:
                largest = tables.largest()
                slots[i] = self._replace(largest, int(rng.random() * tables.sizes[largest]), mine)
        return slots


def build_reservoir(settings: object, capacity: int) -> Reservoir:
    """Plain reservoir."""
    return Reservoir(capacity)


def build_ring(settings: object, capacity: int) -> Ring:
    """First in, first out."""
    return Ring(capacity)


def build_class_balanced(settings: object, capacity: int) -> ClassBalanced:
    """Class-balancing reservoir."""
    return ClassBalanced(capacity)


def build_gdumb(settings: object, capacity: int) -> GreedyBalanced:
    """GDumb's greedy sampler."""
    return GreedyBalanced(capacity)


def build_largest_class(settings: choices.LargestClass, capacity: int) -> LargestClass:
    """Largest-class eviction."""
    return LargestClass(capacity, newcomer_may_leave=settings.newcomer_may_leave)


def build_biased_reservoir(settings: choices.BiasedReservoir, capacity: int) -> BiasedReservoir:
    """Biased reservoir.

    :raises BadSetting: for a negative alpha.
    """
    if settings.alpha < 0:
        raise BadSetting(f"alpha {settings.alpha} is negative", where="replay.alpha")
    return BiasedReservoir(capacity, alpha=settings.alpha, dynamic=settings.dynamic, by_bucket=settings.by_bucket)
