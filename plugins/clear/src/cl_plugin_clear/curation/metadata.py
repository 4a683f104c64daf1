"""YFCC100M metadata: blocks of the source files -> typed columns and a status per row.

Blocks of lines go through Arrow's CSV reader; a line that does not fit its mould takes the slow path alone, so one bad
row costs one row. Nothing here holds more than a few blocks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from attrs import define, field, frozen

from cl_plugin_clear.curation.columns import (
    dataset_columns,
    nulls,
    numbers,
    one,
    pair_columns,
    read_csv,
    regular,
    tag_map,
    taken_micros,
)
from cl_plugin_clear.curation.records import COLUMNS, NULL_TIME, PENDING, STATUSES, TABLE, BadRow, derived_hash
from cl_plugin_clear.curation.source import Block, JoinedFiles, line_blocks


@frozen(kw_only=True)
class Filter:
    """The metadata filter.

    :param slack_hours: how far ahead of the upload a camera clock may be; 0 is the original's rule.
    """

    use_valid_date: bool = True
    slack_hours: float = 0.0


@define
class _Marks:
    """Status of each row of a block, and why; the first reason stands."""

    status: np.ndarray
    errors: dict[int, str] = field(factory=dict)

    def rows(self, bad: Mapping[int, BadRow]) -> None:
        """Rows that could not be read."""
        for row, error in bad.items():
            if row < len(self.status) and self.status[row] == PENDING:
                self.status[row], self.errors[row] = STATUSES.index(error.status), str(error)

    def where(self, mask: np.ndarray, kind: str, why: str) -> None:
        """Rows of a mask, with an error text."""
        for row in np.flatnonzero(mask & (self.status == PENDING)):
            self.status[row], self.errors[int(row)] = STATUSES.index(kind), why

    def filtered(self, mask: np.ndarray, kind: str) -> None:
        """Rows that a filter drops: nothing is wrong with them."""
        self.status[mask & (self.status == PENDING)] = STATUSES.index(kind)

    def columns(self) -> dict[str, pa.Array]:
        """``status`` and ``error``."""
        n = len(self.status)
        errors = pa.array([self.errors.get(row) for row in range(n)], pa.string()) if self.errors else None
        return {
            "status": pa.DictionaryArray.from_arrays(pa.array(self.status), list(STATUSES)).cast(pa.string()),
            "error": pa.nulls(n, pa.string()) if errors is None else errors,
        }


FindHash = Callable[[np.ndarray], list[str | None]]


def parse_block(
    block: Block, n_columns: int = len(COLUMNS), rule: Filter | None = None, find_hash: FindHash | None = None
) -> pa.Table:
    """A block of the source as a table of :data:`TABLE`, one row per line of the dataset file, in its order.

    :param find_hash: hashes of ids that the aligned hash line does not name; None: such rows have none.
    """
    columns, ids, n, bad = dataset_columns(block.dataset, n_columns)
    marks = _Marks(np.full(n, PENDING, np.int8))
    out: dict[str, Any] = {name.lower(): columns[name] for name in COLUMNS}
    marks.rows(bad)
    for name in ("id", "date_uploaded", "img_or_video"):
        marks.where(nulls(out[name]), "number", f"{name} is no number")
    out["auto_tag_scores"] = _tags(block.autotags, ids, marks)
    out["line_num"] = _line_numbers(block.lines, columns, ids, marks)
    if block.exif is not None:
        first, _, odd = pair_columns(block.exif, n)
        marks.rows(odd)
        marks.where(~_equal(first, ids), "ids", "exif line has another id")
    out["exif"] = pa.nulls(n)
    taken = taken_micros(columns["DATE_TAKEN"])
    unknown = taken == NULL_TIME
    out["taken"] = pa.array(np.where(unknown, 0, taken), pa.int64(), mask=unknown).cast(pa.timestamp("us"))
    out["row"] = pa.array(block.first + np.arange(n))
    out["hash_value"] = _hashes(block.hashes, columns, ids, marks, find_hash)
    _filter(out, taken, rule or Filter(), marks)
    out |= marks.columns()
    for name in ("width", "height", "bytes", "sha256", "rel_path"):
        out[name] = pa.nulls(n, TABLE.field(name).type)
    return pa.table([out[name] for name in TABLE.names], schema=TABLE)


def _tags(lines: bytes | None, ids: pa.Array, marks: _Marks) -> pa.Array:
    n = len(ids)
    if lines is None:
        none = pa.array(np.zeros(n + 1, np.int32))
        return pa.MapArray.from_arrays(none, pa.array([], pa.string()), pa.array([], pa.float64()))
    first, rest, odd = pair_columns(lines, n)
    marks.rows(odd)
    marks.where(~_equal(first, ids), "ids", "autotags line has another id")
    tags, bad = tag_map(pc.fill_null(rest, ""))
    marks.rows(bad)
    return tags


def _line_numbers(lines: bytes | None, columns: Mapping[str, pa.Array], ids: pa.Array, marks: _Marks) -> pa.Array:
    n = len(ids)
    if lines is None:
        return columns.get("_line", pa.nulls(n, pa.int64()))
    number, line_id, odd = pair_columns(lines, n)
    marks.rows(odd)
    marks.where(~_equal(line_id, ids), "ids", "line-number row has another id")
    found = numbers(pc.fill_null(number, ""), pa.int64())
    marks.where(nulls(found), "number", "line number is no number")
    return found


def _hashes(
    lines: bytes | None, columns: Mapping[str, pa.Array], ids: pa.Array, marks: _Marks, find_hash: FindHash | None
) -> pa.Array:
    """Hash of each row: the hash file's, else the dataset's own column, else derived from the download address."""
    n = len(ids)
    if lines is None:
        own = columns.get("_hash", pa.nulls(n, pa.string()))
        missing = np.flatnonzero((nulls(own) | _equal(own, "")) & (marks.status == PENDING))
        if not len(missing):
            return own
        addresses = columns["DOWNLOAD_URL"].take(pa.array(missing)).to_pylist()
        derived = [derived_hash(address) if address else None for address in addresses]
        if len(missing) == n:
            return pa.array(derived, pa.string())
        values = np.array(own.to_pylist(), dtype=object)
        values[missing] = derived
        return pa.array(values.tolist(), pa.string())
    first, value, _ = pair_columns(lines, n)
    same = _equal(first, ids)
    if not same.all():
        wanted = np.flatnonzero(~same & (marks.status == PENDING))
        values = np.array(pc.if_else(pa.array(same), value, pa.scalar(None, pa.string())).to_pylist(), dtype=object)
        if len(wanted) and find_hash is not None:
            values[wanted] = find_hash(numbers(ids.take(pa.array(wanted)), pa.int64()).to_numpy(zero_copy_only=False))
        value = pa.array(values.tolist(), pa.string())
    marks.where(nulls(value), "hash", "no hash for this id")
    return value


def _filter(out: Mapping[str, pa.Array], taken: np.ndarray, rule: Filter, marks: _Marks) -> None:
    uploaded = pc.fill_null(out["date_uploaded"], 0).to_numpy(zero_copy_only=False)
    limit = uploaded.astype(np.float64) + rule.slack_hours * 3600
    marker = pc.fill_null(out["img_or_video"], 1).to_numpy(zero_copy_only=False)
    marks.filtered(marker != 0, "video")
    if rule.use_valid_date:
        marks.filtered((taken == NULL_TIME) | (taken / 1e6 >= limit), "date")


def _equal(a: pa.Array, b: pa.Array | str) -> np.ndarray:
    return pc.fill_null(pc.equal(a, b), False).to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


class HashIndex:
    """id -> hash for a hash file that is not aligned with the dataset: sorted ids, memory-mapped.

    Built at most once, on the first id that the aligned line does not name. 40 bytes a row on disk.
    """

    def __init__(self, path: str, folder: Path) -> None:
        self._path, self._folder = path, folder
        self._ids: np.ndarray | None = None
        self._lock = threading.Lock()

    def __call__(self, ids: np.ndarray) -> list[str | None]:
        """Hash of each id, None where the file does not have it."""
        with self._lock:
            if self._ids is None:
                self._build()
        assert self._ids is not None
        wanted = np.asarray(ids, np.float64 if np.asarray(ids).dtype.kind == "f" else np.int64)
        at = np.minimum(np.searchsorted(self._ids, wanted), max(len(self._ids) - 1, 0))
        if len(self._ids) == 0:
            return [None] * len(wanted)
        found = self._ids[at] == wanted
        return [self._values[a].decode() if ok else None for a, ok in zip(at, found, strict=True)]

    def _build(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        raw_ids, raw_values = self._folder / "hash.ids", self._folder / "hash.values"
        n = 0
        with raw_ids.open("wb") as id_file, raw_values.open("wb") as value_file:
            files = JoinedFiles([self._path])
            for block in line_blocks(files, 1 << 18):  # type: ignore[arg-type]
                clean, _, _ = regular(block, 2, short=True)
                table = read_csv(clean, {"first": pa.string(), "rest": pa.string()})
                ids = numbers(table["first"], pa.int64())
                keep = ~nulls(ids)
                id_file.write(pc.fill_null(ids, 0).to_numpy(zero_copy_only=False)[keep].astype(np.int64).tobytes())
                value_file.write(np.array(one(table["rest"]).to_pylist(), "S32")[keep].tobytes())
                n += int(keep.sum())
        if n == 0:
            self._ids, self._values = np.empty(0, np.int64), np.empty(0, "S32")
            return
        ids, values = np.memmap(raw_ids, np.int64, "r+", shape=(n,)), np.memmap(raw_values, "S32", "r", shape=(n,))
        order = np.argsort(ids, kind="stable")
        ordered = np.memmap(self._folder / "hash.sorted", "S32", "w+", shape=(n,))
        for first in range(0, n, 1 << 20):
            ordered[first : first + (1 << 20)] = values[order[first : first + (1 << 20)]]
        ids[:] = ids[order]
        self._ids, self._values = ids, ordered
