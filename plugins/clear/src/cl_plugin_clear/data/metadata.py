"""YFCC100M metadata: five aligned text files, bz2 parts or the SQLite release -> typed columns and a status per row.

Blocks of lines go through Arrow's CSV reader; a line that does not fit its mould takes the slow path alone, so one bad
row costs one row. Nothing here holds more than a few blocks.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
from attrs import frozen
from dateutil.parser import isoparser

from cl_kernel import BadInput, MissingAsset

COLUMNS = (
    "ID", "USER_ID", "NICKNAME", "DATE_TAKEN", "DATE_UPLOADED", "DEVICE", "TITLE", "DESCRIPTION", "USER_TAGS",
    "MACHINE_TAGS", "LON", "LAT", "GEO_ACCURACY", "PAGE_URL", "DOWNLOAD_URL", "LICENSE_NAME", "LICENSE_URL",
    "SERVER_ID", "FARM_ID", "SECRET", "SECRET_ORIGINAL", "EXT", "IMG_OR_VIDEO",
)  # fmt: skip
"""The original's names, in file order; ours are the same in lower case."""

SQLITE_COLUMNS = (
    "photoid", "uid", "unickname", "datetaken", "dateuploaded", "capturedevice", "title", "description", "usertags",
    "machinetags", "longitude", "latitude", "accuracy", "pageurl", "downloadurl", "licensename", "licenseurl",
    "serverid", "farmid", "secret", "secretoriginal", "ext", "marker",
)  # fmt: skip

_NUMBERS = {
    "ID": pa.int64(), "DATE_UPLOADED": pa.int64(), "LON": pa.float64(), "LAT": pa.float64(),
    "GEO_ACCURACY": pa.int8(), "SERVER_ID": pa.int32(), "FARM_ID": pa.int32(), "IMG_OR_VIDEO": pa.int8(),
}  # fmt: skip

MEANINGS = {
    "pending": "passed the metadata filter, not tried yet",
    "ok": "in the data set",
    "columns": "bad row: too few or too many columns",
    "utf8": "bad row: invalid UTF-8",
    "number": "bad row: a number that is none",
    "ids": "bad row: the files name different photos",
    "tags": "bad row: an auto tag without a score",
    "hash": "bad row: no hash",
    "video": "metadata filter: not a photo",
    "date": "metadata filter: date missing, or not before the upload",
    "http": "no answer, or one that is no success",
    "decode": "the answer is no picture",
    "too_small_edge": "picture filter: an edge too short",
    "aspect": "picture filter: too long for its height",
    "bytes": "picture filter: re-encoded file too small",
    "unavailable": "the host's picture for photos that are gone",
    "too_large": "the answer is too large to be read",
    "forgotten": "dropped by clk clear forget",
}
"""One status per row, and what it says."""

STATUSES = tuple(MEANINGS)
_PENDING = STATUSES.index("pending")

