"""``clk butd ...``: tools beside runs."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cl_kernel import BadInput

Handler = Callable[[Namespace, Any], int]


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


def compose(parser: ArgumentParser) -> Handler:
    """Show what chains of directions gave in finished runs (test COMPOSE writes them)."""
    parser.add_argument("run", type=Path, nargs="+", help="run folders")

    def handle(namespace: Namespace, console: Any) -> int:
        import json

        rows, content = [], []
        for run in namespace.run:
            file = run / "reports" / "compose.json"
            if not file.is_file():
                raise BadInput(
                    f"{run.name} followed no chain", where=str(file), fix="clk run --plugin butd --test COMPOSE"
                )
            found = json.loads(file.read_text(encoding="utf-8"))
            content.append({"run": str(run), **found})
            rows.append(
                (
                    run.name,
                    " then ".join(found["chain"]),
                    f"{found['accuracy']:.3f}",
                    found["equals"],
                    f"{found['direct']:.3f}",
                    f"{found['agreement']:.3f}",
                )
            )
        console.table("", ("run", "chain", "accuracy", "equals", "directly", "agreement"), rows)
        console.json(content)
        return 0

    return handle
