"""Batches for training: rows picked by plain arithmetic, decoded and augmented by threads some batches ahead.

Only what ends in the crop is decoded and scaled. Nothing depends on how many threads there are, and a feed can start at
any step, so a run resumes in the middle of a phase. What waits are a few finished batches, never a shuffle buffer.
Shapes: B batch, H W image, S crop side.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
from attrs import frozen

from cl_kernel import Samples
from cl_plugin_recall.backend import tf
from cl_plugin_recall.data.cropping import choose_window, decode_window
from cl_plugin_recall.data.rooms import as_tensor, batch_room, room
from cl_plugin_recall.network.inputs import InputSpec

PREFETCH = 4
"""Batches made ahead of the one in use."""


class Schedule(Protocol):
    """Which rows make up batch ``t``; see :mod:`cl_plugin_recall.method.interleave`."""

    def batch(self, t: int) -> list[tuple[bool, int]]:
        """(is replayed, row) of every member."""


@frozen(kw_only=True)
class Augmentation:
    """How training images are varied.

    :param scale: range of the random scale of both sides; equal ends switch it off.
    :param size: side of the crop.
    """

    scale: tuple[float, float]
    size: int

    def factor(self, draw: np.float32) -> np.float32:
        """The scale for a draw in [0, 1)."""
        low, high = self.scale
        return np.float32(low) + np.float32(high - low) * draw


@frozen(kw_only=True)
class Maker:
    """Makes batches out of rows; several threads may ask at once.

    :param table: uint8 [256], applied to every label: a helper's numbering, or nothing.
    """

    new: Samples
    old: Samples | None
    table: np.ndarray
    augmentation: Augmentation
    spec: InputSpec

    def batch(self, members: list[tuple[bool, int]], draws: np.ndarray) -> tuple[tf.Tensor, tf.Tensor]:
        """Network input float32 [B, S, S, 3] and labels uint8 [B, S, S].

        :param draws: uniform draws float32 [B, 4]: scale, flip, crop.
        """
        side = self.augmentation.size
        x = batch_room((len(members), side, side, 3))
        y = room("labels", np.uint8, (len(members), side, side))
        for samples, flag in ((self.new, False), (self.old, True)):
            at = [k for k, (is_old, _) in enumerate(members) if is_old == flag]
            if at:
                assert samples is not None
                self._fill(samples, [members[k][1] for k in at], draws[at], [x[k] for k in at], [y[k] for k in at])
        return as_tensor(x), tf.constant(y)

    def _fill(
        self, samples: Samples, rows: list[int], draws: np.ndarray, xs: list[np.ndarray], ys: list[np.ndarray]
    ) -> None:
        where = getattr(samples, "where", lambda row: f"row {row}")
        batch = samples.take(np.array(rows, np.int64), ["image", "mask"])
        for row, image, mask, draw, x, y in zip(rows, batch["image"], batch["mask"], draws, xs, ys, strict=True):
            window = choose_window(mask.shape, self.augmentation.factor(draw[0]), draw[1:], self.augmentation.size)
            window.label(self.table, mask, y)
            window.image(decode_window(image, window, where(row)), self.spec, x)


def batches(
    schedule: Schedule,
    maker: Maker,
    *,
    start: int,
    stop: int,
    draws: Callable[[int, int], np.ndarray],
    n_parallel: int = 2,
) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
    """Network input and labels of steps ``start`` to ``stop``.

    :param draws: (step, images) -> uniform draws [images, 4].
    :raises BadInput: for an image that cannot be decoded, naming it.
    """
    pool = ThreadPoolExecutor(max(1, n_parallel), thread_name_prefix="feed")
    waiting: deque[Future[tuple[tf.Tensor, tf.Tensor]]] = deque()
    try:
        for t in range(start, stop):
            members = schedule.batch(t)
            waiting.append(pool.submit(maker.batch, members, draws(t, len(members)).astype(np.float32)))
            if len(waiting) > PREFETCH:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
