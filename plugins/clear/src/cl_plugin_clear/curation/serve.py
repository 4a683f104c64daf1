"""The explorer as a tool on 127.0.0.1: prompts, pictures, judgements by keyboard. Nothing is asked of other hosts."""

from __future__ import annotations

import json
import secrets
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote_plus, urlsplit

from attrs import define, field

from cl_kernel import BadInput, ClkError
from cl_plugin_clear.curation.explore import BucketView, Explorer, Hit, smaller
from cl_plugin_clear.curation.review import Journal, csv_text
from cl_plugin_clear.curation.store import Store

LARGEST = 1 << 16
"""Bytes of a judgement at most."""


@define
class Review:
    """What the page asks for; may be shared by threads."""

    explorer: Explorer
    journal: Journal
    token: str = field(factory=lambda: secrets.token_urlsafe(16))
    _lock: threading.Lock = field(factory=threading.Lock)
    _seen: dict[int, Hit] = field(factory=dict)

    def page(self) -> str:
        """The page, which holds the word that judgements must carry."""
        text = files("cl_plugin_clear.curation").joinpath("explorer.html").read_text()
        setup = {"token": self.token, "buckets": list(self.explorer.split.buckets)}
        return text.replace("SETUP", json.dumps(setup), 1)

    def query(self, prompt: str, bucket: int, k: int) -> dict[str, Any]:
        """Hits of a bucket with what was said about them."""
        with self._lock:
            view = self.explorer.query(prompt, bucket, k)
            self._remember(view)
            answers = self.journal.of(prompt)
        right, judged = self.journal.precision(prompt, [hit.id for hit in view.hits])
        return {
            "hits": [_hit(hit, bucket) | {"answer": answers.get(hit.id, "")} for hit in view.hits],
            "pictures": view.n_pictures,
            "months": view.months,
            "right": right,
            "judged": judged,
        }

    def timeline(self, prompt: str) -> list[dict[str, Any]]:
        """The best photo of each month over all buckets."""
        best: dict[str, dict[str, Any]] = {}
        with self._lock:
            for bucket in self.explorer.split.buckets:
                view = self.explorer.query(prompt, bucket, 1000)
                self._remember(view)
                for hit in view.hits:
                    entry = _hit(hit, bucket)
                    if entry["month"] not in best or best[entry["month"]]["score"] < entry["score"]:
                        best[entry["month"]] = entry
        return [best[month] for month in sorted(best)]

    def places(self, prompt: str, bucket: int, k: int) -> list[dict[str, Any]]:
        """Where the hits of a bucket were taken, in degrees; those without a place are left out."""
        with self._lock:
            view = self.explorer.query(prompt, bucket, k)
            self._remember(view)
        asked = "select id, lon, lat from photos where lon is not null and lat is not null and id in (select unnest(?))"
        found = Store.open(self.explorer.root).database().execute(asked, [[hit.id for hit in view.hits]]).fetchall()
        return [{"id": str(photo), "lon": lon, "lat": lat} for photo, lon, lat in found]

    def _remember(self, view: BucketView) -> None:
        self._seen |= {hit.id: hit for hit in view.hits}

    def record(self, photo: int) -> dict[str, Any]:
        """What is known of a photo that was shown."""
        hit = self._hit(photo)
        rows = self.explorer.split.rows(self._bucket_of(hit), ["row"])["row"]
        store = Store.open(self.explorer.root)
        row = int(rows[hit.row].as_py())
        names = ["title", "user_tags", "page_url", "license_name", "license_url", "lon", "lat", "date_taken"]
        table = store.read_chunk(row // store.chunk_size, names).slice(row % store.chunk_size, 1)
        values = table.to_pylist()[0]
        return values | {name: unquote_plus(values[name] or "") for name in ("title", "user_tags")}

    def _bucket_of(self, hit: Hit) -> int:
        for bucket in self.explorer.split.buckets:
            table = self.explorer.split.rows(bucket, ["id"])["id"]
            if hit.row < len(table) and table[hit.row].as_py() == hit.id:
                return bucket
        raise BadInput(f"photo {hit.id} is in no bucket", where="explorer")

    def _hit(self, photo: int) -> Hit:
        if photo not in self._seen:
            raise BadInput(f"photo {photo} was not shown", where="explorer")
        return self._seen[photo]

    def picture(self, photo: int, edge: int) -> bytes:
        """A shown photo as JPEG, its longer edge at most ``edge`` pixels."""
        return smaller(self.explorer.pictures, self._hit(photo).rel_path, (edge, edge))

    def judge(self, said: Mapping[str, Any]) -> dict[str, Any]:
        """Write a judgement down. :raises BadInput: for one that is none."""
        try:
            prompt, photo, bucket, answer = (
                str(said["prompt"]),
                int(said["id"]),
                int(said["bucket"]),
                str(said["answer"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"no judgement: {error!r}", where="explorer") from error
        with self._lock:
            self.journal.add(prompt, photo, bucket, answer)
        return {"kept": True}


def _hit(hit: Hit, bucket: int) -> dict[str, Any]:
    month = datetime.fromtimestamp(hit.uploaded, UTC).strftime("%Y-%m")
    return {"id": str(hit.id), "score": round(hit.score, 5), "month": month, "bucket": bucket}


def server(review: Review, port: int = 0) -> ThreadingHTTPServer:
    """A server on 127.0.0.1 that answers nobody else: other names in the request are refused."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            """Quiet."""

        def _send(self, body: bytes, kind: str = "application/json", code: int = 200) -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("Content-Security-Policy", "default-src 'self' 'unsafe-inline' data:")
            self.end_headers()
            self.wfile.write(body)

        def _answer(self, make: Any) -> None:
            host = self.headers.get("Host", "").rpartition(":")[0]
            if host not in ("127.0.0.1", "localhost"):
                self._send(b'{"error": "only for this machine"}', code=403)
                return
            try:
                made = make()
                self._send(*made) if isinstance(made, tuple) else self._send(json.dumps(made).encode())
            except ClkError as error:
                self._send(json.dumps({"error": str(error)}).encode(), code=400)
            except (KeyError, ValueError, IndexError) as error:
                self._send(json.dumps({"error": f"not understood: {error}"}).encode(), code=400)

        def do_GET(self) -> None:
            address = urlsplit(self.path)
            asked = {name: values[0] for name, values in parse_qs(address.query).items()}
            match address.path:
                case "/":
                    self._answer(lambda: (review.page().encode(), "text/html; charset=utf-8"))
                case "/query":
                    self._answer(lambda: review.query(asked["prompt"], int(asked["bucket"]), int(asked["k"])))
                case "/timeline":
                    self._answer(lambda: review.timeline(asked["prompt"]))
                case "/places":
                    self._answer(lambda: review.places(asked["prompt"], int(asked["bucket"]), int(asked["k"])))
                case "/record":
                    self._answer(lambda: review.record(int(asked["id"])))
                case "/picture":
                    edge = min(int(asked.get("edge", "160")), 2000)
                    self._answer(lambda: (review.picture(int(asked["id"]), edge), "image/jpeg"))
                case "/judgements.csv":
                    self._answer(lambda: (csv_text(review.journal).encode(), "text/csv; charset=utf-8"))
                case _:
                    self._send(b'{"error": "nothing here"}', code=404)

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length) if length <= LARGEST else b""
            if self.headers.get("X-Token") != review.token or self.path != "/judge":
                self._send(b'{"error": "not from the page"}', code=403)
                return
            self._answer(lambda: review.judge(json.loads(body)))

    return _Server(("127.0.0.1", port), Handler)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a browser that left before its picture was sent."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def journal_path(root: Path, split: str) -> Path:
    """Where the judgements of a split lie."""
    return root / "review" / f"{split}.jsonl"
