"""img2dataset as the carrier: its retries, processes and distributors bring the bytes, our filter judges them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cl_kernel import Mismatch, full_disk_named
from cl_plugin_clear.curation.client import BUSY
from cl_plugin_clear.curation.fetch import Options, Record, judge_with
from cl_plugin_clear.curation.images import ATTEMPTS, Picture
from cl_plugin_clear.curation.store import Store

Keyed = tuple[int, Record]
SHARD = 1000
"""Records of a shard at most: what a kill can cost each process."""


@contextlib.contextmanager
def _stdout_as_stderr() -> Iterator[None]:
    """What other processes print is progress, not the command's result."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def by_img2dataset(missing: Sequence[Keyed], options: Options, store: Store) -> Iterator[tuple[Keyed, Picture]]:
    """((place, record), picture) of each, in the order in which they come.

    Shards that are finished stay until the chunk is: after a kill they are not fetched again. It has no deadline for an
    answer and no limit on its size while it reads: a host that drips for ever holds it up.

    :raises Mismatch: where img2dataset is not installed.
    """
    by_key = {str(place): (place, record) for place, record in missing}
    work = _work_folder(store, missing)
    _carry(missing, options, store, work)
    seen = set()
    for key, found in _outcomes(work / "out", by_key, options):
        if key not in seen:
            seen.add(key)
            yield by_key[key], found
    for key, item in by_key.items():
        if key not in seen:
            yield item, Picture(status="http", error="img2dataset gave no answer")
    shutil.rmtree(work, ignore_errors=True)


def _work_folder(store: Store, missing: Sequence[Keyed]) -> Path:
    """Where the shards of these records lie; those of others are gone."""
    wanted = hashlib.sha256("\n".join(f"{place} {record.url}" for place, record in missing).encode()).hexdigest()[:16]
    above = store.scratch() / "img2dataset"
    for other in above.glob("*"):
        if other.name != wanted:
            shutil.rmtree(other, ignore_errors=True)
    work = above / wanted
    work.mkdir(parents=True, exist_ok=True)
    source = work / "urls.parquet"
    if not source.exists():
        pq.write_table(pa.table({"url": [r.url for _, r in missing], "caption": [str(p) for p, _ in missing]}), source)
    return work


def _carry(missing: Sequence[Keyed], options: Options, store: Store, work: Path) -> None:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    try:
        from img2dataset import download as carry
    except ImportError as error:
        raise Mismatch(
            "img2dataset is not installed",
            where="--engine img2dataset",
            fix="pip install 'cl-plugin-clear[download]', or --engine http",
        ) from error
    n_processes = max(1, options.n_processes)
    with full_disk_named(store.root), _stdout_as_stderr():
        carry(
            url_list=str(work / "urls.parquet"),
            output_folder=str(work / "out"),
            input_format="parquet",
            url_col="url",
            caption_col="caption",
            output_format="files",
            resize_mode="no",
            skip_reencode=True,
            number_sample_per_shard=min(SHARD, max(1, -(-len(missing) // n_processes))),
            processes_count=n_processes,
            thread_count=max(1, options.n_threads // n_processes),
            retries=ATTEMPTS - 1,
            timeout=int(max(1, options.timeout_s)),
            distributor=options.distributor,
            enable_wandb=False,
            max_shard_retry=1,
            incremental_mode="incremental",
            **({"disallowed_header_directives": []} if options.ignore_headers else {}),
        )


def _outcomes(out: Path, by_key: Mapping[str, Keyed], options: Options) -> Iterator[tuple[str, Picture]]:
    """Pictures with their records first, then failures, which leave no file but a row."""
    for path in sorted(out.glob("*/*.json")):
        entry = json.loads(path.read_text())
        key = str(entry["caption"])
        picture = next((p for p in path.parent.glob(f"{path.stem}.*") if p.suffix not in (".json", ".txt")), None)
        if entry.get("status") != "success" or picture is None:
            yield key, _failure(entry.get("status"), entry.get("error_message"))
        elif picture.stat().st_size > options.max_bytes:
            yield key, Picture(status="too_large", error=f"{picture.stat().st_size} bytes")
        else:
            yield key, judge_with(by_key[key][1].ext, options)(picture.read_bytes())
    for path in sorted(out.glob("*.parquet")):
        for entry in pq.read_table(path, columns=["caption", "status", "error_message"]).to_pylist():
            if entry["status"] != "success":
                yield str(entry["caption"]), _failure(entry["status"], entry["error_message"])


def _failure(status: str | None, error: str | None) -> Picture:
    """Its words in our statuses; the HTTP code stands in the message."""
    text = str(error or status)[:120]
    if status == "failed_to_resize":
        return Picture(status="decode", error=text)
    busy = any(f"HTTP Error {code}" in text for code in BUSY)
    return Picture(status="rate_limited" if busy else "http", error=text)
