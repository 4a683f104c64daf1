"""Pictures into the store: any address fsspec or the toy handler knows, a local folder, or img2dataset for the web.

One status per record. A chunk counts once its part is rewritten with the outcome of every record; until then pictures
that are already on disk are looked at again, not fetched again.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from attrs import define, field

from cl_kernel import BadSetting, Mismatch
from cl_plugin_clear.curation.carry import by_img2dataset
from cl_plugin_clear.curation.fetch import SLOT, Options, Record, fetch_one, fill, reader
from cl_plugin_clear.curation.images import Picture, decode
from cl_plugin_clear.curation.pictures import pack, save, unpack
from cl_plugin_clear.curation.records import TABLE
from cl_plugin_clear.curation.store import DOWNLOADED, Store, remove_stale

OUTCOMES = ("status", "width", "height", "bytes", "sha256", "rel_path", "error")


@define
class Download:
    """What happened so far."""

    counts: Counter[str] = field(factory=Counter)
    n_chunks: int = 0
    n_reused_chunks: int = 0
    n_reused_pictures: int = 0
    seconds: float = 0.0
    n_bytes: int = 0


def download(
    root: Path, options: Options, *, report: Callable[[Download], None] = lambda state: None, retry: Sequence[str] = ()
) -> Download:
    """Fetch every pending record of the store.

    :param retry: statuses to try once more in chunks already done, e.g. ``("http",)``.
    """
    store = Store.open(root)
    state = Download()
    limits = {
        "min_size": options.limits.min_size,
        "min_edge": options.limits.min_edge,
        "max_aspect_ratio": float(options.limits.max_aspect_ratio),
        **({"output": options.output} if options.output != "files" else {}),
    }
    known = store.config.get("images")
    if known is not None and known != limits:
        raise BadSetting(
            f"pictures were filtered with {known}, asked for {limits}",
            where=str(root / "clear.toml"),
            fix="use the same limits, or another --root",
        )
    started = time.monotonic()
    with store.held():
        if known is None:
            store.update(images=limits)
        with ThreadPoolExecutor(options.n_threads, thread_name_prefix="fetch") as pool:
            try:
                for chunk in store.chunks():
                    manifest = store.manifest(chunk)
                    again = {"pending", *retry}
                    if manifest and manifest["state"] == DOWNLOADED and not again & set(manifest["counts"]):
                        if _archive(store, chunk).exists():  # killed after the chunk was done
                            shutil.rmtree(_archive(store, chunk).with_suffix(""), ignore_errors=True)
                        state.n_reused_chunks += 1
                        state.counts.update(manifest["counts"])
                        continue
                    _download_chunk(store, chunk, options, pool, state, again)
                    state.n_chunks += 1
                    state.seconds = time.monotonic() - started
                    report(state)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    state.seconds = time.monotonic() - started
    return state


def _download_chunk(
    store: Store, chunk: int, options: Options, pool: ThreadPoolExecutor, state: Download, again: set[str]
) -> None:
    table = store.read_chunk(chunk)
    folder = store.root / "images" / str(chunk)
    folder.mkdir(parents=True, exist_ok=True)
    remove_stale(folder, below=False)
    unpack(_archive(store, chunk), folder)
    rows = [row for row, status in enumerate(table["status"].to_pylist()) if status in again]
    outcomes = {name: table[name].to_pylist() for name in OUTCOMES}
    records = list(_records(table, rows, options))

    def settle(place: int, found: Picture, record: Record) -> None:
        kept = found.status == "ok"
        values = {
            "status": found.status,
            "width": found.width or None,
            "height": found.height or None,
            "bytes": len(found.data) if kept else None,
            "sha256": found.sha256 if kept else None,
            "rel_path": f"images/{chunk}/{record.id}.{record.ext}" if kept else None,
            "error": found.error or None,
        }
        for name, value in values.items():
            outcomes[name][place] = value
        state.n_bytes += len(found.data) if kept else 0

    missing: list[tuple[int, Record]] = []
    for place, record in zip(rows, records, strict=True):
        target = folder / f"{record.id}.{record.ext}"
        if target.is_file():  # left by an earlier attempt: believe it only if it decodes and passes
            found = decode(
                target.read_bytes(), record.ext, options.limits, unavailable=options.unavailable, reencode=False
            )
            if found.status == "ok":
                settle(place, found, record)
                state.n_reused_pictures += 1
                continue
            target.unlink()
        missing.append((place, record))

    for place, found, record in _fetch_all(missing, options, pool, folder, store):
        if found.status == "ok":
            save(folder / f"{record.id}.{record.ext}", found.data)
        settle(place, found, record)

    for name in OUTCOMES:
        index = table.column_names.index(name)
        table = table.set_column(index, TABLE.field(name), pa.array(outcomes[name], TABLE.field(name).type))
    if options.output == "tar":
        _pack_chunk(_archive(store, chunk), folder, table)
    store.write_chunk(chunk, table, DOWNLOADED)
    if options.output == "tar":
        shutil.rmtree(folder)
        folder.mkdir()
    state.counts.update(outcomes["status"])
    if not any(folder.iterdir()):
        folder.rmdir()


def _archive(store: Store, chunk: int) -> Path:
    return store.root / "images" / f"{chunk}.tar"


_SAMPLE = ("id", "row", "date_uploaded", "download_url", "license_name", "license_url", "width", "height", "sha256")
"""What a picture's record in a tar file says."""


