"""Names of contract 1 and of earlier releases, kept working: the only module exempt from the layers.

Modules that moved are found under their old names, which are the same module objects. Those that contract 1
promises stay for ever and silently; the others say their new name and go with the next release.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType

PROMISED = {"sweep": "sweeps.sweep", "errors": "contract.errors", "streams": "contract.stream"}
MOVED = {
    "alongside": "sweeps.comparisons",
    "builtin": "library",
    "compare": "reports.compare",
    "config": "running.settings",
    "console": "cli.console",
    "events": "contract.events",
    "files": "storage.files",
    "hookspecs": "contract.hooks",
    "manager": "registry",
    "metrics": "library.metrics",
    "outputs": "storage.run_folder",
    "planning": "running.plan",
    "plots": "reports.figures",
    "protocols": "contract.interfaces",
    "records": "contract.offers",
    "scaffold": "testing.scaffold",
    "scoring": "running.scoring",
    "session": "running.session",
    "signals": "running.signals",
    "site": "running.resources",
    "tasks": "sweeps.tasks",
    "trees": "storage.checkpoint",
    "worker": "sweeps.worker",
    "memory.core": "memory.memory",
    "memory.policies": "library.memories.policies",
}
_HOST = __name__.rpartition(".")[0]


class _OldNames:
    """A finder for the modules above: asked last, so it costs nothing while new names are used."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        host, _, old = name.partition(".")
        if host != _HOST or not (new := PROMISED.get(old) or MOVED.get(old)):
            return None
        if old in MOVED:
            warnings.warn(f"{name} is now {_HOST}.{new}", DeprecationWarning, stacklevel=2)
        return ModuleSpec(name, _Alias(f"{_HOST}.{new}"))


class _Alias(Loader):
    def __init__(self, target: str) -> None:
        self.target = target

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return importlib.import_module(self.target)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: the module has been executed under its own name."""


def install() -> None:
    """Let old module names be found; once a process."""
    if not any(isinstance(finder, _OldNames) for finder in sys.meta_path):
        sys.meta_path.append(_OldNames())
