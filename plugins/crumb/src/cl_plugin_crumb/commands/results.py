"""Commands that compare and join the results of runs."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from cl_kernel import BadSetting, MissingAsset

Parser = argparse.ArgumentParser
Handler = Callable[[argparse.Namespace, Any], int]


def named_folders(pairs: list[str]) -> dict[str, list[Path]]:
    """``NAME=FOLDER`` arguments."""
    out: dict[str, list[Path]] = {}
    for pair in pairs:
        name, equals, place = pair.partition("=")
        if not equals or not Path(place).is_dir():
            raise BadSetting(f"{pair!r} does not read NAME=RUN_FOLDER, or there is no such folder", where="arguments")
        out.setdefault(name, []).append(Path(place))
    return out


def arms(parser: Parser) -> Handler:
    """Names of the ablation arms."""

    def handle(namespace: argparse.Namespace, console: Any) -> int:
        from cl_plugin_crumb import experiments

        rows = [(run.name, run.summary) for run in experiments.EXPERIMENTS if run.name.startswith("arm-")]
        console.table("arms of the ablation", ("test", "what differs"), rows)
        console.json([name for name, _ in rows])
        return 0

    return handle


def _p(value: float) -> str | None:
    return None if math.isnan(value) else f"{value:.3g}"


def t_test(parser: Parser) -> Handler:
    """Paired t-tests."""
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="[ARM=]RUN_FOLDER",
        help="one arm must be unablated; a folder without a name holds runs of any arms, told apart by learner.arm",
    )

    def handle(namespace: argparse.Namespace, console: Any) -> int:
        from cl_plugin_crumb.evaluate import batches, statistics

        named = [word for word in namespace.runs if "=" in word]
        given = batches.arm_runs(named_folders(named), [Path(word) for word in namespace.runs if "=" not in word])
        if "unablated" not in given:
            raise MissingAsset("no arm named unablated to compare with", where="arguments", fix="unablated=RUN_FOLDER")
        found = statistics.t_tests(given)
        rows = [
            (name, t.mean_difference, t.statistic, *(_p(p) for p in (t.p, t.wilcoxon)), t.n)
            for name, t in found.items()
        ]
        console.table(
            "unablated minus arm, paired over test batches",
            ("arm", "difference (points)", "t", "p of t", "p of Wilcoxon", "batches"),
            rows,
        )
        console.json(
            {
                name: {"difference": t.mean_difference, "t": t.statistic, "p": t.p, "wilcoxon": t.wilcoxon, "n": t.n}
                for name, t in found.items()
            }
        )
        return 0

    return handle


def shape_bias(parser: Parser) -> Handler:
    """Cost of disturbances."""
    parser.add_argument(
        "runs", nargs="+", metavar="NAME=RUN_FOLDER", help="names crumb and control; repeat for more runs"
    )
    parser.add_argument("--plot", type=Path, help="also draw the bars into this file")

    def handle(namespace: argparse.Namespace, console: Any) -> int:
        import pandas as pd

        from cl_plugin_crumb.evaluate import batches, statistics

        folders = named_folders(namespace.runs)
        if set(folders) != {"crumb", "control"}:
            raise BadSetting(f"runs are named {sorted(folders)}, not crumb and control", where="arguments")
        tables = {
            name: [pd.read_csv(p) for place in places for p in batches.find_csv(place, "shape_bias_accs_run*.csv")]
            for name, places in folders.items()
        }
        kinds = [c.removesuffix("_perturb_acc") for c in tables["crumb"][0] if c.endswith("_perturb_acc")]
        found = {}
        for kind in kinds:
            pairs = {
                name: [(t["unablated_acc"].to_numpy(), t[f"{kind}_perturb_acc"].to_numpy()) for t in runs]
                for name, runs in tables.items()
            }
            found[kind] = statistics.shape_bias(pairs["crumb"], pairs["control"])
        rows = [(k, f.drops[0], f.drops[1], f.advantage, f"{f.p:.3g}", f.significant) for k, f in found.items()]
        console.table(
            "relative drop of accuracy", ("disturbance", "CRUMB", "control", "advantage", "p", "significant"), rows
        )
        if namespace.plot:
            from cl_plugin_crumb.evaluate import plots

            plots.shape_bias_bars({k: (f.advantage, f.spread, f.significant) for k, f in found.items()}, namespace.plot)
        console.json(
            {k: {"advantage": f.advantage, "p": f.p, "spread": f.spread, "drops": f.drops} for k, f in found.items()}
        )
        return 0

    return handle


def summary(parser: Parser) -> Handler:
    """Final accuracies."""
    parser.add_argument("folders", type=Path, nargs="+", help="run folders, or folders that hold them")
    parser.add_argument("--file", default="top1_test_all_direct_all_runs.csv", help="which accuracies")

    def handle(namespace: argparse.Namespace, console: Any) -> int:
        import numpy as np

        from cl_plugin_crumb.evaluate import batches, tables

        rows, out = [], {}
        for folder in namespace.folders:
            values = [v for path in batches.find_csv(folder, namespace.file) for v in tables.final_accuracies(path)]
            spread = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
            rows.append((folder.name, float(np.mean(values)), spread, len(values)))
            out[str(folder)] = {"mean": float(np.mean(values)), "standard_error": spread, "runs": len(values)}
        console.table(f"last column of {namespace.file}", ("folder", "mean (%)", "standard error", "runs"), rows)
        console.json(out)
        return 0

    return handle


def table(parser: Parser) -> Handler:
    """Every method of a sweep."""
    parser.add_argument("folders", type=Path, nargs="+", help="run folders, or folders that hold them")
    parser.add_argument("--plot", type=Path, help="also draw the final accuracies into this file")

    def handle(namespace: argparse.Namespace, console: Any) -> int:
        import numpy as np

        from cl_plugin_crumb.evaluate import overview

        found = overview.rows(namespace.folders)
        for stream in dict.fromkeys(row.stream for row in found):
            cells = [
                (
                    r.method,
                    float(np.mean(r.final)),
                    r.spread,
                    float(np.mean(r.first)),
                    r.n_bytes,
                    r.seconds,
                    len(r.final),
                )
                for r in found
                if r.stream == stream
            ]
            heads = ("method", "final (%)", "deviation", "first task (%)", "memory (bytes)", "seconds", "seeds")
            console.table(stream, heads, cells)
        if namespace.plot:
            from cl_plugin_crumb.evaluate import plots

            console.print(str(plots.methods(found, namespace.plot)))
        console.json([attrs.asdict(row) for row in found])
        return 0

    return handle


def merge(parser: Parser) -> Handler:
    """Join runs."""
    parser.add_argument("folders", type=Path, nargs="+", help="run folders, or the folders runs-N in them")
    parser.add_argument("--output", type=Path, required=True)

    def handle(namespace: argparse.Namespace, console: Any) -> int:
        from cl_plugin_crumb.evaluate import tables

        found = [
            p
            for folder in namespace.folders
            for p in ([folder] if any(folder.glob("*_all_runs.csv")) else sorted(folder.rglob("runs-*")))
        ]
        written = tables.merge_runs(found, namespace.output)
        console.print(f"{len(written)} files in {namespace.output}")
        console.json({"files": list(map(str, written))})
        return 0

    return handle


def merge_csv(parser: Parser) -> Handler:
    """Stack tables."""
    parser.add_argument("tables", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, required=True)

    def handle(namespace: argparse.Namespace, console: Any) -> int:
        from cl_plugin_crumb.evaluate import tables

        if absent := [path for path in namespace.tables if not path.is_file()]:
            raise MissingAsset(f"no file {absent[0].name}", where=str(absent[0]))
        console.print(f"{len(tables.merge_tables(namespace.tables, namespace.output))} rows in {namespace.output}")
        return 0

    return handle


def strip(parser: Parser) -> Handler:
    """Delete every-epoch weights."""
    parser.add_argument("folder", type=Path)
    parser.add_argument("--yes", action="store_true", help="really delete; without it only say what would go")

    def handle(namespace: argparse.Namespace, console: Any) -> int:
        found = sorted(namespace.folder.rglob("*_task*_epoch*_*.pth"))
        nbytes = sum(path.stat().st_size for path in found)
        if namespace.yes:
            for path in found:
                path.unlink()
        console.print(
            f"{len(found)} files, {nbytes / 1e6:.1f} MB {'deleted' if namespace.yes else 'would go; add --yes'}"
        )
        console.json({"files": len(found), "bytes": nbytes, "deleted": namespace.yes})
        return 0

    return handle