def _pack_chunk(path: Path, folder: Path, table: pa.Table) -> None:
    kept = table.select([*_SAMPLE, "rel_path"]).filter(pc.equal(table["status"], "ok")).to_pylist()
    remove_stale(path.parent, below=False)

    def contents() -> Iterator[tuple[str, Callable[[], bytes]]]:
        for row in kept:
            name = Path(row.pop("rel_path")).name
            yield name, (folder / name).read_bytes
            yield f"{row['id']}.json", json.dumps(row).encode

    if kept:
        pack(path, contents())


def _records(table: pa.Table, rows: Sequence[int], options: Options) -> Iterator[Record]:
    wanted = {match[1] for match in SLOT.finditer(options.template)}
    columns = {"download_url", "hash_value", "id", "ext", "row", *wanted & set(table.column_names)}
    picked = table.select(sorted(columns)).take(pa.array(rows, pa.int64())).to_pylist()
    for values in picked:
        values["hash"] = values["hash_value"]
        extension = re.sub(r"[^A-Za-z0-9]", "", values["ext"] or "") or "jpg"
        yield Record(row=values["row"], id=values["id"], ext=extension, url=fill(options.template, values))


def _fetch_all(
    missing: Sequence[tuple[int, Record]], options: Options, pool: ThreadPoolExecutor, folder: Path, store: Store
) -> Iterator[tuple[int, Picture, Record]]:
    if not missing:
        return
    on_web = missing[0][1].url.startswith(("http://", "https://")) and not options.folder
    engine = options.engine
    if engine == "auto":
        engine = "img2dataset" if on_web and importlib.util.find_spec("img2dataset") else "threads"
    if engine == "img2dataset":
        if not on_web:
            raise Mismatch(
                f"img2dataset fetches web addresses, not {missing[0][1].url!r}",
                where="--engine",
                fix="--engine threads",
            )
        yield from by_img2dataset(missing, options, store)
        return
    if engine != "threads":
        raise BadSetting(f"unknown engine {engine!r}", where="--engine", fix="auto, threads or img2dataset")

    def fetch(item: tuple[int, Record]) -> tuple[int, Picture, Record]:
        place, record = item
        try:
            read = reader(record.url, options)
        except ValueError as error:
            return place, Picture(status="http", error=str(error)), record
        return (
            place,
            fetch_one(
                record.url,
                record.ext,
                read,
                options.limits,
                wait_s=options.retry_wait_s,
                unavailable=options.unavailable,
                reencode=options.reencode,
            ),
            record,
        )

    # a bounded window: results of slow hosts do not pile up in memory, and stopping is quick
    todo = iter(missing)
    running: set[Future[tuple[int, Picture, Record]]] = set()
    for item in _first(todo, 2 * options.n_threads):
        running.add(pool.submit(fetch, item))
    while running:
        done, running = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            yield future.result()
        for item in _first(todo, len(done)):
            running.add(pool.submit(fetch, item))


def _first(items: Iterator[Any], n: int) -> Iterable[Any]:
    for _, item in zip(range(n), items, strict=False):
        yield item
