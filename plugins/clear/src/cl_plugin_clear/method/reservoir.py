"""The biased reservoir family: which items of the past are in the training set of a bucket.

Shapes: k capacity, n items of a bucket.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from cl_kernel.library.memories.slots import SlotGroups

if TYPE_CHECKING:
    from cl_plugin_clear.settings import TwoBuffer

T = TypeVar("T")


def accept_probability(bucket: int, alpha: float, capacity: int, n_seen: int, *, dynamic: bool) -> float:
    """Chance that an item of the ``bucket``-th bucket (1-based) enters.

    :param n_seen: training items seen, this bucket included.
    """
    if bucket == 1:
        return 1.0
    return min(1.0, alpha) if dynamic else min(1.0, alpha * capacity / n_seen)


def inclusion(probabilities: Sequence[float]) -> np.ndarray:
    """P[i, j]: chance that an item of bucket j is in the buffer after bucket i, equal buckets of the buffer's size."""
    n = len(probabilities)
    out = np.zeros((n, n))
    for i in range(n):
        for j in range(i + 1):
            out[i, j] = probabilities[j] * np.prod([1 - probabilities[t] for t in range(j + 1, i + 1)])
    return out


def bucket_buffers(
    buckets: Sequence[Sequence[T]], alpha: float, *, dynamic: bool, rng: random.Random
) -> Iterator[list[T]]:
    """The authors' own procedure: the buffer after each bucket, in its order.

    One draw for each new item in order; then the old buffer is shuffled, cut to what the accepted leave, and they are
    appended. The first bucket is the buffer and sets the capacity.
    """
    buffer: list[T] = list(buckets[0])
    capacity, n_seen = len(buffer), len(buffer)
    yield list(buffer)
    for number, bucket in enumerate(buckets[1:], start=2):
        n_seen += len(bucket)
        p = accept_probability(number, alpha, capacity, n_seen, dynamic=dynamic)
        accepted = [item for item in bucket if rng.random() <= p][:capacity]
        rng.shuffle(buffer)
        buffer = buffer[: capacity - len(accepted)] + accepted
        yield list(buffer)


def two_buffers(
    buckets: Sequence[Sequence[T]], alpha: float, *, dynamic: bool, rng: random.Random, compat: bool = False
) -> Iterator[list[T]]:
    """The two-buffer variant: the present bucket, and a memory fed with each bucket when the next one arrives.

    :param compat: the original's slot ``int(u * (S - 1)) mod k``, which reuses the acceptance draw and never reaches
        some slots; otherwise a slot of its own draw.
    :return: current + memory items for each bucket.
    """
    current: list[T] = []
    memory: list[T] = []
    capacity = len(buckets[0])
    n_before = 0  # items in the buckets before the present one
    for number, bucket in enumerate(buckets, start=1):
        if number == 2:
            memory = list(current)
        elif number > 2:
            p = min(1.0, alpha) if dynamic else min(1.0, alpha * capacity / n_before)
            rng.shuffle(current)
            rng.shuffle(memory)
            for item in current:
                u = rng.random()
                if u <= p:
                    slot = int(u * (n_before - 1)) % capacity if compat else rng.randrange(capacity)
                    memory[slot] = item
        current = list(bucket)
        n_before += len(bucket)
        yield current + memory


class TwoBufferMemory:
    """Policy of the memory beside the present bucket, fed with each bucket when the next one arrives.

    The S-th item is accepted with p = min(1, alpha k / S), or min(1, alpha) when dynamic, and overwrites a uniformly
    drawn slot; while there is room all are accepted.

    ``by_bucket`` is the paper's form: a call is a whole bucket, and p is the same for all of it, with S counted at its
    end. Here, and only here, a batch is not the same as its items one at a time.
    """

    def __init__(self, capacity: int, alpha: float = 1.0, dynamic: bool = False, by_bucket: bool = False) -> None:
        self.capacity, self.alpha, self.dynamic, self.by_bucket, self.seen = capacity, alpha, dynamic, by_bucket, 0
        self._slots = SlotGroups(capacity)

    def __len__(self) -> int:
        return self._slots.n

    @property
    def nbytes(self) -> int:
        """Bytes of bookkeeping."""
        return self._slots.nbytes

    def place(self, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Slot of each item, -1 = not kept; later items may overwrite earlier ones' slots."""
        n, n_old = len(groups), len(self)
        n_free = min(self.capacity - n_old, n)
        slots = np.full(n, -1, np.int64)
        slots[:n_free] = np.arange(n_old, n_old + n_free)
        place = self.seen + n if self.by_bucket else self.seen + np.arange(n_free, n) + 1
        p = np.minimum(1.0, self.alpha if self.dynamic else self.alpha * self.capacity / place) * np.ones(n - n_free)
        u = rng.random(n - n_free)
        # given u < p, u / p is uniform again: one number accepts and chooses the slot, every slot reachable
        chosen = np.minimum(u / np.maximum(p, 1e-300) * self.capacity, self.capacity - 1)
        slots[n_free:] = np.where(u < p, chosen, -1)
        self.seen += n
        kept = slots >= 0
        self._slots.put(slots[kept], groups[kept])
        return slots

    def draw(self, n: int, rng: np.random.Generator, groups: np.ndarray | None = None) -> np.ndarray:
        """Occupied slots, int64 [<=n], uniform without replacement."""
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


def build_two_buffer(settings: TwoBuffer, capacity: int) -> TwoBufferMemory:
    """Replay policy ``two-buffer``."""
    return TwoBufferMemory(capacity, settings.alpha, settings.dynamic, settings.by_bucket)
