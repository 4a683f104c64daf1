"""``clk cache list|prune``: artefacts that runs share, with their bytes, age and users."""

from __future__ import annotations

import json
import shutil
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from attrs import frozen

from cl_kernel.cli.console import Console, size

Handler = Callable[[Namespace, Console], int]
DAY_S = 86400.0


@frozen
class Kept:
    """An artefact in the cache.

    :param used: seconds since 1970 of the last use, or of making where no use was noted.
    :param runs: folders of the runs that used it.
    """

    kind: str
    folder: Path
    nbytes: int
    used: float
    runs: tuple[str, ...]
    inputs: Any

    @property
    def here(self) -> tuple[str, ...]:
        """Those runs whose folder is still there."""
        return tuple(run for run in self.runs if Path(run).is_dir())


def kept(root: Path) -> Iterator[Kept]:
    """Finished artefacts below a cache, the longest unused first."""
    from cl_kernel.storage.cache import INPUTS, USERS

    found = []
    for sidecar in root.glob(f"*/*/{INPUTS}"):
        folder = sidecar.parent
        users = folder / USERS
        runs = tuple(users.read_text().splitlines()) if users.exists() else ()
        nbytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        used = (users if users.exists() else sidecar).stat().st_mtime
        found.append(Kept(folder.parent.name, folder, nbytes, used, runs, json.loads(sidecar.read_text())))
    yield from sorted(found, key=lambda one: one.used)


def cache(parser: ArgumentParser) -> Handler:
    """List artefacts, or remove those that are old or that no run uses."""
    parser.add_argument("action", choices=("list", "prune"))
    parser.add_argument("--kind", default="", help="only artefacts of this kind, e.g. remind-base")
    parser.add_argument("--older-than", type=float, default=0.0, metavar="DAYS", help="not used for so many days")
    parser.add_argument("--unused", action="store_true", help="only those of which no run folder is left")
    parser.add_argument("--dry-run", action="store_true", help="prune: say what would be removed")

    def handle(namespace: Namespace, console: Console) -> int:
        from cl_kernel.contract.errors import BadSetting
        from cl_kernel.running.session import default_cache

        if namespace.action == "prune" and not (namespace.kind or namespace.older_than or namespace.unused):
            raise BadSetting(
                "nothing says which artefacts to remove",
                where="clk cache prune",
                fix="--older-than DAYS, --unused or --kind KIND; --dry-run only shows them",
            )
        root, before = default_cache(), time.time() - namespace.older_than * DAY_S
        chosen = [
            one
            for one in kept(root)
            if namespace.kind in ("", one.kind) and one.used <= before and not (namespace.unused and one.here)
        ]
        if namespace.action == "prune" and not namespace.dry_run:
            for one in chosen:
                _remove(one)
        _show(console, root, chosen, "" if namespace.action == "list" else "removed")
        return 0

    return handle


def _remove(one: Kept) -> None:
    """The sidecar first: an artefact half removed is none."""
    from cl_kernel.storage.cache import INPUTS

    (one.folder / INPUTS).unlink(missing_ok=True)
    shutil.rmtree(one.folder, ignore_errors=True)


def _show(console: Console, root: Path, chosen: list[Kept], done: str) -> None:
    rows = [
        (f"{one.kind}/{one.folder.name}", size(one.nbytes), f"{(time.time() - one.used) / DAY_S:.1f}", len(one.here))
        for one in chosen
    ]
    console.table(f"{root} {done}".strip(), ("artefact", "bytes", "days unused", "runs"), rows)
    console.print(f"{len(chosen)} artefacts, {size(sum(one.nbytes for one in chosen))}")
    console.json(
        [
            {
                "kind": one.kind,
                "folder": str(one.folder),
                "bytes": one.nbytes,
                "last_used": one.used,
                "runs": list(one.runs),
                "inputs": one.inputs,
            }
            for one in chosen
        ]
    )
