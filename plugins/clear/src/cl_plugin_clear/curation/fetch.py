"""One picture over the wire: addresses and templates, who can read them, attempts, and what an answer is worth."""

from __future__ import annotations

import contextlib
import http.client
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attrs import field, frozen

from cl_kernel import BadSetting
from cl_plugin_clear.curation.images import ATTEMPTS, Limits, Picture, decode

GONE = (404, 410)
UNAVAILABLE_TARGETS = ("photo_unavailable", "photo_no_longer_available")
"""Parts of addresses that hosts redirect to when a photo is gone."""

MAX_BYTES = 64 << 20


class Gone(OSError):
    """The host says the picture is not there; ``body`` is what it sent instead."""

    def __init__(self, code: int, body: bytes) -> None:
        self.code, self.body = code, body
        super().__init__(f"HTTP {code}")


class Unavailable(OSError):
    """The host redirects to its "photo unavailable" picture."""


class TooLarge(OSError):
    """The answer is larger than allowed."""


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
    :param engine: ``threads``, ``img2dataset``, or ``auto``: img2dataset for web addresses where it is installed.
    :param timeout_s: for a connection and for each wait on it; :param deadline_s: for a whole answer.
    :param output: ``files``, or ``tar``: one tar file a chunk, in webdataset's form.
    :param distributor: img2dataset's ``multiprocessing``, ``ray`` or ``pyspark``.
    """

    limits: Limits = field(factory=Limits)
    template: str = "{download_url}"
    folder: str = ""
    engine: str = "auto"
    output: str = "files"
    n_threads: int = 128
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

    :raises BadSetting: naming a field the records do not have.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name not in values:
            raise BadSetting(
                f"the template asks for {name!r}", where="--url-template", fix=f"known: {', '.join(sorted(values))}"
            )
        text = "" if values[name] is None else str(values[name])
        if match[2] is None:
            return text
        return text[int(match[2]) if match[2] else None : int(match[3]) if match[3] else None]

    return SLOT.sub(value, template)


def web(url: str, *, timeout_s: float = 10.0, deadline_s: float = 60.0, max_bytes: int = MAX_BYTES) -> bytes:
    """The answer's body, whatever its status: only decoding decides.

    :raises Gone: for 404 and 410. :raises Unavailable: on a redirect to a "photo unavailable" picture.
    :raises TooLarge: beyond ``max_bytes``. :raises OSError: when nothing, or only a part, came.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "Mozilla/5.0 (compatible; clk)"})
    end = time.monotonic() + deadline_s
    try:
        answer = urllib.request.urlopen(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        answer = error
    with contextlib.closing(answer):
        if any(target in (answer.geturl() or "") for target in UNAVAILABLE_TARGETS):
            raise Unavailable(f"redirected to {Path(answer.geturl()).name}")
        length = answer.headers.get("Content-Length")
        if length and length.isdigit() and int(length) > max_bytes:
            raise TooLarge(f"{length} bytes")
        pieces, size = [], 0
        while piece := answer.read1(1 << 16) if hasattr(answer, "read1") else answer.read(1 << 16):
            pieces.append(piece)
            size += len(piece)
            if size > max_bytes:
                raise TooLarge(f"more than {max_bytes} bytes")
            if time.monotonic() > end:
                raise TimeoutError(f"not finished after {deadline_s:g} s")
        body = b"".join(pieces)
        if length and length.isdigit() and size < int(length):
            raise http.client.IncompleteRead(body, int(length) - size)
        if getattr(answer, "status", 200) in GONE:
            raise Gone(answer.status, body)
        return body


def local(folder: Path) -> Callable[[str], bytes]:
    """Reader of pictures that are already somewhere: addresses are paths below ``folder``."""

    def read(url: str) -> bytes:
        path = folder / url
        if not path.is_file():
            raise Gone(404, b"")
        return path.read_bytes()

    return read


def reader(url: str, options: Options) -> Callable[[str], bytes]:
    """Who can fetch this kind of address."""
    if options.folder:
        return local(Path(options.folder))
    scheme = url.split("://", 1)[0] if "://" in url else ""
    if scheme == "toy":
        from cl_plugin_clear.data.toy import answer

        return answer
    if scheme in ("http", "https"):
        return lambda u: web(u, timeout_s=options.timeout_s, deadline_s=options.deadline_s, max_bytes=options.max_bytes)
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
        except Unavailable as error:
            return Picture(status="unavailable", error=str(error))
        except TooLarge as error:
            return Picture(status="too_large", error=str(error))
        except (OSError, http.client.HTTPException, ValueError) as error:
            found = Picture(status="http", error=f"{type(error).__name__}: {str(error)[:120]}")
        if found.status not in ("http", "decode"):
            return found
    return found
