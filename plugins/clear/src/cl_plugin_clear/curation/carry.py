"""img2dataset as the carrier: its retries, processes and distributors bring the bytes, our filter judges them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from cl_kernel import Mismatch, full_disk_named
from cl_plugin_clear.curation.fetch import Options, Record
from cl_plugin_clear.curation.images import ATTEMPTS, Picture, decode
from cl_plugin_clear.curation.store import Store


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


def by_img2dataset(
    missing: Sequence[tuple[int, Record]], options: Options, store: Store
) -> Iterator[tuple[int, Picture, Record]]:
    """(place, picture, record) of each, in the order in which they come.

    :raises Mismatch: where img2dataset is not installed.
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    try:
        from img2dataset import download as carry
    except ImportError as error:
        raise Mismatch(
            "img2dataset is not installed",
            where="--engine img2dataset",
            fix="pip install 'cl-plugin-clear[download]', or --engine threads",
        ) from error
    work = store.scratch() / "img2dataset"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    by_key = {f"{place}": (place, record) for place, record in missing}
    source = work / "urls.parquet"
    pq.write_table(pa.table({"url": [r.url for _, r in missing], "caption": list(by_key)}), source)
    with full_disk_named(store.root), _stdout_as_stderr():
        carry(
            url_list=str(source),
            output_folder=str(work / "out"),
            input_format="parquet",
            url_col="url",
            caption_col="caption",
            output_format="files",
            resize_mode="no",
            skip_reencode=True,
            number_sample_per_shard=max(1, -(-len(missing) // max(1, options.n_processes))),
            processes_count=options.n_processes,
            thread_count=max(1, options.n_threads // max(1, options.n_processes)),
            retries=ATTEMPTS - 1,
            timeout=int(max(1, options.timeout_s)),
            distributor=options.distributor,
            enable_wandb=False,
            max_shard_retry=1,
            **({"disallowed_header_directives": []} if options.ignore_headers else {}),
        )
    seen = set()
    for path in sorted((work / "out").glob("*/*.json")):
        entry = json.loads(path.read_text())
        place, record = by_key[str(entry["caption"])]
        seen.add(str(entry["caption"]))
        picture = next((p for p in path.parent.glob(f"{path.stem}.*") if p.suffix not in (".json", ".txt")), None)
        if entry.get("status") == "success" and picture is not None:
            found = decode(
                picture.read_bytes(),
                record.ext,
                options.limits,
                unavailable=options.unavailable,
                reencode=options.reencode,
            )
        else:
            kind = "decode" if entry.get("status") == "failed_to_resize" else "http"
            found = Picture(status=kind, error=str(entry.get("error_message") or entry.get("status"))[:120])
        yield place, found, record
    for path in sorted((work / "out").glob("*.parquet")):  # failures leave no file, only a row
        for entry in pq.read_table(path, columns=["caption", "status", "error_message"]).to_pylist():
            key = str(entry["caption"])
            if key in seen:
                continue
            seen.add(key)
            place, record = by_key[key]
            kind = "decode" if entry["status"] == "failed_to_resize" else "http"
            yield place, Picture(status=kind, error=str(entry["error_message"] or entry["status"])[:120]), record
    for key, (place, record) in by_key.items():
        if key not in seen:
            yield place, Picture(status="http", error="img2dataset gave no answer"), record
    shutil.rmtree(work, ignore_errors=True)
