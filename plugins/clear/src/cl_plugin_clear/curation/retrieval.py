"""Exact retrieval by inner product, and the rules that turn ranked lists into classes.

Shapes: P prompts, N images of a bucket, d feature width, K pool size, M class size.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from attrs import define, field, frozen
from threadpoolctl import threadpool_limits

from cl_kernel import BadInput, BadSetting

BACKGROUND = "BACKGROUND"
BLOCK_ROWS = 16_384


def normalise(raw: np.ndarray) -> np.ndarray:
    """Rows in float32 divided by their L2 norm; a zero or non-finite row gives NaN (callers drop it)."""
    rows = np.asarray(raw, np.float32)
    with np.errstate(invalid="ignore", divide="ignore"):
        return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@frozen
class Ranked:
    """Hits of each prompt: ``scores`` float32 and ``rows`` int64, both [P, k], score descending, then row ascending."""

    scores: np.ndarray
    rows: np.ndarray


def rank_keys(scores: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """One uint64 a hit, smaller is better: score descending in the upper half, then row ascending in the lower."""
    bits = (scores + np.float32(0.0)).view(np.uint32)  # -0 becomes 0
    # floats in the order of their bits: negative ones reversed, the others above them; then all of it turned around
    falling = np.where(bits >> 31, bits, ~(bits | np.uint32(1 << 31)))
    return falling.astype(np.uint64) << np.uint64(32) | rows.astype(np.uint64)


def from_keys(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores float32 and rows int64 of :func:`rank_keys`."""
    falling = (keys >> np.uint64(32)).astype(np.uint32)
    bits = np.where(falling >> 31, falling, ~falling & np.uint32((1 << 31) - 1))
    return bits.view(np.float32), (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)


@define
class _Best:
    """The best ``k`` of a stream of candidates for one prompt."""

    k: int
    keys: list[np.ndarray] = field(factory=list)
    n: int = 0
    floor: float = -math.inf

    def add(self, scores: np.ndarray, start: int, floor: float) -> None:
        """Scores of the rows from ``start`` on; those below ``floor`` are of no interest."""
        found = np.flatnonzero(scores >= floor)
        if not len(found):
            return
        self.keys.append(rank_keys(scores[found], found + start))
        self.n += len(found)
        if self.n >= 2 * self.k + 4096:
            self.cut()

    def cut(self) -> None:
        """Keep the best ``k``."""
        keys = np.concatenate(self.keys)
        if len(keys) > self.k:
            keys = np.partition(keys, self.k - 1)[: self.k]
            self.floor = float(from_keys(keys.max(keepdims=True))[0][0])
        self.keys, self.n = [keys], len(keys)

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """Scores and rows, best first."""
        if self.keys:
            self.cut()
        return from_keys(np.sort(self.keys[0]) if self.keys else np.empty(0, np.uint64))


def search(
    queries: np.ndarray, shards: Iterable[np.ndarray], k: int, *, bottom: bool = False, block_rows: int = BLOCK_ROWS
) -> tuple[Ranked, Ranked | None]:
    """The ``k`` best images of each prompt in one pass over the shards, all prompts at once.

    Shards may be memory-mapped and larger than memory: a few times ``block_rows`` rows are in hand at a time.

    :param queries: normalised, [P, d].
    :param shards: normalised image features, [rows, d] each, float16 or float32; rows that are NaN never match.
    :param bottom: also the ``k`` worst, with negated scores, from the same pass.
    :return: (top, bottom or None); fewer than ``k`` columns when there are fewer images.
    """
    queries = np.ascontiguousarray(queries, np.float32)
    signs = (1, -1) if bottom else (1,)
    n_workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    kept = [[[_Best(k) for _ in queries] for _ in signs] for _ in range(n_workers)]
    blocks, lock = _blocks(shards, queries.shape[-1], block_rows), threading.Lock()

    def work(mine: list[list[_Best]]) -> None:
        while True:
            with lock:
                start, block = next(blocks, (0, None))
            if block is None:
                return
            # BLAS reads a memory map in place, and faster here than torch's product; faiss is slower still at large k
            scores_PR = queries @ np.asarray(block, np.float32).T
            for side, sign in enumerate(signs):
                for prompt, scores in enumerate(scores_PR if sign == 1 else -scores_PR):
                    # below the k-th best of any worker, nothing can be among the k best of all
                    floor = max(theirs[side][prompt].floor for theirs in kept)
                    mine[side][prompt].add(scores, start, floor)

    # each core multiplies and selects blocks of its own: while one waits for the disk, another computes
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(n_workers, thread_name_prefix="search") as pool:
        list(pool.map(work, kept))
    merged = [
        [_Best(k, [keys for mine in kept for keys in mine[side][prompt].keys]) for prompt in range(len(queries))]
        for side in range(len(signs))
    ]
    return _ranked(merged[0]), (_ranked(merged[1]) if bottom else None)


