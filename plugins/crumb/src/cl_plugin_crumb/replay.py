"""Who stays in CRUMB's memory, who is replayed, and how an example is kept.

A *store* holds row numbers per class; what a row is (codes, an image, a map) is the codec's business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil

import numpy as np
from attrs import define, field
from cl_kernel.errors import BadSetting

Permute = Callable[[int], np.ndarray]
"""n -> a random order of 0..n-1."""

Pick = Callable[[int], int]
"""n -> a random number in 0..n-1."""


def quota(capacity: int, n_active: int) -> int:
    """Rows a class may keep: ``floor(capacity / classes seen)``."""
    return capacity // n_active


def stride(n_batches: int, batch_size: int, capacity: int) -> int:
    """Every how-many-eth example of a class in a batch is considered (spec 2.7).

    :raises BadSetting: for a memory without room (the original divides by zero, Q8).
    """
    if capacity < 1:
        raise BadSetting("a memory of 0 examples cannot be streamed into", where="--memory",
                         fix="give room for at least one example, or turn replay off: --set learner.replay_times=0")
    return max(1, (n_batches - 1) * batch_size // capacity)


@define
class ClassStore:
    """Row numbers kept per class, in storage order (spec 2.7).

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
                gone.append(held[:len(held) - n_keep])
                held = held[len(held) - n_keep:]
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


def update(store: ClassStore, batches: Sequence[tuple[np.ndarray, np.ndarray]], active: Sequence[int], capacity: int,
           batch_size: int) -> np.ndarray:
    """The buffer update after an epoch, over ``(rows, labels)`` of its batches in stream order.

    :return: rows that were given and are not kept.
    """
    n_keep, step = quota(capacity, len(active)), stride(len(batches), batch_size, capacity)
    gone: list[np.ndarray] = []
    for at, (rows, labels) in enumerate(batches):
        gone.append(store.add(rows, labels, active, n_keep, step))
        if store.full(active, n_keep):
            gone += [rows for rows, _ in batches[at + 1:]]
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
