"""Pictures into the store: the web, any other address that fsspec or the toy handler knows, or a local folder.

One status per record. A chunk counts once its part is rewritten with the outcome of every record; until then pictures
that are already on disk are looked at again, not fetched again.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from attrs import define, evolve, field

from cl_kernel import BadSetting, Mismatch
from cl_plugin_clear.curation.carry import Keyed, by_img2dataset
from cl_plugin_clear.curation.fetch import SLOT, EmptyField, Fetcher, Options, Record, fill, is_web
from cl_plugin_clear.curation.images import Picture, decode
from cl_plugin_clear.curation.pictures import pack, save, unpack
from cl_plugin_clear.curation.records import TABLE, derived_hash
from cl_plugin_clear.curation.store import DOWNLOADED, Store, remove_stale

ENGINES = ("http", "img2dataset", "auto", "threads")
"""The last two are older names of the first."""
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
    :raises BadSetting: for other limits than those of the pictures that are there.
    """
    check_options(options)
    store, state, again = Store.open(root), Download(), {"pending", *retry}
    limits = _limits_of(store, options)
    started = time.monotonic()
    with store.held(), Fetcher.opened(options) as fetcher:
        if "images" not in store.config:
            store.update(images=limits)
        for chunk in store.chunks():
            manifest = store.manifest(chunk)
            if manifest and manifest["state"] == DOWNLOADED and not again & set(manifest["counts"]):
                if _archive(store, chunk).exists():  # killed after the chunk was done
                    shutil.rmtree(_archive(store, chunk).with_suffix(""), ignore_errors=True)
                state.n_reused_chunks += 1
                state.counts.update(manifest["counts"])
                continue
            _Chunk(store, chunk, options, state, again).run(fetcher)
            state.n_chunks += 1
            state.seconds = time.monotonic() - started
            report(state)
    state.seconds = time.monotonic() - started
    return state


def check_options(options: Options) -> None:
    """Before anything is fetched.

    :raises BadSetting: for a contradiction.
    """
    if options.engine not in ENGINES:
        raise BadSetting(f"unknown engine {options.engine!r}", where="--engine", fix="http or img2dataset")
    if options.engine == "img2dataset" and options.folder:
        raise Mismatch("img2dataset fetches web addresses, no folder", where="--engine", fix="--engine http")


def _limits_of(store: Store, options: Options) -> dict[str, Any]:
    limits = {
        "min_size": options.limits.min_size,
        "min_edge": options.limits.min_edge,
        "max_aspect_ratio": float(options.limits.max_aspect_ratio),
        **({"output": options.output} if options.output != "files" else {}),
        **({} if options.reencode else {"original_bytes": True}),
    }
    known = store.config.get("images")
    if known is not None and known != limits:
        raise BadSetting(
            f"pictures were filtered with {known}, asked for {limits}",
            where=str(store.root / "clear.toml"),
            fix="use the same limits, or another --root",
        )
    return limits


