"""Samples -> tensors: seeded, resumable orders; whole arrays kept on the device, decoding done ahead in threads.

Shapes: N samples, n a batch, C channels, H W image.
"""

from __future__ import annotations

import contextlib
import copy
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
from attrs import define, field
from torch import Tensor

from cl_kernel.contract.errors import Mismatch
from cl_kernel.contract.interfaces import Samples
from cl_kernel.contract.stream import Field
from cl_kernel.data.samples import ArraySamples, Concatenation, Subset

RESIDENT_BYTES = 1 << 30
"""Samples whose tensors need more than this are read batch by batch."""

INPUT_KINDS = ("image", "map", "vector")
BadSample = Callable[[str, Exception], None]
Item = TypeVar("Item")
Made = TypeVar("Made")


def input_name(fields: Mapping[str, Field]) -> str:
    """The field a network reads: the first image, map or vector.

    :raises Mismatch: when there is none.
    """
    for name, spec in fields.items():
        if spec.kind in INPUT_KINDS:
            return name
    raise Mismatch(f"no image, map or vector among the fields {', '.join(fields)}", where="data set")


def label_name(fields: Mapping[str, Field]) -> str:
    """The field that holds the class.

    :raises Mismatch: when there is none.
    """
    for name, spec in fields.items():
        if spec.kind == "class":
            return name
    raise Mismatch(f"no class among the fields {', '.join(fields)}", where="data set")


def input_shape(spec: Field) -> tuple[int, ...]:
    """Shape of one sample as a network sees it: images [C, H, W], maps [C, H, W], vectors [D].

    :raises Mismatch: for images of varying size.
    """
    if None in spec.shape:
        raise Mismatch(f"images of varying size {spec.shape}", where="data set", fix="resize them in the data set")
    shape = tuple(int(axis) for axis in spec.shape if axis is not None)
    if spec.kind != "image":
        return shape
    return (1, *shape) if len(shape) == 2 else (shape[2], shape[0], shape[1])


def as_tensor(array: Any, device: torch.device) -> Tensor:
    """A numpy array or tensor on the device; nothing copied that need not be."""
    if isinstance(array, Tensor):
        return array.to(device, non_blocking=True)
    if not array.flags.writeable or min(array.strides, default=0) < 0:
        array = array.copy()
    tensor = torch.from_numpy(array)
    return tensor if device.type == "cpu" else tensor.to(device, non_blocking=True)


def to_input(array: Any, spec: Field, device: torch.device) -> Tensor:
    """A batch of a field as a network sees it: float32; images [n, C, H, W], 8-bit ones scaled to [0, 1].

    :param array: numpy array or tensor [n, *spec.shape].
    """
    batch = as_tensor(array, device)
    scale = batch.dtype == torch.uint8 and spec.kind == "image"
    if spec.kind == "image":
        batch = batch.unsqueeze(1) if len(spec.shape) == 2 else batch.permute(0, 3, 1, 2)
    if batch.dtype != torch.float32:
        batch = batch.to(torch.float32)
    return (batch.div(255) if scale else batch).contiguous()


def in_memory(samples: Samples) -> bool:
    """Whether taking rows is a plain array index."""
    if isinstance(samples, Subset):
        return in_memory(samples.base)
    if isinstance(samples, Concatenation):
        return all(in_memory(part) for part in samples.parts)
    return isinstance(samples, ArraySamples) or bool(getattr(samples, "in_memory", False))


