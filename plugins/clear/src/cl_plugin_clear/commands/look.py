"""``clk clear explore``: one page about a prompt, or a prompt loop."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from cl_plugin_clear.commands import Handler, add_root, numbers

if TYPE_CHECKING:
    from cl_plugin_clear.commands import Console


def explore(parser: ArgumentParser) -> Handler:
    """Look at what a prompt retrieves."""
    add_root(parser)
    parser.add_argument("--split", default="equal-11")
    parser.add_argument("--model", default="RN50", help="the model the features were made with")
    parser.add_argument("--weights", default="openai")
    parser.add_argument(
        "--prompt", default="", help="what to look for; without it: one prompt a line from the keyboard"
    )
    parser.add_argument("--picture", type=Path, default=None, help="look for pictures like this one")
    parser.add_argument("--bucket", type=int, default=1)
    parser.add_argument("--end", type=int, default=40, help="pictures in the grid (default 40)")
    parser.add_argument("--retrieve", type=int, default=1000, help="pictures retrieved a bucket (default 1000)")
    parser.add_argument("--ratio", type=float, default=0.025, help="of them shown to judge precision (default 0.025)")
    parser.add_argument("--across", default="1,5,10", help="buckets to judge precision in")
    parser.add_argument("--worst", action="store_true", help="the least alike instead")
    parser.add_argument("--to", type=Path, default=Path("explore.html"), metavar="FILE")

    def handle(args: Namespace, console: Console) -> int:
        import sys

        from cl_kernel import write_text
        from cl_plugin_clear.curation.explore import Explorer, page
        from cl_plugin_clear.curation.features import open_model

        explorer = Explorer(args.root, args.split, open_model(args.model, weights=args.weights))

        def show(query: str | Path) -> None:
            view = explorer.query(query, args.bucket, args.retrieve, worst=args.worst)
            content = page(
                explorer,
                query,
                args.bucket,
                k=args.retrieve,
                end=args.end,
                ratio=args.ratio,
                across=numbers(args.across),
                worst=args.worst,
            )
            write_text(args.to, content)
            best = [(h.id, round(h.score, 4), h.rel_path) for h in view.hits[: min(args.end, 10)]]
            console.table(f"bucket {args.bucket}: {query}", ("photo", "score", "picture"), best)
            console.table("per year", ("year", "pictures"), list(view.years.items()))
            scores = [h.score for h in view.hits]
            if scores:
                console.print(f"{len(scores)} retrieved, scores {max(scores):.3f} to {min(scores):.3f}")
            console.print(f"page with the grid, the histograms and the precision view: {args.to}")
            console.json(
                {
                    "query": str(query),
                    "bucket": args.bucket,
                    "page": str(args.to),
                    "years": view.years,
                    "hits": [{"id": h.id, "score": h.score, "rel_path": h.rel_path} for h in view.hits[: args.end]],
                }
            )

        if args.picture is not None:
            show(args.picture)
        elif args.prompt:
            show(args.prompt)
        else:
            console.say("one prompt a line; an empty line ends")
            for line in sys.stdin:
                if not line.strip():
                    break
                show(line.strip())
        return 0

    return handle
