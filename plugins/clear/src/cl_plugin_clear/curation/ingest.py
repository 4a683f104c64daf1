"""Metadata files -> chunks of the store: parsed in blocks by a few threads, resumed by chunk."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
from attrs import frozen

from cl_plugin_clear.curation.metadata import Filter, HashIndex, parse_block
from cl_plugin_clear.curation.source import Source, read_blocks
from cl_plugin_clear.curation.store import PARSED, Store

BLOCK_ROWS = 25_000
"""Rows parsed at a time by one thread: bounds memory whatever the chunk size."""


@frozen
class Ingested:
    """What happened: rows now in the store by status, chunks parsed and found complete, seconds."""

    counts: dict[str, int]
    n_parsed: int
    n_reused: int
    seconds: float


def ingest(
    root: Path,
    source: Source,
    *,
    chunk_size: int,
    rule: Filter,
    n_threads: int = 0,
    report: Callable[[int], None] = lambda rows: None,
) -> Ingested:
    """Parse and filter every row of the source into the store at ``root``.

    Complete chunks are read over, not parsed again; a killed run loses at most the chunks it was at.

    :param report: told the rows handled so far, after each chunk.
    """
    started = time.monotonic()
    store = Store.create(
        root,
        {
            "chunk_size": chunk_size,
            "filter": {"use_valid_date": rule.use_valid_date, "slack_hours": float(rule.slack_hours)},
            "source": source.names(),
        },
    )
    n_threads = n_threads or min(8, 1 + (os.cpu_count() or 1))  # one waits for the disk
    n_parsed = n_reused = rows = 0
    with store.held(), ThreadPoolExecutor(n_threads, thread_name_prefix="parse") as pool:
        done = set(store.chunks())
        find_hash = HashIndex(source.hashes, store.scratch()) if source.hashes else None
        least = -(-chunk_size // BLOCK_ROWS)  # blocks never cross a chunk: as many as divide it
        n_blocks = next((n for n in range(least, least + 16) if chunk_size % n == 0), 1)
        parsing: list[Future[pa.Table]] = []  # blocks of the chunk that is being read
        writing: deque[Future[int]] = deque()  # chunks read to their end

        def settle(n_left: int) -> None:
            nonlocal n_parsed, rows
            while len(writing) > n_left:
                rows += writing.popleft().result()
                n_parsed += 1
                report(rows)

        try:
            at = -1
            for index, block, n_columns in read_blocks(
                source, chunk_size // n_blocks, lambda b: b // n_blocks not in done
            ):
                chunk, place = divmod(index, n_blocks)
                if block is None:
                    n_reused += place == 0
                    continue
                if parsing and chunk != at:
                    writing.append(pool.submit(_write, store, at, parsing))
                    parsing = []
                    settle(n_threads)
                at = chunk
                parsing.append(pool.submit(parse_block, block, n_columns, rule, find_hash))
                if len(parsing) > n_threads:  # no more raw text in memory than threads can take
                    parsing[-n_threads - 1].result()
            if parsing:
                writing.append(pool.submit(_write, store, at, parsing))
            settle(0)
        finally:
            for future in [*parsing, *writing]:
                future.cancel()
    return Ingested(store.counts(), n_parsed, n_reused, time.monotonic() - started)


def _write(store: Store, chunk: int, futures: list[Future[pa.Table]]) -> int:
    # runs in the pool: its blocks were handed in before it, so they run or have run
    table = pa.concat_tables([future.result() for future in futures])
    store.write_chunk(chunk, table, PARSED)
    return int(table.num_rows)
