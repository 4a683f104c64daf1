"""Commands on the photo store: metadata, download, split, embed, status, forget, export, import."""

from __future__ import annotations

import re
import tarfile
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_kernel import BadInput, BadSetting, MissingAsset
from cl_plugin_clear.commands import Handler, add_root, numbers, show_statuses

if TYPE_CHECKING:
    from cl_plugin_clear.commands import Console

STEMS = ("yfcc100m_dataset", "yfcc100m_autotags-v1", "yfcc100m_lines", "yfcc100m_hash", "yfcc100m_exif")
"""The five files of the release, each as .tgz, .bz2 or .gz."""
SQLITE = "yfcc100m_dataset.sql"
ACQUIRE = """where the metadata come from:
  --fetch URL gets what is there: the five files as .tgz (unpacked), .bz2 or .gz, the ten parts, or the SQLite release.
  The public bucket needs no credentials:
    pip install s3fs && clk clear metadata --root STORE --fetch s3://BUCKET/FOLDER --access anonymous --source FOLDER
  s3://mmcommons makes the requester pay: --access requester-pays, with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
  Any address that fsspec knows works the same way (https://..., gs://..., a local folder). Files that lie in --source
  already are not fetched. With --delete-archives, .tgz archives are removed once unpacked."""
ACCESS = {"default": {}, "anonymous": {"anon": True}, "requester-pays": {"requester_pays": True}}
"""How a bucket is asked, as options of s3fs."""


def metadata(parser: ArgumentParser) -> Handler:
    """Parse and filter metadata."""
    import argparse

    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = ACQUIRE
    add_root(parser)
    parser.add_argument("--source", type=Path, required=True, metavar="DIR", help="folder of the metadata files")
    parser.add_argument("--dataset", nargs="*", default=[], metavar="FILE", help="other dataset file(s), in order")
    parser.add_argument("--sqlite", default="", metavar="FILE", help="the SQLite release instead")
    parser.add_argument("--fetch", default="", metavar="URL", help="first get what is here, see below")
    parser.add_argument("--access", choices=tuple(ACCESS), default="default", help="of a bucket (s3://)")
    parser.add_argument("--delete-archives", action="store_true", help="remove the archives once unpacked")
    parser.add_argument(
        "--toy", type=int, default=0, metavar="N", help="first write toy data of N records into --source"
    )
    parser.add_argument("--chunk-size", type=int, default=50_000, help="source lines a chunk (default 50000)")
    parser.add_argument(
        "--keep-invalid-dates", action="store_true", help="keep photos whose date is missing or after the upload"
    )
    parser.add_argument(
        "--taken-slack-hours", type=float, default=0.0, help="how far ahead a camera clock may be (0: original)"
    )
    parser.add_argument("--threads", type=int, default=0, help="parsing threads (default: cores + 1, at most 8)")

    def handle(args: Namespace, console: Console) -> int:
        from attrs import evolve

        from cl_plugin_clear.curation.ingest import ingest
        from cl_plugin_clear.curation.metadata import Filter
        from cl_plugin_clear.curation.source import Source

        if args.chunk_size < 1:
            raise BadSetting(f"chunks of {args.chunk_size} lines", where="--chunk-size")
        if args.toy:
            from cl_plugin_clear.data.toy import write_metadata

            write_metadata(args.source, args.toy)
        if args.fetch:
            _fetch(args, console)
        if args.sqlite:
            source = Source(sqlite=args.sqlite)
        elif args.dataset:
            source = evolve(
                Source.of_folder(args.source)
                if args.source.is_dir() and any(args.source.glob("yfcc100m_*"))
                else Source(),
                dataset=tuple(args.dataset),
                sqlite="",
            )
        else:
            source = Source.of_folder(args.source)
        done = ingest(
            args.root,
            source,
            chunk_size=args.chunk_size,
            n_threads=args.threads,
            rule=Filter(use_valid_date=not args.keep_invalid_dates, slack_hours=args.taken_slack_hours),
            report=lambda rows: console.say(f"{rows:,} rows"),
        )
        total = sum(done.counts.values())
        show_statuses(console, done.counts)
        parsed = min(total, done.n_parsed * args.chunk_size)
        console.print(
            f"{total:,} rows: {done.n_parsed} chunks parsed now, {done.n_reused} were there; "
            f"{done.seconds:.1f} s, {parsed / max(done.seconds, 1e-9):,.0f} rows/s"
        )
        if done.counts.get("pending"):
            console.print(f"next: clk clear download --root {args.root}")
        console.json({"counts": done.counts, "parsed": done.n_parsed, "reused": done.n_reused, "seconds": done.seconds})
        return 0

    return handle