def _blocks(shards: Iterable[np.ndarray], width: int, block_rows: int) -> Iterator[tuple[int, np.ndarray | None]]:
    start = 0
    for shard in shards:
        if shard.shape[-1] != width:
            raise BadInput(
                f"features are {shard.shape[-1]} wide, prompts {width}",
                where="retrieval",
                fix="use the same CLIP model for images and prompts",
            )
        for first in range(0, len(shard), block_rows):
            yield start + first, shard[first : first + block_rows]
        start += len(shard)


def _ranked(best: Sequence[_Best]) -> Ranked:
    found = [keeper.finish() for keeper in best]
    width = min((len(scores) for scores, _ in found), default=0)
    return Ranked(
        np.array([scores[:width] for scores, _ in found], np.float32).reshape(len(found), width),
        np.array([rows[:width] for _, rows in found], np.int64).reshape(len(found), width),
    )


Hits = list[tuple[int, float]]
"""(row in the bucket, score), best first."""


def check_sizes(class_size: int, pool: int, allow_overlap: bool, background: bool) -> None:
    """Refuse combinations that the original loses its way in.

    :raises BadSetting: naming both values.
    """
    if class_size >= pool:
        raise BadSetting(
            f"class size {class_size} is not below the pool size {pool}",
            where="concept config",
            fix="raise NUM_OF_IMAGES_PER_CLASS_PER_BUCKET_TO_QUERY",
        )
    if allow_overlap and background:
        raise BadSetting(
            "ALLOW_OVERLAP=1 with BACKGROUND=1: an image could be in two classes",
            where="concept config",
            fix="set one of them to 0",
        )


def assign(
    labels: Sequence[str],
    ranked: Ranked,
    class_size: int,
    *,
    allow_overlap: bool = False,
    allow_short: bool = False,
    where: str = "retrieval",
) -> dict[str, Hits]:
    """Members of each class from its ranked list.

    Without overlap an image goes to the label of its highest score, the first such label on ties; then each label keeps
    its ``class_size`` best, first seen first on equal scores.

    :raises BadInput: listing the labels that got fewer, unless ``allow_short``.
    """
    if allow_overlap:
        chosen = {label: _pairs(ranked, i)[:class_size] for i, label in enumerate(labels)}
    else:
        owner: dict[int, tuple[int, float]] = {}
        for i in range(len(labels)):
            for row, score in _pairs(ranked, i):
                if row not in owner or score > owner[row][1]:
                    owner[row] = (i, score)
        lists: list[Hits] = [[] for _ in labels]
        for row, (i, score) in owner.items():  # dict order = first appearance
            lists[i].append((row, score))
        chosen = {
            label: sorted(hits, key=lambda hit: -hit[1])[:class_size] for label, hits in zip(labels, lists, strict=True)
        }
    short = {label: len(hits) for label, hits in chosen.items() if len(hits) < class_size}
    if short and not allow_short:
        listed = ", ".join(f"{label} ({n})" for label, n in short.items())
        raise BadInput(
            f"too few images for a class size of {class_size}: {listed}",
            where=where,
            fix="raise the pool size, lower the class size, or pass --allow-short",
        )
    return chosen


def add_background(
    chosen: Mapping[str, Hits], bottoms: Mapping[str, Hits], class_size: int, ratio: float, name: str = BACKGROUND
) -> dict[str, Hits]:
    """The classes and a background of images that no prompt likes: ``int(class_size * ratio)`` new ones per label.

    Stored scores are the negated cosines; every class is sorted by score descending at the end.
    """
    taken = {row for hits in chosen.values() for row, _ in hits}
    background: Hits = []
    quota = int(class_size * ratio)
    for hits in bottoms.values():
        n_new = 0
        for row, score in hits:
            if n_new >= quota:
                break
            if row in taken:
                continue
            taken.add(row)
            background.append((row, score))
            n_new += 1
    merged = {**chosen, name: background}
    return {label: sorted(hits, key=lambda hit: -hit[1]) for label, hits in merged.items()}


def retrieve(
    labels: Sequence[str],
    queries: np.ndarray,
    shards: Sequence[np.ndarray],
    *,
    class_size: int,
    pool: int,
    allow_overlap: bool = False,
    background: bool = False,
    negative_ratio: float = 0.0,
    allow_short: bool = False,
    where: str = "retrieval",
) -> dict[str, Hits]:
    """Classes of one bucket from its features: search, overlap policy, background."""
    check_sizes(class_size, pool, allow_overlap, background)
    top, low = search(queries, shards, class_size if allow_overlap else pool, bottom=background)
    chosen = assign(labels, top, class_size, allow_overlap=allow_overlap, allow_short=allow_short, where=where)
    if background and low is not None:
        bottoms = assign(labels, low, class_size, allow_short=True, where=where)
        return add_background(chosen, bottoms, class_size, negative_ratio)
    return {label: sorted(hits, key=lambda hit: -hit[1]) for label, hits in chosen.items()}


def _pairs(ranked: Ranked, prompt: int) -> Hits:
    return list(zip(ranked.rows[prompt].tolist(), ranked.scores[prompt].tolist(), strict=True))
