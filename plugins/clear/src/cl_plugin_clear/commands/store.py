"""Commands on the photo store: split, embed, status, relocate, forget, export, import."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_kernel import BadInput, BadSetting, MissingAsset
from cl_plugin_clear.commands import Handler, add_root, numbers, show_statuses, statuses, whole

if TYPE_CHECKING:
    from cl_plugin_clear.commands import Console


def split(parser: ArgumentParser) -> Handler:
    """Cut the stream."""
    add_root(parser)
    parser.add_argument("--name", default="", help="of the split (default: its rule)")
    parser.add_argument("--by", choices=("equal", "year", "time"), default="equal")
    parser.add_argument("--buckets", type=whole(1), default=11, help="equal buckets (default 11)")
    parser.add_argument(
        "--times",
        default="",
        metavar="JSON",
        help="intervals: {0: {start, end}, ...} or [[start, end], ...], or clear10",
    )
    parser.add_argument("--compat-original", action="store_true", help="the original's single pass over the intervals")
    parser.add_argument("--include-pending", action="store_true", help="also rows not downloaded yet")
    parser.add_argument(
        "--memory", default="384MB", help="of the sort; beyond it, it spills to the store's scratch folder"
    )
    parser.add_argument("--redo", action="store_true", help="replace a split of that name")

    def handle(args: Namespace, console: Console) -> int:
        from cl_plugin_clear.curation.buckets import Rule, make_split

        intervals = _intervals(args.times) if args.by == "time" else ()
        rule = Rule(by=args.by, n=args.buckets, intervals=intervals, compat_original=args.compat_original)
        name = args.name or {"equal": f"equal-{args.buckets}", "year": "year", "time": "time"}[args.by]
        done = make_split(
            args.root,
            name,
            rule,
            statuses=("ok", "pending") if args.include_pending else ("ok",),
            memory=args.memory,
            redo=args.redo,
        )
        console.table(
            f"split {name}",
            ("bucket", "pictures", "from", "to", "source rows"),
            [
                (
                    b["bucket"],
                    b["n"],
                    b["min_date"],
                    b["max_date"],
                    f"{b['first_row']}..{b['last_row']}" if b["n"] else None,
                )
                for b in done["buckets"]
            ],
        )
        console.print(
            f"{done['n_items']:,} pictures, {done['dropped']:,} of them in no bucket; "
            f"empty buckets: {', '.join(map(str, done['empty'])) or 'none'}"
            + ("; the split was there already" if done["reused"] else "")
        )
        console.print(f"next: clk clear embed --root {args.root} --split {name}")
        console.json(done)
        return 0

    return handle


def _intervals(text: str) -> tuple[tuple[str, str], ...]:
    import json

    from cl_plugin_clear.curation.concepts import INTERVALS_CLEAR10

    if text == "clear10":
        return INTERVALS_CLEAR10
    path = Path(text)
    if not path.is_file():
        raise MissingAsset("no file of intervals", where=text or "--times", fix="--times FILE, or --times clear10")
    try:
        content = json.loads(path.read_text())
        entries = [content[key] for key in sorted(content, key=int)] if isinstance(content, dict) else content
        return tuple(
            (str(e["start"]), str(e["end"])) if isinstance(e, dict) else (str(e[0]), str(e[1])) for e in entries
        )
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise BadInput(f"no list of {{start, end}}: {error!r}", where=text) from error


def embed(parser: ArgumentParser) -> Handler:
    """Features."""
    add_root(parser)
    parser.add_argument("--split", default="equal-11")
    parser.add_argument(
        "--model", "--encoder", default="RN50",
        help="toy, RN50, RN101, RN50x4, ViT-B/32, any of open_clip's, or any network as clk clear features names it; "
        "NAME@96 for pictures of 96 pixels",
    )  # fmt: skip
    parser.add_argument("--weights", default="openai", help="tag or file")
    parser.add_argument("--buckets", type=numbers, default=None, help="e.g. 0,3-5 (default all)")
    parser.add_argument("--batch-size", type=whole(1), default=128)
    parser.add_argument("--shard-rows", type=whole(1), default=500_000)
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32")
    parser.add_argument("--no-raw", action="store_true", help="keep the normalised features only")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=whole(1), default=4, help="decoding threads")
    parser.add_argument("--on-bad-sample", choices=("fail", "skip"), default="fail")

    def handle(args: Namespace, console: Console) -> int:
        import os

        from cl_plugin_clear.curation.features import embed as run
        from cl_plugin_clear.curation.features import open_model

        def bad(path: str, error: Exception) -> None:
            if args.on_bad_sample == "fail":
                raise BadInput(
                    f"cannot read a picture: {error}", where=path, fix="--on-bad-sample skip, or download it again"
                )
            console.say(f"left out {path}: {error}")

        model = open_model(args.model, weights=args.weights, device=args.device)
        done = run(
            args.root,
            args.split,
            model,
            batch_size=args.batch_size,
            buckets=args.buckets,
            shard_rows=args.shard_rows,
            dtype=args.dtype,
            keep_raw=not args.no_raw,
            n_threads=args.threads,
            rank=int(os.environ.get("RANK", "0")),
            world=int(os.environ.get("WORLD_SIZE", "1")),
            on_bad=bad,
        )
        console.print(
            f"features {args.model} of split {args.split}: {done.n_pictures:,} pictures embedded now, "
            f"{done.n_bad} unreadable; {done.n_made} shards made, {done.n_reused} were there"
        )
        console.json({"pictures": done.n_pictures, "made": done.n_made, "reused": done.n_reused, "bad": done.n_bad})
        return 0

    return handle


def status(parser: ArgumentParser) -> Handler:
    """What is there."""
    add_root(parser)

    def handle(args: Namespace, console: Console) -> int:
        import json

        from cl_plugin_clear.curation.store import DOWNLOADED, Store

        store = Store.open(args.root)
        counts = store.counts()
        splits = {p.stem: json.loads(p.read_text()) for p in sorted((args.root / "buckets").glob("*.json"))}
        models = {p.name: sorted(q.name for q in p.iterdir()) for p in sorted((args.root / "features").glob("*"))}
        show_statuses(console, counts)
        console.table(
            "splits", ("name", "rule", "pictures"), [(k, v["rule"]["by"], v["n_items"]) for k, v in splits.items()]
        )
        console.table("features", ("model", "splits"), [(k, ", ".join(v)) for k, v in models.items()])
        console.print(f"{len(store.chunks())} chunks complete, {len(store.chunks(DOWNLOADED))} downloaded")
        console.json(
            {
                "counts": counts,
                "chunks": len(store.chunks()),
                "downloaded": len(store.chunks(DOWNLOADED)),
                "splits": list(splits),
                "features": models,
            }
        )
        return 0

    return handle


def relocate(parser: ArgumentParser) -> Handler:
    """A moved store needs nothing; this looks whether all of it arrived."""
    add_root(parser)
    parser.add_argument("--sample", type=whole(), default=1000, help="pictures looked at; 0: all")

    def handle(args: Namespace, console: Console) -> int:
        import numpy as np

        from cl_plugin_clear.curation.pictures import Pictures
        from cl_plugin_clear.curation.store import Store

        store = Store.open(args.root)
        paths = [
            p for chunk in store.chunks() for p in store.read_chunk(chunk, ["rel_path"])["rel_path"].to_pylist() if p
        ]
        if args.sample and len(paths) > args.sample:
            paths = [paths[i] for i in np.random.default_rng(0).permutation(len(paths))[: args.sample]]
        pictures = Pictures(args.root)
        gone = [path for path in paths if not pictures.exists(path)]
        if gone:
            raise MissingAsset(
                f"{len(gone)} of {len(paths)} pictures looked at are missing, first {gone[0]}",
                where=str(args.root),
                fix="copy them too, or clk clear download --retry ok",
            )
        console.print(f"nothing to do: all paths are relative, {len(paths)} pictures looked at are there")
        console.json({"looked_at": len(paths), "missing": 0})
        return 0

    return handle


def forget(parser: ArgumentParser) -> Handler:
    """Drop photos: pictures, records, features, labels."""
    add_root(parser)
    parser.add_argument("--ids", required=True, metavar="ID,... | FILE", help="photo ids, or a file with one a line")
    parser.add_argument(
        "--labelled",
        action="append",
        type=Path,
        default=[],
        metavar="DIR",
        help="labelled folder to clean as well; repeatable",
    )

    def handle(args: Namespace, console: Console) -> int:
        from cl_plugin_clear.curation.forgetting import forget as forget_photos
        from cl_plugin_clear.curation.relabel import forget as forget_labelled

        text = Path(args.ids).read_text().replace("\n", ",") if Path(args.ids).is_file() else args.ids
        words = [part.strip() for part in text.split(",") if part.strip()]
        if odd := [word for word in words if not word.isdecimal() or int(word) >= 1 << 63]:
            raise BadInput(f"{odd[0]!r} is not an id, nor a file of ids", where="--ids")
        ids = sorted(map(int, words))
        found = forget_photos(args.root, ids)
        labelled = sum(forget_labelled(folder, ids) for folder in args.labelled)
        console.print(f"{found} of {len(ids)} photos forgotten in the store, {labelled} in labelled folders")
        console.json({"ids": len(ids), "store": found, "labelled": labelled})
        return 0

    return handle


def export(parser: ArgumentParser) -> Handler:
    """Tables of metadata."""
    add_root(parser)
    parser.add_argument("--to", type=Path, required=True, metavar="FILE", help=".csv or .parquet")
    parser.add_argument(
        "--labelled", type=Path, default=None, metavar="DIR", help="mark the photos of this labelled folder"
    )
    parser.add_argument("--only", choices=("all", "labelled", "unlabelled"), default="all")
    parser.add_argument(
        "--status", type=statuses, default="ok", metavar="STATUS,...", help="rows with these statuses (default ok)"
    )

    def handle(args: Namespace, console: Console) -> int:
        import pyarrow as pa

        from cl_plugin_clear.curation.store import Store
        from cl_plugin_clear.data.members import members_of

        if args.to.suffix not in (".csv", ".parquet"):
            raise BadSetting(
                f"unknown form {args.to.suffix!r}", where="--to", fix="a name that ends in .csv or .parquet"
            )
        if args.only != "all" and args.labelled is None:
            raise BadSetting(f"--only {args.only} needs --labelled DIR", where="--only")
        database = Store.open(args.root).database()
        rows: list[dict[str, Any]] = []
        if args.labelled is not None:
            _, buckets = members_of(args.labelled)
            rows = [
                {"id": int(photo), "bucket": int(b), "label": label}
                for b, classes in buckets.items()
                for label, records in classes.items()
                for photo in records
            ]
        labels = pa.Table.from_pylist(
            rows, schema=pa.schema([("id", pa.int64()), ("bucket", pa.int64()), ("label", pa.string())])
        )
        database.register("labels", labels)
        wanted = ", ".join(f"'{status}'" for status in args.status) or "''"
        condition = {"all": "true", "labelled": "l.label is not null", "unlabelled": "l.label is null"}[args.only]
        target = str(args.to).replace("'", "''")
        form = "(format csv, header)" if args.to.suffix == ".csv" else "(format parquet)"
        args.to.parent.mkdir(parents=True, exist_ok=True)
        query = f"select p.* exclude (exif), l.bucket, l.label from photos p left join labels l using (id) where p.status in ({wanted}) and {condition}"  # noqa: E501
        n = database.execute(f"select count(*) from ({query})").fetchall()[0][0]
        database.execute(f"copy ({query} order by row) to '{target}' {form}")
        console.print(f"{n} rows in {args.to}")
        console.json({"rows": n, "file": str(args.to)})
        return 0

    return handle


def legacy(parser: ArgumentParser) -> Handler:
    """The original's folder in."""
    add_root(parser)
    parser.add_argument(
        "--source", type=Path, required=True, metavar="DIR", help="folder with all_folders.json (or .pickle)"
    )
    parser.add_argument("--old-prefix", default="", help="beginning of the absolute paths in it that is no longer true")
    parser.add_argument("--chunk-size", type=whole(1), default=50_000)

    def handle(args: Namespace, console: Console) -> int:
        from cl_plugin_clear.curation.legacy import import_folder

        done = import_folder(args.source, args.root, old_prefix=args.old_prefix, chunk_size=args.chunk_size)
        console.print(
            f"{done.n_records} records, {done.n_pictures} pictures, {done.n_missing} missing, {done.n_chunks} chunks"
        )
        console.json({"records": done.n_records, "pictures": done.n_pictures, "missing": done.n_missing})
        return 0

    return handle
