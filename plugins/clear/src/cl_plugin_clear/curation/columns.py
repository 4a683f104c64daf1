"""Blocks of lines -> Arrow columns. A line that does not fit its mould takes the slow path alone."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from cl_plugin_clear.curation.records import FORMS, NULL_TIME, NUMBERS, YEAR_ONE, BadRow, split_tags, taken_seconds


def regular(block: bytes, n_fields: int, *, short: bool = False) -> tuple[bytes, dict[int, BadRow], int]:
    """Make every line have ``n_fields`` fields that Arrow's reader takes as they are.

    Lines that differ go through the rule of :func:`split_record`; those that still do not fit become lines of empty
    fields and are named.

    :param short: the last field may be missing or empty and surplus fields are dropped.
    :return: (bytes, bad rows, number of rows).
    """
    if b"\r\n" in block[: 1 << 16]:
        block = block.replace(b"\r\n", b"\n")
    data = np.frombuffer(block, np.uint8)
    marks = np.flatnonzero(data <= 13)  # tab 9, newline 10, carriage return 13 and friends: one pass over the text
    kinds = data[marks]
    newline = kinds == 10
    ends = marks[newline]
    n = len(ends)
    if n == 0:
        return b"", {}, 0
    starts = np.empty(n, np.int64)
    starts[0], starts[1:] = 0, ends[:-1] + 1
    position = np.flatnonzero(newline)
    counts = np.diff(np.concatenate([[-1], position])) - 1
    odd = counts != n_fields - 1
    strange = (kinds != 9) & ~newline
    if strange.any():
        odd[np.searchsorted(ends, marks[strange])] = True
    if (
        short and (counts == n_fields - 2).any() and not strange.any()
    ):  # a missing last field gets its TAB, all lines at once
        return regular(np.insert(data, ends[counts == n_fields - 2], 9).tobytes(), n_fields, short=True)
    odd |= (data[starts] <= 32) | (ends == starts)
    before = data[np.maximum(ends - 1, 0)]
    odd |= (before <= 32) & (ends > starts) & ((before != 9) | (not short))
    if data.max() >= 128:
        try:
            block.decode()
        except UnicodeDecodeError:
            for row in np.unique(np.searchsorted(ends, np.flatnonzero(data >= 128))):
                try:
                    block[starts[row] : ends[row]].decode()
                except UnicodeDecodeError:
                    odd[row] = True
    if not odd.any():
        return block, {}, n
    bad: dict[int, BadRow] = {}
    pieces, last = [], 0
    for row in np.flatnonzero(odd):
        pieces.append(block[last : starts[row]])
        last = int(ends[row]) + 1
        line = block[starts[row] : ends[row]]
        try:
            fields = line.decode().strip().split("\t")
            if short:
                fields = (fields + [""] * n_fields)[:n_fields]
            if len(fields) != n_fields:
                raise BadRow("columns", f"{len(fields)} columns instead of {n_fields}")
            if any("\r" in value for value in fields):
                raise BadRow("columns", "a carriage return inside the row")
        except UnicodeDecodeError as error:
            bad[int(row)] = BadRow("utf8", f"invalid UTF-8: {error.reason}")
            fields = [""] * n_fields
        except BadRow as error:
            bad[int(row)] = error
            fields = [""] * n_fields
        pieces.append("\t".join(fields).encode() + b"\n")
    pieces.append(block[last:])
    return b"".join(pieces), bad, n


def read_csv(block: bytes, types: Mapping[str, pa.DataType], *, check_utf8: bool = False) -> pa.Table:
    """A regular block as Arrow columns; every line is a row.

    :raises pa.ArrowInvalid: when a line has another number of fields, or a field is not of its type.
    """
    if not block:
        return pa.table({name: pa.array([], kind) for name, kind in types.items()})
    return pa_csv.read_csv(
        pa.BufferReader(block),
        pa_csv.ReadOptions(column_names=list(types), use_threads=False, block_size=max(len(block), 1)),
        pa_csv.ParseOptions(
            delimiter="\t", quote_char=False, escape_char=False, newlines_in_values=False, ignore_empty_lines=False
        ),
        pa_csv.ConvertOptions(
            column_types=dict(types),
            strings_can_be_null=False,
            quoted_strings_can_be_null=False,
            null_values=[""],
            check_utf8=check_utf8,
        ),
    ).combine_chunks()


def read_clean(block: bytes, types: Mapping[str, pa.DataType]) -> pa.Table | None:
    """A block as it is, or None when a line does not fit and :func:`regular` must say which.

    White space at the ends of a line is for the caller to find.
    """
    if b"\r" in block:
        return None
    try:
        return read_csv(block, types, check_utf8=True)
    except pa.ArrowInvalid:
        return None


def dataset_columns(block: bytes, n_columns: int) -> tuple[dict[str, pa.Array], pa.Array, int, dict[int, BadRow]]:
    """Lines of the dataset file -> (column of each of :data:`COLUMNS`, ids as text, rows, bad rows).

    Longer forms also give ``_line`` and ``_hash``, see :data:`FORMS`. Empty and unreadable numbers are null.
    """
    kinds = {name: _KINDS.get(name, pa.string()) for name in FORMS[n_columns]}
    table = read_clean(block, kinds | {"ID": pa.string()})
    if table is not None:
        out = {name: one(table[name]) for name in kinds}
        ids = out["ID"]
        # a line that starts or ends with white space would be another one without it
        if not any(out[name].null_count for name in ("_line", "IMG_OR_VIDEO") if name in out):
            with contextlib.suppress(pa.ArrowInvalid):
                return out | {"ID": ids.cast(pa.int64())}, ids, len(ids), {}
    clean, bad, n = regular(block, n_columns)
    text = read_csv(clean, dict.fromkeys(kinds, pa.string()))
    out = {name: one(text[name]) for name in kinds}
    ids = out["ID"]
    numeric = {name: numbers(out[name], kind) for name, kind in kinds.items() if kind != pa.string()}
    return out | numeric, ids, n, bad


_KINDS = {**NUMBERS, "_line": pa.int64()}


def numbers(column: pa.ChunkedArray | pa.Array, kind: pa.DataType) -> pa.Array:
    """Text as numbers; empty or unreadable text as null."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    blank = pc.equal(array, "")
    cleaned = pc.if_else(blank, pa.scalar(None, pa.string()), array)
    try:
        return cleaned.cast(kind)
    except pa.ArrowInvalid:
        cast = float if pa.types.is_floating(kind) else int
        values: list[Any] = []
        for text in array.to_pylist():
            try:
                value = cast(text)
                pa.scalar(value, kind)
            except (TypeError, ValueError, OverflowError, pa.ArrowInvalid):
                value = None
            values.append(value)
        return pa.array(values, kind)


