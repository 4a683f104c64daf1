"""clk: a microkernel for continual-learning experiments.

The public API; names are loaded on first use, so importing the package costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

from cl_kernel import compatibility

compatibility.install()

_PUBLIC = {
    "contract.hooks": ("hookimpl",),
    "contract.offers": (
        "Asset",
        "Command",
        "Dataset",
        "Executor",
        "Expected",
        "Experiment",
        "Learner",
        "Metric",
        "Model",
        "Plugin",
        "Replay",
        "Tracker",
        "doc",
        "SPEC_VERSION",
    ),
    "contract.errors": (
        "BadCheckpoint",
        "BadInput",
        "BadSetting",
        "ClkError",
        "Interrupted",
        "MissingAsset",
        "Mismatch",
        "RunConflict",
        "UnknownName",
    ),
    "contract.stream": ("Field", "Stage", "Stream"),
    "data.samples": ("ArraySamples", "Concatenation", "class_groups", "class_incremental", "fingerprint", "subset"),
    "contract.interfaces": ("Batch", "Codec", "Policy", "Samples", "Tree"),
    "memory": ("Memory", "parse_capacity"),
    "running.resources": ("Setup", "Resources"),
    "library.pictures": ("eight_bits", "is_picture", "open_picture", "read_picture"),
    "storage.cache": ("Artefact", "Cache"),
    "storage.digests": ("Files", "files_below"),
    "storage.identity": ("Identity", "counted", "differences", "identify", "record", "recorded", "same_or_refuse"),
    "storage.files": (
        "DiskFull",
        "atomic",
        "content_key",
        "full_disk_named",
        "sync_folder",
        "write_json",
        "write_text",
    ),
    "storage.checkpoint": ("digest_tree", "load_tree", "save_tree"),
    "storage.locks": ("try_lock",),
    "running.loop": ("RunContext", "StreamContext", "score"),
    "running.plan": ("Plan", "Request", "make_request", "plan"),
    "running.settings": ("parse_assignments",),
    "running.build": ("Built", "build", "build_stream"),
    "running.session": (
        "Outcome",
        "default_cache",
        "ended",
        "extend",
        "make_resources",
        "reproduce",
        "request_of",
        "resume",
        "run_plan",
    ),
    "cli.console": ("LiveLine",),
    "cli.run": ("show_outcome",),
    "library.given": ("run",),
    "registry": ("Registry", "discover", "resolve"),
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        return compatibility.renamed_name(name, __getattr__)
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
