"""Commands for human verification: mturk, collect, holdout, verify."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from cl_plugin_clear.commands import Handler, whole
from cl_plugin_clear.commands.classes import _label_map

if TYPE_CHECKING:
    from cl_plugin_clear.commands import Console


def mturk(parser: ArgumentParser) -> Handler:
    """Tasks out, votes in."""
    parser.add_argument("action", choices=("out", "in"))
    parser.add_argument("--folder", type=Path, default=None, metavar="DIR", help="out: labelled folder")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR")
    parser.add_argument("--url-prefix", default="", help="out: where the folder is served")
    parser.add_argument("--csv-length", type=whole(), default=0, help="out: rows a file at most")
    parser.add_argument("--votes", type=Path, nargs="*", default=[], metavar="CSV", help="in: validation results")
    parser.add_argument("--ethics", type=Path, nargs="*", default=[], metavar="CSV", help="in: ethics results")
    parser.add_argument("--label-map", type=Path, default=None, metavar="JSON", help="in: task label -> class")

    def handle(args: Namespace, console: Console) -> int:
        from cl_kernel import BadSetting
        from cl_plugin_clear.curation import crowd

        if args.action == "out":
            if args.folder is None or not args.url_prefix:
                raise BadSetting("task files need --folder and --url-prefix", where="clk clear mturk out")
            files = crowd.task_files(args.folder, args.to, args.url_prefix, length=args.csv_length)
            console.print(f"{len(files)} task files in {args.to}")
            console.json({"files": [str(f) for f in files]})
            return 0
        if not args.votes and not args.ethics:
            raise BadSetting("no results given", where="clk clear mturk in", fix="--votes CSV ... --ethics CSV ...")
        sizes = crowd.write_reports(
            args.to, crowd.read_votes(args.votes, _label_map(args.label_map)), crowd.read_ethics(args.ethics)
        )
        console.table("reports", ("report", "images"), list(sizes.items()))
        console.json(sizes)
        return 0

    return handle


def collect(parser: ArgumentParser) -> Handler:
    """Labelling-service answers in."""
    parser.add_argument("--folder", type=Path, required=True, metavar="DIR", help="labelled folder")
    parser.add_argument("--feedback", type=Path, required=True, metavar="DIR", help="<bucket>/<label>/<ID>.json")
    parser.add_argument("--user-labels", type=Path, default=None, metavar="JSON", help="answer -> class")
    parser.add_argument("--num-imgs", type=whole(1), default=150, help="per class and bucket (default 150)")
    parser.add_argument("--by", choices=("id", "score"), default="id", help="which confirmed pictures come first")
    parser.add_argument("--never", type=Path, default=None, metavar="CSV", help="flagged.csv: ids to leave out")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR")

    def handle(args: Namespace, console: Console) -> int:
        from cl_plugin_clear.curation import crowd
        from cl_plugin_clear.data.members import csv_rows

        never = frozenset(row["ID"] for _, row in csv_rows(args.never, ["ID"])) if args.never else frozenset()
        sizes = crowd.collect(
            args.folder,
            args.feedback,
            args.to,
            user_labels=_label_map(args.user_labels) or {},
            num_imgs=args.num_imgs,
            by=args.by,
            never=never,
        )
        console.table("kept", ("bucket", "pictures"), list(sizes.items()))
        console.json(sizes)
        return 0

    return handle


def holdout(parser: ArgumentParser) -> Handler:
    """A second, disjoint set."""
    parser.add_argument("--folder", type=Path, required=True, metavar="DIR", help="labelled folder to draw from")
    parser.add_argument("--public", type=Path, required=True, metavar="DIR", help="the first set")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR")
    parser.add_argument("--num-imgs", type=whole(1), default=150)
    parser.add_argument(
        "--after-line", type=whole(), default=10_060_000, help="source lines preferred (default beyond 10060000)"
    )

    def handle(args: Namespace, console: Console) -> int:
        from cl_plugin_clear.curation import crowd

        sizes = crowd.holdout(
            args.folder, args.public, args.to, num_imgs=args.num_imgs, after_line=args.after_line, report=console.say
        )
        left = crowd.overlap(args.to, args.public)
        console.table("hold-out", ("bucket", "pictures"), list(sizes.items()))
        console.print(f"shared with the first set: {sum(map(len, left.values()))}")
        console.json({"sizes": sizes, "overlap": left})
        return 0

    return handle


def verify(parser: ArgumentParser) -> Handler:
    """Containment and overlap of two sets."""
    parser.add_argument("a", type=Path, metavar="SMALL")
    parser.add_argument("b", type=Path, metavar="LARGE")
    parser.add_argument(
        "--overlap", action="store_true", help="photos in both, instead of what SMALL has and LARGE lacks"
    )

    def handle(args: Namespace, console: Console) -> int:
        from cl_plugin_clear.curation import crowd

        if args.overlap:
            found = crowd.overlap(args.a, args.b)
            console.table("in both", ("bucket", "photos"), [(k, len(v)) for k, v in found.items()])
        else:
            found = crowd.contained(args.a, args.b)
            console.table("missing in LARGE", ("bucket/label", "photos"), [(k, len(v)) for k, v in found.items()])
        console.print("none" if not found else f"{sum(map(len, found.values()))} photos")
        console.json(found)
        return 1 if found else 0

    return handle
