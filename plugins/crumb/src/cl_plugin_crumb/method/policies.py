"""Who stays in CRUMB's memory, who is replayed, and how an example is kept.

A *store* holds row numbers per class; what a row is (codes, an image, a map) is the codec's business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from math import ceil

import numpy as np
from attrs import define, field

from cl_kernel import BadSetting

Permute = Callable[[int], np.ndarray]
"""n -> a random order of 0..n-1."""

Pick = Callable[[int], int]
"""n -> a random number in 0..n-1."""


def quota(capacity: int, n_active: int) -> int:
    """Rows a class may keep: ``floor(capacity / classes seen)``."""
    return capacity // n_active


def stride(n_batches: int, batch_size: int, capacity: int) -> int:
    """Every how-many-eth example of a class in a batch is considered.

    :raises BadSetting: for a memory without room (the original divides by zero).
    """
    if capacity < 1:
        raise BadSetting(
            "a memory of 0 examples cannot be streamed into",
            where="--memory",
            fix="give room for at least one example, or turn replay off: --set learner.replay_times=0",
        )
    return max(1, (n_batches - 1) * batch_size // capacity)


@define
class ClassStore:
    """Row numbers kept per class, in storage order.

    :param permute: source of the random orders of evictions.
    """

    permute: Permute
    rows: dict[int, np.ndarray] = field(factory=dict)

    def __len__(self) -> int:
        return sum(len(rows) for rows in self.rows.values())

    def add(self, rows: np.ndarray, labels: np.ndarray, active: Sequence[int], n_keep: int, step: int) -> np.ndarray:
        """Consider one batch: append every ``step``-th example of each class, shrink full classes at random.

        A class at or above its quota is reordered by one random permutation and keeps the end of it, also when it
        holds exactly its quota and also when the batch brought nothing new.

        :param rows: number of each example of the batch; ``labels``: its class.
        :return: rows that left the store (or never entered).
        """
        gone = []
        taken = np.zeros(len(rows), dtype=bool)
        for c in active:
            new = np.flatnonzero(labels == c)[::step]
            taken[new] = True
            held = np.concatenate([self.rows.get(c, np.empty(0, np.int64)), rows[new]])
            if len(held) >= n_keep:
                held = held[self.permute(len(held))]
                gone.append(held[: len(held) - n_keep])
                held = held[len(held) - n_keep :]
            self.rows[c] = held
        return np.concatenate([rows[~taken], *gone]) if gone else rows[~taken]

    def full(self, active: Sequence[int], n_keep: int) -> bool:
        """Whether every class has its quota, so that later batches are not considered."""
        return all(len(self.rows.get(c, ())) >= n_keep for c in active)

    def replay_classes(self, active: Sequence[int], present: np.ndarray) -> list[int]:
        """Classes to replay: seen, not in the current batch, with something stored; in the order of ``active``."""
        now = set(present.tolist())
        return [c for c in active if c not in now and len(self.rows.get(c, ()))]

    def picks(self, classes: Sequence[int], batch_size: int, pick: Pick) -> tuple[np.ndarray, np.ndarray]:
        """Rows of a class-balanced replay batch: ``ceil(B / |R|)`` rounds over the classes, each pick uniform.

        :return: rows and labels, both int64 [n |R|], the classes repeated in order.
        """
        rounds = ceil(batch_size / len(classes))
        chosen = [self.rows[c][pick(len(self.rows[c]))] for _ in range(rounds) for c in classes]
        return np.asarray(chosen, dtype=np.int64), np.tile(np.asarray(classes, dtype=np.int64), rounds)


def update(
    store: ClassStore,
    batches: Sequence[tuple[np.ndarray, np.ndarray]],
    active: Sequence[int],
    capacity: int,
    batch_size: int,
) -> np.ndarray:
    """The buffer update after an epoch, over ``(rows, labels)`` of its batches in stream order.

    :return: rows that were given and are not kept.
    """
    n_keep, step = quota(capacity, len(active)), stride(len(batches), batch_size, capacity)
    gone: list[np.ndarray] = []
    for at, (rows, labels) in enumerate(batches):
        gone.append(store.add(rows, labels, active, n_keep, step))
        if store.full(active, n_keep):
            gone += [rows for rows, _ in batches[at + 1 :]]
            break
    return np.concatenate(gone)


@define
class Moments:
    """Running mean and population variance of one class' maps (``merec``), after Welford, in float64."""

    n: int = 0
    mean: np.ndarray = field(factory=lambda: np.zeros(()))
    _squares: np.ndarray = field(factory=lambda: np.zeros(()))

    def add(self, values: np.ndarray) -> None:
        """Count maps, float [n, D], one after the other."""
        for value in values.astype(np.float64):
            self.n += 1
            delta = value - self.mean
            self.mean = self.mean + delta / self.n
            self._squares = self._squares + delta * (value - self.mean)

    @property
    def variance(self) -> np.ndarray:
        """Population variance."""
        return self._squares / max(self.n, 1)

    def draw(self, normal: np.ndarray) -> np.ndarray:
        """A map with these moments from standard normal numbers; negative values are not clipped."""
        return self.mean + normal * np.sqrt(self.variance)

    def state(self) -> dict[str, np.ndarray | int]:
        """Count, mean and sum of squares."""
        return {"n": self.n, "mean": self.mean, "squares": self._squares}

    def load(self, state: dict[str, np.ndarray | int]) -> None:
        """Take over what :meth:`state` gave."""
        self.n, self.mean, self._squares = int(state["n"]), np.asarray(state["mean"]), np.asarray(state["squares"])


