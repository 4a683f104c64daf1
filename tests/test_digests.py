"""Digests of files: read once, remembered while size and times stand still."""

import os
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from cl_kernel import BadInput
from cl_kernel.storage import digests
from cl_kernel.storage.digests import Files, digest_array, files_below


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "data"
    for c in "ab":
        (place / c).mkdir(parents=True)
        for i in range(5):
            (place / c / f"{i} x.bin").write_bytes(bytes([i]) * 1000 + c.encode())
    return place


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "SETTLED_NS", -(10**12))


def read(files: Files, folder: Path) -> tuple[list[str], int]:
    before = files.n_read
    return files.digests(files_below(folder).values()), files.n_read - before


def test_files_are_read_once_by_any_number_of_processes(tmp_path, folder):
    first, n_first = read(Files(tmp_path / "d.sqlite"), folder)
    again, n_again = read(Files(tmp_path / "d.sqlite"), folder)
    assert first == again and (n_first, n_again) == (10, 0)
    code = (
        "import sys; from pathlib import Path; from cl_kernel.storage.digests import Files, files_below;"
        "f = Files(Path(sys.argv[1])); print(len(f.digests(files_below(Path(sys.argv[2])).values())), f.n_read)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "d.sqlite"), str(folder)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["10", "0"]


def test_one_changed_byte_counts_although_size_and_time_are_put_back(tmp_path, folder):
    base = tmp_path / "d.sqlite"
    first, _ = read(Files(base), folder)
    victim = folder / "a" / "3 x.bin"
    before = victim.stat()
    content = bytearray(victim.read_bytes())
    content[500] ^= 1
    victim.write_bytes(content)
    os.utime(victim, ns=(before.st_atime_ns, before.st_mtime_ns))
    changed, n_read = read(Files(base), folder)
    assert n_read == 1 and [a == b for a, b in zip(first, changed, strict=True)].count(False) == 1


def test_a_touched_file_is_read_again_and_keeps_its_digest(tmp_path, folder):
    base = tmp_path / "d.sqlite"
    first, _ = read(Files(base), folder)
    os.utime(folder / "a" / "3 x.bin")
    again, n_read = read(Files(base), folder)
    assert n_read == 1 and first == again


def test_a_file_written_just_now_is_not_remembered(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(digests, "SETTLED_NS", 10**12)
    base = tmp_path / "d.sqlite"
    assert [read(Files(base), folder)[1] for _ in range(2)] == [10, 10]


def test_a_damaged_database_costs_reading_and_nothing_else(tmp_path, folder, caplog):
    base = tmp_path / "d.sqlite"
    first, _ = read(Files(base), folder)
    base.write_bytes(b"no database at all" * 100)
    again, n_read = read(Files(base), folder)
    assert again == first and n_read == 10 and "not remembered" in caplog.text
    assert read(Files(base), folder) == (first, 0), "a new database takes the place of the damaged one"


def test_many_writers_at_once_lose_nothing(tmp_path, folder):
    base = tmp_path / "d.sqlite"

    def one(path: str) -> str:
        return Files(base).digest(path)

    paths = list(files_below(folder).values())
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, paths * 3))
    with sqlite3.connect(base) as connection:
        assert connection.execute("SELECT count(*) FROM files").fetchone() == (10,)


def test_quick_digests_follow_size_and_time_and_are_never_those_of_content(tmp_path, folder):
    path = folder / "a" / "1 x.bin"
    quick = Files(tmp_path / "d.sqlite", how="quick").digest(path)
    assert quick != Files().digest(path)
    os.utime(path)
    assert Files(how="quick").digest(path) != quick
    assert not (tmp_path / "d.sqlite").exists()


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(BadInput, match="nowhere"):
        Files().digest(tmp_path / "nowhere.jpg")
    with pytest.raises(BadInput, match="cannot be read"):
        Files().digest(tmp_path)


def test_digests_of_arrays_see_type_shape_rows_and_every_element():
    array = np.arange(24).reshape(6, 4)
    rows = np.array([4, 0, 2])
    different = [array, array.astype("int32"), array.reshape(4, 6), array.T, array[::-1], array + (array == 7)]
    assert len({digest_array(a) for a in different}) == len(different)
    assert digest_array(array, rows) == digest_array(array[rows]) != digest_array(array, rows[::-1])
    ragged = np.empty(2, object)
    ragged[0], ragged[1] = np.zeros(3, np.uint8), np.zeros(4, np.uint8)
    other = np.empty(2, object)
    other[0], other[1] = np.zeros(4, np.uint8), np.zeros(3, np.uint8)
    assert digest_array(ragged) != digest_array(other)
    assert digest_array(np.zeros((0, 3))) != digest_array(np.zeros((0, 4)))
