"""Pictures into the store: any address fsspec or the toy handler knows, a local folder, or img2dataset for the web.

One status per record. A chunk counts once its part is rewritten with the outcome of every record; until then pictures
that are already on disk are looked at again, not fetched again.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import re
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from attrs import define, field, frozen

from cl_kernel import BadSetting, Mismatch, full_disk_named
from cl_plugin_clear.data.images import ATTEMPTS, Limits, Picture, decode
from cl_plugin_clear.data.metadata import TABLE
from cl_plugin_clear.data.pictures import pack, save, unpack
from cl_plugin_clear.data.store import DOWNLOADED, Store, remove_stale

GONE = (404, 410)
UNAVAILABLE_TARGETS = ("photo_unavailable", "photo_no_longer_available")
"""Parts of addresses that hosts redirect to when a photo is gone (P24)."""

OUTCOMES = ("status", "width", "height", "bytes", "sha256", "rel_path", "error")
MAX_BYTES = 64 << 20


class Gone(OSError):
    """The host says the picture is not there; ``body`` is what it sent instead."""

    def __init__(self, code: int, body: bytes) -> None:
        self.code, self.body = code, body
        super().__init__(f"HTTP {code}")


class Unavailable(OSError):
    """The host redirects to its "photo unavailable" picture."""


class TooLarge(OSError):
    """The answer is larger than allowed."""


@frozen(kw_only=True)
class Record:
    """What is needed to fetch one picture."""

    row: int
    id: int
    ext: str
    url: str


@frozen(kw_only=True)
class Options:
    """How to fetch.

    :param template: address of a record, see :func:`fill`; ``{download_url}`` is the file's own.
    :param engine: ``threads``, ``img2dataset``, or ``auto``: img2dataset for web addresses where it is installed.
    :param timeout_s: for a connection and for each wait on it; :param deadline_s: for a whole answer.
    :param output: ``files``, or ``tar``: one tar file a chunk, in webdataset's form.
    :param distributor: img2dataset's ``multiprocessing``, ``ray`` or ``pyspark``.
    """

    limits: Limits = field(factory=Limits)
    template: str = "{download_url}"
    folder: str = ""
    engine: str = "auto"
    output: str = "files"
    n_threads: int = 128
    timeout_s: float = 10.0
    deadline_s: float = 60.0
    retry_wait_s: float = 1.0
    max_bytes: int = MAX_BYTES
    unavailable: frozenset[str] = frozenset()
    distributor: str = "multiprocessing"
    n_processes: int = 4
    reencode: bool = True
    ignore_headers: bool = False


_SLOT = re.compile(r"\{(\w+)(?:\[(-?\d*):(-?\d*)\])?\}")


def fill(template: str, values: Mapping[str, Any]) -> str:
    """``{hash[0:3]}/{hash[3:6]}/{hash}.jpg`` with a record's values; slices as in Python.

    :raises BadSetting: naming a field the records do not have.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name not in values:
            raise BadSetting(
                f"the template asks for {name!r}", where="--url-template", fix=f"known: {', '.join(sorted(values))}"
            )
        text = "" if values[name] is None else str(values[name])
        if match[2] is None:
            return text
        return text[int(match[2]) if match[2] else None : int(match[3]) if match[3] else None]

    return _SLOT.sub(value, template)