_PLAIN_DATE = (
    r"^\d{4}-(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31)"
    r"[ T](?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d)?$"
)
"""Dates that Arrow casts as dateutil reads them, those that exist in every year."""


def taken_micros(array: pa.Array) -> np.ndarray:
    """DATE_TAKEN as int64 microseconds since 1970, the smallest int64 where unreadable.

    ``YYYY-MM-DD HH:MM:SS`` with one optional fraction digit is cast in columns, everything else one by one.
    """
    plain = pc.match_substring_regex(array, _PLAIN_DATE)
    micros = pc.if_else(plain, array, pa.scalar(None, pa.string())).cast(pa.timestamp("us")).cast(pa.int64())
    out: np.ndarray = pc.fill_null(micros, NULL_TIME).to_numpy().copy()
    out[out < YEAR_ONE] = NULL_TIME
    lengths = pc.binary_length(array).to_numpy()
    for row in np.flatnonzero(~plain.to_numpy(zero_copy_only=False) & (lengths >= 4)):
        seconds = taken_seconds(array[int(row)].as_py())
        if seconds == seconds:
            out[row] = round(seconds * 1_000_000)
    return out


def tag_map(rest: pa.Array) -> tuple[pa.Array, dict[int, BadRow]]:
    """The second field of the autotags lines -> map<string, float64> column, and the rows whose scores are bad."""
    blank = pc.equal(rest, "")
    sizes = pc.if_else(blank, 0, pc.add(pc.count_substring(rest, ","), 1))
    offsets = pa.array(np.concatenate([[0], np.cumsum(sizes.to_numpy(zero_copy_only=False))]).astype(np.int32))
    lines = pc.binary_join_element_wise(rest.filter(pc.invert(blank)), "", "\n")
    if len(lines) == 0:
        return pa.MapArray.from_arrays(offsets, pa.array([], pa.string()), pa.array([], pa.float64())), {}
    text = lines.buffers()[2].to_pybytes().translate(_TAG_LINES)  # "tag:score,..." has become lines of two fields
    table = read_clean(text, {"tag": pa.string(), "score": pa.float64()})
    if table is not None and table.num_rows == offsets[-1].as_py() and table["score"].null_count == 0:
        return pa.MapArray.from_arrays(offsets, one(table["tag"]), one(table["score"])), {}
    bad: dict[int, BadRow] = {}
    rows: list[list[tuple[str, float]]] = []
    for row, line in enumerate(rest.to_pylist()):
        try:
            rows.append(list(split_tags(f"0\t{line}")[1].items()))
        except BadRow as error:
            bad[row] = error
            rows.append([])
    return pa.array(rows, pa.map_(pa.string(), pa.float64())), bad


