"""Pictures of a store: files ``images/<chunk>/<id>.<ext>``, or members of ``images/<chunk>.tar`` (webdataset's form).

A picture has the same relative path either way; who reads one need not know.
"""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from cl_kernel import BadInput, atomic, full_disk_named


class Pictures:
    """Reader of a store's pictures; may be shared by threads."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._members: dict[Path, dict[str, tuple[int, int]]] = {}
        self._lock = threading.Lock()

    def read(self, rel_path: str) -> bytes:
        """Bytes of a picture.

        :raises FileNotFoundError: when it is neither a file nor a member.
        """
        try:
            return (self.root / rel_path).read_bytes()
        except FileNotFoundError:
            place = self._member(rel_path)
            if place is None:
                raise
            path, offset, size = place
            with path.open("rb") as file:
                file.seek(offset)
                return file.read(size)

    def exists(self, rel_path: str) -> bool:
        """Is it there?"""
        return (self.root / rel_path).is_file() or self._member(rel_path) is not None

    def put(self, rel_path: str, target: Path) -> None:
        """A hard link where that works, else a copy; whole or not at all.

        :raises FileNotFoundError: when the picture is not there.
        """
        source = self.root / rel_path
        if source.is_file():
            place(source, target)
        elif not target.exists():
            data = self.read(rel_path)
            with atomic(target) as file:
                file.write(data)

    def _member(self, rel_path: str) -> tuple[Path, int, int] | None:
        inner = PurePosixPath(rel_path)
        path = self.root / inner.parent.with_name(f"{inner.parent.name}.tar")
        with self._lock:
            if path not in self._members:
                self._members[path] = members(path)
            found = self._members[path].get(inner.name)
        return (path, *found) if found else None


def members(path: Path) -> dict[str, tuple[int, int]]:
    """Member -> (offset, size) of a tar file; nothing for one that is not there.

    :raises BadInput: when it is damaged.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            return {member.name: (member.offset_data, member.size) for member in archive}
    except FileNotFoundError:
        return {}
    except tarfile.TarError as error:
        raise BadInput(
            f"the archive is damaged: {error}", where=str(path), fix="remove it and its part, and download again"
        ) from error


def pack(path: Path, contents: Iterable[tuple[str, Callable[[], bytes]]]) -> None:
    """A tar file of (name, bytes), whole or not at all; the same contents give the same file."""
    with atomic(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, read in contents:
            data = read()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def unpack(path: Path, folder: Path, endings_left: tuple[str, ...] = (".json",)) -> None:
    """The pictures of a tar file as files again, those that are not there; its records stay behind."""
    if path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for name, (offset, size) in members(path).items():
            if not name.endswith(endings_left) and not (folder / name).exists():
                with path.open("rb") as file:
                    file.seek(offset)
                    save(folder / name, file.read(size))


def save(path: Path, data: bytes) -> None:
    """Write a picture whole or not at all; a power cut may lose it, the next run looks."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with full_disk_named(path):
        temporary.write_bytes(data)
        temporary.replace(path)


def place(source: Path, target: Path) -> None:
    """A hard link where that works, else a copy; whole or not at all."""
    if target.exists():
        return
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    with full_disk_named(target):
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
        temporary.replace(target)
