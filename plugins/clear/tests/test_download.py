"""Downloads: a lying local server, the toy host, a local folder; killed, moved, repeated."""

from __future__ import annotations

import errno
import http.server
import io
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from attrs import evolve
from PIL import Image

from cl_kernel import BadSetting, DiskFull, Mismatch
from cl_plugin_clear.curation import download as d
from cl_plugin_clear.curation import fetch, images, ingest, records
from cl_plugin_clear.curation.metadata import Filter
from cl_plugin_clear.curation.pictures import Pictures
from cl_plugin_clear.curation.source import Source
from cl_plugin_clear.curation.store import Store
from cl_plugin_clear.data import toy

from .conftest import FAST, GROUP, LABELS, LIMITS

EXPECTED = {
    "fine": "ok",
    "missing": "http",
    "gone": "http",
    "html": "decode",
    "wrong_type": "ok",
    "cut": "http",
    "slow": "http",
    "endless": "http",
    "huge": "too_large",
    "redirect": "ok",
    "unavailable": "unavailable",
    "error_then_fine": "ok",
    "error": "rate_limited",
    "small": "too_small_edge",
    "elongated": "aspect",
    "closed": "http",
    "missing_with_picture": "ok",
    "patience": "ok",
    "too_much_patience": "rate_limited",
    "circle": "http",
    "elsewhere": "http",
    "forbidden": "http",
    "broken_server": "http",
    "continued": "ok",
    "headers": "http",
    "no_use": "http",
    "no_use_of_others": "ok",
}
"""What the host does, and the status that the record is to have."""
BEHAVIOURS = tuple(EXPECTED)


def jpeg(width: int = 80, height: int = 70) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), (90, 20, 200)).save(out, "JPEG")
    return out.getvalue()


class Liar(http.server.BaseHTTPRequestHandler):
    """Behaves as the first part of the path says."""

    calls: ClassVar[Counter[str]] = Counter()
    released: ClassVar[threading.Event] = threading.Event()

    def log_message(self, *args: object) -> None:
        pass

    def answer(
        self, body: bytes, code: int = 200, kind: str = "image/jpeg", length: int | None = None, tags: str = ""
    ) -> None:
        self.send_response(code)
        if tags:
            self.send_header("X-Robots-Tag", tags)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, code: int, wait: str) -> None:
        self.send_response(code)
        self.send_header("Retry-After", wait)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def in_two_parts(self) -> None:
        """The connection breaks after 300 bytes; only who asks for the rest gets it."""
        body, wanted = jpeg(), self.headers.get("Range", "bytes=0-")
        start = int(wanted.removeprefix("bytes=").rstrip("-"))
        assert start == 0 or self.headers["If-Range"] == '"v1"'
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("ETag", '"v1"')
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        self.wfile.write(body[start:] if start else body[:300])
        self.close_connection = True

    def do_GET(self) -> None:
        what = self.path.split("/")[1]
        Liar.calls[self.path] += 1
        try:
            match what:
                case "fine" | "photo_unavailable.jpg":
                    self.answer(jpeg())
                case "missing":
                    self.answer(b"no such photo", 404, "text/plain")
                case "missing_with_picture":
                    self.answer(jpeg(), 404)
                case "gone":
                    self.answer(b"", 410)
                case "html":
                    self.answer(b"<html>log in first</html>", 200, "text/html")
                case "wrong_type":
                    self.answer(jpeg(), 200, "text/html")
                case "cut":
                    self.answer(jpeg()[:200], length=5000)
                case "slow":
                    time.sleep(1.0)
                    self.answer(jpeg())
                case "endless":
                    self.send_response(200)
                    self.end_headers()
                    for _ in range(40):
                        self.wfile.write(b"x" * 100)
                        time.sleep(0.05)
                case "huge":
                    self.answer(b"", length=10**9)
                case "redirect":
                    self.send_response(302)
                    self.send_header("Location", "/fine/elsewhere")
                    self.end_headers()
                case "unavailable":
                    self.send_response(302)
                    self.send_header("Location", "/photo_unavailable.jpg")
                    self.end_headers()
                case "error_then_fine" if Liar.calls[self.path] > 2:
                    self.answer(jpeg())
                case "error" | "error_then_fine":
                    self.answer(b"sorry", 503)
                case "patience" if Liar.calls[self.path] == 1:
                    self.refuse(429, "1")
                case "patience":
                    self.answer(jpeg())
                case "too_much_patience":
                    self.refuse(503, "Fri, 31 Dec 2100 23:59:59 GMT")
                case "circle":
                    self.send_response(302)
                    self.send_header("Location", "/circle/again" if "again" in self.path else "/circle/again/2")
                    self.end_headers()
                case "elsewhere":
                    self.send_response(301)
                    self.send_header("Location", "file:///etc/hostname")
                    self.end_headers()
                case "forbidden":
                    self.answer(b"not for you", 403, "text/plain")
                case "broken_server":
                    self.answer(b"sorry", 500)
                case "continued":
                    self.in_two_parts()
                case "headers":
                    for _ in range(40):
                        self.wfile.write(b"H")
                        self.wfile.flush()
                        time.sleep(0.05)
                case "held":
                    Liar.released.wait(60)
                    self.answer(jpeg())
                case "no_use":
                    self.answer(jpeg(), tags="noindex, NoAI")
                case "no_use_of_others":
                    self.answer(jpeg(), tags="otherbot: noai")
                case "small":
                    self.answer(jpeg(40, 30))
                case "elongated":
                    self.answer(jpeg(200, 60))
                case "closed":
                    self.connection.close()
        except OSError:
            pass  # the client had enough


