"""The run folder: what is in it, who holds it, and how a run finds its way back."""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from attrs import define, field

from cl_kernel.contract.errors import BadCheckpoint, RunConflict
from cl_kernel.storage.checkpoint import load_tree, save_tree
from cl_kernel.storage.files import full_disk_named, plain, write_json
from cl_kernel.storage.locks import try_lock

log = logging.getLogger(__name__)

KEEP_CHECKPOINTS = 2


@define
class RunFolder:
    """A run on disk: ``run.json``, ``settings.yaml``, ``environment.json``, ``events.jsonl``, ``metrics.json``,
    ``scores/``, ``checkpoints/``, ``plots/`` and whatever the learner adds.
    """

    path: Path
    _lock: IO[str] | None = field(default=None, init=False)

    @property
    def info(self) -> dict[str, Any]:
        """Contents of ``run.json``."""
        return read_json(self.path / "run.json")

    def hold(self) -> None:
        """Take the folder for this process until it ends.

        :raises RunConflict: when another process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = (self.path / ".lock").open("a+")
        if not try_lock(lock):
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            lock.close()
            raise RunConflict(
                f"the run folder is in use by process {holder}",
                where=str(self.path),
                fix="wait for it, or give --output another folder",
            )
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        self._lock = lock

    def status(self) -> str:
        """As ``run.json`` says; ``killed`` for a run that says it is running while no process holds its folder."""
        said = str(self.info.get("status"))
        if said == "running":
            with (self.path / ".lock").open("a") as lock:
                return "killed" if try_lock(lock) else said
        return said

    def release(self) -> None:
        """Let the folder go."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def update(self, **values: Any) -> None:
        """Merge values into ``run.json``."""
        path = self.path / "run.json"
        known = read_json(path) if path.exists() else {}
        write_json(path, known | values)

    def go_on(self, request: Mapping[str, Any]) -> None:
        """A finished run is to be resumed by a longer request; ``run.json`` keeps where it ended and what was asked."""
        known = self.info
        ended = {key: known.get(key) for key in ("request", "digest", "ended")}
        n_stages = len(read_json(self.path / "metrics.json")["stages"])
        ends = [*known.get("extensions", ()), {"stages": n_stages, **ended}]
        self.update(status="interrupted", reason="extended", request=request, extensions=ends)

    def append(self, name: str, record: Mapping[str, Any]) -> None:
        """Append one line to a JSONL file."""
        with full_disk_named(self.path / name), (self.path / name).open("a") as file:
            file.write(json.dumps(record, default=plain) + "\n")

    def save_checkpoint(self, step: int, tree: Any) -> tuple[Path, int]:
        """Write a checkpoint, then drop all but the newest two."""
        path = self.path / "checkpoints" / f"{step:010d}.ckpt"
        nbytes = save_tree(path, tree)
        for old in self.checkpoints()[:-KEEP_CHECKPOINTS]:
            old.unlink(missing_ok=True)
        return path, nbytes

    def checkpoints(self) -> list[Path]:
        """Checkpoints, oldest first."""
        return sorted((self.path / "checkpoints").glob("[0-9]*.ckpt"))

    def load_checkpoint(self) -> tuple[Path, Any] | None:
        """The newest checkpoint that is whole; a damaged one is set aside with a warning.

        :raises BadCheckpoint: when there are checkpoints and none can be read.
        """
        found = self.checkpoints()
        for path in reversed(found):
            try:
                return path, load_tree(path)
            except BadCheckpoint as error:
                log.warning("%s; falling back to the one before", error.what)
                path.replace(path.with_suffix(".damaged"))
        if found:
            raise BadCheckpoint(
                "no checkpoint of this run can be read",
                where=str(self.path / "checkpoints"),
                fix="start the run again in a new folder",
            )
        return None


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    :raises RunConflict: when the file is absent or damaged, saying so.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise RunConflict(
            f"{path.parent} is no run folder: it has no {path.name}", where=str(path), fix="'clk runs' lists the runs"
        ) from error
    except ValueError as error:
        raise RunConflict(f"{path.name} is damaged: {error}", where=str(path)) from error
    return content


def comparison_folder(folder: Path, label: str) -> Path:
    """Where a run's comparison run of that label lies."""
    return folder / "beside" / plain_name(label)


def plain_name(text: str) -> str:
    """Text as part of a file name on any system: anything but letters, digits and ``. _ + -`` becomes a dash."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-.") or "run"


def new_folder(base: Path, name: str) -> Path:
    """A fresh folder ``base/<time>-<name>``."""
    stamp, name = time.strftime("%Y%m%d-%H%M%S"), plain_name(name)
    base.mkdir(parents=True, exist_ok=True)
    for suffix in ("", *(f"-{k}" for k in range(2, 1000))):
        path = base / f"{stamp}-{name}{suffix}"
        try:
            path.mkdir()
            return path
        except FileExistsError:
            continue
    raise RunConflict(f"no free folder name {stamp}-{name}", where=str(base))


def environment(plugins: Mapping[str, str], code: Mapping[str, str]) -> dict[str, Any]:
    """What the numbers may depend on: versions, code and hardware, nothing that identifies a person or machine.

    :param code: package -> digest of its sources, of :func:`cl_kernel.storage.source.code_of`.
    """
    versions = {}
    for name in ("cl-kernel", "numpy", "torch", "torchvision", "tensorflow", "faiss-gpu", "faiss-cpu"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "memory_bytes": _machine_memory(),
        "versions": versions,
        "code": dict(code),
        "plugins": dict(plugins),
        "command": ["clk", *sys.argv[1:]],
    }


def _machine_memory() -> int:
    """Bytes of memory of this machine; 0 where the system does not say."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0


def peak_memory() -> int:
    """Largest resident size of this process so far, in bytes; 0 where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
