"""Files that are either whole or absent: write to a temporary name, sync, rename."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from cl_kernel.contract.errors import ClkError


class DiskFull(ClkError, OSError):
    """No space is left; what was finished before is intact."""


@contextlib.contextmanager
def full_disk_named(path: Path) -> Iterator[None]:
    """Turn "no space left" into an error that names the place and the way out."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFull(
            "the disk is full",
            where=str(path),
            fix="free some space and go on (a run: clk resume): everything finished before is intact",
        ) from error


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing that appears under ``path`` only when whole and on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with full_disk_named(path), temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut, where a folder can be opened (not on Windows)."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a small text file atomically."""
    with atomic(path) as file:
        file.write(text.encode())


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, readable by people."""
    write_text(path, json.dumps(content, indent=1, default=plain) + "\n")


def plain(value: Any) -> Any:
    """JSON form of numpy scalars and arrays, paths and tuples."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (Path, frozenset, set)):
        return str(value) if isinstance(value, Path) else sorted(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def content_key(inputs: Mapping[str, Any]) -> str:
    """A digest of everything an artefact depends on."""
    text = json.dumps(inputs, sort_keys=True, default=plain)
    return hashlib.sha256(text.encode()).hexdigest()[:20]
