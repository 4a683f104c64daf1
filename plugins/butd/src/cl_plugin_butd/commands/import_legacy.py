"""``clk butd import-legacy``: the published layouts."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from cl_plugin_butd.commands import Handler


def import_legacy(parser: ArgumentParser) -> Handler:
    """Convert the published layout: raw people, or a folder of samples."""
    parser.add_argument("what", choices=("persons", "samples"), help="the raw people, or a folder samples/<name>")
    parser.add_argument("source", type=Path, help="avatars_6_raw.pkl, or the folder with conf, train, test, val")
    parser.add_argument("target", type=Path, help="folder to write to")

    def handle(namespace: Namespace, console: Any) -> int:
        from cl_plugin_butd.data import legacy

        convert = legacy.import_people if namespace.what == "persons" else legacy.import_samples
        path = convert(namespace.source, namespace.target)
        console.print(f"written: {path}")
        console.json({"path": str(path)})
        return 0

    return handle
