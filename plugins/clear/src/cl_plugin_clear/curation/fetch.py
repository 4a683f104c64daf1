"""Addresses of pictures, who can read them, and attempts on what is no web address."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeVar

from attrs import define, field, frozen

from cl_kernel import BadSetting
from cl_plugin_clear.curation.client import NO_USE, Client
from cl_plugin_clear.curation.images import ATTEMPTS, Limits, Picture, decode

MAX_BYTES = 64 << 20
T = TypeVar("T")


class Gone(OSError):
    """The host says the picture is not there; ``body`` is what it sent instead."""

    def __init__(self, code: int, body: bytes) -> None:
        self.code, self.body = code, body
        super().__init__(f"HTTP {code}")


class EmptyField(ValueError):
    """The template asks for a field that this record does not have."""


@frozen(kw_only=True)
class Record:
    """What is needed to fetch one picture."""

    row: int
    id: int
    ext: str
    url: str


@frozen(kw_only=True)
class Options:
    """How to fetch.

    :param template: address of a record, see :func:`fill`; ``{download_url}`` is the file's own.
    :param engine: ``http``, our pooled client; or ``img2dataset``, for many machines.
    :param n_threads: requests at a time; :param per_host: of them to one host, 0 for no limit of its own.
    :param timeout_s: for a connection and for each wait on it; :param deadline_s: for a whole answer.
    :param patience_s: longest wait a host may ask for before its record is given up for this time.
    :param reencode: False keeps the bytes as they came.
    :param output: ``files``, or ``tar``: one tar file a chunk, in webdataset's form.
    :param ignore_headers: fetch also what its host asks not to use.
    :param distributor: img2dataset's ``multiprocessing``, ``ray`` or ``pyspark``.
    """

    limits: Limits = field(factory=Limits)
    template: str = "{download_url}"
    folder: str = ""
    engine: str = "http"
    output: str = "files"
    n_threads: int = 128
    per_host: int = 0
    patience_s: float = 60.0
    timeout_s: float = 10.0
    deadline_s: float = 60.0
    retry_wait_s: float = 1.0
    max_bytes: int = MAX_BYTES
    unavailable: frozenset[str] = frozenset()
    distributor: str = "multiprocessing"
    n_processes: int = 4
    reencode: bool = True
    ignore_headers: bool = False


SLOT = re.compile(r"\{(\w+)(?:\[(-?\d*):(-?\d*)\])?\}")


def fill(template: str, values: Mapping[str, Any]) -> str:
    """``{hash[0:3]}/{hash[3:6]}/{hash}.jpg`` with a record's values; slices as in Python.

    :raises BadSetting: naming a field the records do not have. :raises EmptyField: naming one that is empty here.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name not in values:
            raise BadSetting(
                f"the template asks for {name!r}", where="--url-template", fix=f"known: {', '.join(sorted(values))}"
            )
        text = "" if values[name] is None else str(values[name])
        if not text:
            raise EmptyField(f"the address template asks for {name}, which is empty")
        if match[2] is None:
            return text
        return text[int(match[2]) if match[2] else None : int(match[3]) if match[3] else None]

    return SLOT.sub(value, template)


def local(folder: Path) -> Callable[[str], bytes]:
    """Reader of pictures that are already somewhere: addresses are paths below ``folder``."""

    def read(url: str) -> bytes:
        path = folder / url
        if not path.is_file():
            raise Gone(404, b"")
        return path.read_bytes()

    return read


def reader(url: str, options: Options) -> Callable[[str], bytes]:
    """Who can read this kind of address, web addresses apart."""
    if options.folder:
        return local(Path(options.folder))
    scheme = url.split("://", 1)[0] if "://" in url else ""
    if scheme == "toy":
        from cl_plugin_clear.data.toy import answer

        return answer
    if scheme:
        import fsspec

        def read(u: str) -> bytes:
            with fsspec.open(u, "rb") as file:
                return file.read()  # type: ignore[no-any-return]

        return read
    raise ValueError(f"no address: {url!r}")