@pytest.fixture
def server() -> Iterator[str]:
    class Quiet(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *args: object) -> None:
            pass

    Liar.calls.clear()
    with Quiet(("127.0.0.1", 0), Liar) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()
        thread.join()


def web_store(folder: Path, base: str, behaviours: list[str], chunk_size: int = 8) -> Path:
    """A store whose records ask the server for these behaviours, all dates good."""
    rows = []
    for i, what in enumerate(behaviours):
        fields = [""] * 23
        fields[0], fields[3], fields[4], fields[14] = (
            str(100 + i),
            "2010-01-01 00:00:00.0",
            "1300000000",
            f"{base}/{what}/{i}",
        )
        fields[21], fields[22] = "jpg", "0"
        rows.append("\t".join(fields))
    (folder / "raw").mkdir(parents=True)
    (folder / "raw" / "yfcc100m_dataset").write_text("\n".join(rows) + "\n")
    ingest.ingest(folder / "store", Source.of_folder(folder / "raw"), chunk_size=chunk_size, rule=Filter())
    return folder / "store"


def statuses(root: Path) -> dict[int, str]:
    store = Store.open(root)
    return {
        row["id"]: row["status"]
        for chunk in store.chunks()
        for row in store.read_chunk(chunk, ["id", "status"]).to_pylist()
    }


def everything(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*"))
            if p.is_file() and p.name != ".lock" and ".scratch" not in p.parts}  # fmt: skip


def test_every_lie_ends_in_the_right_status(server: str, tmp_path: Path) -> None:
    root = web_store(tmp_path, server, list(BEHAVIOURS))
    options = evolve(FAST, n_threads=8, timeout_s=0.4, deadline_s=0.8)
    state = d.download(root, options)
    found = statuses(root)
    assert {what: found[100 + i] for i, what in enumerate(BEHAVIOURS)} == EXPECTED
    assert sum(state.counts.values()) == len(BEHAVIOURS)
    assert Liar.calls["/html/3"] == images.ATTEMPTS
    assert Liar.calls["/missing/1"] == Liar.calls[f"/forbidden/{BEHAVIOURS.index('forbidden')}"] == 1
    assert Liar.calls[f"/broken_server/{BEHAVIOURS.index('broken_server')}"] == images.ATTEMPTS
    assert Liar.calls[f"/too_much_patience/{BEHAVIOURS.index('too_much_patience')}"] == 1
    assert Liar.calls[f"/continued/{BEHAVIOURS.index('continued')}"] == 2
    rows = {row["id"]: row for c in Store.open(root).chunks() for row in Store.open(root).read_chunk(c).to_pylist()}
    for i, what in enumerate(BEHAVIOURS):
        row = rows[100 + i]
        assert (
            (root / row["rel_path"]).stat().st_size == row["bytes"]
            if EXPECTED[what] == "ok"
            else row["rel_path"] is None
        )
        assert EXPECTED[what] == "ok" or row["error"] or row["width"]
    on_disk = {p.name for p in (root / "images").rglob("*") if p.is_file()}
    assert on_disk == {f"{100 + i}.jpg" for i, what in enumerate(BEHAVIOURS) if EXPECTED[what] == "ok"}


