"""Commands that prepare data sets."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cl_kernel import BadInput, BadSetting

Parser = argparse.ArgumentParser
Handler = Callable[[argparse.Namespace, Any], int]
INDEXED = ("core50", "toybox", "ilab2mlight", "cifar100", "imagenet", "icubworldtransf")


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


def _toybox_name(all_frames: bool) -> str:
    return "toybox_dirmap_allframes.csv" if all_frames else "toybox_dirmap_unbalanced.csv"


def _names_below(root: Path) -> list[str]:
    """Names of CORe50's images, below its folder or the folder itself."""
    place = root / "core50_128x128"
    return [path.name for path in (place if place.is_dir() else root).rglob("*.png")]


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
        name = _toybox_name(namespace.all_frames)
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
    parser.add_argument("--camera", choices=("left", "right"), default="left", help="of iCubWorld")
    parser.add_argument("--every", type=int, default=10, help="of iCubWorld's frames, one in so many")
    parser.add_argument("--archive", type=Path, help="CORe50's zip or tar file: its names are enough")
    parser.add_argument("--all-frames", action="store_true", help="Toybox: of clk crumb extract --all-frames")

    def handle(namespace: argparse.Namespace, console: Any) -> int:
        from cl_plugin_crumb.data import archives, dirmap, ilab, indexes, toybox

        root, name = namespace.root, namespace.dataset
        target = root / f"{name}_dirmap.csv"
        match name:
            case "core50":
                inside = archives.names(namespace.archive) if namespace.archive else _names_below(root)
                table = indexes.core50(inside)
                if gaps := indexes.core50_gaps(table):
                    console.print(f"{len(gaps)} of 550 clips are missing: {', '.join(gaps[:5])} ...")
            case "toybox":
                fps = None if namespace.all_frames else 1.0
                table, target = toybox.index(root, fps=fps), root / _toybox_name(namespace.all_frames)
            case "ilab2mlight":
                table, target = ilab.index_folder(root), root / "ilab2mlight_dirmap_all.csv"
            case "cifar100":
                table = indexes.cifar100(root)
            case "imagenet":
                table, classes = indexes.imagenet(root)
                classes.to_csv(root / "imagenet_classes.csv", index=False)
            case _:
                if namespace.every < 1:
                    raise BadSetting("cannot keep one of no frames", where="--every")
                table = indexes.icubworld(root, every=namespace.every, camera=namespace.camera)
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
    parser.add_argument("--shipped", action="store_true", help="as the authors' scripts, overlap of iid tasks included")
    parser.add_argument(
        "--layout",
        choices=("authors", "authors-o2", "plain"),
        default="authors",
        help="folders before the image paths of a combined set: the authors', those of their cluster, or none",
    )
    parser.add_argument(
        "--classes-per-dataset",
        type=int,
        nargs="+",
        default=[],
        metavar="N",
        help="class numbers of each part of a combined set: the authors' order of classes, absent numbers included",
    )

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
        layouts = {"authors": making.FOLDERS, "authors-o2": making.SHARED_FOLDERS, "plain": None}
        table = making.prepare(namespace.dataset, tables, layouts[namespace.layout])
        folders = making.write(
            namespace.output,
            namespace.dataset,
            table,
            namespace.scenario,
            n_runs=namespace.runs,
            offline=namespace.offline,
            shipped=namespace.shipped,
            class_counts=namespace.classes_per_dataset,
            n_class=namespace.classes_per_task,
            n_instance=namespace.clips_per_task,
            task_size_iid=namespace.images_per_task,
            test_sessions=namespace.test_sessions,
        )
        console.print(f"{len(folders)} runs below {namespace.output}")
        console.json({"folders": list(map(str, folders))})
        return 0

    return handle
