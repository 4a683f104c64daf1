"""What short runs cost: ``python bench/start.py [--other PYTHON]``.

A sweep of 24 runs of experience replay (Gaussian classes and digits, twelve seeds each) with ``clk sweep``, two at
once, every run a process of its own; with ``--other`` the same by another build's interpreter, digests compared. CPU
seconds are those of all processes. Writes ``bench/results/start.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SWEEP = """name: short
base: {learner: clk:er}
grid: {dataset: [clk:blobs, clk:digits], seed: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]}
n_jobs: 2
"""
START = "import sys; from cl_kernel.cli import main; sys.exit(getattr(main, 'main', main)())"


def measure(python: str, folder: Path) -> dict[str, Any]:
    """Wall clock and CPU of one sweep, and the digests of its runs."""
    folder.mkdir()
    (folder / "short.yaml").write_text(SWEEP)
    environment = {**os.environ, "CLK_CACHE": str(folder / "cache")}
    load = os.getloadavg()[0]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    command = [python, "-c", START, "sweep", "short.yaml", "--output", "out"]
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    digests = {}
    for place in sorted((folder / "out").glob("*/metrics.json")):
        results = json.loads(place.read_text())
        seed = json.loads((place.parent / "run.json").read_text())["seed"]
        digests[results["data"]["name"], seed] = (results["digest"], results["state_digest"])
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": wall, "cpu": cpu, "load": load, "digests": digests}


def table(ours: dict[str, Any], other: dict[str, Any] | None) -> str:
    """The page."""
    cores = len(os.sched_getaffinity(0))
    lines = [
        "# Start",
        "",
        f"`python bench/start.py` on {cores} shared cores ({platform.machine()}, CPU only): a sweep of "
        f"{len(ours['digests'])} short runs, two at once.",
        "",
        "| build | wall clock, s | CPU, s | load average at the start |",
        "| --- | --- | --- | --- |",
        f"| this one | {ours['wall']:.1f} | {ours['cpu']:.1f} | {ours['load']:.1f} |",
    ]
    if other:
        same = ours["digests"] == other["digests"]
        lines += [
            f"| the one before | {other['wall']:.1f} | {other['cpu']:.1f} | {other['load']:.1f} |",
            f"| ratio | {ours['wall'] / other['wall']:.3f} | {ours['cpu'] / other['cpu']:.3f} | |",
            "",
            f"Digests of results and states of all runs are {'equal' if same else 'NOT equal'}.",
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--other", default="", metavar="PYTHON", help="interpreter of another build")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ours = measure(sys.executable, Path(folder) / "ours")
        other = measure(options.other, Path(folder) / "other") if options.other else None
    text = table(ours, other)
    (Path(__file__).parent / "results" / "start.md").write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