def test_failed_records_can_be_tried_once_more(server: str, tmp_path: Path) -> None:
    root = web_store(tmp_path, server, ["fine", "error_then_fine", "fine"])
    Liar.calls["/error_then_fine/1"] = -4
    d.download(root, FAST)
    assert statuses(root)[101] == "rate_limited"
    done = d.download(root, FAST, retry=["rate_limited"])
    assert statuses(root)[101] == "ok"
    assert done.n_chunks == 1
    assert Liar.calls["/fine/0"] == 1


def test_what_is_not_to_be_used_is_fetched_only_when_asked(server: str, tmp_path: Path) -> None:
    root = web_store(tmp_path, server, ["no_use"])
    d.download(root, FAST)
    assert Store.open(root).read_chunk(0)["error"].to_pylist() == [
        "the host asks not to use it (X-Robots-Tag: noindex)"
    ]
    d.download(root, evolve(FAST, ignore_headers=True), retry=["http"])
    assert statuses(root) == {100: "ok"}


def test_an_unreachable_host_is_a_status_not_an_end(tmp_path: Path) -> None:
    root = web_store(tmp_path, "http://127.0.0.1:1", ["fine"] * 3)
    d.download(root, FAST)
    assert set(statuses(root).values()) == {"http"}


def test_addresses_of_no_known_kind_are_a_status(tmp_path: Path) -> None:
    root = web_store(tmp_path, "nowhere", ["fine"])
    d.download(root, FAST)
    assert statuses(root) == {100: "http"}


def test_known_unavailable_pictures_are_recognised(server: str, tmp_path: Path) -> None:
    import hashlib

    root = web_store(tmp_path, server, ["fine"])
    d.download(root, evolve(FAST, unavailable=frozenset([hashlib.sha256(jpeg()).hexdigest()])))
    assert statuses(root) == {100: "unavailable"}


def test_templates_slice_fields_and_name_unknown_ones() -> None:
    values = {"hash": "0123456789", "id": 7}
    assert fetch.fill("{hash[0:3]}/{hash[3:6]}/{hash}.jpg", values) == "012/345/0123456789.jpg"
    assert fetch.fill("{id}{hash[-2:]}", values) == "789"
    with pytest.raises(BadSetting, match="'hsah'"):
        fetch.fill("{hsah}", values)


def test_records_without_what_the_template_asks_for_have_their_own_status(server: str, tmp_path: Path) -> None:
    root = web_store(tmp_path, server, ["fine"] * 3)
    with pytest.raises(BadSetting, match="secret, which is empty in every record"):
        d.download(root, evolve(FAST, template="{download_url}?{secret}"))
    raw = tmp_path / "raw" / "yfcc100m_dataset"
    lines = raw.read_text().splitlines()
    fields = lines[1].split("\t")
    fields[19] = "0a1b"
    raw.write_text("\n".join([lines[0], "\t".join(fields), lines[2]]) + "\n")
    ingest.ingest(tmp_path / "again", Source.of_folder(tmp_path / "raw"), chunk_size=8, rule=Filter())
    d.download(tmp_path / "again", evolve(FAST, template="{download_url}?{secret}"))
    assert statuses(tmp_path / "again") == {100: "address", 101: "ok", 102: "address"}


def test_a_mirror_is_asked_by_the_hash_of_the_address(tmp_path: Path) -> None:
    root = web_store(tmp_path, "http://farm1.example", ["fine"] * 2)
    mirror = tmp_path / "mirror"
    for i in range(2):
        name = records.derived_hash(f"http://farm1.example/fine/{i}")
        (mirror / name[:3]).mkdir(parents=True, exist_ok=True)
        (mirror / name[:3] / f"{name}.jpg").write_bytes(jpeg())
    d.download(root, evolve(FAST, folder=str(mirror), template="{hash[0:3]}/{hash}.jpg"))
    assert set(statuses(root).values()) == {"ok"}


