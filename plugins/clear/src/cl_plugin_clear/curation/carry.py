"""img2dataset as the carrier: its shards, processes and distributors, and in each of them our client and filter.

So every record has the status that the other engine gives it, with the same deadlines and limits.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import io
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from cl_kernel import Mismatch, full_disk_named
from cl_plugin_clear.curation.fetch import Options, Record
from cl_plugin_clear.curation.images import Picture
from cl_plugin_clear.curation.store import Store

Keyed = tuple[int, Record]
SHARD = 1000
"""Records of a shard at most: what a kill can cost each process."""


def by_img2dataset(missing: Sequence[Keyed], options: Options, store: Store) -> Iterator[tuple[Keyed, Picture]]:
    """((place, record), picture) of each, in the order in which they come.

    Shards that are finished stay until the chunk is: after a kill they are not fetched again.

    :raises Mismatch: where img2dataset is not installed.
    """
    left = {str(place): (place, record) for place, record in missing}
    work = _work_folder(store, missing, max(1, options.n_processes))
    _carry(options, store, work)
    for key, found in _outcomes(work / "out"):
        if key in left:
            yield left.pop(key), found
    for item in left.values():
        yield item, Picture(status="http", error="img2dataset lost the shard")
    shutil.rmtree(work, ignore_errors=True)


def _work_folder(store: Store, missing: Sequence[Keyed], n_processes: int) -> Path:
    """Where the shards of these records lie, as large as they were begun; those of other records are gone."""
    wanted = hashlib.sha256("\n".join(f"{place} {record.url}" for place, record in missing).encode()).hexdigest()[:16]
    above = store.scratch() / "img2dataset"
    for other in above.glob("*"):
        if other.name != wanted:
            shutil.rmtree(other, ignore_errors=True)
    work = above / wanted
    if not (work / "shard").exists():
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        addresses = {"url": [f"{r.ext} {r.url}" for _, r in missing], "caption": [str(place) for place, _ in missing]}
        pq.write_table(pa.table(addresses), work / "urls.parquet")
        (work / "shard.tmp").write_text(str(min(SHARD, -(-len(missing) // n_processes))))
        (work / "shard.tmp").rename(work / "shard")
    return work


def _carry(options: Options, store: Store, work: Path) -> None:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    try:
        carrier = importlib.import_module("img2dataset.main")  # the package's own "main" is a function
        from cl_plugin_clear.curation import carry_workers
    except ImportError as error:
        raise Mismatch(
            f"img2dataset is not installed: {error}",
            where="--engine img2dataset",
            fix="pip install 'cl-plugin-clear[download]', or --engine http",
        ) from error
    n_processes = max(1, options.n_processes)
    ours = {
        "Downloader": functools.partial(carry_workers.Worker, options=options),
        "LoggerProcess": carry_workers.Counting,
    }
    with full_disk_named(store.root), _stdout_as_stderr(), _parts_replaced(carrier, ours):
        carrier.download(
            url_list=str(work / "urls.parquet"),
            output_folder=str(work / "out"),
            input_format="parquet",
            url_col="url",
            caption_col="caption",
            output_format="files",
            disable_all_reencoding=True,
            number_sample_per_shard=int((work / "shard").read_text()),
            processes_count=n_processes,
            thread_count=max(1, options.n_threads // n_processes),
            distributor=options.distributor,
            enable_wandb=False,
            max_shard_retry=1,
            incremental_mode="incremental",
        )


@contextlib.contextmanager
def _parts_replaced(module: Any, parts: Mapping[str, Any]) -> Iterator[None]:
    """img2dataset makes its workers by these names and offers no other way to give them a client of one's own."""
    before = {name: getattr(module, name) for name in parts}
    vars(module).update(parts)
    try:
        yield
    finally:
        vars(module).update(before)


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


def _outcomes(out: Path) -> Iterator[tuple[str, Picture]]:
    """(key, picture) of every record in a finished shard; a shard is finished once its statistics are there."""
    for finished in sorted(out.glob("*_stats.json")):
        shard = finished.name.removesuffix("_stats.json")
        rows = pq.read_table(out / f"{shard}.parquet", columns=["key", "caption", "error_message"]).to_pylist()
        for row in rows:
            if row["error_message"]:
                yield row["caption"], _failure(row["error_message"])
            else:
                yield row["caption"], _kept((out / shard / f"{row['key']}.jpg").read_bytes())


def _failure(text: str) -> Picture:
    """What a worker said of a record without a picture."""
    try:
        return Picture(**json.loads(text))
    except (ValueError, TypeError):  # an error of img2dataset's own
        return Picture(status="http", error=text[:120])


def _kept(data: bytes) -> Picture:
    """A picture that a worker judged to be good; its pixels are not decoded again."""
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
    return Picture(status="ok", width=width, height=height, data=data, sha256=hashlib.sha256(data).hexdigest())
