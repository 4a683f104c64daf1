"""Commands on one's own photographs: from-folder, classes."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from cl_plugin_clear.commands import Handler, add_root, real, show_statuses, whole

if TYPE_CHECKING:
    from cl_plugin_clear.commands import Console


def from_folder(parser: ArgumentParser) -> Handler:
    """A store of one's own photographs."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="photographs, in sub-folders or not")
    add_root(parser)
    parser.add_argument(
        "--dates", default="exif", metavar="exif|file|CSV", help="Exif, time of the file, or a csv with path,date"
    )
    parser.add_argument("--min-edge", type=whole(), default=0, metavar="PIXELS", help="least width and height; 0: off")
    parser.add_argument("--max-aspect-ratio", type=real(), default=0.0, help="long edge over short edge; 0: off")
    parser.add_argument("--chunk-size", type=whole(1), default=10_000)

    def handle(args: Namespace, console: Console) -> int:
        from cl_plugin_clear.curation.images import Limits
        from cl_plugin_clear.curation.own_photos import take_folder

        done = take_folder(
            args.folder,
            args.root,
            dates=args.dates,
            limits=Limits(min_size=0, min_edge=args.min_edge, max_aspect_ratio=args.max_aspect_ratio),
            chunk_size=args.chunk_size,
            report=lambda rows: console.say(f"{rows:,} photographs"),
        )
        show_statuses(console, done.counts)
        console.print(f"next: clk clear split --root {args.root} --buckets 5")
        console.json({"counts": done.counts, "chunks": done.n_chunks, "reused": done.n_reused})
        return 0

    return handle


def classes(parser: ArgumentParser) -> Handler:
    """A labelled folder from sub-folders that are classes."""
    add_root(parser)
    parser.add_argument("--split", required=True)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="labelled folder")
    parser.add_argument("--test-ratio", type=real(0, 1), default=0.3)
    parser.add_argument("--allow-short", action="store_true", help="go on when a bucket lacks a class")

    def handle(args: Namespace, console: Console) -> int:
        from cl_plugin_clear.curation.folder_classes import classes_from_folders
        from cl_plugin_clear.curation.labelled import build_folder
        from cl_plugin_clear.curation.training_folder import write_training_folder

        found = classes_from_folders(args.root, args.out, args.split, allow_short=args.allow_short)
        build_folder(args.root, args.out)
        write_training_folder(args.out, ratio=args.test_ratio)
        console.table("classes", ("class", "photographs"), list(found.items()))
        console.print(f"next: clk clear features --folder {args.out} --name lite0 --encoder clk:efficientnet-lite0")
        console.json(found)
        return 0

    return handle