def test_one_host_gets_no_more_requests_at_a_time_than_allowed(tmp_path: Path) -> None:
    running, most, lock = [0], [0], threading.Lock()

    class Counting(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            with lock:
                running[0] += 1
                most[0] = max(most[0], running[0])
            time.sleep(0.02)
            body = jpeg()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with lock:
                running[0] -= 1
            self.wfile.write(body)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Counting) as httpd:
        httpd.daemon_threads = True
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        root = web_store(tmp_path, f"http://127.0.0.1:{httpd.server_address[1]}", ["fine"] * 24, chunk_size=24)
        d.download(root, evolve(FAST, n_threads=16, per_host=3))
        httpd.shutdown()
    assert set(statuses(root).values()) == {"ok"}
    assert 1 < most[0] <= 3


def test_original_bytes_are_kept_when_asked(server: str, tmp_path: Path) -> None:
    root = web_store(tmp_path, server, ["fine"])
    d.download(root, evolve(FAST, reencode=False))
    assert (root / "images" / "0" / "100.jpg").read_bytes() == jpeg()
    with pytest.raises(BadSetting, match="original_bytes"):
        d.download(root, FAST)


def test_pictures_come_from_a_local_folder(server: str, tmp_path: Path) -> None:
    root = web_store(tmp_path, server, ["fine"] * 3)
    (tmp_path / "mine").mkdir()
    for i in (0, 2):
        (tmp_path / "mine" / f"{100 + i}.jpg").write_bytes(jpeg())
    d.download(root, evolve(FAST, folder=str(tmp_path / "mine"), template="{id}.{ext}"))
    assert statuses(root) == {100: "ok", 101: "http", 102: "ok"}
    assert not Liar.calls


def test_the_number_of_threads_changes_nothing(tmp_path: Path) -> None:
    toy.write_metadata(tmp_path / "raw", 200)
    for name, n in (("one", 1), ("many", 16)):
        ingest.ingest(tmp_path / name, Source.of_folder(tmp_path / "raw"), chunk_size=70, rule=Filter(), n_threads=n)
        d.download(tmp_path / name, evolve(FAST, n_threads=n))
    assert everything(tmp_path / "one") == everything(tmp_path / "many")


def test_pictures_on_disk_are_believed_only_if_they_pass(finished_store: Path, tmp_path: Path) -> None:
    whole = everything(finished_store)
    root = tmp_path / "half"
    toy.write_metadata(tmp_path / "raw", 700)
    ingest.ingest(root, Source.of_folder(tmp_path / "raw"), chunk_size=200, rule=Filter(), n_threads=2)
    shutil.copytree(finished_store / "images" / "0", root / "images" / "0")
    pictures = sorted((root / "images" / "0").iterdir())
    pictures[0].write_bytes(pictures[0].read_bytes()[:300])  # as a killed machine leaves it
    pictures[1].unlink()
    state = d.download(root, FAST)
    assert state.n_reused_pictures == len(pictures) - 2
    assert {k: v for k, v in everything(root).items() if not k.startswith(("buckets", "features"))} == {
        k: v for k, v in whole.items() if not k.startswith(("buckets", "features"))}  # fmt: skip