def take_good(
    samples: Samples, rows: np.ndarray, fields: Sequence[str], bad: list[tuple[str, Exception]]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A batch without the samples that cannot be read.

    :param bad: receives (which, why) of each unreadable sample.
    :return: the rows kept and their fields.
    """
    try:
        return rows, samples.take(rows, fields)
    except (OSError, ValueError, SyntaxError):
        kept, parts = [], []
        for row in rows:
            try:
                parts.append(samples.take(np.array([row]), fields))
                kept.append(row)
            except (OSError, ValueError, SyntaxError) as error:
                bad.append((f"sample {row}", error))
        good = np.array(kept, dtype=np.int64)
        return good, {name: np.concatenate([part[name] for part in parts]) for name in fields} if parts else {}


def ahead(
    make: Callable[[Item], Made], items: Iterable[Item], n_workers: int = 1, depth: int = 0
) -> Generator[Made, None, None]:
    """``map(make, items)`` computed ahead in threads, in order.

    :param depth: items ahead; 0 for enough to keep every worker busy, two each and at least four.
    """
    depth = depth or max(4, 2 * n_workers)
    pool = ThreadPoolExecutor(max(n_workers, 1), thread_name_prefix="loader")
    waiting: deque[Future[Made]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(make, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@define(eq=False, repr=False)
class Batches:
    """Batches of labelled samples as tensors, in any order asked for.

    :param transform: applied to the network input, e.g. the frozen part of a split network, under inference mode;
        computed once for samples that stay on the device.
    :param view: makes another random view of a batch of images, each time they are asked for.
    :param on_bad: called with each unreadable sample; None raises.
    """

    samples: Samples
    device: torch.device
    transform: Callable[[Tensor], Tensor] | None = None
    view: Callable[[Tensor], Tensor] | None = None
    on_bad: BadSample | None = None
    n_workers: int = 1
    limit: int = RESIDENT_BYTES
    chunk: int = 256
    input: str = field(init=False)
    label: str = field(init=False)
    _resident: tuple[Tensor, Tensor] | None = field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        spec = self.samples.spec
        self.input, self.label = input_name(spec), label_name(spec)
        n_bytes = 4 * len(self.samples) * int(np.prod([axis or 1 for axis in spec[self.input].shape]))
        if in_memory(self.samples) and n_bytes <= self.limit:
            self._keep()

    def __call__(
        self, order: np.ndarray, batch_size: int, start: int = 0
    ) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
        """Yield (rows int64 [n], input float32 [n, ...], label int64 [n]) from position ``start`` of ``order``.

        A position counts samples asked for, so it stays valid when unreadable ones are left out.
        """
        order = order[start:]
        pieces = [order[at : at + batch_size] for at in range(0, len(order), batch_size)]
        if not pieces:
            return
        if self._resident is None:
            yield from self._read(pieces)
            return
        inputs, labels = self._resident
        index = torch.from_numpy(order).to(self.device)
        if self.view is not None:
            for rows, part in zip(pieces, index.split(batch_size), strict=True):
                yield rows, self._seen(inputs[part]), labels[part]
            return
        if inputs.numel() * inputs.element_size() <= self.limit // 8:
            inputs, labels = inputs[index], labels[index]
            yield from zip(pieces, inputs.split(batch_size), labels.split(batch_size), strict=True)
            return
        for rows, part in zip(pieces, index.split(batch_size), strict=True):
            yield rows, inputs[part], labels[part]

    def of(self, pieces: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
        """The same for batches of any sizes, rows of each given; a batch may be empty."""
        if self._resident is None:
            yield from self._read(pieces)
            return
        inputs, labels = self._resident
        for rows in pieces:
            index = torch.from_numpy(np.asarray(rows, np.int64)).to(self.device)
            yield rows, self._seen(inputs[index]) if self.view else inputs[index], labels[index]

    def plain(self) -> Batches:
        """The same samples as they are, for passes that only look."""
        if self.view is None:
            return self
        same = copy.copy(self)
        same.view = lambda images: images
        return same

    def _keep(self) -> None:
        inputs, labels = [], []
        for rows in np.array_split(np.arange(len(self.samples)), max(1, -(-len(self.samples) // self.chunk))):
            batch = self.samples.take(rows, [self.input, self.label])
            inputs.append(self._input(batch[self.input]) if self.view is None else self._raw(batch[self.input]))
            labels.append(as_tensor(batch[self.label], self.device).long())
        if inputs:
            self._resident = torch.cat(inputs), torch.cat(labels)

    def _raw(self, array: np.ndarray) -> Tensor:
        return to_input(array, self.samples.spec[self.input], self.device)

    def _input(self, array: np.ndarray) -> Tensor:
        return self._seen(self._raw(array))

    def _seen(self, batch: Tensor) -> Tensor:
        """A batch as it is read: another view of it, then what the frozen part makes of that."""
        batch = batch if self.view is None else self.view(batch)
        if self.transform is None:
            return batch
        with torch.no_grad():  # not inference mode: its tensors may not enter a graph later
            return self.transform(batch)

    def _read(self, pieces: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
        def read(rows: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray], list[tuple[str, Exception]]]:
            bad: list[tuple[str, Exception]] = []
            if self.on_bad is None:
                return rows, self.samples.take(rows, [self.input, self.label]), bad
            return *take_good(self.samples, rows, [self.input, self.label], bad), bad

        with contextlib.closing(ahead(read, pieces, self.n_workers)) as batches:
            for rows, batch, bad in batches:
                for which, error in bad:
                    self.on_bad(which, error)  # type: ignore[misc]
                if batch:
                    yield (rows, self._input(batch[self.input]), as_tensor(batch[self.label], self.device).long())