_TAG_LINES = bytes.maketrans(b",:", b"\n\t")


def pair_columns(block: bytes | None, n: int) -> tuple[pa.Array, pa.Array, dict[int, BadRow]]:
    """``first<TAB>rest`` lines, the rest possibly missing -> text columns of length ``n``, missing lines null."""
    kinds = {"first": pa.string(), "rest": pa.string()}
    table = read_clean(block or b"", kinds)
    if table is not None and table.num_rows == n and _trimmed(one(table["first"]), one(table["rest"])):
        return one(table["first"]), one(table["rest"]), {}
    clean, bad, n_lines = regular(block or b"", 2, short=True)
    table = read_csv(clean, kinds)
    first, rest = one(table["first"]), one(table["rest"])
    if n_lines > n:
        first, rest = first.slice(0, n), rest.slice(0, n)
    elif n_lines < n:
        gap = pa.nulls(n - n_lines, pa.string())
        first, rest = pa.concat_arrays([first, gap]), pa.concat_arrays([rest, gap])
    return first, rest, bad


def _trimmed(first: pa.Array, rest: pa.Array) -> bool:
    """Whether no first field starts, and no rest ends, with white space; an empty first field counts as such."""
    starts, text, ends = _text(first)
    if (starts == ends).any() or (text[starts] <= 32).any() or (text[ends - 1] <= 32).any():
        return False
    starts, text, ends = _text(rest)
    return not (text[ends[ends > starts] - 1] <= 32).any()


def _text(array: pa.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where each value of a text column starts, the bytes of all, and where each ends."""
    _, offsets, data = array.buffers()
    at = np.frombuffer(offsets, np.int32)[array.offset : array.offset + len(array) + 1]
    return at[:-1], np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8), at[1:]


def one(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """A column in one piece."""
    if isinstance(column, pa.Array):
        return column
    return (
        column.chunk(0)
        if column.num_chunks == 1
        else pa.concat_arrays(column.chunks)
        if column.num_chunks
        else pa.array([], column.type)
    )


def nulls(array: pa.Array) -> np.ndarray:
    """Where a column is null, bool [n]."""
    return array.is_null().to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]