def test_tar_files_hold_the_same_pictures_and_everything_reads_them(finished_store: Path, tmp_path: Path) -> None:
    import tarfile

    from cl_plugin_clear.curation import buckets, explore, features, forgetting, labelled, pictures, retrieve
    from cl_plugin_clear.data.members import members_of
    from cl_plugin_clear.method import moco

    root = tmp_path / "tar"
    toy.write_metadata(tmp_path / "raw", 700)
    ingest.ingest(root, Source.of_folder(tmp_path / "raw"), chunk_size=200, rule=Filter(), n_threads=2)
    d.download(root, evolve(FAST, output="tar"))
    assert sorted(p.name for p in (root / "images").iterdir()) == ["0.tar", "1.tar", "2.tar", "3.tar"]
    for chunk in range(4):  # as webdataset groups them: a picture, then its record
        with tarfile.open(root / "images" / f"{chunk}.tar") as archive:
            names = archive.getnames()
            record = json.load(archive.extractfile(names[1]))  # type: ignore[arg-type]
            picture = archive.extractfile(names[0]).read()  # type: ignore[union-attr]
        assert [Path(name).stem for name in names[::2]] == [Path(name).stem for name in names[1::2]]
        assert str(record["id"]) == Path(names[0]).stem
        assert picture == (finished_store / "images" / str(chunk) / names[0]).read_bytes()
    whole = {k: v for k, v in everything(finished_store).items() if k.startswith("meta")}
    assert {k: v for k, v in everything(root).items() if k.startswith("meta")} == whole

    buckets.make_split(root, "equal", buckets.Rule(n=3))
    features.embed(root, "equal", toy.toy_clip(), shard_rows=90, n_threads=2)
    assert {k: v for k, v in everything(root).items() if k.startswith("features")} == {
        k: v for k, v in everything(finished_store).items() if k.startswith("features")}  # fmt: skip
    retrieve.retrieve_group(root, tmp_path / "T", GROUP, toy.toy_clip(), label_map=LABELS)
    labelled.build_folder(root, tmp_path / "T", save_all_images=True)
    _, members = members_of(tmp_path / "T")
    photo, listed = next(iter(members["1"]["ring"].items()))
    assert (tmp_path / "T" / listed["IMG_PATH"]).stat().st_size > 0
    view = explore.Explorer(root, "equal", toy.toy_clip()).query("a ring", 1, 5)
    assert explore.thumbnail(Pictures(root), view.hits[0].rel_path) == explore.thumbnail(
        Pictures(finished_store), view.hits[0].rel_path)  # fmt: skip
    trained_on = [moco.find_pictures("store:equal/1", str(place))[3].tobytes() for place in (root, finished_store)]
    assert trained_on[0] == trained_on[1]
    before = sum(len(pictures.members(path)) for path in (root / "images").iterdir())
    assert forgetting.forget(root, [int(photo)]) == 1
    assert sum(len(pictures.members(path)) for path in (root / "images").iterdir()) == before - 2
    with pytest.raises(BadSetting, match="output"):
        d.download(root, FAST)


def test_a_part_without_its_manifest_row_is_finished(server: str, tmp_path: Path) -> None:
    root = web_store(tmp_path, server, ["fine"] * 3)
    d.download(root, FAST)
    whole = everything(root)
    manifest = root / "meta" / "part-000000.json"  # killed between the part and its row: the row is the one from before
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "state": "parsed", "counts": {"pending": 3}}))
    d.download(root, FAST)
    assert everything(root) == whole


def test_failed_records_join_an_existing_tar(server: str, tmp_path: Path) -> None:
    root = web_store(tmp_path, server, ["fine", "error_then_fine", "fine"])
    Liar.calls["/error_then_fine/1"] = -4
    options = evolve(FAST, output="tar")
    d.download(root, options)
    d.download(root, options, retry=["rate_limited"])
    assert statuses(root) == {100: "ok", 101: "ok", 102: "ok"}
    assert [p.name for p in (root / "images").iterdir()] == ["0.tar"]
    assert Pictures(root).read("images/0/101.jpg") == Pictures(root).read("images/0/100.jpg")
    assert Liar.calls["/fine/0"] == 1


def test_other_limits_for_the_same_store_are_refused(store: Path) -> None:
    with pytest.raises(BadSetting, match="min_edge"):
        d.download(store, evolve(FAST, limits=evolve(LIMITS, min_edge=51)))


def test_a_full_disk_is_named_and_loses_no_chunk(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = web_store(tmp_path, server, ["fine"] * 12, chunk_size=4)
    written = []
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        written.append(path)
        if len(written) > 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DiskFull, match="disk is full"):
        d.download(root, evolve(FAST, n_threads=1))
    monkeypatch.undo()
    assert len(Store.open(root).chunks("downloaded")) == 1
    state = d.download(root, FAST)
    assert set(statuses(root).values()) == {"ok"}
    assert state.n_reused_chunks == 1
    assert state.n_reused_pictures == 2


