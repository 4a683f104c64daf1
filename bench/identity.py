"""What it costs to know whether data are still the same: ``python bench/identity.py [--other PYTHON]``.

100,000 files unchanged since they were last read (1 kB each, so that names and times are what is measured), and a first
reading of 2,000 files of 60 kB: from memory and, after the kernel of the system was told to forget them, from the disk.
With ``--other`` also the start of a run by another build's interpreter, the two by turns. Seconds of the clock and of
the processor: on a machine that others use, the second is the steadier.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from _report import machine, table, write

from cl_kernel.storage.digests import Files, files_below

N_FILES, N_LARGE, LARGE = 100_000, 2_000, 60_000
SETTLE_S = 2.5
N_STARTS = 5
START = "import sys; from cl_kernel.cli import main; sys.exit(getattr(main, 'main', main)())"
RUN = ("run", "--dataset", "clk:digits", "--learner", "clk:linear", "--set", "run.plots=false")

Seconds = tuple[float, float]
"""Of the clock, of the processor."""


def fill(folder: Path, n: int, size: int) -> None:
    """n files of so many bytes, a thousand a folder."""
    rng = np.random.default_rng(0)
    for i in range(n):
        place = folder / f"{i // 1000:03d}"
        if not i % 1000:
            place.mkdir(parents=True)
        (place / f"{i:06d}.bin").write_bytes(rng.bytes(size))


def seconds(work: Callable[[], object]) -> Seconds:
    """Of one call."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - processor


def least(*found: Seconds) -> Seconds:
    """The least of each."""
    return min(one[0] for one in found), min(one[1] for one in found)


def unchanged(folder: Path, memory: Path) -> tuple[Seconds, Seconds]:
    """First reading, then the best of five times of asking again by a process that remembers nothing itself."""

    def ask() -> None:
        Files(memory).digests(files_below(folder).values())

    first = seconds(ask)
    return first, least(*(seconds(ask) for _ in range(5)))


def read_plainly(paths: Sequence[str]) -> None:
    """Every byte with system calls, as sparingly as it is read to be digested."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        while os.read(handle, 1 << 20):
            pass
        os.close(handle)


def forget(paths: Sequence[str]) -> None:
    """Drop the files from the memory of the system, so that the disk is read."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def reading(folder: Path, *, cold: bool) -> tuple[Seconds, Seconds, float]:
    """To read files one after another; to read and digest them; median ratio of the clocks of five rounds."""
    paths = list(files_below(folder).values())
    plain, digested = [], []
    for _ in range(5):
        for found, work in ((plain, read_plainly), (digested, Files(None, n_threads=1).digests)):
            if cold:
                forget(paths)
            found.append(seconds(lambda work=work: work(paths)))  # type: ignore[misc]
    return least(*plain), least(*digested), statistics.median(d[0] / p[0] for p, d in zip(plain, digested, strict=True))


def start(python: str, folder: Path) -> Seconds:
    """Of a short run that imports no deep-learning library, in a process of its own."""
    before, clock = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "CLK_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    output = tempfile.mkdtemp(dir=folder) + "/run"
    command = [python, "-c", START, *RUN, "--output", output]
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - clock, sum(after[:2]) - sum(before[:2])


def starts(other: str, root: Path) -> list[tuple[str, Seconds]]:
    """Least seconds of a start by this build and by the other, by turns."""
    found: dict[str, list[Seconds]] = {"this build": [], "the build before": []}
    for name, python in zip(found, (sys.executable, other), strict=True):
        (root / name).mkdir()
        start(python, root / name)  # what is compiled and prepared once
    for _ in range(N_STARTS):
        for name, python in zip(found, (sys.executable, other), strict=True):
            found[name].append(start(python, root / name))
    return [(f"start of a short run, {name}", least(*all_)) for name, all_ in found.items()]


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--other", default="", metavar="PYTHON", help="interpreter of another build")
    other = parser.parse_args().other
    with tempfile.TemporaryDirectory(prefix="clk-bench-") as name:
        root = Path(name)
        fill(root / "small", N_FILES, 1000)
        fill(root / "large", N_LARGE, LARGE)
        time.sleep(SETTLE_S)
        first, again = unchanged(root / "small", root / "digests.sqlite")
        warm, cold = reading(root / "large", cold=False), reading(root / "large", cold=True)
        started = starts(other, root) if other else []
    n = f"{N_LARGE:,} files of 60 kB"
    measured = [
        (f"{N_FILES:,} files unchanged since the last run", again, "at most 1.5 s"),
        (f"{N_FILES:,} files of 1 kB seen for the first time", first, ""),
        (f"{n} read from memory", warm[0], ""),
        (f"{n} read from memory and digested", warm[1], f"{warm[2]:.2f} times reading"),
        (f"{n} read from the disk", cold[0], ""),
        (f"{n} read from the disk and digested", cold[1], f"{cold[2]:.2f} times reading; goal: at most 1.3"),
        *((what, took, "") for what, took in started),
    ]
    content = {
        "seconds": {what: {"clock": took[0], "processor": took[1]} for what, took, _ in measured},
        "ratio_warm": warm[2],
        "ratio_cold": cold[2],
    }
    shown = table(("what", "seconds", "of the processor", ""), [(what, *took, goal) for what, took, goal in measured])
    note = "One thread; the least of five rounds by turns, ratios as the median of the rounds'."
    write("identity", "Identity of files", content, [note, shown], about=machine("xxhash"))


if __name__ == "__main__":
    main()
