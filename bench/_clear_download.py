"""CLEAR's benchmark: pictures of a host that lies."""

# ruff: noqa: E501  the page is text, its lines are as long as they are

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

SERVER = """
import http.server, io, sys, time
import numpy as np
from PIL import Image
out = io.BytesIO()
noise = np.random.default_rng(0).normal(128, 20, (75, 100, 3)).clip(0, 255).astype(np.uint8)
Image.fromarray(noise).resize((500, 375)).save(out, "JPEG", quality=92)
BODY = out.getvalue()

class Host(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, body, code=200, length=None, **headers):
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = length is not None

    def do_GET(self):
        what = self.path.split("/")[1]
        try:
            if what == "slow":
                time.sleep(0.3)
            if what in ("fine", "slow"):
                self.answer(BODY)
            elif what == "missing":
                self.answer(b"gone", 404)
            elif what == "html":
                self.answer(b"<html>log in</html>")
            elif what == "redirect":
                self.answer(b"", 302, Location="/fine/" + self.path)
            elif what == "huge":
                self.answer(b"", 200, 10**10)
            elif what == "cut":
                self.answer(BODY[:999], 200, len(BODY))
        except OSError:
            pass

class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def handle_error(self, *args):
        pass

server = Server(("127.0.0.1", 0), Host)
print(server.server_address[1], len(BODY), flush=True)
server.serve_forever()
"""
ANSWERS = {
    "fine": "ok",
    "slow": "ok",
    "redirect": "ok",
    "missing": "http",
    "html": "decode",
    "huge": "too_large",
    "cut": "http",
}
"""What the host does -> the right status with the ``http`` engine."""


def download(folder: Path, n: int) -> dict[str, Any]:
    """Records a second from a host on the same machine that lies in one answer of six; and fetching alone."""
    import collections
    import concurrent.futures
    import urllib.request

    from attrs import evolve

    from cl_plugin_clear.curation.download import download as run
    from cl_plugin_clear.curation.fetch import Options
    from cl_plugin_clear.curation.images import Limits
    from cl_plugin_clear.curation.ingest import ingest
    from cl_plugin_clear.curation.metadata import Filter
    from cl_plugin_clear.curation.source import Source
    from cl_plugin_clear.curation.store import Store

    share = {"fine": 84, "slow": 1, "redirect": 5, "missing": 5, "html": 3, "huge": 1, "cut": 1}
    kinds = [kind for kind, times in share.items() for _ in range(times)]
    asked = [kinds[i] for i in np.random.default_rng(0).integers(0, len(kinds), n)]
    server = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        port, n_bytes = map(int, server.stdout.readline().split())
        raw = folder / "web"
        raw.mkdir()
        rows = []
        for i, kind in enumerate(asked):
            fields = [""] * 23
            fields[0], fields[3], fields[4] = str(10_000 + i), "2010-01-01 00:00:00.0", "1300000000"
            fields[14], fields[21], fields[22] = f"http://127.0.0.1:{port}/{kind}/{i}", "jpg", "0"
            rows.append("\t".join(fields))
        (raw / "yfcc100m_dataset").write_text("\n".join(rows) + "\n")
        options = Options(limits=Limits(min_edge=120, max_aspect_ratio=2.0), n_threads=32, retry_wait_s=0.1, timeout_s=5.0,
                          n_processes=2)  # fmt: skip
        out: dict[str, Any] = {"records": n, "picture_kb": n_bytes / 1000, "lies": round(1 - share["fine"] / 100, 2)}
        for engine in ("http", "img2dataset"):
            ingest(folder / engine, Source.of_folder(raw), chunk_size=n, rule=Filter())
            started = time.monotonic()
            state = run(folder / engine, evolve(options, engine=engine))
            out[f"{engine}_per_s"] = n / (time.monotonic() - started)
            table = Store.open(folder / engine).read_chunk(0, ["row", "status"]).to_pylist()
            right = sum(row["status"] == ANSWERS[asked[row["row"]]] for row in table)
            out[f"{engine}_right"], out[f"{engine}_counts"] = right / n, dict(sorted(state.counts.items()))
        good = [f"http://127.0.0.1:{port}/fine/{i}" for i in range(n)]

        def fetch(url: str) -> int:
            return len(urllib.request.urlopen(url).read())

        started = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(32) as pool:
            collections.deque(pool.map(fetch, good), 0)
        out["fetching_alone_per_s"] = n / (time.monotonic() - started)
        return out
    finally:
        server.kill()
        server.wait()
