"""What it costs to know whether files are still the same: 100,000 of them unchanged, and a first reading.

The files have 1 kB, so that names and times are what is measured; the reading is of 2,000 files of 60 kB from memory (a
cold disk is slower to read, which makes the digest's share smaller).
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
from _report import machine, table, write

from cl_kernel.storage.digests import Files, files_below

N_FILES, N_LARGE, LARGE = 100_000, 2_000, 60_000
SETTLE_S = 2.5


def fill(folder: Path, n: int, size: int) -> None:
    """n files of so many bytes, a thousand a folder."""
    rng = np.random.default_rng(0)
    for i in range(n):
        place = folder / f"{i // 1000:03d}"
        if not i % 1000:
            place.mkdir(parents=True)
        (place / f"{i:06d}.bin").write_bytes(rng.bytes(size))


def seconds(work: object) -> float:
    """Of one call."""
    started = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - started


def unchanged(folder: Path, memory: Path) -> tuple[float, float]:
    """First reading, then the best of three times of asking again by a process that remembers nothing itself."""

    def ask() -> None:
        Files(memory).digests(files_below(folder).values())

    first = seconds(ask)
    return first, min(seconds(ask) for _ in range(3))


def reading(folder: Path) -> tuple[float, float]:
    """Seconds to read files one after another, and to read and digest them; best of three, by turns."""
    paths = list(files_below(folder).values())
    plain, digested = [], []
    for _ in range(3):
        plain.append(seconds(lambda: [Path(path).read_bytes() for path in paths]))
        digested.append(seconds(lambda: Files(None, n_threads=1).digests(paths)))
    return min(plain), min(digested)


def main() -> None:
    """Measure and write the table."""
    with tempfile.TemporaryDirectory(prefix="clk-bench-") as name:
        root = Path(name)
        fill(root / "small", N_FILES, 1000)
        fill(root / "large", N_LARGE, LARGE)
        time.sleep(SETTLE_S)
        first, again = unchanged(root / "small", root / "digests.sqlite")
        plain, digested = reading(root / "large")
    rows = [
        (f"{N_FILES:,} files unchanged since the last run", again, "at most 1.5 s"),
        (f"{N_FILES:,} files of 1 kB seen for the first time", first, ""),
        (f"{N_LARGE:,} files of 60 kB read, one after another", plain, ""),
        (f"{N_LARGE:,} files of 60 kB read and digested, one after another", digested, "at most 1.3 times reading"),
    ]
    content = {"unchanged_s": again, "first_s": first, "read_s": plain, "digested_s": digested}
    shown = table(("what", "seconds", "goal"), rows)
    write("identity", "Identity of files", content, [shown], about=machine("xxhash"))


if __name__ == "__main__":
    main()
