"""Names of contract 1 and of earlier releases, kept working: the only module exempt from the layers.

Modules that moved are found under their old names, which are the same module objects; records take and show the
fields they had. What contract 1 promises stays for ever and silently; the rest says its new name and goes with the
next release.
"""

from __future__ import annotations

import functools
import importlib
import logging
import operator
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, TypeVar

_HOST = __name__.rpartition(".")[0]
PROMISED = {"sweep": "sweeps.sweep", "errors": "contract.errors", "streams": "data.samples"}
MOVED = {
    "alongside": "sweeps.comparisons",
    "builtin": "library",
    "builtin.plugin": "plugin",
    "library.plugin": "plugin",
    "memory.raw": "library.memories.raw",
    "memory.slots": "library.memories.slots",
    "compare": "reports.compare",
    "config": "running.settings",
    "console": "cli.console",
    "events": "contract.events",
    "files": "storage.files",
    "hookspecs": "contract.hooks",
    "manager": "registry",
    "torch.classes": "methods.seen_classes",
    "torch.learners": "torch.split",
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
PROMISED_NAMES = {"Site": "Resources", "Parts": "Setup", "Activity": "RunContext", "Context": "StreamContext"}
RENAMED_NAMES = {
    "ask": "make_request",
    "launch": "run",
    "execute": "run_plan",
    "make_site": "make_resources",
    "heeded": "handling_signals",
    "Alongside": "Comparisons",
}
MOVED_NAMES = {
    f"{_HOST}.memory.RawCodec": f"{_HOST}.library.memories.raw",
    f"{_HOST}.memory.GroupTables": f"{_HOST}.library.memories.slots",
    f"{_HOST}.memory.SlotGroups": f"{_HOST}.library.memories.slots",
    f"{_HOST}.memory.without_replacement": f"{_HOST}.library.memories.slots",
}
FLAGS = {"--no-beside": "--no-comparisons"}
ARGUMENTS = {"beside": "comparisons", "n_beside": "n_comparisons"}
T = TypeVar("T")


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
        module = importlib.import_module(self.target)
        for old, new in (PROMISED_NAMES | RENAMED_NAMES).items():
            if hasattr(module, new) and not hasattr(module, old):
                setattr(module, old, _with_old_arguments(getattr(module, new)))
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: the module has been executed under its own name."""


def install() -> None:
    """Let old module names be found; once a process."""
    if not any(isinstance(finder, _OldNames) for finder in sys.meta_path):
        sys.meta_path.append(_OldNames())


def renamed_name(name: str, find: Callable[[str], Any]) -> Any:
    """What a public name of an earlier release stands for.

    :param find: name of today -> object.
    :raises AttributeError: when it never was one.
    """
    if name in PROMISED_NAMES:
        return find(PROMISED_NAMES[name])
    if name not in RENAMED_NAMES:
        raise AttributeError(f"module {_HOST!r} has no attribute {name!r}")
    warnings.warn(f"{_HOST}.{name} is now {_HOST}.{RENAMED_NAMES[name]}", DeprecationWarning, stacklevel=3)
    return _with_old_arguments(find(RENAMED_NAMES[name]))


def moved_name(module: str, name: str) -> Any:
    """A name that left its module for another.

    :raises AttributeError: when it never was there.
    """
    if not (target := MOVED_NAMES.get(f"{module}.{name}")):
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    warnings.warn(f"{module}.{name} is now {target}.{name}", DeprecationWarning, stacklevel=3)
    return getattr(importlib.import_module(target), name)


def _with_old_arguments(found: Any) -> Any:
    if isinstance(found, type) or not callable(found):
        return found

    @functools.wraps(found)
    def call(*args: Any, **kwargs: Any) -> Any:
        return found(*args, **{ARGUMENTS.get(key, key): value for key, value in kwargs.items()})

    return call


def renamed(**fields: str) -> Callable[[type[T]], type[T]]:
    """A class decorator: fields that had another name are still taken and shown under it."""

    def decorate(cls: type[T]) -> type[T]:
        init = cls.__init__

        @functools.wraps(init)
        def with_old_names(self: T, *args: Any, **kwargs: Any) -> None:
            for old in fields.keys() & kwargs.keys():
                kwargs[fields[old]] = kwargs.pop(old)
            init(self, *args, **kwargs)

        setattr(cls, "__init__", with_old_names)  # noqa: B010
        for old, new in fields.items():
            setattr(cls, old, property(operator.attrgetter(new)))
        return cls

    return decorate


def renamed_keys(content: Mapping[str, Any], keys: Mapping[str, str], where: str) -> dict[str, Any]:
    """A settings file with its keys under their names of today."""
    for old in keys.keys() & content.keys():
        logging.getLogger(__name__).warning("%s: %s is now called %s", where, old, keys[old])
    return {keys.get(key, key): value for key, value in content.items()}


def renamed_flags(argv: Sequence[str]) -> list[str]:
    """Command-line flags under their names of today."""
    for old in FLAGS.keys() & set(argv):
        sys.stderr.write(f"note: {old} is now {FLAGS[old]}\n")
    return [FLAGS.get(word, word) for word in argv]
