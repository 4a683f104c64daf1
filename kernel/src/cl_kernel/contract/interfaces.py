"""What the kernel and the pieces expect of each other. Numpy arrays and plain values cross the seam.

Shapes: N samples, n a batch, K classes, C channels, H W image.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    import numpy as np

    from cl_kernel.contract.events import Event
    from cl_kernel.contract.stream import Field, Stage
    from cl_kernel.running.loop import StreamContext

Array: TypeAlias = Any
"""A numpy array or a tensor on a device: the kernel only indexes it, asks ``nbytes``, ``shape`` and ``dtype``."""

Batch: TypeAlias = Mapping[str, Array]
Tree: TypeAlias = Any
"""Nested mappings and lists of numpy arrays and plain values: what a checkpoint holds."""


class Contents(Protocol):
    """Digests of what files and arrays hold; see :class:`cl_kernel.storage.digests.Files`."""

    def digests(self, paths: Iterable[str | Path]) -> list[str]:
        """Digest of each file."""

    def array(self, array: Any, rows: Any = None) -> str:
        """Digest of an array, or of some of its rows."""

    def content(self, *parts: Any) -> str:
        """One digest of several things."""


class Samples(Protocol):
    """Lazy samples with declared fields.

    From contract 2 on they also have ``identify(files, rows=None) -> str``: a digest of what those rows hold (bytes of
    the pictures, labels, how they are decoded), which is equal for equal rows wherever they lie. ``files`` is a
    :class:`Contents`.
    """

    @property
    def spec(self) -> Mapping[str, Field]:
        """Field name -> shape, dtype and meaning."""

    def __len__(self) -> int: ...

    def take(self, rows: np.ndarray, fields: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """A batch at once: ``rows`` int64 [n] -> arrays with leading axis n (object arrays for ragged fields).

        :param fields: only these fields; None for all. Asking for labels alone must not decode images.
        """


class Learner(Protocol):
    """A continual-learning method. Its loop inside a stage is its own.

    An optional method ``finish(ctx)`` is called once after the last stage, to draw or write what is its own.
    Another, ``grow(state) -> state``, turns the state of a learner of a shorter stream into one that ``load`` takes,
    with room for the classes and stages to come; a learner without it is given that state as it is, and one that
    cannot take it raises.
    """

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """Learn a stage, from wherever ``load`` left it; ``ctx.step()`` after each step."""

    def predict(self, samples: Samples) -> Iterator[dict[str, Any]]:
        """Outputs in order, batch by batch; ``scores`` float [n, K], ``class`` int [n], ``mask`` list of [H, W]."""

    def state(self) -> Tree:
        """Everything needed to go on bit for bit: weights, optimiser, memory, generators, position in the stage."""

    def load(self, state: Tree) -> None:
        """Restore what :meth:`state` returned."""


class Policy(Protocol):
    """Which examples are kept: integers only, no data. A batch equals one at a time."""

    def place(self, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Slot for each newcomer, int64 [n], -1 = not kept. Later newcomers may overwrite earlier ones' slots."""

    def draw(self, n: int, rng: np.random.Generator, groups: np.ndarray | None = None) -> np.ndarray:
        """Occupied slots to replay, int64 [<=n], without replacement; ``groups`` restricts to these groups."""

    def __len__(self) -> int:
        """Occupied slots."""

    @property
    def nbytes(self) -> int:
        """Bytes of bookkeeping, reported beside the memory, not part of it."""

    def state(self) -> Tree:
        """Everything, as arrays and plain values."""

    def load(self, state: Tree) -> None:
        """Restore what :meth:`state` returned."""


class Codec(Protocol):
    """How an example is kept."""

    @property
    def nbytes(self) -> int:
        """Bytes shared by all examples (codebooks); counted against the budget."""

    def bytes_per_example(self) -> int:
        """Exact bytes of one stored example, labels included."""

    def allocate(self, capacity: int) -> dict[str, Array]:
        """Preallocated slots, each array with leading axis ``capacity``."""

    def encode(self, batch: Batch) -> Batch:
        """Examples -> rows of the slots."""

    def decode(self, stored: Batch) -> Batch:
        """Rows -> examples, with the codec's current, possibly trained, state."""

    def state(self) -> Tree:
        """The codec's own trained state (not the slots)."""

    def load(self, state: Tree) -> None:
        """Restore what :meth:`state` returned."""


class Metric(Protocol):
    """Pure: states are arrays and plain values kept in the run folder."""

    def start(self) -> Tree:
        """An empty state."""

    def update(self, state: Tree, output: Any, target: Any) -> Tree:
        """Count a batch: ``output`` as predicted, ``target`` as in the samples, same leading length."""

    def merge(self, a: Tree, b: Tree) -> Tree:
        """The state of both halves together."""

    def compute(self, state: Tree, stage: int | None = None) -> dict[str, float | None]:
        """Named values; the first is the one that fills the matrix. None where undefined (no samples).

        :param stage: the stage just learnt, given when ``state`` covers all test sets seen so far; a metric built
            with the stream may then split old from new classes. None for the state of a single test set.
        """


class Executor(Protocol):
    """Runs the tasks of a sweep; yields (index, exit code or exception text) as they end."""

    def map(self, tasks: Sequence[Mapping[str, Any]], n_jobs: int) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Run each task, a plain description, through :func:`cl_kernel.sweeps.sweep.run_task`."""


class Companions(Protocol):
    """Comparison runs that wait for somebody to make them; a listener of the main run, and a context around it."""

    def __enter__(self) -> Companions: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """After an error the running ones save themselves and end."""

    def __call__(self, event: Event) -> None:
        """Hear an event of the main run."""

    def take(self) -> str | None:
        """A run that nobody has begun, for the caller to make; None when there is none."""

    def wait(self) -> None:
        """Wait until the others are made.

        :raises Interrupted: after a signal; what runs has saved itself.
        """