def test_img2dataset_is_for_the_web_only(tmp_path: Path) -> None:
    root = web_store(tmp_path, "toy://1", ["1"])
    with pytest.raises(Mismatch, match="web"):
        d.download(root, evolve(FAST, engine="img2dataset"))


CARRY = """
import sys
from pathlib import Path
from cl_plugin_clear.curation import carry
from cl_plugin_clear.curation.download import download
from cl_plugin_clear.curation.fetch import Options
from cl_plugin_clear.curation.images import Limits

if __name__ == "__main__":
    carry.SHARD = 4
    limits = Limits(min_size=10, min_edge=50, max_aspect_ratio=2.0)
    options = Options(limits=limits, engine="img2dataset", n_threads=8, n_processes=1, retry_wait_s=0.0, timeout_s=60)
    download(Path(sys.argv[1]), options)
"""
"""A download in shards of four records, one process for all of them."""


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["http", "img2dataset"])
def test_the_command_tells_every_lie_apart_with_either_engine(engine: str, server: str, tmp_path: Path) -> None:
    pytest.importorskip("img2dataset")
    root = web_store(tmp_path, server, list(BEHAVIOURS), chunk_size=40)
    words = ["--engine", engine, "--processes", "1", "--threads", "8", "--min-edge", "50", "--max-aspect-ratio", "2"]
    words += ["--timeout", "0.4", "--deadline", "0.8", "--retry-wait", "0"]
    done = clk("clear", "download", "--root", str(root), *words)
    assert done.returncode == 0, done.stderr
    found = statuses(root)
    assert {what: found[100 + i] for i, what in enumerate(BEHAVIOURS)} == EXPECTED
    for status, n in Counter(EXPECTED.values()).items():
        assert re.search(rf"^{status} +{n} ", done.stdout, re.MULTILINE), done.stdout
    assert "--retry http,rate_limited,decode,too_large" in done.stdout
    rows = {row["id"]: row for c in Store.open(root).chunks() for row in Store.open(root).read_chunk(c).to_pylist()}
    good = {i for i, row in rows.items() if row["status"] == "ok"}
    assert {p.name for p in (root / "images").rglob("*") if p.is_file()} == {f"{i}.jpg" for i in good}
    assert all(rows[i]["sha256"] == rows[100]["sha256"] and rows[i]["width"] == 80 for i in good)
    assert rows[100 + BEHAVIOURS.index("small")]["width"] == 40
    assert not list((root / ".scratch").rglob("*.jpg"))
    assert "rate_limited" in clk("clear", "status", "--root", str(root)).stdout


def clk(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command."""
    program = [sys.executable, "-m", "cl_kernel.cli.main", *words]
    return subprocess.run(program, capture_output=True, text=True, timeout=900)


@pytest.mark.slow
def test_shards_that_are_finished_are_not_fetched_again_and_processes_end(server: str, tmp_path: Path) -> None:
    pytest.importorskip("img2dataset")
    root = web_store(tmp_path, server, [*["fine"] * 4, *["held"] * 4, *["fine"] * 4], chunk_size=20)
    (tmp_path / "go.py").write_text(CARRY)
    program = [sys.executable, "-W", "ignore", str(tmp_path / "go.py"), str(root)]
    Liar.released.clear()
    with (tmp_path / "log").open("w") as log:
        begun = subprocess.Popen(program, stdout=log, stderr=log)
    wait_for(lambda: any(Liar.calls[f"/held/{i}"] for i in range(4, 8)), tmp_path / "log")
    children = Path(f"/proc/{begun.pid}/task/{begun.pid}/children").read_text().split()
    begun.kill()
    begun.wait()
    wait_for(lambda: not any(Path(f"/proc/{child}").exists() for child in children), tmp_path / "log")
    assert len(children) >= 2
    Liar.released.set()
    subprocess.run(program, check=True, capture_output=True, timeout=900)
    assert set(statuses(root).values()) == {"ok"}
    assert [Liar.calls[f"/fine/{i}"] for i in (*range(4), *range(8, 12))] == [1] * 8


def wait_for(condition: Callable[[], bool], log: Path, seconds: float = 400) -> None:
    """Until it holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, log.read_text()[-2000:]
        time.sleep(0.05)
