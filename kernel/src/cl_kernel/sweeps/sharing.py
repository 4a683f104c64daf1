"""What else a sweep's folder holds: another sweep that works there now, its runs, and runs made with other code."""

from __future__ import annotations

import contextlib
import functools
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path

from cl_kernel.storage.locks import try_lock
from cl_kernel.storage.run_folder import read_json
from cl_kernel.storage.source import source_digest
from cl_kernel.sweeps.sweep import Task

LOCK = ".sweep.lock"
KINDS = ("test", "plugin", "profile", "dataset", "model", "learner", "replay", "metrics", "config")


@contextlib.contextmanager
def driving(output: Path) -> Iterator[str]:
    """Says whose the folder is while a sweep works in it; yields the process that was there before, or nothing."""
    output.mkdir(parents=True, exist_ok=True)
    with (output / LOCK).open("a+") as lock:
        if try_lock(lock):
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield ""
        else:
            lock.seek(0)
            yield lock.read().strip() or "of unknown number"


def notes(output: Path, tasks: Sequence[Task], other: str = "") -> list[str]:
    """What somebody should know before the table of this sweep is read.

    :param other: the process of another sweep that works in this folder now.
    """
    found = []
    if other:
        found.append(
            f"another sweep, process {other}, works in {output} now; each run is made once, but results.csv is written "
            "by whoever ends last (--name or --output: a folder of its own)"
        )
    strangers = _others(output, tasks)
    if strangers:
        found.append(
            f"{output} also holds {_runs(strangers)} of another sweep; results.csv is of this one only "
            "(--name or --output: a folder of its own)"
        )
    changed = Counter(reason for task in tasks if not task.refused for reason in differences(task.folder))
    if changed:
        n = sum(bool(differences(task.folder)) for task in tasks if not task.refused)
        found.append(
            f"{_runs(n)} in {output} {'was' if n == 1 else 'were'} made with another state of the code "
            f"({'; '.join(changed)}): the table would mix them with new ones (--output: a folder in which all are new)"
        )
    for path, n in Counter(path for task in tasks if not task.refused for path in written_since(task.folder)).items():
        found.append(
            f"{path} was written after {_runs(n)} in {output}, which {'stays' if n == 1 else 'stay'} as "
            f"{'it was' if n == 1 else 'they were'} made (--output: a folder in which all are new)"
        )
    return found


def written_since(folder: Path) -> list[str]:
    """Files and folders named by a finished run's request that have changed since it began."""
    output = folder.resolve().parent
    path = folder / "run.json"
    if not path.exists() or (run := read_json(path)).get("status") != "finished":
        return []
    began = datetime.fromisoformat(run["started"]).timestamp()
    request = run.get("request", {})
    values = [request.get("data_roots"), *(v for _, given in request.get("overrides", ()) for v in _values(given))]
    return [
        name for name in dict.fromkeys(_files_in(values)) if _newest(name, output) > began + 1
    ]  # times are whole seconds


def _values(given: Mapping[str, object]) -> list[object]:
    """Of names of pieces only those with something behind a colon, as ``folder:PATH``."""
    return [v for key, v in given.items() if "." in key or key not in KINDS or ":" in str(v)]


def _files_in(value: object) -> Iterator[str]:
    """Files and folders that a value names, as it is or inside ``folder:PATH`` and ``module:FILE.py:NAME``."""
    if isinstance(value, (list, tuple)):
        for one in value:
            yield from _files_in(one)
    elif isinstance(value, str) and value:
        inner = value.partition(":")[2]
        yield from (name for name in (value, inner, inner.rpartition(":")[0]) if name and Path(name).exists())


@functools.cache
def _newest(name: str, output: Path) -> float:
    """When a file, or the newest thing below a folder but ``output``, was last written, in seconds."""
    times = [Path(name).stat().st_mtime]
    for at, folders, files in os.walk(name):
        here = Path(at).resolve()
        folders[:] = [one for one in folders if here / one != output]
        times += [(here / one).lstat().st_mtime for one in files]
        if here not in output.parents:
            times.append(here.stat().st_mtime)  # of a folder: when something in it came or went
    return max(times[1:] or times)


def differences(folder: Path) -> list[str]:
    """In which code and packages a run that lies there was made otherwise than one made now would be."""
    path = folder / "environment.json"
    if not path.exists():
        return []
    before = read_json(path)
    said = [f"{name} {was} -> {now}" for name, was in before.get("versions", {}).items() if (now := _now(name)) != was]
    code = before.get("code", {})
    return said + [f"sources of {name} changed" for name, digest in code.items() if source_digest(name) != digest]


def _now(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "none"


def _others(output: Path, tasks: Sequence[Task]) -> int:
    mine = {task.folder.name for task in tasks}
    return sum(path.parent.name not in mine for path in output.glob("*/run.json"))


def _runs(n: int) -> str:
    return f"{n} run{'' if n == 1 else 's'}"
