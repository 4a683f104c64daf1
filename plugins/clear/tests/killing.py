"""Runs one command of the pipeline, kills it again and again, moves the folder in between, and finishes it.

A program of its own, so that every run is a fork of one process that has imported everything and started no thread:

    python killing.py FOLDER SEED COMMAND... [-- COMMAND...]

A second command is what goes on with a run once its ``run.json`` is there; without one the same command is given again.

``FOLDER/start`` holds what the command needs and is its working directory. ``FOLDER/whole`` becomes an uninterrupted
run, ``FOLDER/killed-*`` the interrupted ones. What happened is printed as JSON.

A kill is a SIGKILL at a random moment: half of them by the clock, half at a random file operation, because the
moments that matter (a file begun, a file complete but not yet under its name) are short.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

CHAINS = 4
"""Interrupted runs."""
KILLS = 3
"""Kills in a row before a run may finish."""

_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate", "shutil.rmtree"}


def changes(event: str, args: tuple[object, ...]) -> bool:
    """Does this audit event change the disk?"""
    if event == "open":
        flags = args[2]
        return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    return event in _CHANGES


def child(folder: Path, command: list[str], kill_at: int, counted: Path | None) -> int:
    """Run the command in a fork; kill itself before the ``kill_at``-th change of the disk (0: never). :return: pid."""
    pid = os.fork()
    if pid:
        return pid
    os.chdir(folder)
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    log = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 2)
    numbers = itertools.count(1)
    last = [0]

    def hook(event: str, args: tuple[object, ...]) -> None:
        if changes(event, args):
            last[0] = next(numbers)
            if last[0] == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    from cl_kernel.cli.main import main

    code = 1
    try:
        code = main(command)
    except BaseException:
        traceback.print_exc()
    finally:
        if counted is not None:
            counted.write_text(str(last[0]))
        sys.stderr.flush()
        os._exit(code)


def ended(pid: int) -> bool:
    """Wait; :return: whether it was killed.

    :raises SystemExit: when the command itself failed.
    """
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return True
    if not os.WIFEXITED(status) or os.WEXITSTATUS(status):
        raise SystemExit(f"the command ended with status {status}")
    return False


def run(folder: Path, first: list[str], again: list[str], seed: int) -> dict[str, object]:
    """One uninterrupted run and :data:`CHAINS` interrupted ones."""
    rng = random.Random(seed)

    def command(place: Path) -> list[str]:
        return again if again and any(place.glob("*/run.json")) else first

    whole = Path(shutil.copytree(folder / "start", folder / "whole"))
    began = time.monotonic()
    ended(child(whole, first, 0, folder / "count"))
    seconds, n_changes = time.monotonic() - began, int((folder / "count").read_text())
    results, struck = [], []
    for chain in range(CHAINS):
        place = Path(shutil.copytree(folder / "start", folder / f"killed-{chain}-0"))
        for attempt in range(KILLS):
            if chain % 2:
                pid = child(place, command(place), rng.randint(1, n_changes), None)
            else:
                pid = child(place, command(place), 0, None)
                time.sleep(seconds * rng.random())
                os.kill(pid, signal.SIGKILL)
            killed = ended(pid)
            struck.append(killed)
            place = place.rename(folder / f"killed-{chain}-{attempt + 1}")
            if not killed:
                break
        ended(child(place, command(place), 0, None))
        results.append(place.name)
    return {"seconds": seconds, "changes": n_changes, "kills": sum(struck), "attempts": len(struck), "results": results}


def load_everything() -> None:
    """Import what the commands import, so that a fork starts at once."""
    import importlib
    import pkgutil

    import duckdb  # noqa: F401
    import pyarrow.compute
    import pyarrow.csv
    import pyarrow.parquet  # noqa: F401
    import torch
    import torchvision  # noqa: F401
    from PIL import Image

    import cl_kernel.cli.console
    import cl_kernel.running.session  # noqa: F401
    import cl_plugin_clear

    torch.set_num_threads(1)
    Image.init()
    for module in pkgutil.walk_packages(cl_plugin_clear.__path__, "cl_plugin_clear."):
        if module.name.endswith("carry_workers"):  # img2dataset, which starts threads when it is imported
            continue
        importlib.import_module(module.name)


if __name__ == "__main__":
    load_everything()
    words = sys.argv[3:]
    cut = words.index("--") if "--" in words else len(words)
    report = run(Path(sys.argv[1]), words[:cut], words[cut + 1 :], int(sys.argv[2]))
    sys.stdout.write(json.dumps(report) + "\n")