# ---- kernel pieces ---------------------------------------------------------------------------


class Pool:
    """Free slots, the lowest first, and the group of each occupied one; a change costs its own size only."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.group_of = np.full(capacity, -1, np.int64)
        self._free = list(range(capacity))
        self._top = 0

    def take(self, groups: np.ndarray) -> np.ndarray:
        """The lowest free slots for these newcomers; fewer when there are fewer."""
        slots = np.array([heappop(self._free) for _ in range(min(len(groups), len(self._free)))], dtype=np.int64)
        self.group_of[slots] = groups[: len(slots)]
        if len(slots):
            self._top = max(self._top, int(slots[-1]) + 1)
        return slots

    def release(self, slots: np.ndarray) -> None:
        """These slots are free again."""
        self.group_of[slots] = -1
        for slot in slots.tolist():
            heappush(self._free, slot)
        while self._top and self.group_of[self._top - 1] < 0:
            self._top -= 1

    def restore(self, group_of: np.ndarray) -> None:
        """Take over the groups of all slots."""
        self.group_of[:] = group_of
        self._free = np.flatnonzero(group_of < 0).tolist()
        occupied = np.flatnonzero(group_of >= 0)
        self._top = int(occupied[-1]) + 1 if len(occupied) else 0

    @property
    def n_free(self) -> int:
        """How many slots are free."""
        return len(self._free)

    def __len__(self) -> int:
        """One more than the highest occupied slot: rows below it hold data."""
        return self._top


class Balanced:
    """Policy ``crumb:balanced``: every class seen keeps at most ``floor(capacity / classes)`` examples.

    Told by a learner of classes, batches and their size (:meth:`begin`), it goes through batches exactly as the paper
    does and says when every class is full. Untold, it fills up, and then each newcomer of a class below its quota takes
    the place of a random example of the largest class, one of a full class that of a random one of its own.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.store = ClassStore(permute=lambda n: np.arange(n))
        self.active: list[int] = []
        self.step = 1
        self.told = False
        self._pool = Pool(capacity)

    def begin(self, active: Sequence[int], n_batches: int, batch_size: int) -> None:
        """An update over ``n_batches`` batches begins, with these classes seen so far.

        :raises BadSetting: when there are more classes than room.
        """
        if quota(self.capacity, len(active)) < 1:
            raise BadSetting(
                f"a memory of {self.capacity} examples is smaller than the {len(active)} classes seen, so "
                f"every class would keep none",
                where="--memory",
                fix=f"give room for at least {len(active)} examples",
            )
        self.active, self.step, self.told = list(active), stride(n_batches, batch_size, self.capacity), True

    @property
    def full(self) -> bool:
        """Whether every class has its quota: later batches need not be offered."""
        return self.told and self.store.full(self.active, quota(self.capacity, len(self.active)))

    def place(self, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Slots of the newcomers that stay, -1 for the others."""
        if self.told:
            return self._place_batch(groups, rng)
        return np.array([self._place_one(int(group), rng) for group in groups.tolist()], dtype=np.int64)

    def _place_batch(self, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """One batch of the paper's update; slots of evicted examples are free again."""
        known = set(self.active)
        self.active += [int(g) for g in dict.fromkeys(groups.tolist()) if g not in known]
        n_keep = quota(self.capacity, len(self.active))
        self.store.permute = rng.permutation
        newcomers = self.capacity + np.arange(len(groups))  # numbers no slot has, until they get one
        gone = self.store.add(newcomers, groups, self.active, n_keep, self.step)
        self._pool.release(gone[gone < self.capacity])
        stay = np.setdiff1d(newcomers, gone) - self.capacity
        slots = np.full(len(groups), -1, np.int64)
        slots[stay] = self._pool.take(groups[stay])
        for c, rows in self.store.rows.items():
            fresh = rows >= self.capacity
            if fresh.any():
                self.store.rows[c] = np.where(fresh, slots[np.where(fresh, rows - self.capacity, 0)], rows)
        return slots

    def _place_one(self, group: int, rng: np.random.Generator) -> int:
        rows = self.store.rows
        if group not in rows:
            rows[group] = np.empty(0, np.int64)
            self.active.append(group)
        if self._pool.n_free:
            slot = int(self._pool.take(np.array([group]))[0])
            rows[group] = np.append(rows[group], slot)
            return slot
        n_keep = quota(self.capacity, len(self.active))
        own = len(rows[group])
        if own >= max(n_keep, 1):
            place = int(rng.integers(own + 1))
            return -1 if place == own else int(rows[group][place])
        largest = max(rows, key=lambda c: len(rows[c]))
        at = int(rng.integers(len(rows[largest])))
        slot = int(rows[largest][at])
        rows[largest] = np.delete(rows[largest], at)
        rows[group] = np.append(rows[group], slot)
        self._pool.group_of[slot] = group
        return slot

    def draw(self, n: int, rng: np.random.Generator, groups: np.ndarray | None = None) -> np.ndarray:
        """Up to n different stored slots, uniform over the stored examples of these groups or of all."""
        wanted = self.store.rows if groups is None else dict.fromkeys(np.asarray(groups).tolist())
        rows = np.concatenate([np.empty(0, np.int64), *(self.store.rows.get(c, np.empty(0, np.int64)) for c in wanted)])
        return rng.permutation(rows)[:n]

    def balanced_draw(
        self, classes: Sequence[int], batch_size: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """A class-balanced replay batch: slots and labels, the classes repeated in order."""
        rounds = ceil(batch_size / len(classes))
        tables = [self.store.rows[c] for c in classes]
        picks = (rng.random((rounds, len(classes))) * np.array([len(t) for t in tables])).astype(np.int64)
        slots = np.stack([table[picks[:, at]] for at, table in enumerate(tables)], axis=1)
        return slots.reshape(-1), np.tile(np.asarray(classes, dtype=np.int64), rounds)

    def counts(self) -> dict[int, int]:
        """Stored examples of each class that has any."""
        return {c: len(rows) for c, rows in self.store.rows.items() if len(rows)}

    def __len__(self) -> int:
        return len(self._pool)

    @property
    def nbytes(self) -> int:
        """Bytes of bookkeeping."""
        return self._pool.group_of.nbytes + sum(rows.nbytes for rows in self.store.rows.values())

    def state(self) -> dict[str, object]:
        """Slots of each class in storage order, classes seen, stride."""
        return {
            "classes": np.array(list(self.store.rows), np.int64),
            "sizes": np.array([len(rows) for rows in self.store.rows.values()], np.int64),
            "rows": np.concatenate([np.empty(0, np.int64), *self.store.rows.values()]),
            "active": np.array(self.active, np.int64),
            "step": self.step,
            "told": self.told,
        }

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Take over what :meth:`state` gave."""
        parts = np.split(state["rows"], np.cumsum(state["sizes"])[:-1])
        self.store.rows = {int(c): np.array(rows) for c, rows in zip(state["classes"], parts, strict=False)}
        self.active, self.step, self.told = state["active"].tolist(), int(state["step"]), bool(state["told"])
        group_of = np.full(self.capacity, -1, np.int64)
        for c, rows in self.store.rows.items():
            group_of[rows] = c
        self._pool.restore(group_of)


class Chosen:
    """Policy ``crumb:chosen``: keeps what its learner chooses and drops what it drops."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._pool = Pool(capacity)

    def place(self, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Free slots, lowest first; -1 for newcomers without room."""
        slots = np.full(len(groups), -1, np.int64)
        taken = self._pool.take(groups)
        slots[: len(taken)] = taken
        return slots

    def drop(self, slots: np.ndarray) -> None:
        """Free these slots."""
        self._pool.release(np.asarray(slots, np.int64))

    def of(self, group: int) -> np.ndarray:
        """Slots of a group, lowest first."""
        return np.flatnonzero(self._pool.group_of == group)

    def counts(self) -> dict[int, int]:
        """Stored examples of each group."""
        groups, sizes = np.unique(self._pool.group_of[self._pool.group_of >= 0], return_counts=True)
        return dict(zip(groups.tolist(), sizes.tolist(), strict=True))

    def draw(self, n: int, rng: np.random.Generator, groups: np.ndarray | None = None) -> np.ndarray:
        """Up to n different occupied slots, uniform, of these groups or of all."""
        held = self._pool.group_of
        slots = np.flatnonzero(held >= 0 if groups is None else np.isin(held, groups) & (held >= 0))
        return rng.permutation(slots)[:n]

    def __len__(self) -> int:
        return len(self._pool)

    @property
    def nbytes(self) -> int:
        """Bytes of bookkeeping."""
        return self._pool.group_of.nbytes

    def state(self) -> dict[str, np.ndarray]:
        """Group of each slot."""
        return {"group_of": self._pool.group_of.copy()}

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Take over what :meth:`state` gave."""
        self._pool.restore(state["group_of"])


def build_balanced(settings: object, capacity: int) -> Balanced:
    """Policy ``crumb:balanced``."""
    return Balanced(capacity)


def build_chosen(settings: object, capacity: int) -> Chosen:
    """Policy ``crumb:chosen``."""
    return Chosen(capacity)
