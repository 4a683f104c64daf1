"""``clk butd compose``: what chains of directions gave."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from cl_kernel import BadInput
from cl_plugin_butd.commands import Handler


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
