"""``clk butd figure``: methods side by side."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from cl_kernel import BadInput
from cl_plugin_butd.commands import Handler


def figure(parser: ArgumentParser) -> Handler:
    """Draw accuracy just after learning and at the end of the stream, a line a method, over any number of seeds."""
    parser.add_argument("run", type=Path, nargs="+", help="run folders")
    parser.add_argument("--output", type=Path, required=True, help="picture to write (.svg, .png)")

    def handle(namespace: Namespace, console: Any) -> int:
        import json

        from cl_plugin_butd.evaluate.figures import draw_methods

        methods: dict[str, list[tuple[float, float]]] = {}
        for run in namespace.run:
            file = run / "metrics.json"
            if not file.is_file():
                raise BadInput(f"{run.name} is no finished run", where=str(file), fix="name folders of `clk run`")
            content = json.loads(file.read_text(encoding="utf-8"))
            found = content["metrics"]["accuracy"]["summary"]
            name = json.loads((run / "run.json").read_text(encoding="utf-8"))["pieces"]["learner"].removeprefix("butd:")
            methods.setdefault(name, []).append((found["learning_accuracy"], found["average_accuracy"]))
        draw_methods(methods, namespace.output)
        rows = [
            (name, len(values), *(f"{sum(v[i] for v in values) / len(values):.3f}" for i in (0, 1)))
            for name, values in methods.items()
        ]
        console.table("", ("method", "seeds", "just after learning", "at the end"), rows)
        console.json({name: [list(v) for v in values] for name, values in methods.items()})
        return 0

    return handle
