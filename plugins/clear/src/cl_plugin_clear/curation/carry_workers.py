"""What runs in img2dataset's processes: our client in place of its requests, and an end when the command ends."""

from __future__ import annotations

import io
import json
import multiprocessing
import multiprocessing.connection
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from img2dataset import downloader
from img2dataset.logger import LoggerProcess

from cl_plugin_clear.curation.client import Client
from cl_plugin_clear.curation.fetch import Options, client_for, judge_with
from cl_plugin_clear.curation.images import Picture


class Worker(downloader.Downloader):  # type: ignore[misc]
    """Fetches one shard after the other; may be sent to another process or machine.

    :param options: how to fetch, and the limits of a picture; ``given`` is img2dataset's.
    """

    def __init__(self, *, options: Options, **given: Any) -> None:
        super().__init__(**given)
        self.options = options

    def download_shard(self, row: tuple[int, str]) -> None:
        """Fetch one shard, (number, file of its addresses)."""
        end_with_parent()
        with client_for(self.options) as client, ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            downloader.download_image_with_retry = _Fetch(client, pool, self.options)
            super().download_shard(row)


class _Fetch:
    """Stands for img2dataset's function of the same place: it hands over a stream, or says why there is none."""

    def __init__(self, client: Client, pool: ThreadPoolExecutor, options: Options) -> None:
        self.client, self.pool, self.options = client, pool, options

    def __call__(self, row: tuple[int, str], **_: Any) -> tuple[int, io.BytesIO | None, str | None]:
        key, address = row
        extension, _, url = address.partition(" ")
        found = self.client.submit(url, judge_with(extension, self.options), self.pool).result()
        return (key, io.BytesIO(found.data), None) if found.status == "ok" else (key, None, _told(found))


def _told(found: Picture) -> str:
    """A picture without its pixels as text."""
    return json.dumps({name: getattr(found, name) for name in ("status", "width", "height", "error")})


class Counting(LoggerProcess):  # type: ignore[misc]
    """Prints progress from the shards that are done."""

    def run(self) -> None:
        """Until it is told to stop, or nobody is left who could."""
        end_with_parent()
        super().run()


def end_with_parent() -> None:
    """A process whose command was killed would go on for ever, and write where the next command does.

    Only for children of this machine; Ray and Spark end their own.
    """
    parent = multiprocessing.parent_process()
    if parent is not None and not any(thread.name == "end_with_parent" for thread in threading.enumerate()):
        threading.Thread(target=_wait, args=(parent.sentinel,), name="end_with_parent", daemon=True).start()


def _wait(sentinel: Any) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)
