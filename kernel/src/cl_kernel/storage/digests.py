"""Content digests of files: read once, then remembered for as long as name, size and times stay as they were.

The digest is 128 bits of XXH3. It tells data sets apart, it is no defence against somebody who forges one. On files of
60 kB it adds a tenth to reading them, where SHA-256 adds twice and BLAKE2b five times the reading.
Source of the function: https://github.com/Cyan4973/xxHash
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from attrs import define, field

from cl_kernel.contract.errors import BadInput

log = logging.getLogger(__name__)

BLOCK = 1 << 20
"""Bytes read at once from a large file."""

SETTLED_NS = 2_000_000_000
"""A file that changed so shortly before it was read is not remembered: another change might leave the same times."""

_CHUNK = 10_000  # names in one question to the database
_LOT = 64  # files that a thread reads in one go
_TABLE = (
    "CREATE TABLE IF NOT EXISTS files "
    "(path TEXT PRIMARY KEY, size INTEGER, mtime INTEGER, ctime INTEGER, digest TEXT) WITHOUT ROWID"
)
_ASK = "SELECT path, size, mtime, ctime, digest FROM files WHERE path IN"

Stamp = tuple[int, int, int]
"""Size and times of change of content and of entry, in bytes and nanoseconds."""

How = Literal["content", "quick"]


def digest_bytes(*parts: bytes | memoryview) -> str:
    """Digest of bytes, 32 hexadecimal digits."""
    import xxhash

    state = xxhash.xxh3_128()
    for part in parts:
        state.update(part)
    return str(state.hexdigest())


def digest_array(array: Any, rows: Any = None) -> str:
    """Type, shape and digest of an array, or of some of its rows; objects (text, bytes, ragged arrays) one by one.

    :param rows: int64 [n] into the first axis; None for all.
    """
    import numpy as np

    n = len(array) if rows is None else len(rows)
    head = f"{array.dtype.str}{[n, *array.shape[1:]]} "
    step = max(1, (1 << 26) // max(1, array[:1].nbytes))
    blocks = (array[at : at + step] if rows is None else array[rows[at : at + step]] for at in range(0, n, step))
    if array.dtype.hasobject:
        return head + digest_bytes(*(part for block in blocks for inner in block.ravel() for part in _object(inner)))
    return head + digest_bytes(*(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data for block in blocks))


def _object(value: Any) -> tuple[bytes, bytes]:
    if hasattr(value, "tobytes"):
        data = value.tobytes()
        return f"{value.dtype.str}{list(value.shape)}{len(data)} ".encode(), data
    data = bytes(value) if isinstance(value, (bytes, bytearray)) else repr(value).encode()
    return f"{type(value).__name__} {len(data)} ".encode(), data


def files_below(folder: Path, suffixes: Sequence[str] = ()) -> dict[str, str]:
    """Every file below a folder, relative name -> path, in order of the names; names that begin with a dot are not.

    :param suffixes: only files whose lower-cased name ends in one of these.
    :raises BadInput: when a folder cannot be listed.
    """
    found: dict[str, str] = {}
    waiting = [(os.fspath(folder), "")]
    ends = tuple(suffixes)
    while waiting:
        place, prefix = waiting.pop()
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir():
                        waiting.append((entry.path, f"{prefix}{entry.name}/"))
                    elif not ends or entry.name.lower().endswith(ends):
                        found[prefix + entry.name] = entry.path
        except OSError as error:
            raise _unreadable(place, error) from error
    return dict(sorted(found.items()))


@define(eq=False)
class Files:
    """Digests of files, remembered in a small database of the cache.

    Any number of processes and threads may ask at once. A database that cannot be read or written costs reading the
    files, nothing else.

    :param memory: the database; None to remember within this process only.
    :param how: ``content`` for digests of what files hold; ``quick`` for name, size and time of change, for sets too
        large to be read once. Quick digests never enter the database, and never equal a digest of content.
    :param n_threads: files read side by side.
    """

    memory: Path | None = None
    how: How = "content"
    n_threads: int = 4
    n_read: int = field(default=0, init=False)
    _known: dict[str, str] = field(factory=dict, init=False, repr=False)

    def digest(self, path: str | Path) -> str:
        """Digest of one file.

        :raises BadInput: when it cannot be read.
        """
        return self.digests([path])[0]

    def digests(self, paths: Iterable[str | Path]) -> list[str]:
        """Digests of files, in the order given.

        :raises BadInput: naming the file that cannot be read.
        """
        names = [name if name[:1] == "/" else os.path.abspath(name) for name in [os.fspath(path) for path in paths]]  # noqa: PTH100
        known = self._known
        if missing := [name for name in dict.fromkeys(names) if name not in known]:
            stamps = _stamps(missing)
            if self.how == "quick":
                known.update((name, _quick(name, stamp)) for name, stamp in stamps.items())
            else:
                known.update(self._recall(stamps))
                self._learn({name: stamp for name, stamp in stamps.items() if name not in known})
        return [known[name] for name in names]

    def content(self, *parts: Any) -> str:
        """One digest of several things: arrays, bytes, text, numbers, lists of them."""
        return digest_bytes(repr([_part(part) for part in parts]).encode())

    def array(self, array: Any, rows: Any = None) -> str:
        """Type, shape and digest of an array, or of its ``rows``, int64 [n]."""
        return digest_array(array, rows)

    @property
    def asked(self) -> bool:
        """Whether the digest of any file has been asked for."""
        return bool(self._known)

    def forget(self) -> None:
        """Look at every file anew, from the next question on."""
        self._known.clear()

    def _learn(self, stamps: Mapping[str, Stamp]) -> None:
        names = list(stamps)
        lots = [names[at : at + _LOT] for at in range(0, len(names), _LOT)]
        if len(lots) <= 1:
            found = [read for lot in lots for read in _read_lot(lot, stamps)]
        else:
            with ThreadPoolExecutor(self.n_threads) as pool:
                found = [read for lot in pool.map(lambda lot: _read_lot(lot, stamps), lots) for read in lot]
        self.n_read += len(found)
        self._known.update((name, digest) for name, digest, _ in found)
        self._remember([(name, *stamps[name], digest) for name, digest, settled in found if settled])

    def _recall(self, stamps: Mapping[str, Stamp]) -> Iterator[tuple[str, str]]:
        names = list(stamps)
        rows: list[tuple[str, int, int, int, str]] = []
        with _database(self.memory, write=False) as base:
            for at in range(0, len(names) if base is not None else 0, _CHUNK):
                part = names[at : at + _CHUNK]
                assert base is not None
                rows += base.execute(f"{_ASK} ({','.join('?' * len(part))})", part)
        return ((row[0], row[4]) for row in rows if row[1:4] == stamps[row[0]])

    def _remember(self, rows: Sequence[tuple[str, int, int, int, str]]) -> None:
        if not rows:
            return
        with _database(self.memory, write=True) as base:
            if base is not None:
                base.execute(_TABLE)
                base.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", rows)
                base.commit()


def _part(value: Any) -> Any:
    if hasattr(value, "dtype") and hasattr(value, "shape") and value.shape != ():
        return digest_array(value)
    if isinstance(value, (bytes, bytearray)):
        return digest_bytes(bytes(value))
    if isinstance(value, (list, tuple)):
        return [_part(inner) for inner in value]
    if isinstance(value, Mapping):
        return {str(key): _part(value[key]) for key in sorted(value, key=str)}
    if value is None or isinstance(value, (str, int, float)):
        return value
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no content to digest")


@contextlib.contextmanager
def _database(path: Path | None, *, write: bool) -> Iterator[sqlite3.Connection | None]:
    """The database, or None where there is none or it cannot be used, which is only said."""
    if path is None or not (write or path.exists()):
        yield None
        return
    base = None
    try:
        if write:
            path.parent.mkdir(parents=True, exist_ok=True)
        base = sqlite3.connect(f"{path.absolute().as_uri()}?mode={'rwc' if write else 'ro'}", timeout=60, uri=True)
        yield base
    except (sqlite3.Error, PermissionError, OSError) as error:
        log.warning("digests of files are not remembered in %s: %s", path, error)
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
            path.unlink(missing_ok=True)
        if base is None:
            yield None
    finally:
        if base is not None:
            base.close()


def _stamps(names: Sequence[str]) -> dict[str, Stamp]:
    stat, found = os.stat, {}
    for name in names:
        try:
            seen = stat(name)
        except OSError as error:
            raise _unreadable(name, error) from error
        found[name] = (seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)
    return found


def _quick(name: str, stamp: Stamp) -> str:
    return digest_bytes(f"quick {name.rpartition('/')[2]} {stamp[0]} {stamp[1]}".encode())


def _read_lot(names: Sequence[str], stamps: Mapping[str, Stamp]) -> list[tuple[str, str, bool]]:
    """Name, digest, and whether the file has stood still long enough to be remembered.

    :raises BadInput: when one changes while it is read.
    """
    found, now = [], time.time_ns()
    for name in names:
        digest, stamp = _read(name)
        if stamp != stamps[name]:
            raise BadInput("the file changes while it is read", where=name, fix="run again when it is written")
        found.append((name, digest, max(stamp[1:]) < now - SETTLED_NS))
    return found


def _read(name: str) -> tuple[str, Stamp]:
    """Digest of a file, and its size and times once it is read. System calls: an open file object costs more here.

    :raises BadInput: when it cannot be read.
    """
    import xxhash

    state = xxhash.xxh3_128()
    try:
        handle = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while block := os.read(handle, BLOCK):
                state.update(block)
            seen = os.fstat(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise _unreadable(name, error) from error
    return str(state.hexdigest()), (seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)


def _unreadable(path: str | Path, error: OSError) -> BadInput:
    return BadInput(f"cannot be read: {error.strerror or error}", where=os.fspath(path))
