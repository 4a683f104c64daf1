"""Artefacts that runs share: trained encoders, codebooks, converted data; kept by what they are made from."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from attrs import define, field

from cl_kernel.contract.errors import ClkError
from cl_kernel.storage.digests import Files
from cl_kernel.storage.files import content_key, full_disk_named, sync_folder, write_json
from cl_kernel.storage.identity import Identity
from cl_kernel.storage.locks import close_and_remove, try_lock

INPUTS = "inputs.json"
"""Sidecar of a finished artefact: what it was made from."""

USERS = ".used-by"
"""Beside it: the run folders that took the artefact, one a line; its time is that of the last use."""

DIGESTS = "digests.sqlite"
WAIT_S = 0.2


class NotWritable(ClkError, PermissionError):
    """A cache that this user may read but not write."""


@define
class Cache:
    """Artefacts kept by a digest of what they depend on.

    A finished artefact is a folder ``<kind>/<key>`` with a sidecar ``inputs.json``; unfinished ones never show. Two
    processes that want the same one: the first works, the other waits and takes what it made.

    :param on_reuse: told (kind, folder) whenever an existing artefact is taken.
    :param on_wait: told (kind, folder) once when another process is waited for.
    :param user: the run folder on whose behalf artefacts are taken; empty outside a run.
    :param pause: called while waiting; may raise to give up.
    """

    root: Path
    on_reuse: Callable[[str, Path], None] = field(default=lambda kind, path: None)
    on_wait: Callable[[str, Path], None] = field(default=lambda kind, path: None)
    user: str = ""
    pause: Callable[[], None] = field(default=lambda: None)
    _held: dict[Path, IO[str]] = field(factory=dict, init=False, repr=False)

    def files(self, how: str = "content") -> Files:
        """Digests of files, remembered in this cache."""
        return Files(self.root / DIGESTS, how=how)  # type: ignore[arg-type]

    def place(self, kind: str, inputs: Mapping[str, Any] | Identity) -> Path:
        """Where the artefact lies or would lie."""
        return self.root / kind / (inputs.key if isinstance(inputs, Identity) else content_key(inputs))

    def folder(self, kind: str, inputs: Mapping[str, Any] | Identity) -> Path | None:
        """The finished artefact, or None."""
        place = self.place(kind, inputs)
        if not (place / INPUTS).exists():
            return None
        self._taken(place)
        self.on_reuse(kind, place)
        return place

    def make(self, kind: str, inputs: Mapping[str, Any] | Identity, maker: Callable[[Path], Any]) -> Path:
        """The artefact, made by ``maker(folder)`` if it does not exist yet.

        :raises NotWritable: when it does not exist and this user may not write here.
        """
        if (found := self.folder(kind, inputs)) is not None:
            return found
        place = self.place(kind, inputs)
        with self.claimed(kind, inputs):
            if (found := self.folder(kind, inputs)) is not None:
                return found
            self._fill(place, inputs.plain() if isinstance(inputs, Identity) else dict(inputs), maker)
        self._taken(place)
        return place

    @contextlib.contextmanager
    def claimed(self, kind: str, inputs: Mapping[str, Any] | Identity) -> Iterator[None]:
        """Nobody else makes this artefact meanwhile; whoever does already is waited for.

        The claim ends with the process that holds it, whatever ends that.

        :raises NotWritable: when this user may not write here.
        """
        place = self.place(kind, inputs)
        if place in self._held:
            yield
            return
        with _writable(self.root):
            place.parent.mkdir(parents=True, exist_ok=True)
            lock = self._locked(kind, place)
        self._held[place] = lock
        try:
            yield
        finally:
            del self._held[place]
            close_and_remove(lock)

    def artefact(self, identity: Identity) -> Artefact:
        """The artefact of that identity, made or not."""
        return Artefact(self, identity)

    def _locked(self, kind: str, place: Path) -> IO[str]:
        path, told = _lock_path(place), False
        while True:
            lock = path.open("a")
            if try_lock(lock):
                if _same_file(lock, path):
                    return lock
            else:
                if not told:
                    self.on_wait(kind, place)
                    told = True
                time.sleep(WAIT_S)
            lock.close()
            self.pause()

    def _fill(self, place: Path, inputs: Mapping[str, Any], maker: Callable[[Path], Any]) -> None:
        temporary = place.with_name(f".{place.name}.{uuid.uuid4().hex[:8]}.tmp")
        with _writable(self.root):
            temporary.mkdir()
        try:
            with full_disk_named(place):
                maker(temporary)
                write_json(temporary / INPUTS, dict(inputs))
            try:
                temporary.rename(place)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        sync_folder(place.parent)

    def _taken(self, place: Path) -> None:
        with contextlib.suppress(OSError):  # another user's cache keeps no record of us
            path = place / USERS
            known = path.read_text().splitlines() if path.exists() else []
            with path.open("a") as file:
                if self.user and self.user not in known:
                    file.write(self.user + "\n")
            os.utime(path)


@define(eq=False)
class Artefact:
    """Something made once from what its identity names.

    >>> folder = resources.artefact("mine-base", settings=settings, stage=stage).make(train)  # doctest: +SKIP
    """

    cache: Cache
    identity: Identity

    @property
    def place(self) -> Path:
        """Where it lies or would lie."""
        return self.cache.place(self.identity.name, self.identity)

    def found(self) -> Path | None:
        """The finished folder, or None."""
        return self.cache.folder(self.identity.name, self.identity)

    def make(self, maker: Callable[[Path], Any]) -> Path:
        """The finished folder, filled by ``maker(folder)`` if it does not exist yet."""
        return self.cache.make(self.identity.name, self.identity, maker)

    def claimed(self) -> contextlib.AbstractContextManager[None]:
        """Keep others from making it, for what is made over many steps of a run; look for it again inside.

        >>> with base.claimed():  # doctest: +SKIP
        ...     if (folder := base.found()) is None:
        ...         train()
        ...         folder = base.make(save)
        """
        return self.cache.claimed(self.identity.name, self.identity)


def _lock_path(place: Path) -> Path:
    return place.with_name(f".{place.name}.lock")


def _same_file(lock: IO[str], path: Path) -> bool:
    """Whether the lock still has its name; the holder before may have removed it."""
    try:
        return os.path.samestat(os.fstat(lock.fileno()), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _writable(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise NotWritable(
            "the cache may be read but not written, and what this run needs is not in it",
            where=str(root),
            fix="CLK_CACHE=FOLDER clk ... with a folder of your own",
        ) from error
