"""Metadata files -> chunks of the store: parsed in blocks by a few threads, resumed by chunk."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
from attrs import define, field, frozen

from cl_kernel import BadInput
from cl_plugin_clear.curation.metadata import Filter, HashIndex, parse_block
from cl_plugin_clear.curation.records import TABLE, UNUSABLE, derived_hash
from cl_plugin_clear.curation.source import Source, check_same_source, read_blocks
from cl_plugin_clear.curation.store import PARSED, Store

BLOCK_ROWS = 25_000
"""Rows parsed at a time by one thread: bounds memory whatever the chunk size."""


@frozen(kw_only=True)
class HashCheck:
    """Hashes that the release brings beside those that addresses give, in a sample of rows."""

    n_rows: int = 0
    n_others: int = 0
    example: str = ""


@frozen
class Ingested:
    """What happened: rows now in the store by status, chunks parsed and found complete, seconds."""

    counts: dict[str, int]
    n_parsed: int
    n_reused: int
    seconds: float
    hashes: HashCheck


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

    Complete chunks are read over, not parsed again; a killed run loses at most the chunks it was at, and so does one
    whose archive turns out to be damaged. Rows of a photo that an earlier row has already are marked at the end.

    :param report: told the rows handled so far, after each chunk.
    :raises BadInput: for a source without rows, or a damaged archive.
    """
    started = time.monotonic()
    source.check()
    store = _opened(root, source, chunk_size, rule)
    n_threads = n_threads or min(8, 1 + (os.cpu_count() or 1))  # one waits for the disk
    with store.held(), ThreadPoolExecutor(n_threads, thread_name_prefix="parse") as pool:
        writer = _Writer(store, pool, n_threads, report)
        find_hash = HashIndex(source.hashes, store.scratch()) if source.hashes else None
        n_reused = _parse_all(store, source, rule, find_hash, writer)
        if writer.n_chunks:
            mark_duplicates(store)
        if not store.chunks():
            raise BadInput("there is not one row", where=", ".join(source.dataset) or source.sqlite)
        if not store.config.get("complete"):
            store.update(complete=True)
        hashes = check_hashes(store)
    return Ingested(store.counts(), writer.n_chunks, n_reused, time.monotonic() - started, hashes)


def _opened(root: Path, source: Source, chunk_size: int, rule: Filter) -> Store:
    filtered = {"use_valid_date": rule.use_valid_date, "slack_hours": float(rule.slack_hours)}
    store = Store.create(root, {"chunk_size": chunk_size, "filter": filtered})
    known, now = store.config.get("source"), json.loads(json.dumps(source.names()))
    if known is not None:
        complete = bool(store.config.get("complete"))
        check_same_source(known, now, complete=complete, where=str(root / "clear.toml"))
    if known != now:
        store.update(source=now)
    return store


@define
class _Writer:
    """Writes chunks in the order in which they were read, a few of them at a time."""

    store: Store
    pool: ThreadPoolExecutor
    n_ahead: int
    report: Callable[[int], None]
    n_chunks: int = 0
    _rows: int = 0
    _writing: deque[Future[int]] = field(factory=deque)

    def add(self, chunk: int, parts: list[Future[pa.Table]]) -> None:
        """A chunk whose blocks are all being parsed."""
        self._writing.append(self.pool.submit(_write, self.store, chunk, parts))
        self.settle(self.n_ahead)

    def settle(self, n_left: int = 0) -> None:
        """Wait until so many are left."""
        while len(self._writing) > n_left:
            self._rows += self._writing.popleft().result()
            self.n_chunks += 1
            self.report(self._rows)


def _parse_all(store: Store, source: Source, rule: Filter, find_hash: HashIndex | None, writer: _Writer) -> int:
    """Every chunk that is not complete. :return: complete ones that were read over."""
    done, n_reused = set(store.chunks()), 0
    least = -(-store.chunk_size // BLOCK_ROWS)  # blocks never cross a chunk: as many as divide it
    n_blocks = next((n for n in range(least, least + 16) if store.chunk_size % n == 0), 1)
    parsing: list[Future[pa.Table]] = []  # blocks of the chunk that is being read
    chunk = 0
    blocks = read_blocks(source, store.chunk_size // n_blocks, lambda b: b // n_blocks not in done)
    try:
        for index, block, n_columns in blocks:
            chunk, place = divmod(index, n_blocks)
            if block is None:
                n_reused += place == 0
                continue
            parsing.append(writer.pool.submit(parse_block, block, n_columns, rule, find_hash))
            if len(parsing) > writer.n_ahead:  # no more raw text in memory than threads can take
                parsing[-writer.n_ahead - 1].result()
            if place == n_blocks - 1:
                writer.add(chunk, parsing)
                parsing = []
        if parsing:
            writer.add(chunk, parsing)
        writer.settle()
    except BadInput:  # a damaged archive: the chunks before are whole
        writer.settle()
        raise
    except BaseException:
        writer.pool.shutdown(wait=False, cancel_futures=True)
        raise
    return n_reused


def _write(store: Store, chunk: int, futures: list[Future[pa.Table]]) -> int:
    # runs in the pool: its blocks were handed in before it, so they run or have run
    table = pa.concat_tables([future.result() for future in futures])
    store.write_chunk(chunk, table, PARSED)
    return int(table.num_rows)


def check_hashes(store: Store, n_chunks: int = 20, rows_each: int = 200) -> HashCheck:
    """Compare the hashes in the store with those derived from the addresses, on the first rows of some chunks.

    Hashes that nobody brought were derived, so all of them are equal.
    """
    chunks = store.chunks()
    n, others, example = 0, 0, ""
    for chunk in chunks[:: -(-len(chunks) // n_chunks)]:
        sample = store.read_chunk(chunk, ["row", "status", "hash_value", "download_url"]).slice(0, rows_each)
        for row in sample.to_pylist():
            if row["status"] in UNUSABLE or not row["hash_value"] or not row["download_url"]:
                continue
            derived, n = derived_hash(row["download_url"]), n + 1
            if row["hash_value"] != derived:
                example = example or f"row {row['row']}: {row['hash_value']}, derived {derived}"
                others += 1
    return HashCheck(n_rows=n, n_others=others, example=example)


def mark_duplicates(store: Store) -> int:
    """Give rows whose photo an earlier usable row has the status ``duplicate``. :return: rows marked now."""
    unusable = ", ".join(f"'{status}'" for status in UNUSABLE)
    found = (
        store.database()
        .execute(f"""
        with usable as (select id, row from photos where id is not null and status not in ({unusable})),
             twice as (select id from usable group by id having count(*) > 1)
        select row, first(row) over (partition by id order by row) as earlier from usable semi join twice using (id)
        qualify row != earlier
    """)
        .fetchall()
    )
    by_chunk: dict[int, dict[int, int]] = {}
    for row, earlier in found:
        by_chunk.setdefault(row // store.chunk_size, {})[row % store.chunk_size] = earlier
    for chunk, rows in by_chunk.items():
        table, state = store.read_chunk(chunk), (store.manifest(chunk) or {})["state"]
        status, error = table["status"].to_pylist(), table["error"].to_pylist()
        for place, earlier in rows.items():
            status[place], error[place] = "duplicate", f"source row {earlier} has the same id"
        for name, values in (("status", status), ("error", error)):
            table = table.set_column(table.column_names.index(name), TABLE.field(name), pa.array(values, pa.string()))
        store.write_chunk(chunk, table, state)
    return len(found)
