"""What short runs cost: ``python bench/start.py [--other PYTHON] [--part first-step|sweep]``.

*First step*: CPU seconds of ``clk run --dataset digits --learner er`` from the start of the interpreter to the end of
the first optimiser step, beside a program that imports torch and constructs that optimiser, and no more. *Sweep*: 24
runs of experience replay (Gaussian classes and digits, twelve seeds each) with ``clk sweep``, two at once, every run a
process of its own. With ``--other`` both are measured by another build's interpreter as well, and digests compared.
CPU seconds are those of all processes. Writes ``bench/results/start.md``; a part that is not measured stays.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _report import RESULTS, machine, table, write

SWEEP = """name: short
base: {learner: clk:er}
grid: {dataset: [clk:blobs, clk:digits], seed: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]}
n_jobs: 2
"""
START = "import sys; from cl_kernel.cli import main; sys.exit(getattr(main, 'main', main)())"
STEPPED = 77
FIRST_STEP = f"""import os
from torch.optim.optimizer import register_optimizer_step_post_hook
register_optimizer_step_post_hook(lambda *_: os._exit({STEPPED}))
{START}"""
BARE = "import sys, torch\ntorch.optim.SGD(torch.nn.Linear(64, 10).parameters(), 0.1)\nsys.exit(77)"
RUN = ("run", "--dataset", "clk:digits", "--learner", "clk:er", "--output", "out")


def cpu_of(python: str, code: str, *arguments: str) -> float:
    """CPU seconds of one program, which has to end with the code of one that came to its end."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "CLK_CACHE": f"{folder}/cache", "OMP_NUM_THREADS": "1"}
        command = [python, "-c", code, *arguments]
        quiet = subprocess.DEVNULL
        child = subprocess.Popen(command, cwd=folder, env=environment, stdout=quiet, stderr=quiet)
        _, status, usage = os.wait4(child.pid, 0)
    if os.waitstatus_to_exitcode(status) != STEPPED:
        raise SystemExit(f"{python}: no step was taken")
    return usage.ru_utime + usage.ru_stime


def first_step(other: str, n_rounds: int) -> dict[str, Any]:
    """CPU seconds to the first step, by round; the first round warms the disk's cache and is left out."""
    cases = {"bare": (sys.executable, BARE, ()), "ours": (sys.executable, FIRST_STEP, RUN)}
    if other:
        cases["other"] = (other, FIRST_STEP, RUN)
    found: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(n_rounds + 1):
        for name, (python, code, arguments) in cases.items():
            seconds = cpu_of(python, code, *arguments)
            if number:
                found[name].append(seconds)
    return {"seconds": found, "machine": machine("torch"), "commit": commit()}


def commit() -> str:
    """The commit that is measured."""
    command = ["git", "rev-parse", "--short=7", "HEAD"]
    return subprocess.run(command, cwd=RESULTS, capture_output=True, text=True, check=True).stdout.strip()


def sweep_of(python: str, folder: Path) -> dict[str, Any]:
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
        digests[f"{results['data']['name']} {seed}"] = [results["digest"], results["state_digest"]]
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": wall, "cpu": cpu, "load": load, "digests": digests}


def sweeps(other: str) -> dict[str, Any]:
    """The sweep by this build, and by the other one right after it."""
    with tempfile.TemporaryDirectory() as folder:
        found = {"ours": sweep_of(sys.executable, Path(folder) / "ours")}
        if other:
            found["other"] = sweep_of(other, Path(folder) / "other")
    same = not other or found["ours"]["digests"] == found["other"]["digests"]
    n_runs = len(found["ours"]["digests"])
    for side in found.values():
        del side["digests"]
    return {**found, "n_runs": n_runs, "same": same, "machine": machine("torch"), "commit": commit()}


def first_step_text(found: dict[str, Any]) -> str:
    """The first table."""
    names = {"bare": "`import torch`, optimiser built", "ours": "`clk run` of digits", "other": "the build before"}
    seconds = found["seconds"]
    rows = [
        (
            names[name],
            statistics.median(mine),
            statistics.median(a / b for a, b in zip(mine, seconds["bare"], strict=True)),
        )
        for name, mine in seconds.items()
    ]
    about = (
        f"Commit {found['commit']}, load average {found['machine']['load']}, {len(seconds['bare'])} rounds, "
        "taking turns. Goal: at most 1.2."
    )
    head = ("to the end of the first step", "CPU, s (median)", "times bare torch (median of the rounds' ratios)")
    return f"## From start to the first step\n\n{table(head, rows)}\n\n{about}"


def sweep_text(found: dict[str, Any]) -> str:
    """The second table."""
    ours, other = found["ours"], found.get("other")
    rows = [("this one", ours["wall"], ours["cpu"], ours["load"])]
    note = ""
    if other:
        rows.append(("the one before", other["wall"], other["cpu"], other["load"]))
        rows.append(("ratio", ours["wall"] / other["wall"], ours["cpu"] / other["cpu"], ""))
        note = f"\n\nDigests of results and states of all runs are {'equal' if found['same'] else 'NOT equal'}."
    head = ("build", "wall clock, s", "CPU, s", "load average at the start")
    title = f"## A sweep of {found['n_runs']} short runs, two at once"
    return f"{title}\n\n{table(head, rows)}{note}\n\nCommit {found['commit']}. Goal: at most .22 of the wall clock."


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--other", default="", metavar="PYTHON", help="interpreter of another build")
    parser.add_argument("--part", choices=("first-step", "sweep"), help="measure only this one")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    stored = RESULTS / "start.json"
    found = json.loads(stored.read_text()) if stored.exists() else {}
    if options.part != "sweep":
        found["first_step"] = first_step(options.other, options.rounds)
    if options.part != "first-step":
        found["sweep"] = sweeps(options.other)
    texts = {"first_step": first_step_text, "sweep": sweep_text}
    sections = [text(found[part]) for part, text in texts.items() if part in found]
    write("start", "Start", found, sections, about=machine("torch", "numpy"))


if __name__ == "__main__":
    main()
