"""Pictures over HTTP: one pooled client for all of them, in a thread of its own.

Connections are kept; each host has its own limit and its own pauses; an answer has a deadline that slow drips do not
escape; what a broken connection brought is not fetched again where the host can continue.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from attrs import define, field, frozen

from cl_plugin_clear.curation.images import ATTEMPTS, Picture

if TYPE_CHECKING:
    import aiohttp

BUSY = (429, 503)
AGAIN = (408, 425, *BUSY)
"""Refusals that may be over in a moment; other answers 400 to 499 are final."""
REDIRECTS = (301, 302, 303, 307, 308)
MAX_REDIRECTS = 10
NO_USE = frozenset(("noai", "noimageai", "noindex", "noimageindex"))
"""What ``X-Robots-Tag`` says of pictures that are not to be collected."""
UNAVAILABLE_TARGETS = ("photo_unavailable", "photo_no_longer_available")
"""Parts of addresses that hosts redirect to when a photo is gone."""


@frozen(kw_only=True)
class Answer:
    """What came back.

    :param code: HTTP status, 0 where there was none. :param verdict: a status of its own that nothing can change.
    :param wait_s: how long the host asked to wait.
    """

    code: int = 0
    body: bytes = b""
    error: str = ""
    verdict: str = ""
    wait_s: float | None = None


@define
class _Host:
    """Requests at a time, and when the next one may start."""

    slots: asyncio.Semaphore
    not_before: float = 0.0


@define
class _Part:
    """The beginning of an answer that broke off; a host that names its version can continue it."""

    body: bytearray = field(factory=bytearray)
    version: str = ""

    def headers(self) -> dict[str, str]:
        """Asks for the rest."""
        return {"Range": f"bytes={len(self.body)}-", "If-Range": self.version} if self.body and self.version else {}

    def begin(self, answer: aiohttp.ClientResponse) -> None:
        """Keep what is there if this is its continuation, else begin anew."""
        continued = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(
            f"bytes {len(self.body)}-"
        )
        if not continued:
            self.body.clear()
        etag = answer.headers.get("ETag", "")
        self.version = "" if etag.startswith("W/") else etag or answer.headers.get("Last-Modified", "")


@define
class Client:
    """Fetches and judges pictures; use it as a context manager.

    :param n_connections: requests at a time; :param per_host: of them to one host, 0 for no limit of its own.
    :param timeout_s: for a connection and for each wait on it; :param deadline_s: for a whole answer.
    :param wait_s: before the second attempt, twice as long before each further one.
    :param patience_s: longest wait that a host may ask for; beyond it the record is given up for this time.
    :param no_use: words of ``X-Robots-Tag`` that are heeded.
    """

    n_connections: int = 128
    per_host: int = 0
    timeout_s: float = 10.0
    deadline_s: float = 60.0
    wait_s: float = 1.0
    patience_s: float = 60.0
    max_bytes: int = 64 << 20
    no_use: frozenset[str] = NO_USE
    _loop: asyncio.AbstractEventLoop = field(factory=asyncio.new_event_loop, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)
    _session: Any = field(default=None, init=False)
    _slots: Any = field(default=None, init=False)
    _hosts: dict[str, _Host] = field(factory=dict, init=False)

    def __enter__(self) -> Client:
        self._thread = threading.Thread(target=self._loop.run_forever, name="http", daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        if self._thread is not None:
            self._thread.join()
        self._loop.close()

    def submit(self, url: str, judge: Callable[[bytes], Picture], pool: ThreadPoolExecutor) -> Future[Picture]:
        """A picture, judged in ``pool``; the future never raises for what a host does."""
        return asyncio.run_coroutine_threadsafe(self._fetch(url, judge, pool), self._loop)

    async def _open(self) -> None:
        import aiohttp

        self._slots = asyncio.Semaphore(self.n_connections)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=300),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self.timeout_s, sock_read=self.timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "Mozilla/5.0 (compatible; clk)"},
            trust_env=True,
        )

    async def _close(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._session.close()

    async def _fetch(self, url: str, judge: Callable[[bytes], Picture], pool: ThreadPoolExecutor) -> Picture:
        found, part = Picture(status="http", error="no attempt"), _Part()
        wait = 0.0
        for attempt in range(ATTEMPTS):
            await asyncio.sleep(wait)
            answer = await self._answer(url, part)
            if answer.verdict:
                return Picture(status=answer.verdict, error=answer.error)
            found = await self._judged(answer, judge, pool)
            if found.status not in ("http", "decode", "rate_limited"):
                return found
            if 400 <= answer.code < 500 and answer.code not in AGAIN:
                return found
            wait = self.wait_s * 2**attempt
            if answer.code in BUSY:
                wait = max(wait, answer.wait_s or 0.0)
                if wait > self.patience_s:
                    return Picture(status="rate_limited", error=f"{found.error}, asked to wait {wait:.0f} s")
                self._host(url).not_before = time.monotonic() + wait
        return found

    async def _judged(self, answer: Answer, judge: Callable[[bytes], Picture], pool: ThreadPoolExecutor) -> Picture:
        """A picture is one whatever the code says; without one, the code says what is wrong."""
        if answer.body:
            found = await asyncio.get_running_loop().run_in_executor(pool, judge, answer.body)
            if found.status != "decode" or answer.code == 200:
                return found
        status = "rate_limited" if answer.code in BUSY else "http"
        return Picture(status=status, error=answer.error or f"HTTP {answer.code}, empty")

    def _host(self, url: str) -> _Host:
        name = urlsplit(url).netloc
        if name not in self._hosts:
            self._hosts[name] = _Host(asyncio.Semaphore(self.per_host or self.n_connections))
        return self._hosts[name]

    async def _answer(self, url: str, part: _Part) -> Answer:
        """One attempt, redirects followed."""
        import aiohttp

        seen: list[str] = []
        try:
            while True:
                step = await self._request(url, part)
                if isinstance(step, Answer):
                    return step
                seen.append(url)
                url = step
                part.body.clear()
                if any(target in url for target in UNAVAILABLE_TARGETS):
                    return Answer(verdict="unavailable", error=f"redirected to {url.rpartition('/')[2][:80]}")
                if url in seen or len(seen) > MAX_REDIRECTS:
                    return Answer(verdict="http", error=f"redirected {len(seen)} times without an end")
        except TimeoutError as error:
            if isinstance(error, aiohttp.ServerTimeoutError):
                return Answer(error=f"no answer for {self.timeout_s:g} s")
            return Answer(verdict="http", error=f"not finished after {self.deadline_s:g} s")
        except aiohttp.InvalidURL as error:
            return Answer(verdict="http", error=f"no address: {str(error)[:120]}")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Answer(error=f"{type(error).__name__}: {str(error)[:120]}")

    async def _request(self, url: str, part: _Part) -> Answer | str:
        """An answer, or the address that it redirects to.

        :raises TimeoutError: at the deadline. :raises ValueError: for a redirect to what is no web address.
        """
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"redirected to {url[:80]!r}")
        host = self._host(url)
        async with self._slots, host.slots:
            while (pause := host.not_before - time.monotonic()) > 0:
                await asyncio.sleep(pause)
            async with asyncio.timeout(self.deadline_s):
                async with self._session.get(url, allow_redirects=False, headers=part.headers()) as answer:
                    target = answer.headers.get("Location")
                    if answer.status in REDIRECTS and target:
                        return urljoin(url, target)
                    return await self._body(answer, part)

    async def _body(self, answer: aiohttp.ClientResponse, part: _Part) -> Answer:
        if word := refused_use(answer.headers.getall("X-Robots-Tag", []), self.no_use):
            return Answer(verdict="http", error=f"the host asks not to use it (X-Robots-Tag: {word})")
        length = answer.content_length
        if length is not None and length > self.max_bytes:
            return Answer(verdict="too_large", error=f"{length} bytes")
        part.begin(answer)
        async for piece in answer.content.iter_any():
            part.body += piece
            if len(part.body) > self.max_bytes:
                return Answer(verdict="too_large", error=f"more than {self.max_bytes} bytes")
        body = bytes(part.body)
        part.body.clear()
        if answer.status in (200, 206):
            return Answer(code=200, body=body, error="" if body else "an empty answer")
        return Answer(code=answer.status, body=body, error=f"HTTP {answer.status}", wait_s=asked_wait(answer))


def refused_use(values: Sequence[str], words: frozenset[str]) -> str:
    """The first of ``words`` that ``X-Robots-Tag`` headers say to everyone, not to a robot by name; empty for none."""
    for value in values:
        if not value.rpartition(":")[0]:
            for word in value.split(","):
                if word.strip().lower() in words:
                    return word.strip()
    return ""


def asked_wait(answer: aiohttp.ClientResponse) -> float | None:
    """Seconds of ``Retry-After``, a number or a date (RFC 9110, section 10.2.3); None where it says nothing."""
    text = answer.headers.get("Retry-After", "").strip()
    if text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return None
