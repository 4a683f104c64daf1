"""The two-buffer variant of the biased reservoir: which items of the past are beside the present bucket.

Shapes: k capacity, n items of a bucket.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cl_kernel.library.memories.slots import SlotGroups

if TYPE_CHECKING:
    from cl_plugin_clear.settings import TwoBuffer


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
