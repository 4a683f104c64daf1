"""``clk new-plugin`` and ``clk check-plugin``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path

from cl_kernel.cli.console import Console

Handler = Callable[[Namespace, Console], int]


def new_plugin(parser: ArgumentParser) -> Handler:
    """Write a package that already runs and passes the conformance kit."""
    parser.add_argument("name", help="package name, e.g. cl-plugin-mine")
    parser.add_argument("--output", type=Path, default=Path(), metavar="DIR", help="where to put the package's folder")
    parser.add_argument(
        "--kind",
        default="vectors",
        choices=("vectors", "images"),
        help="vectors: a method in numpy (default); images: a network and a method in PyTorch",
    )

    def handle(namespace: Namespace, console: Console) -> int:
        from cl_kernel.testing.scaffold import write_plugin

        folder = write_plugin(namespace.name, namespace.output, namespace.kind)
        plugin = folder.name.removeprefix("cl-plugin-")
        console.print(f"wrote {folder}")
        console.print(f"next:\n  pip install -e {folder}\n  clk run --plugin {plugin}\n  clk check-plugin {plugin}")
        console.json({"folder": str(folder), "plugin": plugin})
        return 0

    return handle


def check_plugin(parser: ArgumentParser) -> Handler:
    """Run the conformance kit; exit 1 when a check fails."""
    parser.add_argument("name", help="plugin name")
    parser.add_argument("--only", action="append", default=[], metavar="CHECK", help="only these checks; repeatable")

    parser.add_argument("--piece", action="append", default=[], metavar="NAME", help="settings of these pieces only")

    def handle(namespace: Namespace, console: Console) -> int:
        import sys

        from cl_kernel.testing import check_plugin

        tell = console.say if namespace.verbose or sys.stderr.isatty() else (lambda text: None)
        outcomes = check_plugin(namespace.name, only=namespace.only, pieces=namespace.piece, tell=tell)
        console.table(
            f"plugin {namespace.name}",
            ("check", "", "what"),
            [(o.check, ("ok" if o.applies else "-") if o.passed else "FAILED", o.message) for o in outcomes],
        )
        failed = [o for o in outcomes if not o.passed]
        idle = [o for o in outcomes if not o.applies]
        passed = len(outcomes) - len(failed) - len(idle)
        console.print(f"{passed} passed, {len(failed)} failed, {len(idle)} do not apply")
        console.json([{"check": o.check, "passed": o.passed, "message": o.message} for o in outcomes])
        return 1 if failed else 0

    return handle
