"""The process of one task: ``python -m cl_kernel.sweeps.worker FOLDER`` runs what ``FOLDER/task.json`` says."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

from cl_kernel.contract.errors import ClkError, Interrupted, RunConflict
from cl_kernel.registry import discover
from cl_kernel.running.plan import plan, read_request
from cl_kernel.running.session import run_plan
from cl_kernel.storage.run_folder import RunFolder, read_json


def _end_with_parent() -> None:
    """When the worker that started this run is gone, stop as if told to: save, then end."""
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


def run(folder: Path) -> int:
    """The process of one task."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    task = read_json(folder / "task.json")
    held = RunFolder(folder)
    for wait_s in (*[0.5] * 60, 0.0):
        try:
            held.hold()
            break
        except RunConflict:
            # An earlier attempt whose worker died may still be saving.
            if not wait_s:
                raise
            time.sleep(wait_s)
    held.release()
    registry = discover()
    planned = plan(registry, read_request(task["request"]))
    try:
        run_plan(registry, planned, folder, resume=(folder / "run.json").exists(), comparisons=task["comparisons"])
    except Interrupted as interrupted:
        return 128 + interrupted.signum
    return 0


if __name__ == "__main__":
    from cl_kernel.cli.console import Console

    try:
        sys.exit(run(Path(sys.argv[1])))
    except ClkError as problem:
        Console().say(f"error: {problem}")
        sys.exit(2)
