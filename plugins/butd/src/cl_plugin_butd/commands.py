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


def figure(parser: ArgumentParser) -> Handler:
    """Draw accuracy just after learning and at the end of the stream, a line a method, over any number of seeds."""
    parser.add_argument("run", type=Path, nargs="+", help="run folders")
    parser.add_argument("--output", type=Path, required=True, help="picture to write (.svg, .png)")

    def handle(namespace: Namespace, console: Any) -> int:
        import json

        from cl_plugin_butd import evaluate

        methods: dict[str, list[tuple[float, float]]] = {}
        for run in namespace.run:
            file = run / "metrics.json"
            if not file.is_file():
                raise BadInput(f"{run.name} is no finished run", where=str(file), fix="name folders of `clk run`")
            content = json.loads(file.read_text(encoding="utf-8"))
            found = content["metrics"]["accuracy"]["summary"]
            name = json.loads((run / "run.json").read_text(encoding="utf-8"))["pieces"]["learner"].removeprefix("butd:")
            methods.setdefault(name, []).append((found["learning_accuracy"], found["average_accuracy"]))
        evaluate.draw_methods(methods, namespace.output)
        rows = [
            (name, len(values), *(f"{sum(v[i] for v in values) / len(values):.3f}" for i in (0, 1)))
            for name, values in methods.items()
        ]
        console.table("", ("method", "seeds", "just after learning", "at the end"), rows)
        console.json({name: [list(v) for v in values] for name, values in methods.items()})
        return 0

    return handle
