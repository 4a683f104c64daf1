"""Buckets of a store: one sort by upload time that spills to disk, then the stream is cut."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from attrs import define, frozen

from cl_kernel import BadInput, BadSetting, MissingAsset, full_disk_named, sync_folder, write_json
from cl_plugin_clear.curation.store import Store, one_folder
from cl_plugin_clear.data.split import FIRST_YEAR, LAST_YEAR, date_text, even_sizes, interval_stamps, years

ROWS = pa.schema([("id", pa.int64()), ("up", pa.int64()), ("rel_path", pa.string()), ("row", pa.int64())])
PART_ROWS = 1_000_000


@frozen(kw_only=True)
class Rule:
    """How the stream is cut.

    :param by: ``equal``, ``year`` or ``time``.
    :param intervals: for ``time``: (start, end) texts, UTC, both inclusive.
    :param compat_original: for ``time``: the original's single pass.
    """

    by: str = "equal"
    n: int = 11
    intervals: tuple[tuple[str, str], ...] = ()
    compat_original: bool = False

    def described(self) -> dict[str, Any]:
        """For the split's json."""
        return {
            "by": self.by,
            "n": self.n_buckets,
            "intervals": [list(pair) for pair in self.intervals],
            "compat_original": self.compat_original,
        }

    @property
    def n_buckets(self) -> int:
        """Buckets this rule makes."""
        return {"equal": self.n, "year": LAST_YEAR - FIRST_YEAR + 1, "time": len(self.intervals)}.get(self.by, 0)


@define
class Cutter:
    """Gives each item of the sorted stream its bucket, batch after batch."""

    rule: Rule
    n_items: int
    _at: int = 0
    _current: int = 0

    def __call__(self, up: np.ndarray) -> np.ndarray:
        """Bucket of each of the next items, -1 = dropped; never decreasing apart from that."""
        if self.rule.by == "equal":
            ends = np.cumsum(even_sizes(self.n_items, self.rule.n))
            places = np.arange(self._at, self._at + len(up))
            self._at += len(up)
            return np.searchsorted(ends, places, side="right")
        if self.rule.by == "year":
            found = years(up) - FIRST_YEAR
            return np.where((found >= 0) & (found <= LAST_YEAR - FIRST_YEAR), found, -1)
        stamps = interval_stamps(self.rule.intervals)
        if not self.rule.compat_original:
            at = np.searchsorted(stamps[:, 0], up, side="right") - 1
            return np.where((at >= 0) & (up <= stamps[np.maximum(at, 0), 1]), at, -1)
        out = np.full(len(up), -1)
        for i, stamp in enumerate(up.tolist()):
            if self._current >= len(stamps):
                break
            if stamp > stamps[self._current, 1]:
                self._current += 1
                if self._current < len(stamps):
                    out[i] = self._current
            elif stamp >= stamps[self._current, 0]:
                out[i] = self._current
        return out