def web(url: str, *, timeout_s: float = 10.0, deadline_s: float = 60.0, max_bytes: int = MAX_BYTES) -> bytes:
    """The answer's body, whatever its status: only decoding decides (sec. 2.3).

    :raises Gone: for 404 and 410. :raises Unavailable: on a redirect to a "photo unavailable" picture.
    :raises TooLarge: beyond ``max_bytes``. :raises OSError: when nothing, or only a part, came.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "Mozilla/5.0 (compatible; clk)"})
    end = time.monotonic() + deadline_s
    try:
        answer = urllib.request.urlopen(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        answer = error
    with contextlib.closing(answer):
        if any(target in (answer.geturl() or "") for target in UNAVAILABLE_TARGETS):
            raise Unavailable(f"redirected to {Path(answer.geturl()).name}")
        length = answer.headers.get("Content-Length")
        if length and length.isdigit() and int(length) > max_bytes:
            raise TooLarge(f"{length} bytes")
        pieces, size = [], 0
        while piece := answer.read1(1 << 16) if hasattr(answer, "read1") else answer.read(1 << 16):
            pieces.append(piece)
            size += len(piece)
            if size > max_bytes:
                raise TooLarge(f"more than {max_bytes} bytes")
            if time.monotonic() > end:
                raise TimeoutError(f"not finished after {deadline_s:g} s")
        body = b"".join(pieces)
        if length and length.isdigit() and size < int(length):
            raise http.client.IncompleteRead(body, int(length) - size)
        if getattr(answer, "status", 200) in GONE:
            raise Gone(answer.status, body)
        return body


def local(folder: Path) -> Callable[[str], bytes]:
    """Reader of pictures that are already somewhere: addresses are paths below ``folder``."""

    def read(url: str) -> bytes:
        path = folder / url
        if not path.is_file():
            raise Gone(404, b"")
        return path.read_bytes()

    return read


def reader(url: str, options: Options) -> Callable[[str], bytes]:
    """Who can fetch this kind of address."""
    if options.folder:
        return local(Path(options.folder))
    scheme = url.split("://", 1)[0] if "://" in url else ""
    if scheme == "toy":
        from cl_plugin_clear.standin import answer

        return answer
    if scheme in ("http", "https"):
        return lambda u: web(u, timeout_s=options.timeout_s, deadline_s=options.deadline_s, max_bytes=options.max_bytes)
    if scheme:
        import fsspec

        def read(u: str) -> bytes:
            with fsspec.open(u, "rb") as file:
                return file.read()  # type: ignore[no-any-return]

        return read
    raise ValueError(f"no address: {url!r}")


def fetch_one(
    url: str,
    extension: str,
    read: Callable[[str], bytes],
    limits: Limits,
    *,
    attempts: int = ATTEMPTS,
    wait_s: float = 1.0,
    sleep: Callable[[float], None] = time.sleep,
    unavailable: frozenset[str] = frozenset(),
    reencode: bool = True,
) -> Picture:
    """Fetch, decode and judge one picture; failures are tried again, a verdict of the filter and a 404 are final."""
    found = Picture(status="http", error="no attempt")
    for attempt in range(attempts):
        if attempt:
            sleep(wait_s)
        try:
            found = decode(read(url), extension, limits, unavailable=unavailable, reencode=reencode)
        except Gone as gone:  # a picture sent along with a 404 is still a picture
            found = decode(gone.body, extension, limits, unavailable=unavailable, reencode=reencode)
            if found.status == "decode":
                return Picture(status="http", error=str(gone))
        except Unavailable as error:
            return Picture(status="unavailable", error=str(error))
        except TooLarge as error:
            return Picture(status="too_large", error=str(error))
        except (OSError, http.client.HTTPException, ValueError) as error:
            found = Picture(status="http", error=f"{type(error).__name__}: {str(error)[:120]}")
        if found.status not in ("http", "decode"):
            return found
    return found


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
    wanted = {match[1] for match in _SLOT.finditer(options.template)}
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
        yield from _img2dataset(missing, options, store)
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


@contextlib.contextmanager
def _stdout_as_stderr() -> Iterator[None]:
    """What other processes print is progress, not the command's result."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _img2dataset(
    missing: Sequence[tuple[int, Record]], options: Options, store: Store
) -> Iterator[tuple[int, Picture, Record]]:
    """Let img2dataset carry the bytes: its retries, processes and distributors; our filter judges what it brings."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    try:
        from img2dataset import download as carry
    except ImportError as error:
        raise Mismatch(
            "img2dataset is not installed",
            where="--engine img2dataset",
            fix="pip install 'cl-plugin-clear[download]', or --engine threads",
        ) from error
    work = store.scratch() / "img2dataset"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    by_key = {f"{place}": (place, record) for place, record in missing}
    source = work / "urls.parquet"
    pq.write_table(pa.table({"url": [r.url for _, r in missing], "caption": list(by_key)}), source)
    with full_disk_named(store.root), _stdout_as_stderr():
        carry(
            url_list=str(source),
            output_folder=str(work / "out"),
            input_format="parquet",
            url_col="url",
            caption_col="caption",
            output_format="files",
            resize_mode="no",
            skip_reencode=True,
            number_sample_per_shard=max(1, -(-len(missing) // max(1, options.n_processes))),
            processes_count=options.n_processes,
            thread_count=max(1, options.n_threads // max(1, options.n_processes)),
            retries=ATTEMPTS - 1,
            timeout=int(max(1, options.timeout_s)),
            distributor=options.distributor,
            enable_wandb=False,
            max_shard_retry=1,
            **({"disallowed_header_directives": []} if options.ignore_headers else {}),
        )
    seen = set()
    for path in sorted((work / "out").glob("*/*.json")):
        entry = json.loads(path.read_text())
        place, record = by_key[str(entry["caption"])]
        seen.add(str(entry["caption"]))
        picture = next((p for p in path.parent.glob(f"{path.stem}.*") if p.suffix not in (".json", ".txt")), None)
        if entry.get("status") == "success" and picture is not None:
            found = decode(
                picture.read_bytes(),
                record.ext,
                options.limits,
                unavailable=options.unavailable,
                reencode=options.reencode,
            )
        else:
            kind = "decode" if entry.get("status") == "failed_to_resize" else "http"
            found = Picture(status=kind, error=str(entry.get("error_message") or entry.get("status"))[:120])
        yield place, found, record
    for path in sorted((work / "out").glob("*.parquet")):  # failures leave no file, only a row
        for entry in pq.read_table(path, columns=["caption", "status", "error_message"]).to_pylist():
            key = str(entry["caption"])
            if key in seen:
                continue
            seen.add(key)
            place, record = by_key[key]
            kind = "decode" if entry["status"] == "failed_to_resize" else "http"
            yield place, Picture(status=kind, error=str(entry["error_message"] or entry["status"])[:120]), record
    for key, (place, record) in by_key.items():
        if key not in seen:
            yield place, Picture(status="http", error="img2dataset gave no answer"), record
    shutil.rmtree(work, ignore_errors=True)
