"""All pictures of all buckets of a labelled folder, fetched later from its saved metadata."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cl_kernel import write_json
from cl_plugin_clear.curation.fetch import Options, fetch_one, fill, reader
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
    options = Options(limits=Limits(min_size=0), retry_wait_s=wait_s)
    index = read_json_object(folder / "all_metadata.json")
    got = n_failed = 0
    with ThreadPoolExecutor(n_threads, thread_name_prefix="fetch") as pool:
        for bucket in sorted(index, key=int):
            records = read_json_object(folder / index[bucket])

            def fetch(record: dict[str, Any]) -> tuple[str, str, bool]:
                target, url = folder / record["IMG_PATH"], fill(template, record)
                if (
                    target.is_file()
                    and decode(target.read_bytes(), record["EXT"], options.limits, reencode=False).status == "ok"
                ):
                    return url, record["IMG_PATH"], True
                found = fetch_one(url, record["EXT"], reader(url, options), options.limits, wait_s=wait_s)
                if found.status != "ok":
                    return url, record["IMG_PATH"], False
                save(target, found.data)
                return url, record["IMG_PATH"], True

            (folder / "all_images" / bucket).mkdir(parents=True, exist_ok=True)
            remove_stale(folder / "all_images" / bucket, below=False)
            results = list(pool.map(fetch, records.values()))
            failed = {url: path for url, path, ok in results if not ok}
            write_json(folder / "all_images" / "failed" / f"{bucket}.json", failed)
            got += len(results) - len(failed)
            n_failed += len(failed)
    return got, n_failed