def make_split(
    root: Path,
    name: str,
    rule: Rule,
    *,
    statuses: Sequence[str] = ("ok",),
    memory: str = "384MB",
    threads: int = 2,
    redo: bool = False,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Cut the store's pictures into buckets under ``buckets/<name>``.

    :param statuses: rows that take part; ``("ok", "pending")`` before a download.
    :return: the split's json, with ``reused`` true when it was already there.
    :raises BadInput: for more buckets than items, bad intervals, or no items. :raises BadSetting: when a split of that
        name exists with another rule or over other rows.
    """
    store = Store.open(root)
    one_folder(name, "--name")
    if rule.by not in ("equal", "year", "time"):
        raise BadSetting(f"unknown split rule {rule.by!r}", where="split", fix="equal, year or time")
    if rule.by == "time":
        interval_stamps(rule.intervals)
    place = root / "buckets" / name
    described = root / "buckets" / f"{name}.json"
    identity = {"rule": rule.described(), "statuses": list(statuses), "rows": _fingerprint(store)}
    if described.exists() and not redo:
        known: dict[str, Any] = json.loads(described.read_text())
        if {key: known.get(key) for key in identity} != identity:
            raise BadSetting(
                f"split {name!r} exists, made by another rule or from other rows",
                where=str(described),
                fix="choose another --name, or pass --redo",
            )
        return {**known, "reused": True}
    started = time.monotonic()
    with store.held():
        database = store.database(memory, threads)
        wanted = ", ".join("'" + status.replace("'", "") + "'" for status in statuses)
        n_items = database.execute(f"select count(*) from photos where status in ({wanted})").fetchall()[0][0]
        if n_items == 0:
            raise BadInput(
                f"no rows with status {', '.join(statuses)}",
                where=str(root),
                fix="clk clear download, or --include-pending",
            )
        if rule.by == "equal" and (rule.n < 1 or rule.n > n_items):
            raise BadInput(
                f"{rule.n} buckets of {n_items} items: some would be empty",
                where="split",
                fix="use fewer buckets, or download more before splitting",
            )
        temporary = place.with_name(f".{name}.{os.getpid()}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        with full_disk_named(place), _spill_named():
            buckets = _cut(database, wanted, Cutter(rule, n_items), rule.n_buckets, temporary, n_items, report)
            database.close()
            described.unlink(missing_ok=True)
            shutil.rmtree(place, ignore_errors=True)
            temporary.rename(place)
            sync_folder(place.parent)
        content = {
            "format": 1,
            "name": name,
            **identity,
            "n_items": n_items,
            "buckets": buckets,
            "dropped": n_items - sum(bucket["n"] for bucket in buckets),
            "empty": [bucket["bucket"] for bucket in buckets if bucket["n"] == 0],
            "seconds": round(time.monotonic() - started, 3),
        }
        write_json(described, content)
    return {**content, "reused": False}


@contextlib.contextmanager
def _spill_named() -> Iterator[None]:
    """DuckDB's own word for a full disk, or for a sort that found no room beside it, as an error of the system."""
    import duckdb

    try:
        yield
    except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
        if "No space left" in str(error) or "max_temp_directory_size" in str(error):
            raise OSError(errno.ENOSPC, str(error)) from error
        raise


def _cut(
    database: Any,
    wanted: str,
    cutter: Cutter,
    n_buckets: int,
    folder: Path,
    n_items: int,
    report: Callable[[int, int], None],
) -> list[dict[str, Any]]:
    # little travels through the sort: the path is put together again, after it, from what it is made of
    stream = database.sql(
        "select id, up, 'images/' || chunk || '/' || id || '.' || ext as rel_path, row from ("
        "select date_uploaded as up, row, id, "
        "split_part(rel_path, '/', 2) as chunk, split_part(rel_path, '.', -1) as ext "
        f"from photos where status in ({wanted}) order by up, row)"
    )
    reader = (stream.to_arrow_reader if hasattr(stream, "to_arrow_reader") else stream.fetch_arrow_reader)(200_000)
    stats: list[dict[str, Any]] = [
        {"bucket": b, "n": 0, "min": None, "max": None, "first_row": None, "last_row": None, "digest": hashlib.sha256()}
        for b in range(n_buckets)
    ]
    for b in range(n_buckets):
        (folder / f"bucket={b}").mkdir(parents=True)
    writer: pq.ParquetWriter | None = None
    writing, in_part = -1, 0
    done, latest = 0, -(2**63)
    try:
        for batch in reader:
            up = batch["up"].to_numpy()
            if len(up) and (up[0] < latest or (np.diff(up) < 0).any()):
                raise RuntimeError("the sorted stream came out of order")
            latest = int(up[-1]) if len(up) else latest
            bucket = cutter(up)
            done += len(up)
            if (bucket < 0).any():
                inside = bucket >= 0
                batch, bucket, up = batch.filter(pa.array(inside)), bucket[inside], up[inside]
            for b in range(n_buckets):
                first, end = np.searchsorted(bucket, [b, b + 1]).tolist()
                if first == end:
                    continue
                piece = batch.slice(first, end - first)
                ids, row = piece["id"].to_numpy(), piece["row"].to_numpy()
                stat = stats[b]
                stat["min"] = int(up[first]) if stat["min"] is None else stat["min"]
                stat["max"] = int(up[end - 1])
                stat["first_row"] = (
                    int(row.min()) if stat["first_row"] is None else min(stat["first_row"], int(row.min()))
                )
                stat["last_row"] = int(row.max()) if stat["last_row"] is None else max(stat["last_row"], int(row.max()))
                stat["digest"].update(np.ascontiguousarray(ids, np.int64).tobytes())
                if writing != b or in_part >= PART_ROWS:
                    if writer is not None:
                        writer.close()
                    part = stat["n"] // PART_ROWS
                    writer = pq.ParquetWriter(
                        folder / f"bucket={b}" / f"part-{part:04d}.parquet",
                        ROWS,
                        compression="snappy",
                        use_dictionary=False,  # no value comes twice
                    )
                    writing, in_part = b, 0
                assert writer is not None
                writer.write_table(pa.table(piece.columns, schema=ROWS))
                stat["n"] += len(piece)
                in_part += len(piece)
            report(done, n_items)
    finally:
        if writer is not None:
            writer.close()
    for stat in stats:
        stat["sha256"] = stat.pop("digest").hexdigest()
        low, high = stat.pop("min"), stat.pop("max")
        stat["min_date"], stat["max_date"] = (date_text(low), date_text(high)) if stat["n"] else (None, None)
    return stats


def _fingerprint(store: Store) -> str:
    rows = [(store.manifest(chunk) or {}).get("counts") for chunk in store.chunks()]
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:16]


@frozen
class Split:
    """A finished split."""

    root: Path
    content: dict[str, Any]

    @classmethod
    def open(cls, root: Path, name: str) -> Split:
        """A split by name.

        :raises MissingAsset: naming those that exist.
        """
        path = root / "buckets" / f"{name}.json"
        if not path.exists():
            known = sorted(p.stem for p in (root / "buckets").glob("*.json"))
            raise MissingAsset(
                f"no split {name!r}; there are: {', '.join(known) or 'none'}",
                where=str(root),
                fix=f"clk clear split --root {root} --name {name}",
            )
        return cls(root, json.loads(path.read_text()))

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.content["name"])

    @property
    def buckets(self) -> list[int]:
        """Buckets that hold anything."""
        return [int(b["bucket"]) for b in self.content["buckets"] if b["n"]]

    def info(self, bucket: int) -> dict[str, Any]:
        """Size, dates, rows and digest of a bucket.

        :raises BadInput: when there is no such bucket.
        """
        for entry in self.content["buckets"]:
            if entry["bucket"] == bucket:
                return dict(entry)
        raise BadInput(f"no bucket {bucket}", where=f"split {self.name}", fix=f"0..{len(self.content['buckets']) - 1}")

    def rows(self, bucket: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Items of a bucket in stream order."""
        parts = sorted((self.root / "buckets" / self.name / f"bucket={bucket}").glob("part-*.parquet"))
        if not parts:
            return ROWS.empty_table().select(list(columns) if columns else ROWS.names)
        return pa.concat_tables(
            [pq.ParquetFile(part).read(columns=list(columns) if columns else None) for part in parts]
        )