@define
class _Chunk:
    """One chunk on its way: from its part's pending rows to the part with every outcome."""

    store: Store
    chunk: int
    options: Options
    state: Download
    again: set[str]
    outcomes: dict[str, list[Any]] = field(factory=dict)

    def run(self, fetcher: Fetcher) -> None:
        """Fetch, keep, write the part, count."""
        table = self.store.read_chunk(self.chunk)
        folder = self.store.root / "images" / str(self.chunk)
        folder.mkdir(parents=True, exist_ok=True)
        remove_stale(folder, below=False)
        unpack(_archive(self.store, self.chunk), folder)
        self.outcomes = {name: table[name].to_pylist() for name in OUTCOMES}
        missing = list(self._missing(self._records(table), folder))
        for (place, record), found in _fetch_all(missing, self.options, fetcher, self.store):
            if found.status == "ok":
                save(folder / f"{record.id}.{record.ext}", found.data)
            self._settle(place, found, record)
        for name in OUTCOMES:
            index = table.column_names.index(name)
            values = pa.array(self.outcomes[name], TABLE.field(name).type)
            table = table.set_column(index, TABLE.field(name), values)
        self._finish(table, folder)

    def _finish(self, table: pa.Table, folder: Path) -> None:
        if self.options.output == "tar":
            _pack_chunk(_archive(self.store, self.chunk), folder, table)
        self.store.write_chunk(self.chunk, table, DOWNLOADED)
        if self.options.output == "tar":
            shutil.rmtree(folder)
            folder.mkdir()
        self.state.counts.update(self.outcomes["status"])
        if not any(folder.iterdir()):
            folder.rmdir()

    def _settle(self, place: int, found: Picture, record: Record) -> None:
        kept = found.status == "ok"
        values = {
            "status": found.status,
            "width": found.width or None,
            "height": found.height or None,
            "bytes": len(found.data) if kept else None,
            "sha256": found.sha256 if kept else None,
            "rel_path": f"images/{self.chunk}/{record.id}.{record.ext}" if kept else None,
            "error": found.error or None,
        }
        for name, value in values.items():
            self.outcomes[name][place] = value
        self.state.n_bytes += len(found.data) if kept else 0

    def _records(self, table: pa.Table) -> Iterator[tuple[int, Record]]:
        """Rows to try with their addresses; a row without one is settled at once.

        :raises BadSetting: when no row has what the template asks for.
        """
        rows = [row for row, status in enumerate(self.outcomes["status"]) if status in self.again]
        n_empty, empty = 0, ""
        for place, values in zip(rows, _values(table, rows, self.options), strict=True):
            extension = re.sub(r"[^A-Za-z0-9]", "", values["ext"] or "") or "jpg"
            record = Record(row=values["row"], id=values["id"], ext=extension, url="")
            try:
                yield place, evolve(record, url=fill(self.options.template, values))
            except EmptyField as error:
                n_empty, empty = n_empty + 1, str(error)
                self._settle(place, Picture(status="address", error=empty), record)
        if rows and n_empty == len(rows):
            raise BadSetting(f"{empty} in every record", where="--url-template", fix="another template, or a hash file")

    def _missing(self, records: Iterable[tuple[int, Record]], folder: Path) -> Iterator[tuple[int, Record]]:
        for place, record in records:
            target = folder / f"{record.id}.{record.ext}"
            if target.is_file():  # left by an earlier attempt: believe it only if it decodes and passes
                limits, unavailable = self.options.limits, self.options.unavailable
                found = decode(target.read_bytes(), record.ext, limits, unavailable=unavailable, reencode=False)
                if found.status == "ok":
                    self._settle(place, found, record)
                    self.state.n_reused_pictures += 1
                    continue
                target.unlink()
            yield place, record


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


def _values(table: pa.Table, rows: Sequence[int], options: Options) -> Iterator[dict[str, Any]]:
    """What a template may name, of each row; ``hash`` is derived where nobody brought it."""
    wanted = {match[1] for match in SLOT.finditer(options.template)}
    columns = {"download_url", "hash_value", "id", "ext", "row", *wanted & set(table.column_names)}
    for values in table.select(sorted(columns)).take(pa.array(rows, pa.int64())).to_pylist():
        values["hash"] = values["hash_value"]
        if "hash" in wanted and not values["hash"] and values["download_url"]:
            values["hash"] = derived_hash(values["download_url"])
        yield values


def _fetch_all(
    missing: Sequence[Keyed], options: Options, fetcher: Fetcher, store: Store
) -> Iterator[tuple[Keyed, Picture]]:
    if missing and options.engine == "img2dataset":
        if not is_web(missing[0][1].url):
            raise Mismatch(
                f"img2dataset fetches web addresses, not {missing[0][1].url!r}", where="--engine", fix="--engine http"
            )
        return by_img2dataset(missing, options, store)
    return fetcher.all((item, item[1].url, item[1].ext) for item in missing)
