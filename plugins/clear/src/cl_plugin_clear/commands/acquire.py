"""Commands that fill the photo store from outside: metadata, pictures."""

from __future__ import annotations

import re
import tarfile
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_kernel import BadInput, MissingAsset
from cl_plugin_clear.commands import Handler, add_root, real, show_statuses, statuses, whole

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
        "--toy", type=whole(), default=0, metavar="N", help="first write toy data of N records into --source"
    )
    parser.add_argument("--chunk-size", type=whole(1), default=50_000, help="source lines a chunk (default 50000)")
    parser.add_argument(
        "--keep-invalid-dates", action="store_true", help="keep photos whose date is missing or after the upload"
    )
    parser.add_argument(
        "--taken-slack-hours", type=real(), default=0.0, help="how far ahead a camera clock may be (0: original)"
    )
    parser.add_argument("--threads", type=whole(), default=0, help="parsing threads (default: cores + 1, at most 8)")

    def handle(args: Namespace, console: Console) -> int:
        from attrs import evolve

        from cl_plugin_clear.curation.ingest import ingest
        from cl_plugin_clear.curation.metadata import Filter
        from cl_plugin_clear.curation.source import Source

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
        if done.hashes.n_others:
            console.print(
                f"{done.hashes.n_others} of {done.hashes.n_rows} hashes looked at are not what their addresses give "
                f"({done.hashes.example}); {{hash}} in an address template stays the release's: is it of these photos?"
            )
        if done.counts.get("pending"):
            console.print(f"next: clk clear download --root {args.root}")
        console.json(
            {
                "counts": done.counts,
                "parsed": done.n_parsed,
                "reused": done.n_reused,
                "seconds": done.seconds,
                "hashes": {"looked_at": done.hashes.n_rows, "not_derived": done.hashes.n_others},
            }
        )
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
        help="img2dataset: the same client in the processes of Ray or PySpark; auto, threads: older names of http",
    )
    parser.add_argument(
        "--output", choices=("files", "tar"), default="files", help="tar: one a chunk, webdataset's form"
    )
    parser.add_argument("--distributor", choices=("multiprocessing", "ray", "pyspark"), default="multiprocessing")
    parser.add_argument("--processes", type=whole(1), default=4, help="of img2dataset")
    parser.add_argument("--threads", type=whole(1), default=128, help="requests at a time (default 128)")
    parser.add_argument("--per-host", type=whole(), default=0, help="of them to one host; 0: no limit of its own")
    parser.add_argument("--original-bytes", action="store_true", help="keep pictures as they came, not re-encoded")
    parser.add_argument(
        "--min-size", type=whole(), default=10, metavar="BYTES", help="least bytes of the re-encoded file; 0: off"
    )
    parser.add_argument("--min-edge", type=whole(), default=0, metavar="PIXELS", help="least width and height; 0: off")
    parser.add_argument("--max-aspect-ratio", type=real(), default=0.0, help="long edge over short edge; 0: off")
    parser.add_argument(
        "--timeout", type=real(0.001), default=10.0, metavar="S", help="for a connection, and each wait on it"
    )
    parser.add_argument("--deadline", type=real(0.001), default=60.0, metavar="S", help="for a whole answer")
    parser.add_argument(
        "--retry-wait",
        type=real(),
        default=1.0,
        metavar="S",
        help="before the second of four attempts, then twice that",
    )
    parser.add_argument(
        "--patience", type=real(), default=60.0, metavar="S", help="longest wait that a host may ask for (Retry-After)"
    )
    parser.add_argument("--max-bytes", type=whole(1), default=64 << 20, help="larger answers are not read")
    parser.add_argument(
        "--retry", type=statuses, default="", metavar="STATUS,...", help="try these once more, e.g. http,decode"
    )
    parser.add_argument(
        "--unavailable-sha256", default="", metavar="HEX,...", help="known 'photo unavailable' pictures"
    )
    parser.add_argument(
        "--ignore-noai-headers", action="store_true", help="fetch also what its host asks not to use (X-Robots-Tag)"
    )

    def handle(args: Namespace, console: Console) -> int:
        from cl_plugin_clear.curation.download import download as run
        from cl_plugin_clear.curation.fetch import Options
        from cl_plugin_clear.curation.images import Limits
        from cl_plugin_clear.curation.records import UNUSABLE

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
            retry=args.retry,
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
