"""``clk crumb ...``: data preparation, statistics, figures. Each function adds its arguments, returns a handler."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from cl_kernel import BadInput, BadSetting, MissingAsset


class Console(Protocol):
    """What a handler prints with."""

    def table(self, title: str, columns: Any, rows: Any) -> None:
        """A table."""

    def print(self, text: str = "") -> None:
        """A line."""

    def json(self, content: Any) -> None:
        """The result for machines."""


Parser = argparse.ArgumentParser
Handler = Callable[[argparse.Namespace, Any], int]
INDEXED = ("toybox", "ilab2mlight", "cifar100", "imagenet", "icubworldtransf")


def _root(parser: Parser) -> None:
    parser.add_argument("--root", type=Path, required=True, help="folder of the raw data set")


def _counter(console: Any, what: str) -> Callable[[int, int], None]:
    """A progress bar on stderr for work counted in steps."""
    from rich.console import Console as Screen
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=Screen(stderr=True)
    )
    task = bar.add_task(what, total=None)
    bar.start()

    def step(done: int, total: int) -> None:
        bar.update(task, completed=done, total=total)
        if done == total:
            bar.stop()

    return step


# ---- data ------------------------------------------------------------------------------------


def extract(parser: Parser) -> Handler:
    """Toybox frames with ffmpeg."""
    _root(parser)
    parser.add_argument("--all-frames", action="store_true", help="every frame instead of one a second")
    parser.add_argument("--jobs", type=int, default=0, help="videos at once; 0: one a core")
    parser.add_argument(
        "--on-bad-sample", choices=("fail", "skip"), default="fail", help="what to do with a video that cannot be read"
    )

    def handle(namespace: argparse.Namespace, console: Any) -> int:
        from cl_plugin_crumb.data import dirmap, toybox

        bad: dict[str, str] = {}

        def on_bad(path: str, error: Exception) -> None:
            if namespace.on_bad_sample == "fail":
                raise error
            bad[path] = str(error).splitlines()[0]

        table = toybox.extract(
            namespace.root,
            fps=None if namespace.all_frames else 1.0,
            n_workers=namespace.jobs,
            on_bad=on_bad,
            on_step=_counter(console, "extracting"),
        )
        name = "toybox_dirmap_allframes.csv" if namespace.all_frames else "toybox_dirmap_unbalanced.csv"
        dirmap.write(table, namespace.root / name)
        console.print(
            f"{len(table)} frames in {namespace.root / name}" + (f"; {len(bad)} videos skipped" if bad else "")
        )
        if bad:
            console.table("skipped", ("video", "why"), sorted(bad.items()))
        console.json({"frames": len(table), "skipped": bad})
        return 0

    return handle


def index(parser: Parser) -> Handler:
    """Dirmap of a data set."""
    parser.add_argument("dataset", choices=INDEXED)
    _root(parser)

    def handle(namespace: argparse.Namespace, console: Any) -> int:
        from cl_plugin_crumb.data import dirmap, ilab, indexes, toybox

        root, name = namespace.root, namespace.dataset
        target = root / f"{name}_dirmap.csv"
        match name:
            case "toybox":
                table, target = toybox.index(root), root / "toybox_dirmap_unbalanced.csv"
            case "ilab2mlight":
                table, target = ilab.index_folder(root), root / "ilab2mlight_dirmap_all.csv"
            case "cifar100":
                table = indexes.cifar100(root)
            case "imagenet":
                table, classes = indexes.imagenet(root)
                classes.to_csv(root / "imagenet_classes.csv", index=False)
            case _:
                table = indexes.icubworld(root)
        dirmap.check(table, str(root))
        dirmap.write(table, target, index=name != "icubworldtransf")
        console.print(f"{len(table)} images in {target}")
        console.json({"images": len(table), "dirmap": str(target)})
        return 0

    return handle


def sample(parser: Parser) -> Handler:
    """Balanced samples."""
    parser.add_argument("dataset", choices=("toybox", "ilab2mlight"))
    _root(parser)

    def handle(namespace: argparse.Namespace, console: Any) -> int:
        from cl_plugin_crumb.data import dirmap, ilab, toybox

        root = namespace.root
        if namespace.dataset == "toybox":
            table = dirmap.read(root / "toybox_dirmap_unbalanced.csv")
            target = root / "toybox_dirmap.csv"
            made = toybox.sample(table[list(dirmap.COLUMNS)])
        else:
            table = dirmap.read(root / "ilab2mlight_dirmap_all.csv")
            target = root / "ilab2mlight_dirmap_massed.csv"
            made = ilab.sample(table[[c for c in table if not str(c).startswith("Unnamed")]])
        if made.empty:
            raise BadInput(
                "nothing is left after balancing: no object has all its sessions",
                where=str(root),
                fix="clk crumb stats says what there is",
            )
        dirmap.write(made, target)
        console.print(f"{len(made)} of {len(table)} images in {target}")
        for words in dirmap.imbalances(made):
            console.print(f"not balanced: {words}")
        console.json({"images": len(made), "dirmap": str(target)})
        return 0

    return handle


def distribute(parser: Parser) -> Handler:
    """ILab's sample in folders."""
    _root(parser)
    parser.add_argument("--target", type=Path, required=True, help="new folder")

    def handle(namespace: argparse.Namespace, console: Any) -> int:
        from cl_plugin_crumb.data import dirmap, ilab

        table = dirmap.read(namespace.root / "ilab2mlight_dirmap_massed.csv")
        table = table[[c for c in table if not str(c).startswith("Unnamed")]]
        made = ilab.distribute(table, namespace.root, namespace.target, _counter(console, "copying"))
        dirmap.write(made, namespace.target / "ilab2mlight_dirmap.csv")
        console.print(f"{len(made)} images in {namespace.target}")
        return 0

    return handle


