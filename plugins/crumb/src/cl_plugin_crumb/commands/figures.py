"""Commands that draw."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cl_plugin_crumb.commands.results import named_folders

Parser = argparse.ArgumentParser
Handler = Callable[[argparse.Namespace, Any], int]


def plot(parser: Parser) -> Handler:
    """Learning curves."""
    parser.add_argument("runs", nargs="+", metavar="LABEL=FOLDER")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--tasks", choices=("all", "1st", "current_task"), default="all")
    parser.add_argument("--source", choices=("direct", "mem"), default="direct")
    parser.add_argument("--classes-per-task", type=int, default=2)
    parser.add_argument("--cutoff", type=float, default=0.0, help="leave out runs below this first-task accuracy")

    def handle(namespace: argparse.Namespace, console: Any) -> int:
        import numpy as np

        from cl_plugin_crumb.evaluate import batches, plots

        curves: Mapping[str, Any] = {
            label: np.concatenate(
                [
                    plots.read_runs(p)
                    for place in places
                    for p in batches.find_csv(place, f"top1_test_{namespace.tasks}_{namespace.source}_all_runs.csv")
                ]
            )
            for label, places in named_folders(namespace.runs).items()
        }
        plots.learning_curve(
            curves,
            namespace.output,
            classes_per_task=namespace.classes_per_task,
            cutoff=namespace.cutoff,
            title=f"test images of {namespace.tasks} tasks, {namespace.source}",
        )
        console.print(str(namespace.output))
        return 0

    return handle


def plot_epochs(parser: Parser) -> Handler:
    """Accuracy by epoch."""
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, required=True, help="folder for the figures")
    parser.add_argument("--k", type=int, default=1)

    def handle(namespace: argparse.Namespace, console: Any) -> int:
        from cl_plugin_crumb.evaluate import batches, plots

        for path in batches.find_csv(namespace.folder, f"top{namespace.k}_test_*_all_epochs_run*.csv"):
            console.print(str(plots.epochs(path, namespace.output / f"{path.stem}.png")))
        return 0

    return handle


def usage(parser: Parser) -> Handler:
    """Block usage."""
    parser.add_argument("folder", type=Path, help="run folder of a run with learner.analyse=true")
    parser.add_argument("--output", type=Path, required=True, help="folder for the figures")

    def handle(namespace: argparse.Namespace, console: Any) -> int:
        import pandas as pd

        from cl_plugin_crumb.evaluate import batches, plots

        for path in batches.find_csv(namespace.folder, "memory_blocks_usage.csv"):
            counts = pd.read_csv(path)["count"].to_numpy()
            console.print(str(plots.block_usage(counts, namespace.output / "memory_blocks_usage.png")))
        for path in batches.find_csv(namespace.folder, "class_memory_slot_counts_slice*.csv"):
            console.print(
                str(plots.slice_classes(pd.read_csv(path, index_col=0), namespace.output / f"{path.stem}.png"))
            )
        return 0

    return handle


def overlay(parser: Parser) -> Handler:
    """Where a block is used."""
    parser.add_argument("folder", type=Path, help="run folder of a run with learner.analyse=true")
    parser.add_argument(
        "--block", type=int, action="append", help="memory block, repeatable; default: the five most used"
    )
    parser.add_argument("--images", type=int, default=10, help="images a class")
    parser.add_argument("--output", type=Path, required=True, help="folder for the figures")

    def handle(namespace: argparse.Namespace, console: Any) -> int:
        import numpy as np

        from cl_plugin_crumb.evaluate import batches, plots

        test = _test_images(namespace.folder)
        with np.load(batches.find_csv(namespace.folder, f"{batches.CODES}_run*.npz")[0]) as kept:
            codes, labels = kept["codes"], kept["labels"]
        counts = batches.usage(codes, int(codes.max()) + 1)
        counts[0] = 0  # all the empty slices
        for block in namespace.block or np.argsort(-counts, kind="stable")[:5].tolist():
            for c, rows in batches.most_hits(codes, labels, block, namespace.images).items():
                if len(rows):
                    images, hits = test.take(rows, ["image"])["image"], (codes[rows] == block).sum(-1)
                    console.print(str(plots.overlay(images, hits, namespace.output / f"block{block}_class{c}.png")))
        return 0

    return handle


def _test_images(folder: Path) -> Any:
    """Test samples of a finished run, built anew from its settings."""
    from cl_kernel import Request, Resources, discover, plan, resolve

    run = json.loads((folder / "run.json").read_text())
    asked = {
        **run["request"],
        "profile": run["profile"],
        "data_roots": tuple(run["request"]["data_roots"]),
        "overrides": tuple((origin, values) for origin, values in run["request"]["overrides"]),
        "trackers": (),
    }
    registry = discover()
    planned = plan(registry, Request(**asked))
    roots = tuple(Path(root).expanduser() for root in asked["data_roots"])
    resources = Resources(seed=planned.options.seed, roots=roots, locator=registry.locate)
    build = resolve(planned.pieces["dataset"][0].record.build)
    return build(planned.resolved.sections.get("dataset"), resources).test
