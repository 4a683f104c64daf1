"""Published archives: their names without unpacking, and unpacking that goes on where it stopped."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from cl_kernel import BadInput

ENDINGS = (".zip", ".tar.gz", ".tgz", ".tar")
_BROKEN = (zipfile.BadZipFile, tarfile.ReadError, EOFError, zlib.error, OSError)


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Turn the many ways in which a truncated archive fails into one message."""
    try:
        yield
    except _BROKEN as error:
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, tarfile.ReadError):
            raise
        raise BadInput(
            f"the archive is damaged or was not fetched whole ({path.stat().st_size:,} bytes): {error}",
            where=str(path),
            fix="fetch it again and repeat the command; what was unpacked so far is kept",
        ) from error


def names(path: Path) -> list[str]:
    """Names of the files in a zip or tar archive.

    :raises BadInput: for one that is not whole.
    """
    with _whole(path):
        return [name for name, _, _ in _members(path)]


def unpack(path: Path, target: Path, on_step: Callable[[int, str], None] | None = None) -> int:
    """Unpack a zip or tar archive below ``target``; files that are there with the right size are left alone.

    :param on_step: called with (files done, name).
    :return: how many files the archive has.
    :raises BadInput: for one that is not whole, or with a name that leads out of ``target``.
    """
    done = 0
    with _whole(path):
        for name, size, opened in _members(path):
            inside = PurePosixPath(name)
            if inside.is_absolute() or ".." in inside.parts:
                raise BadInput(f"the archive holds the name {name!r}, which leads out of it", where=str(path))
            place = target / inside
            if not (place.is_file() and place.stat().st_size == size):
                place.parent.mkdir(parents=True, exist_ok=True)
                part = place.with_name(place.name + ".part")
                with opened() as source, part.open("wb") as out:
                    shutil.copyfileobj(source, out, 1 << 20)
                if part.stat().st_size != size:
                    raise EOFError(f"{name} has {part.stat().st_size} of {size} bytes")
                part.replace(place)
            done += 1
            if on_step:
                on_step(done, name)
    return done


def _members(path: Path) -> Iterator[tuple[str, int, Callable[[], IO[bytes]]]]:
    """Name, size and a way to read each file, in the archive's order."""
    if path.name.endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if not info.is_dir():
                    yield info.filename, info.file_size, lambda info=info: archive.open(info)  # type: ignore[misc]
        return
    with tarfile.open(path) as packed:
        for member in packed:
            if member.isfile():
                yield member.name.removeprefix("./"), member.size, lambda member=member: _readable(packed, member)  # type: ignore[misc]


def _readable(packed: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    content = packed.extractfile(member)
    if content is None:
        raise tarfile.ReadError(f"{member.name} has no content")
    return content
