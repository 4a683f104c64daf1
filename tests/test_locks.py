"""Locks between processes: one holder, told apart, gone with a killed process; Windows' rule in the same words."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from cl_kernel.contract.errors import BadInput, RunConflict
from cl_kernel.storage import locks
from cl_kernel.storage.cache import Cache
from cl_kernel.storage.run_folder import RunFolder

HOLDER = """
import sys, time
from pathlib import Path
from cl_kernel.storage import locks
from cl_kernel.storage.run_folder import RunFolder
folder = RunFolder(Path(sys.argv[1]))
folder.hold()
print("held", flush=True)
time.sleep(600)
"""
WINDOWS = """
import fcntl, os, sys, types

class Msvcrt(types.ModuleType):
    '''Windows' locking as its manual says: n bytes from where the file stands, EACCES when they are taken.'''
    LK_NBLCK = 2

    @staticmethod
    def locking(number, mode, n):
        assert mode == 2
        fcntl.lockf(number, fcntl.LOCK_EX | fcntl.LOCK_NB, n, os.lseek(number, 0, os.SEEK_CUR))

sys.modules["msvcrt"] = Msvcrt("msvcrt")
from cl_kernel.storage import locks
locks.WINDOWS = True
"""
"""A system of byte locks, put below the code for Windows, which is otherwise run as it stands."""


def started(folder: Path, before: str = "") -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", before + textwrap.dedent(HOLDER), str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def asked(folder: Path, before: str = "") -> str:
    """What a process hears that wants the folder too."""
    code = before + textwrap.dedent("""
        import sys
        from pathlib import Path
        from cl_kernel.contract.errors import RunConflict
        from cl_kernel.storage.run_folder import RunFolder
        try:
            RunFolder(Path(sys.argv[1])).hold()
            print("held")
        except RunConflict as error:
            print(error.what)
    """)
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("rule", ["", WINDOWS], ids=["this system", "byte locks of Windows"])
def test_a_lock_keeps_others_out_names_its_holder_and_falls_when_that_is_killed(rule: str, tmp_path: Path) -> None:
    holder = started(tmp_path, rule)
    assert asked(tmp_path, rule) == f"the run folder is in use by process {holder.pid}"
    assert (tmp_path / ".lock").stat().st_size < 100  # nothing is written where Windows locks
    holder.kill()
    holder.communicate()
    assert asked(tmp_path, rule) == "held"


def test_a_claim_of_the_cache_leaves_no_lock_behind(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    with cache.claimed("kind", {"a": 1}):
        assert len(list((tmp_path / "kind").iterdir())) == 1
    assert list((tmp_path / "kind").iterdir()) == []


def test_a_lock_whose_file_another_has_open_is_given_up_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock"
    file = path.open("a")

    def in_use(*_: object, **__: object) -> None:
        assert file.closed, "Windows removes no file that is open"
        raise PermissionError(errno.EACCES, "in use")

    monkeypatch.setattr(Path, "unlink", in_use)
    monkeypatch.setattr(locks, "WINDOWS", True)
    locks.close_and_remove(file)
    monkeypatch.undo()
    assert path.exists()


def test_a_disk_without_locks_is_said_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(number: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(locks, "_lock_posix", unsupported)
    with pytest.raises(BadInput, match="cannot lock files") as caught:
        RunFolder(tmp_path).hold()
    assert not isinstance(caught.value, RunConflict)
    assert "network disk" in caught.value.fix
