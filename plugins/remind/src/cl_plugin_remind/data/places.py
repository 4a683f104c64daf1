"""Where published data sets lie below a data root. Light: imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

ARCHIVES = {"clevr": "CLEVR_v1.0", "tdiuc": "TDIUC"}
"""Folders that the published archives unpack to."""


def prepared_folders(name: str, roots: Sequence[Path]) -> list[Path]:
    """Folders in which the prepared files of CLEVR or TDIUC may lie, most likely first."""
    below = (f"{ARCHIVES[name]}/prepared", f"{name}/prepared", "prepared", ARCHIVES[name], name, "")
    return [root / place for root in roots for place in below]


def raw_folder(name: str, root: Path) -> Path:
    """The folder with the published files: the one given, or the archive's folder in it."""
    inside = root / ARCHIVES[name]
    return inside if inside.is_dir() else root
