"""``clk clear explore``: one page about a prompt, or a prompt loop."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from cl_plugin_clear.commands import Handler, add_root, numbers, real, whole

if TYPE_CHECKING:
    from cl_plugin_clear.commands import Console
    from cl_plugin_clear.curation.explore import Explorer


def explore(parser: ArgumentParser) -> Handler:
    """Look at what a prompt retrieves."""
    add_root(parser)
    parser.add_argument("--split", default="equal-11")
    parser.add_argument("--model", "--encoder", default="RN50", help="the model the features were made with")
    parser.add_argument("--weights", default="openai")
    parser.add_argument(
        "--prompt", default="", help="what to look for; without it: one prompt a line from the keyboard"
    )
    parser.add_argument("--picture", type=Path, default=None, help="look for pictures like this one")
    parser.add_argument("--bucket", type=whole(), default=1)
    parser.add_argument("--end", type=whole(1), default=40, help="pictures in the grid (default 40)")
    parser.add_argument("--retrieve", type=whole(1), default=1000, help="pictures retrieved a bucket (default 1000)")
    parser.add_argument("--ratio", type=real(), default=0.025, help="of them shown to judge precision (default 0.025)")
    parser.add_argument("--across", type=numbers, default="1,5,10", help="buckets to judge precision in")
    parser.add_argument("--worst", action="store_true", help="the least alike instead")
    parser.add_argument(
        "--serve",
        type=whole(),
        nargs="?",
        const=8765,
        default=None,
        metavar="PORT",
        help="judge by keyboard at 127.0.0.1",
    )
    parser.add_argument(
        "--export",
        type=Path,
        default=None,
        metavar="FILE",
        help="of the judgements: .csv, .txt (--never), .json (group)",
    )
    parser.add_argument("--to", type=Path, default=Path("explore.html"), metavar="FILE")

    def handle(args: Namespace, console: Console) -> int:
        import sys

        from cl_kernel import write_text
        from cl_plugin_clear.curation.explore import Explorer, page
        from cl_plugin_clear.curation.features import open_model

        if args.export is not None:
            return _export(args, console)
        explorer = Explorer(args.root, args.split, open_model(args.model, weights=args.weights))
        if args.serve is not None:
            return _serve(explorer, args, console)

        def show(query: str | Path) -> None:
            view = explorer.query(query, args.bucket, args.retrieve, worst=args.worst)
            content = page(
                explorer,
                query,
                args.bucket,
                k=args.retrieve,
                end=args.end,
                ratio=args.ratio,
                across=args.across,
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


def _export(args: Namespace, console: Console) -> int:
    from cl_plugin_clear.curation.review import Journal, export
    from cl_plugin_clear.curation.serve import journal_path

    n = export(Journal(journal_path(args.root, args.split)), args.export, split=args.split, model=args.model)
    console.print(f"{n} in {args.export}")
    console.json({"n": n, "file": str(args.export)})
    return 0


def _serve(explorer: Explorer, args: Namespace, console: Console) -> int:
    from cl_kernel import BadSetting
    from cl_plugin_clear.curation.review import Journal
    from cl_plugin_clear.curation.serve import Review, journal_path, server

    path = journal_path(args.root, args.split)
    try:
        httpd = server(Review(explorer, Journal(path)), args.serve)
    except (OSError, OverflowError) as error:
        raise BadSetting(f"port {args.serve} cannot be had: {error}", where="--serve", fix="--serve 0") from error
    with httpd:
        console.print(f"http://127.0.0.1:{httpd.server_address[1]}/ until Ctrl-C; judgements are kept in {path}")
        try:
            httpd.serve_forever()
        except KeyboardInterrupt:
            console.print("ended")
    return 0
