"""One run as a task for another process: start it, take it up again when it is killed, see how it stands."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cl_kernel.storage.files import write_json
from cl_kernel.storage.run_folder import comparison_folder, read_json
from cl_kernel.sweeps.warm import LOST, Servers, WarmProcess

THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)
FILES = ("task.json", "run.json", "settings.yaml", "environment.json", "metrics.json", "log.txt")


def run_task(
    task: Mapping[str, Any], stop: threading.Event | None = None, servers: Servers | None = None
) -> dict[str, Any]:
    """Run one task in a process of its own; killed ones are taken up again from their checkpoint.

    :param stop: set it to have the run save itself and end.
    :param servers: warm processes to fork from; without them, a process is started from nothing.
    :return: ``status`` (finished, failed, interrupted), ``error``, ``attempts`` and the small ``files`` of the folder.
    """
    folder = Path(task["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "task.json", dict(task))
    attempts, code = 0, -1
    while attempts <= task["retries"] and code < 0 and not (stop and stop.is_set()):
        attempts += 1
        code = _attempt(task, folder, stop, servers)
        if code == LOST and outcome_of(folder)["status"] == "finished":
            code = 0
    files = {name: (folder / name).read_text() for name in FILES if (folder / name).exists()}
    return outcome_of(folder, code) | {"attempts": attempts, "files": files}


def _environment(task: Mapping[str, Any]) -> dict[str, str]:
    limits = dict.fromkeys(THREADS, str(task["threads"])) if task["threads"] else {}
    return {**os.environ, **limits, **task.get("environment", {})}


def _start(task: Mapping[str, Any], folder: Path, servers: Servers | None) -> subprocess.Popen[bytes] | WarmProcess:
    environment = _environment(task)
    threaded = "OMP_NUM_THREADS" not in environment  # the run decides, before it imports
    if (
        servers
        and not threaded
        and (warm := servers.start(folder, environment, task.get("framework", "numpy"))) is not None
    ):
        return warm
    command = [sys.executable, "-m", "cl_kernel.sweeps.worker", str(folder)]
    with (folder / "log.txt").open("a") as log:
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, start_new_session=True
        )


def _attempt(task: Mapping[str, Any], folder: Path, stop: threading.Event | None, servers: Servers | None) -> int:
    child = _start(task, folder, servers)
    try:
        while True:
            try:
                return child.wait(None if stop is None else 0.2)
            except subprocess.TimeoutExpired:
                if stop is not None and stop.is_set():
                    child.terminate()
                    return child.wait()
    finally:
        if child.poll() is None:
            child.terminate()
            child.wait()
        if child.stdin is not None:
            child.stdin.close()


def outcome_of(folder: Path, code: int = 0) -> dict[str, Any]:
    """Status of a task's folder; ``waiting`` when it has not begun."""
    log = folder / "log.txt"
    if not (folder / "run.json").exists():
        if not log.exists():
            return {"status": "waiting", "error": ""}
        return {"status": "failed", "error": _last_words(log) or f"exit code {code}"}
    stored = read_json(folder / "run.json")
    status = stored.get("status", "failed")
    if left := _left_of_comparisons(folder, stored) if status == "finished" else []:
        return {"status": "interrupted", "error": "", "left": left}
    if status == "finished":
        seconds = read_json(folder / "metrics.json")["cost"]["seconds"]
        return {"status": status, "error": "", "seconds": seconds, "reused": _reused(folder)}
    if status == "interrupted":
        return {"status": status, "error": ""}
    killed = f"killed by signal {-code}" if code < 0 else "stopped without a word"
    return {"status": "failed", "error": stored.get("reason", "") if status == "failed" else killed}


def _left_of_comparisons(folder: Path, stored: Mapping[str, Any]) -> list[str]:
    """Comparison runs that were asked for and are not finished."""
    infos = {
        label: comparison_folder(folder, label) / "run.json"
        for label in stored.get("comparisons", stored.get("beside", ()))
    }
    return [label for label, info in infos.items() if not info.exists() or read_json(info).get("status") != "finished"]


def _reused(folder: Path) -> list[str]:
    """Kinds of artefacts that a run took from the cache instead of making them."""
    log = folder / "events.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    return sorted({json.loads(line)["kind"] for line in lines if line.startswith('{"event": "Reused"')})


def progress_of(folder: Path) -> dict[str, Any]:
    """How far a task's run has come, for the live table."""
    outcome = outcome_of(folder)
    if not (folder / "run.json").exists():
        return outcome if outcome["status"] != "failed" else {"status": "running"}
    if outcome.get("left") or read_json(folder / "run.json").get("status") == "running":
        outcome = {"status": "running"}
    if (folder / "metrics.json").exists():
        results = read_json(folder / "metrics.json")
        for table in list(results.get("metrics", {}).values())[:1]:
            score = next(iter(table["seen"][-1].values()), None)
            outcome["stages"] = f"{len(table['seen'])}/{len(results['stages'])}"
            outcome["score"] = "" if score is None else f"{score:.3f}"
    return outcome


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return next(
        (line for line in reversed(lines) if re.match(r"(\w+\.)*\w*(error|Error)\b", line)),
        lines[-1:][0] if lines else "",
    )
