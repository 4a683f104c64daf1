"""Locks between processes, on an open file: they fall when the file is closed or its process ends, killed or not.

``flock`` where the system has it, else Windows' ``msvcrt.locking``, whose locks are mandatory: one byte far beyond the
content is locked, so that others may still read who holds the file.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import IO, Any

from cl_kernel.contract.errors import BadInput

WINDOWS = os.name == "nt"
BEYOND = 1 << 30
"""Byte that Windows locks."""
HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
"""What the systems say when somebody else has the lock."""


def try_lock(file: IO[Any]) -> bool:
    """Lock an open, writable file until it is closed; False when another process has it.

    :raises BadInput: where the file system has no locks; the file is closed then.
    """
    try:
        (_lock_windows if WINDOWS else _lock_posix)(file.fileno())
    except OSError as error:
        if error.errno in HELD:
            return False
        file.close()
        raise BadInput(
            f"this file system cannot lock files ({error.strerror})",
            where=str(file.name),
            fix="runs and cache (CLK_CACHE) on another disk, or a network disk mounted with locks",
        ) from error
    return True


def close_and_remove(file: IO[Any]) -> None:
    """Give up a lock together with its file, so that nobody locks a file that is about to go.

    Windows removes no open file: there it is closed first, and stays when somebody else has opened it meanwhile.
    """
    if WINDOWS:
        file.close()
        with contextlib.suppress(OSError):
            Path(file.name).unlink()
    else:
        Path(file.name).unlink(missing_ok=True)
        file.close()


def _lock_posix(number: int) -> None:
    import fcntl

    fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _lock_windows(number: int) -> None:
    import msvcrt

    os.lseek(number, BEYOND, os.SEEK_SET)
    try:
        msvcrt.locking(number, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    finally:
        os.lseek(number, 0, os.SEEK_SET)