def _fetch(args: Namespace, console: Console) -> None:
    """What the release has at an address, into the source folder; whole or not at all."""
    folder: Path = args.source
    folder.mkdir(parents=True, exist_ok=True)
    options = ACCESS[args.access] if args.fetch.startswith("s3://") else {}
    names = _listed(args.fetch, options)
    dataset = [name for name in names if re.fullmatch(r"yfcc100m_dataset(-\d+)?(\.tgz|\.bz2|\.gz)?", name)]
    if not dataset and SQLITE not in names:
        raise MissingAsset(
            "no dataset file there: neither yfcc100m_dataset (.tgz, .bz2, .gz), nor its parts, nor the SQLite release",
            where=args.fetch,
            fix="give the folder that holds them; see clk clear metadata --help for credentials",
        )
    for name in names:
        stem = name.removesuffix(".tgz")
        if (folder / stem).exists():
            console.say(f"{stem} is there")
            continue
        if not (folder / name).exists():
            _get(f"{args.fetch.rstrip('/')}/{name}", folder / name, options)
        if name.endswith(".tgz"):
            _unpack(folder / name, stem)
            if args.delete_archives:
                (folder / name).unlink()
        console.say(f"{stem} is there now")


FORMS = {stem: tuple(stem + ending for ending in ("", ".bz2", ".gz", ".tgz")) for stem in STEMS}
PARTS = tuple(f"yfcc100m_dataset-{number}.bz2" for number in range(10))


def _listed(url: str, options: Mapping[str, Any]) -> list[str]:
    """Files of the release at an address, one form of each; where it cannot be listed, each name is asked for."""
    import fsspec

    wanted = {name for forms in FORMS.values() for name in forms} | {*PARTS, SQLITE}
    try:
        system, path = fsspec.core.url_to_fs(url, **options)
        try:
            there = {entry.rstrip("/").rpartition("/")[2] for entry in system.ls(path, detail=False)} & wanted
        except OSError:
            there = set()
        there = there or {name for name in wanted if system.exists(f"{path.rstrip('/')}/{name}")}
    except (OSError, ImportError, ValueError) as error:
        fix = "see clk clear metadata --help for credentials"
        raise MissingAsset(f"cannot look: {error}", where=url, fix=fix) from error
    found = [next((name for name in forms if name in there), "") for forms in FORMS.values()]
    parts = [name for name in PARTS if name in there]
    if found[0]:  # the dataset in one piece: neither parts nor SQLite are needed
        return [name for name in found if name]
    return [name for name in (*found, *(parts or [SQLITE] * (SQLITE in there))) if name]


def _get(url: str, target: Path, options: Mapping[str, Any]) -> None:
    import fsspec

    part = target.with_name(target.name + ".part")
    try:
        with fsspec.open(url, "rb", **options) as source, part.open("wb") as out:
            while data := source.read(1 << 22):
                out.write(data)
    except (OSError, ImportError, ValueError) as error:
        fix = "see clk clear metadata --help for credentials"
        raise MissingAsset(f"cannot fetch {target.name}: {error}", where=url, fix=fix) from error
    part.replace(target)