def sparse(parser: Parser) -> Handler:
    """Thinned dirmap."""
    parser.add_argument("dirmap", type=Path)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--output", type=Path, required=True)

    def handle(namespace: argparse.Namespace, console: Any) -> int:
        from cl_plugin_crumb.data import dirmap

        if namespace.every < 1:
            raise BadSetting("cannot keep every 0th image", where="--every")
        table = dirmap.sparse(dirmap.read(namespace.dirmap), namespace.every)
        dirmap.write(table, namespace.output, index=False)
        console.print(f"{len(table)} images in {namespace.output}")
        return 0

    return handle


def upsample(parser: Parser) -> Handler:
    """Images at another size."""
    _root(parser)
    parser.add_argument("--target", type=Path, required=True)
    parser.add_argument("--size", type=int, default=224)

    def handle(namespace: argparse.Namespace, console: Any) -> int:
        from cl_plugin_crumb.data import indexes

        n = indexes.upsample(
            namespace.root, namespace.target, size=namespace.size, on_step=_counter(console, "resizing")
        )
        console.print(f"{n} images in {namespace.target}")
        return 0

    return handle


def stats(parser: Parser) -> Handler:
    """Counts of a dirmap."""
    parser.add_argument("dirmap", type=Path)

    def handle(namespace: argparse.Namespace, console: Any) -> int:
        from cl_plugin_crumb.data import dirmap

        found = dirmap.statistics(dirmap.read(namespace.dirmap))
        for heading, numbers in found.items():
            console.table(heading, ("", "number"), list(numbers.items()))
        console.json(found)
        return 0

    return handle


def check(parser: Parser) -> Handler:
    """Whole and balanced?"""
    parser.add_argument("dirmap", type=Path)
    parser.add_argument("--root", type=Path, help="folder the image paths are relative to; default: the dirmap's")

    def handle(namespace: argparse.Namespace, console: Any) -> int:
        from cl_plugin_crumb.data import dirmap

        table = dirmap.read(namespace.dirmap)
        root = namespace.root or namespace.dirmap.parent
        absent = dirmap.missing_files(table, root)
        found = dirmap.imbalances(table)
        for words in found:
            console.print(f"not balanced: {words}")
        if absent:
            console.print(f"{len(absent)} of {len(table)} images are missing below {root}, the first: {absent[0]}")
        if not absent and not found:
            console.print(f"{len(table)} images, all there and balanced")
        console.json({"images": len(table), "missing": len(absent), "imbalances": found})
        return 1 if absent else 0

    return handle


