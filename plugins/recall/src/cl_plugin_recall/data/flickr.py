"""Photo search: images of each class by keyword, with provenance. Plain HTTP, no key ever written down."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import define, field, frozen

from cl_kernel import BadInput, ClkError, MissingAsset, atomic, write_text
from cl_plugin_recall.experiments import VOC_CLASSES

ENDPOINT = "https://api.flickr.com/services/rest/"
KEYWORDS = {name: name for name in VOC_CLASSES} | {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "pottedplant": "potted plant",
    "tvmonitor": "monitor",
}
"""Search text of each VOC class."""
KEY_VARIABLE = "FLICKR_API_KEY"
PROVENANCE = "provenance.jsonl"
RETRIED = (429, 500, 502, 503, 504)
GONE = (403, 404, 410)
BROKEN_OFF = (OSError, http.client.HTTPException)
"""No answer, a refused connection, or a body that ends too early."""


class SearchRefused(ClkError):
    """The service refuses the key or the request; trying again does not help."""


@frozen(kw_only=True)
class Limits:
    """How politely to ask.

    :param per_second: requests a second at most.
    :param tries: attempts for answers 429 and 5xx, waiting twice as long each time.
    :param wait_s: first wait; a ``Retry-After`` header wins.
    """

    per_second: float = 1.0
    tries: int = 5
    wait_s: float = 2.0
    timeout_s: float = 30.0


@define
class Http:
    """GET with a rate limit and polite retries."""

    limits: Limits = field(factory=Limits)
    sleep: Callable[[float], None] = time.sleep
    retries: int = 0
    _next: float = field(default=0.0, init=False)

    def get(self, url: str) -> bytes:
        """Body of an answer.

        :raises urllib.error.HTTPError: for an answer that is not worth another try, or after the last one.
        """
        wait = self.limits.wait_s
        for attempt in range(1, self.limits.tries + 1):
            if (ahead := self._next - time.monotonic()) > 0:
                self.sleep(ahead)
            self._next = time.monotonic() + 1.0 / self.limits.per_second
            try:
                with urllib.request.urlopen(url, timeout=self.limits.timeout_s) as answer:
                    return bytes(answer.read())
            except urllib.error.HTTPError as error:
                if error.code not in RETRIED or attempt == self.limits.tries:
                    raise
                self.sleep(_seconds(error.headers.get("Retry-After"), wait))
            except BROKEN_OFF:
                if attempt == self.limits.tries:
                    raise
                self.sleep(wait)
            self.retries += 1
            wait *= 2
        raise AssertionError


def _seconds(header: str | None, otherwise: float) -> float:
    return float(header) if header and header.replace(".", "", 1).isdigit() else otherwise


def api_key(environment: Mapping[str, str] = os.environ) -> str:
    """The key, from the environment only.

    :raises MissingAsset: when it is not set.
    """
    if key := environment.get(KEY_VARIABLE):
        return key
    raise MissingAsset(
        "no Flickr key",
        where=f"environment variable {KEY_VARIABLE}",
        fix=f"get one at flickr.com/services/api, then {KEY_VARIABLE}=... clk recall make-replay flickr",
    )


def search(
    web: Http, key: str, text: str, *, endpoint: str = ENDPOINT, licences: Sequence[int] = (), per_page: int = 250
) -> Iterator[dict[str, Any]]:
    """Photos by relevance, page after page; those without an 800-pixel version are passed over.

    :raises SearchRefused: when the service refuses, as for an expired key.
    """
    page, pages = 1, 1
    while page <= pages:
        query = {
            "method": "flickr.photos.search",
            "api_key": key,
            "text": text,
            "tag_mode": "any",
            "sort": "relevance",
            "extras": "url_c,license,owner_name",
            "per_page": per_page,
            "page": page,
            "format": "json",
            "nojsoncallback": 1,
        }
        if licences:
            query["license"] = ",".join(map(str, licences))
        try:
            answer = json.loads(web.get(f"{endpoint}?{urllib.parse.urlencode(query)}"))
        except urllib.error.HTTPError as error:
            raise SearchRefused(
                f"the search answers {error.code} {error.reason}",
                where=f"search for {text!r}",
                fix="try again later; what was downloaded is kept",
            ) from None
        except (ValueError, *BROKEN_OFF) as error:
            raise SearchRefused(
                f"the search gives no usable answer: {type(error).__name__}",
                where=f"search for {text!r}",
                fix="check the network and try again; what was downloaded is kept",
            ) from None
        if answer.get("stat") != "ok":
            raise SearchRefused(
                f"the search is refused: {answer.get('message', 'no reason')} (code {answer.get('code')})",
                where=f"environment variable {KEY_VARIABLE}",
                fix="check or renew the key",
            )
        pages = int(answer["photos"].get("pages", 1))
        yield from (photo for photo in answer["photos"]["photo"] if photo.get("url_c"))
        page += 1


@define
class Tally:
    """What happened to the photos of a download; ``skipped`` names those passed over, with the reason."""

    saved: int = 0
    kept: int = 0
    gone: int = 0
    twice: int = 0
    broken: int = 0
    skipped: dict[str, str] = field(factory=dict)


def download_class(
    web: Http, key: str, folder: Path, keyword: str, n: int, *, endpoint: str = ENDPOINT, licences: Sequence[int] = ()
) -> Tally:
    """Fill ``folder`` with up to ``n`` photos ``0000.jpg``, ...; photos already there are kept and not asked for again.

    Every photo has a line in ``provenance.jsonl``: id, owner, licence, address, SHA-256. A photo that was removed since
    the search, is no JPEG, or has the bytes of another one, is skipped, counted and named.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known = [record for record in read_provenance(folder) if (folder / record["file"]).is_file()]
    write_text(folder / PROVENANCE, "".join(json.dumps(record) + "\n" for record in known))
    tally = Tally(kept=len(known))
    ids, digests = {r["id"] for r in known}, {r["sha256"] for r in known}
    number = 1 + max((int(r["file"].split(".")[0]) for r in known), default=-1)
    if len(known) >= n:
        return tally
    for photo in search(web, key, keyword, endpoint=endpoint, licences=licences):
        if tally.kept + tally.saved >= n:
            break
        if photo["id"] in ids:
            continue
        ids.add(photo["id"])
        try:
            data = web.get(photo["url_c"])
        except urllib.error.HTTPError as error:
            if error.code in GONE or error.code in RETRIED:
                tally.gone += 1
                tally.skipped[photo["id"]] = f"answers {error.code}"
                continue
            raise BadInput(f"photo {photo['id']} answers {error.code}", where=photo["url_c"]) from None
        except BROKEN_OFF as error:
            tally.gone += 1
            tally.skipped[photo["id"]] = type(error).__name__
            continue
        digest = hashlib.sha256(data).hexdigest()
        if not (data[:2] == b"\xff\xd8" and data.rstrip(b"\0")[-2:] == b"\xff\xd9"):
            tally.broken += 1
            tally.skipped[photo["id"]] = "no whole JPEG"
            continue
        if digest in digests:
            tally.twice += 1
            tally.skipped[photo["id"]] = "same bytes as another"
            continue
        digests.add(digest)
        name = f"{number:04d}.jpg"
        with atomic(folder / name) as file:
            file.write(data)
        record = {
            "file": name,
            "id": photo["id"],
            "owner": photo.get("owner", ""),
            "owner_name": photo.get("ownername", ""),
            "licence": photo.get("license", ""),
            "url": photo["url_c"],
            "sha256": digest,
            "keyword": keyword,
        }
        with (folder / PROVENANCE).open("a") as file:
            file.write(json.dumps(record) + "\n")
        number += 1
        tally.saved += 1
    return tally


def read_provenance(folder: Path) -> list[dict[str, Any]]:
    """Provenance lines of a class folder; a half-written last line is dropped."""
    path = folder / PROVENANCE
    records = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records