def _unpack(archive: Path, stem: str) -> None:
    try:
        with tarfile.open(archive) as opened:
            for member in opened:
                if member.isfile() and Path(member.name).name == stem:
                    inner = opened.extractfile(member)
                    part = archive.with_name(f".{stem}.part")
                    with part.open("wb") as out:
                        while inner is not None and (data := inner.read(1 << 22)):
                            out.write(data)
                    part.replace(archive.with_name(stem))
    except (tarfile.TarError, EOFError, OSError) as error:
        raise BadInput(
            f"the archive is damaged: {error}", where=str(archive), fix="remove it and fetch again"
        ) from error
    if not archive.with_name(stem).exists():
        raise BadInput(f"the archive holds no file {stem}", where=str(archive))


def download(parser: ArgumentParser) -> Handler:
    """Fetch pictures."""
    add_root(parser)
    parser.add_argument(
        "--url-template",
        default="",
        help="e.g. https://mirror/{hash[0:3]}/{hash[3:6]}/{hash}.jpg "
        "(default {download_url}, with --from-folder {id}.{ext})",
    )
    parser.add_argument(
        "--from-folder", default="", metavar="DIR", help="take the pictures from here; the template names the file"
    )
    parser.add_argument(
        "--engine",
        choices=("http", "img2dataset", "auto", "threads"),
        default="http",
        help="img2dataset: for Ray and PySpark; auto and threads are older names of http",
    )
    parser.add_argument(
        "--output", choices=("files", "tar"), default="files", help="tar: one a chunk, webdataset's form"
    )
    parser.add_argument("--distributor", choices=("multiprocessing", "ray", "pyspark"), default="multiprocessing")
    parser.add_argument("--processes", type=int, default=4, help="of img2dataset")
    parser.add_argument("--threads", type=int, default=128, help="requests at a time (default 128)")
    parser.add_argument("--per-host", type=int, default=0, help="of them to one host; 0: no limit of its own")
    parser.add_argument("--original-bytes", action="store_true", help="keep pictures as they came, not re-encoded")
    parser.add_argument(
        "--min-size", type=int, default=10, metavar="BYTES", help="least bytes of the re-encoded file; 0: off"
    )
    parser.add_argument("--min-edge", type=int, default=0, metavar="PIXELS", help="least width and height; 0: off")
    parser.add_argument("--max-aspect-ratio", type=float, default=0.0, help="long edge over short edge; 0: off")
    parser.add_argument(
        "--timeout", type=float, default=10.0, metavar="S", help="for a connection, and each wait on it"
    )
    parser.add_argument("--deadline", type=float, default=60.0, metavar="S", help="for a whole answer")
    parser.add_argument(
        "--retry-wait", type=float, default=1.0, metavar="S", help="before the second of four attempts, then twice that"
    )
    parser.add_argument(
        "--patience", type=float, default=60.0, metavar="S", help="longest wait that a host may ask for (Retry-After)"
    )
    parser.add_argument("--max-bytes", type=int, default=64 << 20, help="larger answers are not read")
    parser.add_argument("--retry", default="", metavar="STATUS,...", help="try these once more, e.g. http,decode")
    parser.add_argument(
        "--unavailable-sha256", default="", metavar="HEX,...", help="known 'photo unavailable' pictures"
    )
    parser.add_argument(
        "--ignore-noai-headers", action="store_true", help="fetch what asks not to be used (img2dataset)"
    )

    def handle(args: Namespace, console: Console) -> int:
        from cl_plugin_clear.curation.download import download as run
        from cl_plugin_clear.curation.fetch import Options
        from cl_plugin_clear.curation.images import Limits
        from cl_plugin_clear.curation.records import UNUSABLE

        if args.threads < 1:
            raise BadSetting(f"{args.threads} threads", where="--threads", fix="--threads 1")
        if args.from_folder and not Path(args.from_folder).is_dir():
            raise MissingAsset("no such folder", where=args.from_folder)
        template = args.url_template or ("{id}.{ext}" if args.from_folder else "{download_url}")
        options = Options(
            limits=Limits(min_size=args.min_size, min_edge=args.min_edge, max_aspect_ratio=args.max_aspect_ratio),
            template=template,
            folder=args.from_folder,
            engine=args.engine,
            output=args.output,
            n_threads=args.threads,
            per_host=args.per_host,
            patience_s=args.patience,
            reencode=not args.original_bytes,
            timeout_s=args.timeout,
            deadline_s=args.deadline,
            retry_wait_s=args.retry_wait,
            max_bytes=args.max_bytes,
            distributor=args.distributor,
            n_processes=args.processes,
            ignore_headers=args.ignore_noai_headers,
            unavailable=frozenset(filter(None, args.unavailable_sha256.lower().split(","))),
        )
        state = run(
            args.root,
            options,
            retry=[s for s in args.retry.split(",") if s],
            report=lambda s: console.say(
                f"{s.n_chunks} chunks, {s.counts['ok']:,} pictures, {s.n_bytes / max(s.seconds, 1e-9) / 1e6:.1f} MB/s"
            ),
        )
        show_statuses(console, state.counts)
        n = sum(v for k, v in state.counts.items() if k not in UNUSABLE)
        console.print(
            f"{state.n_chunks} chunks done now, {state.n_reused_chunks} were done; "
            f"{state.n_reused_pictures} pictures were on the disk; {n / max(state.seconds, 1e-9):.0f} records/s"
        )
        if failed := [s for s in ("http", "rate_limited", "decode", "too_large") if state.counts.get(s)]:
            console.print(
                f"to try the failed once more: clk clear download --root {args.root} --retry {','.join(failed)}"
            )
        if state.counts.get("ok"):
            console.print(f"next: clk clear split --root {args.root}")
        console.json(
            {
                "counts": dict(state.counts),
                "chunks": state.n_chunks,
                "reused_chunks": state.n_reused_chunks,
                "reused_pictures": state.n_reused_pictures,
                "bytes": state.n_bytes,
                "seconds": state.seconds,
            }
        )
        return 0

    return handle


