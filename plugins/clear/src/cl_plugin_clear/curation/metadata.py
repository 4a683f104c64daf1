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
from attrs import frozen

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
from cl_plugin_clear.curation.records import COLUMNS, NULL_TIME, PENDING, STATUSES, TABLE, BadRow
from cl_plugin_clear.curation.source import Block, JoinedFiles, line_blocks


@frozen(kw_only=True)
class Filter:
    """The metadata filter.

    :param slack_hours: how far ahead of the upload a camera clock may be; 0 is the original's rule.
    """

    use_valid_date: bool = True
    slack_hours: float = 0.0


def parse_block(
    block: Block,
    n_columns: int = len(COLUMNS),
    rule: Filter | None = None,
    find_hash: Callable[[np.ndarray], list[str | None]] | None = None,
) -> pa.Table:
    """A block of the source as a table of :data:`TABLE`, one row per line of the dataset file, in its order.

    :param find_hash: hashes of ids that the aligned hash line does not name; None: such rows have none.
    """
    rule = rule or Filter()
    columns, ids, n, bad = dataset_columns(block.dataset, n_columns)
    out: dict[str, Any] = {name.lower(): columns[name] for name in COLUMNS}
    status = np.full(n, PENDING, np.int8)
    errors: dict[int, str] = {}

    def mark(rows: Mapping[int, BadRow]) -> None:
        for row, error in rows.items():
            if row < n and status[row] == PENDING:
                status[row], errors[row] = STATUSES.index(error.status), str(error)

    def mark_mask(mask: np.ndarray, kind: str, why: str) -> None:
        for row in np.flatnonzero(mask & (status == PENDING)):
            status[row], errors[int(row)] = STATUSES.index(kind), why

    mark(bad)
    for name in ("id", "date_uploaded", "img_or_video"):
        mark_mask(nulls(out[name]), "number", f"{name} is no number")
    out["line_num"] = columns.get("_line", pa.nulls(n, pa.int64()))
    tags = pa.MapArray.from_arrays(
        pa.array(np.zeros(n + 1, np.int32)), pa.array([], pa.string()), pa.array([], pa.float64())
    )
    if block.autotags is not None:
        first, rest, odd = pair_columns(block.autotags, n)
        mark(odd)
        mark_mask(~_equal(first, ids), "ids", "autotags line has another id")
        tags, bad_tags = tag_map(pc.fill_null(rest, ""))
        mark(bad_tags)
    if block.lines is not None:
        number, line_id, odd = pair_columns(block.lines, n)
        mark(odd)
        mark_mask(~_equal(line_id, ids), "ids", "line-number row has another id")
        out["line_num"] = numbers(pc.fill_null(number, ""), pa.int64())
        mark_mask(nulls(out["line_num"]), "number", "line number is no number")
    if block.exif is not None:
        first, _, odd = pair_columns(block.exif, n)
        mark(odd)
        mark_mask(~_equal(first, ids), "ids", "exif line has another id")
    out["hash_value"] = pa.nulls(n, pa.string())
    if block.hashes is not None:
        first, value, _ = pair_columns(block.hashes, n)
        same = _equal(first, ids)
        if same.all():
            out["hash_value"] = value
        else:
            wanted = np.flatnonzero(~same & (status == PENDING))
            values = np.array(pc.if_else(pa.array(same), value, pa.scalar(None, pa.string())).to_pylist(), dtype=object)
            if len(wanted) and find_hash is not None:
                values[wanted] = find_hash(out["id"].take(pa.array(wanted)).to_numpy(zero_copy_only=False))
            out["hash_value"] = pa.array(values.tolist(), pa.string())
        mark_mask(nulls(out["hash_value"]), "hash", "no hash for this id")

    taken = taken_micros(columns["DATE_TAKEN"])
    unknown = taken == NULL_TIME
    uploaded = pc.fill_null(out["date_uploaded"], 0).to_numpy(zero_copy_only=False)
    limit = uploaded.astype(np.float64) + rule.slack_hours * 3600
    marker = pc.fill_null(out["img_or_video"], 1).to_numpy(zero_copy_only=False)
    status[(marker != 0) & (status == PENDING)] = STATUSES.index("video")
    if rule.use_valid_date:
        status[(unknown | (taken / 1e6 >= limit)) & (status == PENDING)] = STATUSES.index("date")

    out |= {
        "auto_tag_scores": tags,
        "exif": pa.nulls(n),
        "taken": pa.array(np.where(unknown, 0, taken), pa.int64(), mask=unknown).cast(pa.timestamp("us")),
        "row": pa.array(block.first + np.arange(n)),
        "status": pa.DictionaryArray.from_arrays(pa.array(status), list(STATUSES)).cast(pa.string()),
        "error": pa.array([errors.get(row) for row in range(n)], pa.string()) if errors else pa.nulls(n, pa.string()),
    }
    for name in ("width", "height", "bytes", "sha256", "rel_path"):
        out[name] = pa.nulls(n, TABLE.field(name).type)
    return pa.table([out[name] for name in TABLE.names], schema=TABLE)


def _equal(a: pa.Array, b: pa.Array) -> np.ndarray:
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
