"""Metadata files -> chunks of the store: parsed in blocks by a few threads, resumed by chunk."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
from attrs import frozen

from cl_plugin_clear.data.metadata import Filter, HashIndex, Source, parse_block, read_blocks
from cl_plugin_clear.data.store import PARSED, Store

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
    n_threads = n_threads or min(8, os.cpu_count() or 1)
    n_parsed = n_reused = rows = 0
    with store.held(), ThreadPoolExecutor(n_threads, thread_name_prefix="parse") as pool:
        done = set(store.chunks())
        find_hash = HashIndex(source.hashes, store.scratch()) if source.hashes else None
        least = -(-chunk_size // BLOCK_ROWS)  # blocks never cross a chunk: as many as divide it
        n_blocks = next((n for n in range(least, least + 16) if chunk_size % n == 0), 1)
        waiting: dict[int, list[Future[pa.Table]]] = {}
        try:
            for block_index, block, n_columns in read_blocks(
                source, chunk_size // n_blocks, lambda b: b // n_blocks not in done
            ):
                chunk = block_index // n_blocks
                if block is None:
                    n_reused += block_index % n_blocks == 0
                    continue
                waiting.setdefault(chunk, []).append(pool.submit(parse_block, block, n_columns, rule, find_hash))
                if len(waiting) > 1 or sum(map(len, waiting.values())) > 2 * n_threads:
                    for ready in [c for c in waiting if c < chunk]:
                        rows += _write(store, ready, waiting.pop(ready))
                        n_parsed += 1
                        report(rows)
                    for future in waiting.get(chunk, [])[:-n_threads]:
                        future.result()
            for chunk in sorted(waiting):
                rows += _write(store, chunk, waiting[chunk])
                n_parsed += 1
                report(rows)
        finally:
            for futures in waiting.values():
                for future in futures:
                    future.cancel()
    return Ingested(store.counts(), n_parsed, n_reused, time.monotonic() - started)


def _write(store: Store, chunk: int, futures: list[Future[pa.Table]]) -> int:
    table = pa.concat_tables([future.result() for future in futures])
    store.write_chunk(chunk, table, PARSED)
    return int(table.num_rows)