def lists(parser: Parser) -> Handler:
    """Task file lists."""
    from cl_plugin_crumb.settings import SCENARIOS

    parser.add_argument(
        "dataset", help="core50, toybox, ilab2mlight, cifar100, imagenet, icubworldtransf or ilab2mlight+core50"
    )
    parser.add_argument(
        "--dirmap", type=Path, nargs="+", required=True, help="one dirmap, or one for each part of a combined set"
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--scenario", choices=SCENARIOS, required=True)
    parser.add_argument("--offline", action="store_true")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--classes-per-task", type=int, default=0)
    parser.add_argument("--clips-per-task", type=int, default=80)
    parser.add_argument("--images-per-task", type=int, default=1200)
    parser.add_argument("--test-sessions", type=int, nargs="+")
    parser.add_argument("--shipped", action="store_true", help="keep the original's overlap of iid tasks (Q14)")

    def handle(namespace: argparse.Namespace, console: Any) -> int:
        from cl_plugin_crumb.data import dirmap
        from cl_plugin_crumb.data import lists as making

        parts = namespace.dataset.split("+")
        if len(parts) != len(namespace.dirmap):
            raise BadSetting(
                f"{namespace.dataset} has {len(parts)} parts, but {len(namespace.dirmap)} dirmaps were given",
                where="--dirmap",
            )
        tables = {name: dirmap.read(path) for name, path in zip(parts, namespace.dirmap, strict=True)}
        table = making.prepare(namespace.dataset, tables)
        folders = making.write(
            namespace.output,
            namespace.dataset,
            table,
            namespace.scenario,
            n_runs=namespace.runs,
            offline=namespace.offline,
            shipped=namespace.shipped,
            n_class=namespace.classes_per_task,
            n_instance=namespace.clips_per_task,
            task_size_iid=namespace.images_per_task,
            test_sessions=namespace.test_sessions,
        )
        console.print(f"{len(folders)} runs below {namespace.output}")
        console.json({"folders": list(map(str, folders))})
        return 0

    return handle


# ---- results ---------------------------------------------------------------------------------


def arms(parser: Parser) -> Handler:
    """Names of the ablation arms."""

    def handle(namespace: argparse.Namespace, console: Any) -> int:
        from cl_plugin_crumb import experiments

        rows = [(run.name, run.summary) for run in experiments.EXPERIMENTS if run.name.startswith("arm-")]
        console.table("arms of the ablation", ("test", "what differs"), rows)
        console.json([name for name, _ in rows])
        return 0

    return handle


def _named(pairs: list[str]) -> dict[str, list[Path]]:
    """``NAME=FOLDER`` arguments."""
    out: dict[str, list[Path]] = {}
    for pair in pairs:
        name, equals, place = pair.partition("=")
        if not equals or not Path(place).is_dir():
            raise BadSetting(f"{pair!r} does not read NAME=RUN_FOLDER, or there is no such folder", where="arguments")
        out.setdefault(name, []).append(Path(place))
    return out


def t_test(parser: Parser) -> Handler:
    """Paired t-tests."""
    parser.add_argument(
        "runs", nargs="+", metavar="ARM=RUN_FOLDER", help="one arm must be named unablated; repeat an arm for more runs"
    )

    def handle(namespace: argparse.Namespace, console: Any) -> int:
        from cl_plugin_crumb.evaluate import batches, statistics

        given = batches.arm_runs(_named(namespace.runs))
        if "unablated" not in given:
            raise MissingAsset("no arm named unablated to compare with", where="arguments", fix="unablated=RUN_FOLDER")
        found = statistics.t_tests(given)
        rows = [(name, t.mean_difference, t.statistic, f"{t.p:.3g}", t.n) for name, t in found.items()]
        console.table(
            "unablated minus arm, paired over test batches", ("arm", "difference (points)", "t", "p", "batches"), rows
        )
        console.json(
            {name: {"difference": t.mean_difference, "t": t.statistic, "p": t.p, "n": t.n} for name, t in found.items()}
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

        folders = _named(namespace.runs)
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


def merge(parser: Parser) -> Handler:
    """Join runs."""
    parser.add_argument("folders", type=Path, nargs="+", help="folders named runs-N, or folders that hold them")
    parser.add_argument("--output", type=Path, required=True)

    def handle(namespace: argparse.Namespace, console: Any) -> int:
        from cl_plugin_crumb.evaluate import tables

        found = [
            p
            for folder in namespace.folders
            for p in ([folder] if folder.name.startswith("runs-") else sorted(folder.rglob("runs-*")))
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
            for label, places in _named(namespace.runs).items()
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
