"""The authors' buffers as safe files; Omega of a run."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

Handler = Callable[[Namespace, Any], int]


def import_legacy(parser: ArgumentParser) -> Handler:
    """The authors' replay buffer (a pickle; only arrays in it are rebuilt) as a safe file for learner.start_from."""
    parser.add_argument("buffer", type=Path, help="remind_buffer_N.pkl")
    parser.add_argument("classifier", type=Path, help="remind_classifier_F_N.pth")
    parser.add_argument("--output", type=Path, required=True, help="folder for buffer.tree and classifier.pth")

    def handle(options: Namespace, console: Any) -> int:
        from cl_plugin_remind.weights.buffers import convert_legacy

        n_items = convert_legacy(options.buffer, options.classifier, options.output)
        console.print(f"{n_items} examples; use them with --set learner.start_from={options.output}")
        console.json({"examples": n_items, "folder": str(options.output)})
        return 0

    return handle


def omega(parser: ArgumentParser) -> Handler:
    """Omega of a run, divided by its offline run."""
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--offline", type=Path, default=None, help="offline run; default: RUN/beside/offline")
    parser.add_argument("--metric", default="accuracy", help="accuracy, top5, answers")

    def handle(options: Namespace, console: Any) -> int:
        from cl_kernel import MissingAsset
        from cl_plugin_remind.evaluate.metrics import omega_of_runs

        offline = options.offline or options.run / "beside" / "offline"
        runs = {}
        for folder in (options.run, offline, *sorted((options.run / "beside").glob("*"))):
            if not (folder / "metrics.json").is_file():
                raise MissingAsset("no results of a run", where=str(folder), fix="give --offline RUN")
            runs[folder] = json.loads((folder / "metrics.json").read_text())
        rows = []
        for folder, results in runs.items():
            label = "this run" if folder == options.run else folder.name
            series = [next(iter(values.values())) for values in results["metrics"][options.metric]["seen"]]
            rows.append(
                (
                    label,
                    *(round(100 * v, 1) for v in series),
                    round(omega_of_runs(results, runs[offline], options.metric), 3),
                )
            )
        stages = [str(k + 1) for k in range(len(rows[0]) - 2)]
        console.table(f"{options.metric} over the classes seen, percent", ("run", *stages, "Omega"), rows)
        console.json({row[0]: row[-1] for row in rows})
        return 0

    return handle