TABLE = pa.schema(
    [(name.lower(), _NUMBERS.get(name, pa.string())) for name in COLUMNS]
    + [
        ("auto_tag_scores", pa.map_(pa.string(), pa.float64())),
        ("line_num", pa.int64()),
        ("hash_value", pa.string()),
        ("exif", pa.null()),
        ("taken", pa.timestamp("us")),
        ("row", pa.int64()),
        ("status", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("rel_path", pa.string()),
        ("error", pa.string()),
    ]
)
"""Columns of ``meta/part-*.parquet``."""

_EPOCH = datetime(1970, 1, 1)
_ISO = isoparser()
_NULL_TIME = np.iinfo(np.int64).min
_YEAR_ONE = (datetime(1, 1, 1) - _EPOCH) // timedelta(microseconds=1)


# ---- one record, as text ----------------------------------------------------------------------


class BadRow(ValueError):
    """A record that cannot be used; ``status`` says which kind of bad."""

    def __init__(self, status: str, why: str) -> None:
        self.status = status
        super().__init__(why)


def split_record(line: str, n_columns: int = len(COLUMNS)) -> list[str]:
    """Fields of one dataset line (sec. 2.1): white space at both ends goes, then TAB separates.

    :raises BadRow: with status ``columns`` when the number of fields is another.
    """
    fields = line.strip().split("\t")
    if len(fields) != n_columns:
        raise BadRow("columns", f"{len(fields)} columns instead of {n_columns}")
    return fields[n_columns - len(COLUMNS) :]


def split_tags(line: str) -> tuple[str, dict[str, float]]:
    """``id<TAB>tag:score,...`` -> (id, tags). A line without a second field has no tags.

    :raises BadRow: with status ``tags`` for a score that is no number.
    """
    fields = line.strip().split("\t")
    tags: dict[str, float] = {}
    if len(fields) > 1 and fields[1]:
        for entry in fields[1].split(","):
            parts = entry.split(":")
            try:
                tags[parts[0]] = float(parts[1])
            except (IndexError, ValueError):
                raise BadRow("tags", f"auto tag {entry!r} has no score") from None
    return fields[0], tags


def split_line_number(line: str) -> tuple[str, str]:
    """``line_number<TAB>id`` -> (line number, id), both as text.

    :raises BadRow: with status ``columns`` when there are not two fields.
    """
    fields = line.strip().split("\t")
    if len(fields) != 2:
        raise BadRow("columns", f"line-number row has {len(fields)} columns instead of 2")
    return fields[0], fields[1]


def taken_seconds(text: str) -> float:
    """DATE_TAKEN in seconds since 1970, naive; NaN for what is no ISO-8601 date or carries a zone (sec. 2.2)."""
    try:
        moment = _ISO.isoparse(text)
        return (moment - _EPOCH).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return float("nan")


def keeps(marker: int, taken: float, uploaded: float, *, use_valid_date: bool = True, slack_hours: float = 0.0) -> bool:
    """The metadata filter (sec. 2.2): a photo, and taken strictly before it was uploaded.

    :param taken: seconds, NaN where unknown.
    :param slack_hours: how far ahead of the upload a camera clock may be.
    """
    if marker != 0:
        return False
    return not use_valid_date or bool(taken < uploaded + slack_hours * 3600)


# ---- blocks of lines --------------------------------------------------------------------------


def line_blocks(stream: IO[bytes], n_lines: int, read_size: int = 1 << 20) -> Iterator[bytes]:
    """Bytes of ``n_lines`` whole lines at a time, the last block shorter; every line ends with a newline."""
    pending: list[bytes] = []
    n_pending = 0
    while data := stream.read(read_size):
        newline = np.frombuffer(data, np.uint8) == 10
        count = int(np.count_nonzero(newline))
        start = 0
        if n_pending + count >= n_lines:
            ends = np.flatnonzero(newline) + 1
            used = 0
            while n_pending + count - used >= n_lines:
                used += n_lines - n_pending
                pending.append(data[start : ends[used - 1]])
                yield b"".join(pending)
                start, pending, n_pending = int(ends[used - 1]), [], 0
            count -= used
        pending.append(data[start:])
        n_pending += count
    if rest := b"".join(pending):
        yield rest if rest.endswith(b"\n") else rest + b"\n"


def open_source(path: str) -> IO[bytes]:
    """A local file or any address fsspec knows, decompressed by its name's ending.

    :raises MissingAsset: when it cannot be opened.
    """
    local = Path(path)
    try:
        if "://" in path:
            import fsspec

            return fsspec.open(path, "rb", compression="infer").open()  # type: ignore[no-any-return]
        if local.suffix == ".bz2":
            return bz2.open(local, "rb")
        if local.suffix == ".gz":
            return gzip.open(local, "rb")  # type: ignore[return-value]
        return local.open("rb", buffering=1 << 20)
    except OSError as error:
        raise MissingAsset(
            f"cannot open metadata: {error}",
            where=path,
            fix="give --dataset FILE, or fetch the five archives first: clk clear metadata fetch --help",
        ) from error


class _Joined:
    """Several files read one after the other, as the ten ``yfcc100m_dataset-X.bz2`` parts are."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = list(paths)
        self._stream: IO[bytes] | None = None
        self._last = b"\n"

    def read(self, n: int) -> bytes:
        while True:
            if self._stream is None:
                if not self._paths:
                    return b""
                self._stream = open_source(self._paths.pop(0))
            try:
                data = self._stream.read(n)
            except (OSError, EOFError) as error:
                raise BadInput(
                    f"the archive is damaged: {error}",
                    where=str(getattr(self._stream, "name", "metadata")),
                    fix="fetch it again; what was parsed before is kept",
                ) from error
            if data:
                self._last = data[-1:]
                return data
            self._stream.close()
            self._stream = None
            if self._last != b"\n" and self._paths:
                self._last = b"\n"
                return b"\n"


def _close(files: _Joined) -> None:
    if files._stream is not None:
        files._stream.close()
        files._stream = None


def count_columns(stream: IO[bytes] | Any) -> tuple[int, bytes]:
    """Columns of the first 100 rows, and the bytes read to find out. Older Webscope releases have 24.

    :raises BadInput: when most rows have neither 23 nor 24.
    """
    head = stream.read(1 << 20)
    lines = head.split(b"\n")[:100]
    counts = [line.strip().count(b"\t") + 1 for line in lines if line.strip()]
    if not counts:
        return len(COLUMNS), head
    most = max(set(counts), key=counts.count)
    if most not in (23, 24):
        raise BadInput(
            f"rows have {most} columns, not 23 (or 24 with a leading line number)",
            where="first 100 metadata rows",
            fix="is this yfcc100m_dataset, tab separated and without header?",
        )
    return most, head


class _WithHead:
    """A stream whose first bytes were already taken."""

    def __init__(self, head: bytes, rest: Any) -> None:
        self._head, self._rest = head, rest

    def read(self, n: int) -> bytes:
        if self._head:
            data, self._head = self._head[:n], self._head[n:]
            return data
        return self._rest.read(n)  # type: ignore[no-any-return]


@frozen
class Block:
    """Lines ``first .. first + n`` of each source file, as bytes."""

    first: int
    dataset: bytes
    autotags: bytes | None
    lines: bytes | None
    hashes: bytes | None
    exif: bytes | None


@frozen(kw_only=True)
class Source:
    """Where the metadata come from. Empty tuples and strings: not there.

    :param dataset: one file, or the ten bz2 parts in order.
    :param sqlite: the SQLite release instead of ``dataset``.
    """

    dataset: tuple[str, ...] = ()
    autotags: str = ""
    lines: str = ""
    hashes: str = ""
    exif: str = ""
    sqlite: str = ""

    @classmethod
    def of_folder(cls, folder: Path) -> Source:
        """The usual names below ``folder``: the five files (plain, .bz2, .gz), the ten parts, or the SQLite file.

        :raises MissingAsset: when there is no dataset file.
        """

        def find(*names: str) -> str:
            for name in names:
                for ending in ("", ".bz2", ".gz"):
                    if (folder / (name + ending)).is_file():
                        return str(folder / (name + ending))
            return ""

        dataset = find("yfcc100m_dataset")
        parts = sorted(folder.glob("yfcc100m_dataset-[0-9]*"), key=lambda p: int(p.name.split("-")[1].split(".")[0]))
        sqlite = find("yfcc100m_dataset.sql", "yfcc100m_dataset.db")
        if not (dataset or parts or sqlite):
            raise MissingAsset(
                "no metadata: neither yfcc100m_dataset, nor yfcc100m_dataset-X.bz2, nor yfcc100m_dataset.sql",
                where=str(folder),
                fix="clk clear metadata --fetch URL_PREFIX, or give the folder that holds them",
            )
        return cls(
            dataset=(dataset,) if dataset else tuple(map(str, parts)),
            sqlite="" if dataset or parts else sqlite,
            autotags=find("yfcc100m_autotags-v1", "yfcc100m_autotags"),
            lines=find("yfcc100m_lines"),
            hashes=find("yfcc100m_hash"),
            exif=find("yfcc100m_exif"),
        )

    def names(self) -> dict[str, Any]:
        """File names and sizes, without folders: part of the store's fingerprint."""

        def describe(path: str) -> list[Any]:
            local = Path(path)
            return [local.name, local.stat().st_size if local.exists() else -1]

        single = {k: getattr(self, k) for k in ("autotags", "lines", "hashes", "exif", "sqlite")}
        return {"dataset": [describe(p) for p in self.dataset]} | {k: describe(v) for k, v in single.items() if v}


def read_blocks(source: Source, chunk_size: int, wanted: Any = None) -> Iterator[tuple[int, Block | None, int]]:
    """Chunks of the source in lock step: (chunk, block or None when not wanted, number of columns).

    :param wanted: ``(chunk) -> bool``; unwanted chunks are read over, not parsed.
    """
    with contextlib.ExitStack() as stack:

        def joined(paths: Sequence[str]) -> Any:
            files = _Joined(paths)
            stack.callback(_close, files)
            return files

        if source.sqlite:
            n_columns, dataset = len(COLUMNS), _sqlite_blocks(source.sqlite, chunk_size)
        else:
            files = joined(source.dataset)
            n_columns, head = count_columns(files)
            dataset = line_blocks(_WithHead(head, files), chunk_size)  # type: ignore[arg-type]
        sides = ("autotags", "lines", "hashes", "exif")
        streams = {name: line_blocks(joined([path]), chunk_size) for name in sides if (path := getattr(source, name))}
        for chunk, data in enumerate(dataset):
            others = {name: next(stream, b"") for name, stream in streams.items()}
            block = None
            if wanted is None or wanted(chunk):
                block = Block(first=chunk * chunk_size, dataset=data, **{name: others.get(name) for name in sides})
            yield chunk, block, n_columns


def _sqlite_blocks(path: str, n: int) -> Iterator[bytes]:
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        names = [row[0] for row in connection.execute("select name from sqlite_master where type='table'")]
        table = next((name for name in names if name.startswith("yfcc100m_dataset")), None)
        if table is None:
            raise BadInput(f"no table yfcc100m_dataset, only {', '.join(names) or 'none'}", where=path)
        cursor = connection.execute(f'select {", ".join(SQLITE_COLUMNS)} from "{table}" order by rowid')
        while rows := cursor.fetchmany(n):
            yield b"".join(
                "\t".join("" if v is None else str(v).replace("\t", " ").replace("\n", " ") for v in row).encode()
                + b"\n"
                for row in rows
            )
    except sqlite3.Error as error:
        raise BadInput(f"cannot read the SQLite release: {error}", where=path) from error
    finally:
        connection.close()


# ---- columns ----------------------------------------------------------------------------------


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

    With 24 columns the leading line number is ``_line``. Empty and unreadable numbers are null.
    """
    kinds = {"_line": pa.int64()} if n_columns > len(COLUMNS) else {}
    kinds |= {name: _NUMBERS.get(name, pa.string()) for name in COLUMNS}
    table = read_clean(block, kinds | {"ID": pa.string()})
    if table is not None:
        out = {name: _one(table[name]) for name in kinds}
        ids = out["ID"]
        # a line that starts or ends with white space would be another one without it
        if not any(out[name].null_count for name in ("_line", "IMG_OR_VIDEO") if name in out):
            with contextlib.suppress(pa.ArrowInvalid):
                return out | {"ID": ids.cast(pa.int64())}, ids, len(ids), {}
    clean, bad, n = regular(block, n_columns)
    text = read_csv(clean, dict.fromkeys(kinds, pa.string()))
    out = {name: _one(text[name]) for name in kinds}
    ids = out["ID"]
    numeric = {name: numbers(out[name], kind) for name, kind in kinds.items() if kind != pa.string()}
    return out | numeric, ids, n, bad


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


_DIGIT_PLACES = np.array([0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18])
_MONTH_DAYS = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])


def taken_micros(column: pa.Array) -> np.ndarray:
    """DATE_TAKEN as int64 microseconds since 1970, the smallest int64 where unreadable.

    ``YYYY-MM-DD?HH:MM:SS`` with one optional fraction digit is cast in columns, everything else one by one.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    n = len(array)
    out = np.full(n, _NULL_TIME, np.int64)
    if n == 0:
        return out
    starts, text, ends = _text(array)
    offsets, lengths = starts.astype(np.int64), ends - starts
    if ((lengths == 21) | (lengths == 19)).all():
        with contextlib.suppress(pa.ArrowInvalid):
            micros: np.ndarray = array.cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()
            if micros.min() >= _YEAR_ONE:
                return micros
    fast = np.flatnonzero((lengths == 21) | (lengths == 19))
    done = np.zeros(n, bool)
    if len(fast):
        block = text[offsets[fast][:, None] + np.arange(19)]
        digits = block[:, _DIGIT_PLACES].astype(np.int64) - 48
        good = ((digits >= 0) & (digits <= 9)).all(1)
        good &= (block[:, 4] == 45) & (block[:, 7] == 45) & (block[:, 13] == 58) & (block[:, 16] == 58)
        good &= block[:, 10] < 128
        long = lengths[fast] == 21
        tail = text[np.where(long, offsets[fast] + 20, offsets[fast])].astype(np.int64) - 48
        dot = text[np.where(long, offsets[fast] + 19, offsets[fast])]
        good &= ~long | (((dot == 46) | (dot == 44)) & (tail >= 0) & (tail <= 9))
        year = digits[:, 0] * 1000 + digits[:, 1] * 100 + digits[:, 2] * 10 + digits[:, 3]
        month, day = digits[:, 4] * 10 + digits[:, 5], digits[:, 6] * 10 + digits[:, 7]
        hour, minute, second = (digits[:, k] * 10 + digits[:, k + 1] for k in (8, 10, 12))
        leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
        last = _MONTH_DAYS[np.clip(month, 0, 12)] + ((month == 2) & leap)
        good &= (year >= 1) & (month >= 1) & (month <= 12) & (day >= 1) & (day <= last)
        good &= (hour <= 23) & (minute <= 59) & (second <= 59)
        y = year - (month <= 2)  # days from the civil date, March-based years
        era_day = y * 365 + y // 4 - y // 100 + y // 400 + (153 * ((month + 9) % 12) + 2) // 5 + day - 1 - 719468
        micros = ((era_day * 24 + hour) * 60 + minute) * 60 + second
        out[fast[good]] = (micros * 1_000_000 + np.where(long, tail, 0) * 100_000)[good]
        done[fast[good]] = True
    for row in np.flatnonzero(~done & (lengths >= 4)):
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
        return pa.MapArray.from_arrays(offsets, _one(table["tag"]), _one(table["score"])), {}
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
    if table is not None and table.num_rows == n and _trimmed(_one(table["first"]), _one(table["rest"])):
        return _one(table["first"]), _one(table["rest"]), {}
    clean, bad, n_lines = regular(block or b"", 2, short=True)
    table = read_csv(clean, kinds)
    first, rest = _one(table["first"]), _one(table["rest"])
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


def _one(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    if isinstance(column, pa.Array):
        return column
    return (
        column.chunk(0)
        if column.num_chunks == 1
        else pa.concat_arrays(column.chunks)
        if column.num_chunks
        else pa.array([], column.type)
    )


# ---- one block --------------------------------------------------------------------------------


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
    status = np.full(n, _PENDING, np.int8)
    errors: dict[int, str] = {}

    def mark(rows: Mapping[int, BadRow]) -> None:
        for row, error in rows.items():
            if row < n and status[row] == _PENDING:
                status[row], errors[row] = STATUSES.index(error.status), str(error)

    def mark_mask(mask: np.ndarray, kind: str, why: str) -> None:
        for row in np.flatnonzero(mask & (status == _PENDING)):
            status[row], errors[int(row)] = STATUSES.index(kind), why

    mark(bad)
    for name in ("id", "date_uploaded", "img_or_video"):
        mark_mask(_nulls(out[name]), "number", f"{name} is no number")
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
        mark_mask(_nulls(out["line_num"]), "number", "line number is no number")
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
            wanted = np.flatnonzero(~same & (status == _PENDING))
            values = np.array(pc.if_else(pa.array(same), value, pa.scalar(None, pa.string())).to_pylist(), dtype=object)
            if len(wanted) and find_hash is not None:
                values[wanted] = find_hash(out["id"].take(pa.array(wanted)).to_numpy(zero_copy_only=False))
            out["hash_value"] = pa.array(values.tolist(), pa.string())
        mark_mask(_nulls(out["hash_value"]), "hash", "no hash for this id")

    taken = taken_micros(columns["DATE_TAKEN"])
    unknown = taken == _NULL_TIME
    uploaded = pc.fill_null(out["date_uploaded"], 0).to_numpy(zero_copy_only=False)
    limit = uploaded.astype(np.float64) + rule.slack_hours * 3600
    marker = pc.fill_null(out["img_or_video"], 1).to_numpy(zero_copy_only=False)
    status[(marker != 0) & (status == _PENDING)] = STATUSES.index("video")
    if rule.use_valid_date:
        status[(unknown | (taken / 1e6 >= limit)) & (status == _PENDING)] = STATUSES.index("date")

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


def _nulls(array: pa.Array) -> np.ndarray:
    return array.is_null().to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


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
            files = _Joined([self._path])
            for block in line_blocks(files, 1 << 18):  # type: ignore[arg-type]
                clean, _, _ = regular(block, 2, short=True)
                table = read_csv(clean, {"first": pa.string(), "rest": pa.string()})
                ids = numbers(table["first"], pa.int64())
                keep = ~_nulls(ids)
                id_file.write(pc.fill_null(ids, 0).to_numpy(zero_copy_only=False)[keep].astype(np.int64).tobytes())
                value_file.write(np.array(_one(table["rest"]).to_pylist(), "S32")[keep].tobytes())
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
