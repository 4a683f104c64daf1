"""The process of one task: ``python -m cl_kernel.sweeps.worker FOLDER`` runs what ``FOLDER/task.json`` says."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from cl_kernel.contract.errors import ClkError, Interrupted, RunConflict
from cl_kernel.registry import discover
from cl_kernel.running.plan import framework_of, plan, read_request
from cl_kernel.running.session import run_plan
from cl_kernel.storage.run_folder import RunFolder, read_json


def _end_with_parent() -> None:
    """When the worker that started this run is gone, stop as if told to: save, then end."""
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


def main(folder: Path, preloaded: Sequence[str] = ()) -> int:
    """Run what ``folder/task.json`` says.

    :param preloaded: what the server that this process was forked from has imported.
    :return: exit code.
    """
    try:
        return run(folder, preloaded)
    except ClkError as problem:
        from cl_kernel.cli.console import Console

        Console().say(f"error: {problem}")
        return 2


def run(folder: Path, preloaded: Sequence[str]) -> int:
    """The process of one task."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    task = read_json(folder / "task.json")
    _wait_for(RunFolder(folder))
    registry = discover()
    planned = plan(registry, read_request(task["request"]))
    if preloaded and framework_of(planned) not in preloaded:
        os.execv(sys.executable, [sys.executable, "-m", "cl_kernel.sweeps.worker", str(folder)])
    try:
        run_plan(registry, planned, folder, resume=(folder / "run.json").exists(), comparisons=task["comparisons"])
    except Interrupted as interrupted:
        return 128 + interrupted.signum
    return 0


def _wait_for(held: RunFolder) -> None:
    """Wait until the folder is free: an earlier attempt whose worker died may still be saving."""
    for wait_s in (*[0.5] * 60, 0.0):
        try:
            held.hold()
            break
        except RunConflict:
            if not wait_s:
                raise
            time.sleep(wait_s)
    held.release()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
