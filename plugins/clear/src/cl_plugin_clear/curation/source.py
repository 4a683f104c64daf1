"""The YFCC100M metadata files in lock step, as blocks of whole lines: plain, compressed, in parts, or SQLite."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import re
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import indexed_bzip2
import numpy as np
from attrs import frozen

from cl_kernel import BadInput, BadSetting, MissingAsset
from cl_plugin_clear.curation.records import FORMS, SQLITE_COLUMNS


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

    Blocks of a local bz2 file are decompressed side by side, ahead of what is read.

    :raises MissingAsset: when it cannot be opened. :raises BadInput: for what is no archive.
    """
    local = Path(path)
    try:
        if "://" in path:
            import fsspec

            return fsspec.open(path, "rb", compression="infer").open()  # type: ignore[no-any-return]
        if local.suffix in BEGINNINGS:
            _check_beginning(local)
        if local.suffix == ".bz2":
            return indexed_bzip2.open(path, parallelization=os.cpu_count() or 1)  # type: ignore[no-any-return]
        if local.suffix == ".gz":
            return gzip.open(local, "rb")  # type: ignore[return-value]
        return local.open("rb", buffering=1 << 20)
    except OSError as error:
        raise MissingAsset(
            f"cannot open metadata: {error}",
            where=path,
            fix="give --dataset FILE, or fetch the archives first: clk clear metadata --help",
        ) from error


BEGINNINGS = {".bz2": re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"), ".gz": re.compile(rb"\x1f\x8b")}
"""How an archive begins; a bz2 one with a block, or its end."""


def _check_beginning(path: Path) -> None:
    """indexed_bzip2 reads a file that is no archive as one of no bytes, when it works side by side.

    :raises BadInput: for what is no archive.
    """
    with path.open("rb") as file:
        head = file.read(16)
    if not BEGINNINGS[path.suffix].match(head):
        what = "the archive is empty" if not head else f"the archive is damaged: no {path.suffix[1:]} file begins so"
        raise BadInput(what, where=str(path), fix="fetch it again; what was parsed before is kept")


class JoinedFiles:
    """Several files read one after the other, as the ten ``yfcc100m_dataset-X.bz2`` parts are."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = list(paths)
        self._stream: IO[bytes] | None = None
        self._name = ""
        self._last = b"\n"

    def read(self, n: int) -> bytes:
        """The next bytes, at most ``n``; empty at the end of the last file.

        :raises BadInput: naming the archive that is damaged or not all there.
        """
        while True:
            if self._stream is None:
                if not self._paths:
                    return b""
                self._name = self._paths.pop(0)
                self._stream = open_source(self._name)
            try:
                data = self._stream.read(n)
            except (OSError, EOFError, RuntimeError, zlib.error) as error:  # RuntimeError: indexed_bzip2's
                raise BadInput(
                    f"the archive is damaged or not all there: {error}",
                    where=self._name,
                    fix="fetch it again, then give the same command: it goes on after what is parsed already",
                ) from error
            if data:
                self._last = data[-1:]
                return data
            self.close()
            if self._last != b"\n" and self._paths:
                self._last = b"\n"
                return b"\n"

    def close(self) -> None:
        """Close what is open."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def count_columns(stream: IO[bytes] | Any, where: str = "metadata") -> tuple[int, bytes]:
    """Columns of the first 100 rows, and the bytes read to find out; see :data:`FORMS`.

    :raises BadInput: when there is no row, or most rows have a number of columns that no form has.
    """
    head = b""
    while head.count(b"\n") < 100 and (data := stream.read(1 << 20)):
        head += data
    lines = head.split(b"\n")[:100]
    counts = [line.strip().count(b"\t") + 1 for line in lines if line.strip()]
    if not counts:
        raise BadInput("there is not one row", where=where, fix="fetch it again: an empty file is no release")
    most = max(set(counts), key=counts.count)
    if most not in FORMS:
        raise BadInput(
            f"rows have {most} columns; a dataset file has 23, 24 with a leading line number, or 25 that begin with "
            "line number, id and hash",
            where=f"first {len(counts)} rows of {where}",
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
        parts = sorted((p for p in folder.glob("yfcc100m_dataset-*") if _number(p) >= 0), key=_number)
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

    def check(self) -> None:
        """Is everything that was named there, as far as it is on this machine?

        :raises MissingAsset: naming a file that is not.
        """
        for path in (*self.dataset, self.autotags, self.lines, self.hashes, self.exif, self.sqlite):
            if path and "://" not in path and not Path(path).is_file():
                raise MissingAsset("no such file", where=path)

    def names(self) -> dict[str, Any]:
        """Name, size and a digest of the beginning of each file: what a store remembers of its source; no folders."""

        def describe(path: str) -> list[Any]:
            local = Path(path)
            if not local.is_file():
                return [local.name, -1]
            with local.open("rb") as file:
                return [local.name, local.stat().st_size, hashlib.sha256(file.read(1024)).hexdigest()[:16]]

        single = {k: getattr(self, k) for k in ("autotags", "lines", "hashes", "exif", "sqlite")}
        return {"dataset": [describe(p) for p in self.dataset]} | {k: describe(v) for k, v in single.items() if v}


def _number(part: Path) -> int:
    """Number of a part of the dataset; -1 for another file, such as one whose fetching was killed."""
    found = re.fullmatch(r"yfcc100m_dataset-(\d+)(\.bz2|\.gz)?", part.name)
    return int(found[1]) if found else -1


def check_same_source(known: Mapping[str, Any], now: Mapping[str, Any], *, complete: bool, where: str) -> None:
    """A store goes on only with the files that it was begun with; until all rows are in, a file may have grown.

    :param known, now: what :meth:`Source.names` gave. :param complete: are all rows in?
    :raises BadSetting: naming the file that is another one.
    """

    def files(names: Mapping[str, Any]) -> dict[str, list[Any]]:
        listed = {f"dataset {at}": entry for at, entry in enumerate(names.get("dataset", []))}
        return listed | {key: entry for key, entry in names.items() if key != "dataset"}

    before, after = files(known), files(now)
    for role in sorted({*before, *after}):
        old, new = before.get(role), after.get(role)
        if old is not None and new is not None and old[:2] == new[:2] and (len(old) < 3 or old[2:] == new[2:]):
            continue
        grown = old is not None and new is not None and len(old) == 3 and old[0] == new[0] and old[2:] == new[2:]
        if grown and not complete and new[1] > old[1]:
            continue
        raise BadSetting(
            f"the store was made from {_file_text(old)}, asked for {_file_text(new)} ({role.split()[0]})",
            where=where,
            fix="use another --root, or the same files",
        )


def _file_text(entry: Sequence[Any] | None) -> str:
    return "no file" if entry is None else f"{entry[0]} of {entry[1]:,} bytes"


def read_blocks(source: Source, chunk_size: int, wanted: Any = None) -> Iterator[tuple[int, Block | None, int]]:
    """Chunks of the source in lock step: (chunk, block or None when not wanted, number of columns).

    :param wanted: ``(chunk) -> bool``; unwanted chunks are read over, not parsed.
    """
    with contextlib.ExitStack() as stack:

        def joined(paths: Sequence[str]) -> Any:
            files = JoinedFiles(paths)
            stack.callback(files.close)
            return files

        if source.sqlite:
            n_columns, dataset = len(SQLITE_COLUMNS), _sqlite_blocks(source.sqlite, chunk_size)
        else:
            files = joined(source.dataset)
            n_columns, head = count_columns(files, ", ".join(source.dataset))
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
    connection = sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True)
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