def fetch_one(
    url: str,
    extension: str,
    read: Callable[[str], bytes],
    limits: Limits,
    *,
    attempts: int = ATTEMPTS,
    wait_s: float = 1.0,
    sleep: Callable[[float], None] = time.sleep,
    unavailable: frozenset[str] = frozenset(),
    reencode: bool = True,
) -> Picture:
    """Fetch, decode and judge one picture; failures are tried again, a verdict of the filter and a 404 are final."""
    found = Picture(status="http", error="no attempt")
    for attempt in range(attempts):
        if attempt:
            sleep(wait_s)
        try:
            found = decode(read(url), extension, limits, unavailable=unavailable, reencode=reencode)
        except Gone as gone:  # a picture sent along with a 404 is still a picture
            found = decode(gone.body, extension, limits, unavailable=unavailable, reencode=reencode)
            if found.status == "decode":
                return Picture(status="http", error=str(gone))
        except (OSError, ValueError) as error:
            found = Picture(status="http", error=f"{type(error).__name__}: {str(error)[:120]}")
        if found.status not in ("http", "decode"):
            return found
    return found


def is_web(url: str) -> bool:
    """Is it for the HTTP client?"""
    return url.startswith(("http://", "https://"))


def judge_with(extension: str, options: Options) -> Callable[[bytes], Picture]:
    """What decides on the bytes of a record."""

    def judge(data: bytes) -> Picture:
        limits, unavailable = options.limits, options.unavailable
        return decode(data, extension, limits, unavailable=unavailable, reencode=options.reencode)

    return judge


def client_for(options: Options) -> Client:
    """The HTTP client of a download."""
    return Client(
        n_connections=options.n_threads,
        per_host=options.per_host,
        timeout_s=options.timeout_s,
        deadline_s=options.deadline_s,
        wait_s=options.retry_wait_s,
        patience_s=options.patience_s,
        max_bytes=options.max_bytes,
        no_use=frozenset() if options.ignore_headers else NO_USE,
    )


@define
class Fetcher:
    """Pictures of any kind of address, several at a time; web addresses through one client.

    :param pool: reads what is not on the web, and decodes.
    """

    options: Options
    client: Client
    pool: ThreadPoolExecutor

    @classmethod
    @contextlib.contextmanager
    def opened(cls, options: Options) -> Iterator[Fetcher]:
        """A fetcher; what is under way when the block is left by an error is given up."""
        n_threads = options.n_threads if options.folder else min(options.n_threads, 2 + 2 * (os.cpu_count() or 1))
        pool = ThreadPoolExecutor(n_threads, thread_name_prefix="fetch")
        try:
            with client_for(options) as client:
                yield cls(options, client, pool)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        pool.shutdown()

    def submit(self, url: str, extension: str) -> Future[Picture]:
        """One picture."""
        options = self.options
        if is_web(url) and not options.folder:
            return self.client.submit(url, judge_with(extension, options), self.pool)
        return self.pool.submit(self._read, url, extension)

    def _read(self, url: str, extension: str) -> Picture:
        options = self.options
        try:
            read = reader(url, options)
        except ValueError as error:
            return Picture(status="http", error=str(error))
        return fetch_one(
            url,
            extension,
            read,
            options.limits,
            wait_s=options.retry_wait_s,
            unavailable=options.unavailable,
            reencode=options.reencode,
        )

    def all(self, items: Iterable[tuple[T, str, str]]) -> Iterator[tuple[T, Picture]]:
        """(key, picture) of (key, address, extension) in the order in which they come.

        A bounded window: results of slow hosts do not pile up in memory, and stopping is quick.
        """
        todo = iter(items)
        running: dict[Future[Picture], T] = {}

        def start(n: int) -> None:
            for key, url, extension in itertools.islice(todo, n):
                running[self.submit(url, extension)] = key

        start(2 * self.options.n_threads)
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield running.pop(future), future.result()
            start(len(done))
