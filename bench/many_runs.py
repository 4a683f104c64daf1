"""``clk compare`` and ``clk report`` of 500 runs: ``python bench/many_runs.py``.

Ten methods, fifty seeds each, copied from ten short runs of ``clk:linear`` with other scores; a few are half-written,
as after a crash. Writes ``bench/results/many_runs.md``.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

N_RUNS, N_METHODS, N_BROKEN = 500, 10, 5
SWEEP = """name: s
base: {dataset: blobs, learner: linear, memory: 20}
grid: {replay: [reservoir, ring], learner.lr: [%s]}
"""
START = "import sys; from cl_kernel.cli.main import main; sys.exit(main())"


def clk(folder: Path, *arguments: str) -> tuple[float, float, float]:
    """Wall clock, CPU seconds and peak memory in MB of one command."""
    began = time.monotonic()
    child = subprocess.Popen([sys.executable, "-c", START, *arguments], cwd=folder, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"clk {arguments[0]} ends with {status}")
    return time.monotonic() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000


def multiply(folder: Path) -> None:
    """500 run folders out of ten, each with a seed of its own and scores a little apart."""
    originals = sorted(path.parent for path in (folder / "runs" / "s").glob("*/run.json"))
    for k in range(N_RUNS):
        one = originals[k % len(originals)]
        copy = folder / "many" / f"run-{k:03d}"
        copy.mkdir(parents=True)
        for name in ("run.json", "settings.yaml", "environment.json", "metrics.json"):
            shutil.copy(one / name, copy / name)
        seed = k // len(originals)
        info = json.loads((copy / "run.json").read_text()) | {"seed": seed}
        (copy / "run.json").write_text(json.dumps(info))
        results = json.loads((copy / "metrics.json").read_text())
        table = results["metrics"]["accuracy"]
        table["matrix"] = [[v if v is None else v * (1 - 0.001 * seed) for v in row] for row in table["matrix"]]
        text = json.dumps(results)
        (copy / "metrics.json").write_text(text[: len(text) // 2] if k % (N_RUNS // N_BROKEN) == 7 else text)


def main() -> None:
    """Make the runs, time the two commands, write the page."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        rates = ", ".join(f"{0.02 * (k + 1):.2f}" for k in range(N_METHODS // 2))
        (folder / "s.yaml").write_text(SWEEP % rates)
        clk(folder, "sweep", "s.yaml")
        multiply(folder)
        load = os.getloadavg()[0]
        compare = clk(folder, "compare", "many")
        report = clk(folder, "report", "many", "--output", "report.html")
        size = (folder / "report.html").stat().st_size / 1e6
    rows = "\n".join(
        f"| `clk {name}` | {wall:.1f} | {cpu:.1f} | {peak:.0f} |"
        for name, (wall, cpu, peak) in (("compare", compare), ("report", report))
    )
    machine = f"{platform.machine()}, {len(os.sched_getaffinity(0))} shared cores, load average {load:.1f}"
    text = (
        f"# {N_RUNS} runs\n\n`python bench/many_runs.py` ({machine}): {N_RUNS} run folders of {N_METHODS} methods, "
        f"{N_BROKEN} of them half-written, which are named and left out.\n\n"
        f"| command | wall clock, s | CPU, s | peak memory, MB |\n| --- | --- | --- | --- |\n{rows}\n\n"
        f"The page has {size:.1f} MB. Goal: at most 10 s and 1 GB.\n"
    )
    target = Path(__file__).parent / "results" / "many_runs.md"
    target.write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
