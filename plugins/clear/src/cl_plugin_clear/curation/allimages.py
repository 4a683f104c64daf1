"""All pictures of all buckets of a labelled folder, fetched later from its saved metadata."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cl_kernel import write_json
from cl_plugin_clear.curation.fetch import EmptyField, Fetcher, Options, fill
from cl_plugin_clear.curation.images import Limits, decode
from cl_plugin_clear.curation.pictures import save
from cl_plugin_clear.curation.store import remove_stale
from cl_plugin_clear.data.members import read_json_object


def fetch_all_images(
    folder: Path, *, template: str = "{DOWNLOAD_URL}", n_threads: int = 128, wait_s: float = 1.0
) -> tuple[int, int]:
    """Fetch what is missing of ``all_images``; failures go to ``all_images/failed/<b>.json`` {url: path}.

    :return: (pictures there, failed). Run again to try the failed once more.
    """
    options = Options(limits=Limits(min_size=0), retry_wait_s=wait_s, n_threads=n_threads)
    index = read_json_object(folder / "all_metadata.json")
    got = n_failed = 0
    with Fetcher.opened(options) as fetcher:
        for bucket in sorted(index, key=int):
            records = read_json_object(folder / index[bucket])
            (folder / "all_images" / bucket).mkdir(parents=True, exist_ok=True)
            remove_stale(folder / "all_images" / bucket, below=False)
            failed: dict[str, str] = {}
            for (url, path), found in fetcher.all(_missing(folder, records, template, failed)):
                if found.status == "ok":
                    save(folder / path, found.data)
                else:
                    failed[url] = path
            write_json(folder / "all_images" / "failed" / f"{bucket}.json", failed)
            got += len(records) - len(failed)
            n_failed += len(failed)
    return got, n_failed


def _missing(
    folder: Path, records: Mapping[str, Mapping[str, Any]], template: str, failed: dict[str, str]
) -> Iterator[tuple[tuple[str, str], str, str]]:
    """((address, path), address, extension) of what is not there whole; records without an address count as failed."""
    for name, record in records.items():
        path, extension = record["IMG_PATH"], record["EXT"]
        try:
            url = fill(template, record)
        except EmptyField:
            failed[name] = path
            continue
        if not _whole(folder / path, extension):
            yield (url, path), url, extension


def _whole(target: Path, extension: str) -> bool:
    if not target.is_file():
        return False
    return decode(target.read_bytes(), extension, Limits(min_size=0), reencode=False).status == "ok"