def split(parser: ArgumentParser) -> Handler:
    """Cut the stream."""
    add_root(parser)
    parser.add_argument("--name", default="", help="of the split (default: its rule)")
    parser.add_argument("--by", choices=("equal", "year", "time"), default="equal")
    parser.add_argument("--buckets", type=int, default=11, help="equal buckets (default 11)")
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
    parser.add_argument("--model", default="RN50", help="toy, RN50, RN101, RN50x4, ViT-B/32, or any of open_clip's")
    parser.add_argument("--weights", default="openai", help="tag or file")
    parser.add_argument("--buckets", default="", help="e.g. 0,3-5 (default all)")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--shard-rows", type=int, default=500_000)
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32")
    parser.add_argument("--no-raw", action="store_true", help="keep the normalised features only")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=4, help="decoding threads")
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
            buckets=numbers(args.buckets) if args.buckets else None,
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
    parser.add_argument("--sample", type=int, default=1000, help="pictures looked at; 0: all")

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
        try:
            ids = sorted({int(part) for part in text.split(",") if part.strip()})
        except ValueError as error:
            raise BadInput(f"not an id: {error}", where="--ids") from None
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
    parser.add_argument("--status", default="ok", metavar="STATUS,...", help="rows with these statuses (default ok)")

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
        wanted = ", ".join("'" + s.strip().replace("'", "") + "'" for s in args.status.split(","))
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
    parser.add_argument("--chunk-size", type=int, default=50_000)

    def handle(args: Namespace, console: Console) -> int:
        from cl_plugin_clear.curation.legacy import import_folder

        done = import_folder(args.source, args.root, old_prefix=args.old_prefix, chunk_size=args.chunk_size)
        console.print(
            f"{done.n_records} records, {done.n_pictures} pictures, {done.n_missing} missing, {done.n_chunks} chunks"
        )
        console.json({"records": done.n_records, "pictures": done.n_pictures, "missing": done.n_missing})
        return 0

    return handle
