"""CLEAR at size: metadata, retrieval, the MoCo step, the feature-level grid. Writes bench/results/clear.{json,md}.

    python bench/clear.py                      everything, 2 million rows
    python bench/clear.py metadata --rows 2000000 10000000

Every measurement runs in a process of its own; peak memory is that process' largest resident size.
"""

# ruff: noqa: E501  the page is text, its lines are as long as they are

from __future__ import annotations

import argparse
import bz2
import importlib.util
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

_spec = importlib.util.spec_from_file_location("_report", Path(__file__).parent / "_report.py")
assert _spec is not None and _spec.loader is not None
report = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(report)

RESULTS = Path(__file__).parent / "results"
COMPARED_UP_TO = 2_000_000
"""Rows up to which the other ways are measured as well."""
GIVEN = 1 << 30
"""Bytes a retrieval may hold of its own; the shards are larger."""
ORIGINAL_MEASURED_ONCE = {"rows": 2_000_000, "seconds": 398.0, "peak_gb": 6.5}


# ---- metadata ---------------------------------------------------------------------------------


def generate(folder: Path, n: int, start: int = 0) -> None:
    """Rows ``start`` to ``start + n`` of the five files, about 0.7 kB each. Every text is drawn anew from 20,000 words with
    Zipf's frequencies, so no block of an archive is a copy of another; packed, they take a fifth of their size."""
    from datetime import UTC, datetime

    rng = np.random.default_rng([0, start])
    letters = np.frombuffer(b"etaoinshrdlucmfwypvbgkjqxz", np.uint8)
    shapes = np.random.default_rng(1)
    words = np.array(
        [
            bytes(letters[np.minimum(shapes.geometric(0.12, size) - 1, 25)]).decode()
            for size in shapes.integers(2, 10, 20_000)
        ],
        object,
    )
    folder.mkdir(parents=True, exist_ok=True)
    names = ("dataset", "autotags-v1", "lines", "hash", "exif")
    files = {name: (folder / f"yfcc100m_{name}").open("a") for name in names}
    for first in range(start, start + n, 20_000):
        m = min(20_000, start + n - first)
        drawn = words[np.minimum(rng.zipf(1.3, (m, 40)) - 1, 19_999)].tolist()
        stamps, ages = rng.integers(1_100_000_000, 1_398_682_159, m).tolist(), rng.integers(-(10**5), 10**7, m).tolist()
        users, servers, models = (
            rng.integers(low, high, m).tolist() for low, high in ((10**7, 10**8), (0, 8000), (0, 300))
        )
        counts, scores = rng.integers(0, 22, (m, 3)).tolist(), rng.integers(500, 1000, (m, 12)).tolist()
        secrets, places = rng.integers(0, 2**40, (m, 2)).tolist(), rng.uniform(-90, 90, (m, 2)).tolist()
        digests, gaps = rng.bytes(16 * m).hex(), rng.integers(0, 1000, m).tolist()
        rows: dict[str, list[str]] = {name: [] for name in names}
        for i in range(m):
            photo, w, (a, b, c), user = (
                10**7 + (first + i) * 1000 + gaps[i],
                drawn[i],
                counts[i],
                f"{users[i]}@N0{i % 8}",
            )
            taken = datetime.fromtimestamp(stamps[i] - ages[i], UTC).strftime("%Y-%m-%d %H:%M:%S.0")
            place = f"{2 * places[i][0]:.6f}\t{places[i][1]:.6f}\t16" if a % 2 else "\t\t"
            secret, farm, camera = f"{secrets[i][0]:010x}", servers[i] % 10, f"Canon+EOS+{w[32]}+{models[i]}"
            rows["dataset"].append(
                f"{photo}\t{user}\t{w[30]}+{w[31]}\t{taken}\t{stamps[i]}\t{camera}\t{'+'.join(w[: 1 + a // 4])}\t{'+'.join(w[3 : 3 + b])}\t"
                f"{','.join(w[25 : 25 + c // 2])}\t\t{place}\thttp://www.flickr.com/photos/{user}/{photo}/\t"
                f"http://farm{farm}.staticflickr.com/{servers[i]}/{photo}_{secret}.jpg\tAttribution-NonCommercial License\t"
                f"http://creativecommons.org/licenses/by-nc/2.0/\t{servers[i]}\t{farm}\t{secret}\t{secrets[i][1]:010x}\tjpg\t{int(c == 21 and b < 4)}"
            )
            rows["autotags-v1"].append(
                f"{photo}\t" + ",".join(f"{w[33 + k % 7]}{k}:0.{scores[i][k]}" for k in range(max(0, c - 9)))
            )
            rows["lines"].append(f"{first + i}\t{photo}")
            rows["hash"].append(f"{photo}\t{digests[32 * i : 32 * i + 32]}")
            rows["exif"].append(
                f"{photo}\tExif+IFD0.Make:Canon,Exif+IFD0.Model:{camera},Exif+SubIFD.Exposure+Time:1/{1 + servers[i]}"
            )
        for name, lines in rows.items():
            files[name].write("\n".join(lines) + "\n")
    for file in files.values():
        file.close()


def compress(folder: Path) -> float:
    """The five files of ``raw`` as bz2 in ``packed``, each in one stream as the release has it. :return: gigabytes."""
    (folder / "packed").mkdir(exist_ok=True)

    def pack(path: Path) -> int:
        target = folder / "packed" / f"{path.name}.bz2"
        with path.open("rb") as source, bz2.open(target, "wb") as out:
            shutil.copyfileobj(source, out, 1 << 20)
        return target.stat().st_size

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return sum(pool.map(pack, sorted((folder / "raw").iterdir()))) / 1e9


def packed(folder: Path, n: int) -> dict[str, Any]:
    """The same from bz2."""
    return ours(folder, n, "packed")


def as_before(folder: Path, n: int) -> dict[str, Any]:
    """The same from bz2 with the standard library's decompressor in the reading thread, as it was done before."""
    from cl_plugin_clear.curation import source

    source.indexed_bzip2.open = lambda path, parallelization: bz2.BZ2File(path)  # type: ignore[attr-defined]
    return ours(folder, n, "packed")


def decompressor(folder: Path, n: int) -> dict[str, Any]:
    """The parallel decompressor alone on the same files, the bytes thrown away."""
    import indexed_bzip2

    started, cpu = time.monotonic(), time.process_time()
    for path in sorted((folder / "packed").iterdir()):
        with indexed_bzip2.open(str(path), parallelization=os.cpu_count()) as file:
            while file.read(1 << 20):
                pass
    return {"rows": n, "seconds": time.monotonic() - started, "cpu_s": time.process_time() - cpu}


def ours(folder: Path, n: int, form: str = "raw") -> dict[str, Any]:
    """Parse, filter and split by the store: chunks to Parquet on a few threads, one sort that spills."""
    import pyarrow

    from cl_plugin_clear.curation.buckets import Rule, make_split
    from cl_plugin_clear.curation.ingest import ingest
    from cl_plugin_clear.curation.metadata import Filter
    from cl_plugin_clear.curation.source import Source

    pyarrow.array([0])  # with the first array come pandas and all it needs: start-up, as the imports above are
    started, cpu = time.monotonic(), time.process_time()
    store = folder / f"store-{os.getpid()}"
    done = ingest(store, Source.of_folder(folder / form), chunk_size=50_000, rule=Filter())
    parsed = time.monotonic()
    split = make_split(store, "equal-11", Rule(), statuses=("pending",))
    end = time.monotonic()
    shutil.rmtree(store)
    return {"rows": sum(done.counts.values()), "kept": split["n_items"], "parse_s": parsed - started, "split_s": end - parsed,
            "seconds": end - started, "cpu_s": time.process_time() - cpu, "startup_cpu_s": cpu, "digests": [b["sha256"][:12] for b in split["buckets"]]}  # fmt: skip


def restated(folder: Path, n: int) -> dict[str, Any]:
    """What the original does, row at a time: dictionaries of strings, a json a chunk, all of them read again, sorted as
    strings, written as one json of all buckets and again as one of each."""
    from datetime import UTC, datetime

    from cl_plugin_clear.curation.records import COLUMNS, split_record, split_tags, taken_seconds

    started, cpu = time.monotonic(), time.process_time()
    raw, old = folder / "raw", folder / "old"
    with (raw / "yfcc100m_hash").open() as file:
        hashes = dict(line.strip().split("\t") for _, line in zip(range(n), file, strict=False))
    old.mkdir()
    chunk: list[dict[str, Any]] = []

    def close(number: int) -> None:
        (old / f"chunk_{number:06d}.json").write_text(json.dumps(chunk))
        chunk.clear()

    with (
        (raw / "yfcc100m_dataset").open() as a,
        (raw / "yfcc100m_autotags-v1").open() as b,
        (raw / "yfcc100m_lines").open() as c,
        (raw / "yfcc100m_exif").open() as d,
    ):
        for i, (row, tags, number, _) in enumerate(zip(a, b, c, d, strict=True)):
            if i == n:
                break
            if i and i % 50_000 == 0:
                close(i // 50_000 - 1)
            record: dict[str, Any] = dict(zip(COLUMNS, split_record(row), strict=True))
            record["IMG_OR_VIDEO"] = int(record["IMG_OR_VIDEO"])
            record["AUTO_TAG_SCORES"] = split_tags(tags)[1]
            record["LINE_NUM"] = number.strip().split("\t")[0]
            record["HASH_VALUE"], record["EXIF"] = hashes[record["ID"]], None
            record["IMG_PATH"], record["IMG_DIR"] = f"{record['ID']}.{record['EXT']}", f"/data/{i // 50_000}/images"
            if record["IMG_OR_VIDEO"] == 0 and taken_seconds(record["DATE_TAKEN"]) < int(record["DATE_UPLOADED"]):
                chunk.append(record)
    close((n - 1) // 50_000)
    kept = [record for path in sorted(old.glob("chunk_*.json")) for record in json.loads(path.read_text())]
    order = sorted(range(len(kept)), key=lambda i: kept[i]["DATE_UPLOADED"])
    size, rest = divmod(len(order), 11)
    at, buckets = 0, {}
    for bucket in range(11):
        members = order[at : at + size + (bucket < rest)]
        at += len(members)
        dates = [datetime.fromtimestamp(int(kept[i]["DATE_UPLOADED"]), UTC) for i in members]
        buckets[bucket] = {
            "indices": members,
            "all_metadata": [kept[i] for i in members],
            "date_uploaded_list": [kept[i]["DATE_UPLOADED"] for i in members],
            "min_date": str(min(dates)),
            "max_date": str(max(dates)),
        }
        (old / f"bucket_{bucket}.json").write_text(json.dumps(buckets[bucket]))
    (old / "bucket_11.json").write_text(json.dumps(buckets))
    return {"rows": n, "kept": len(kept), "seconds": time.monotonic() - started, "cpu_s": time.process_time() - cpu}


def polars_way(folder: Path, n: int) -> dict[str, Any]:
    """The same rows through Polars' own CSV reader: parse, filter, sort pointers (no status a row, no maps, no hashes)."""
    import polars as pl

    started, cpu = time.monotonic(), time.process_time()
    names = [f"c{i}" for i in range(23)]
    frame = pl.scan_csv(folder / "raw" / "yfcc100m_dataset", separator="\t", has_header=False, quote_char=None, new_columns=names,
                        infer_schema=False, n_rows=n)  # fmt: skip
    taken = pl.col("c3").str.slice(0, 19).str.to_datetime("%Y-%m-%d %H:%M:%S", strict=False).dt.epoch("s")
    kept = (frame.with_row_index("row").filter((pl.col("c22") == "0") & (taken < pl.col("c4").cast(pl.Int64)))
            .select("row", pl.col("c0").cast(pl.Int64), pl.col("c4").cast(pl.Int64)).sort("c4", "row").collect())  # fmt: skip
    return {"rows": n, "kept": len(kept), "seconds": time.monotonic() - started, "cpu_s": time.process_time() - cpu}


def duckdb_way(folder: Path, n: int) -> dict[str, Any]:
    """The same through DuckDB's CSV reader and NTILE."""
    import duckdb

    started, cpu = time.monotonic(), time.process_time()
    columns = ", ".join(f"'c{i}': 'VARCHAR'" for i in range(23))
    connection = duckdb.connect(config={"memory_limit": "3GB", "threads": 2, "temp_directory": str(folder)})
    kept = connection.execute(
        f"select count(*), max(b) from (select ntile(11) over (order by cast(c4 as bigint)) b from read_csv('{folder}/raw/yfcc100m_dataset',"
        f" delim='\t', header=false, quote='', escape='', columns={{{columns}}}, auto_detect=false) where c22 = '0' and "
        "try_cast(c3 as timestamp) < make_timestamp(cast(c4 as bigint) * 1000000))"
    ).fetchall()[0][0]
    return {"rows": n, "kept": kept, "seconds": time.monotonic() - started, "cpu_s": time.process_time() - cpu}


# ---- retrieval --------------------------------------------------------------------------------


def shards(folder: Path, n: int, d: int = 512) -> list[Path]:
    """Normalised random features in shards of 100,000 rows."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    paths = []
    for start in range(0, n, 100_000):
        path = folder / f"{start}.npy"
        rows = rng.standard_normal((min(100_000, n - start), d), np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        np.save(path, rows)
        paths.append(path)
    return paths


def retrieval(folder: Path, n: int) -> dict[str, Any]:
    """100 prompts x 30,000 in one pass, by the clock on all cores; the shards are dropped from the page cache before
    each measurement, and the process may not hold :data:`GIVEN` of its own. Beside it: reading the files, the products
    alone, the same products from memory, and faiss."""
    from cl_plugin_clear.curation.retrieval import BLOCK_ROWS, normalise, search

    limit = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (GIVEN, limit))
    paths = sorted((folder / "shards").glob("*.npy"), key=lambda p: int(p.stem))
    queries = normalise(np.random.default_rng(1).standard_normal((100, 512)))
    k = min(30_000, n)
    out: dict[str, Any] = {"images": n, "gigabytes": n * 512 * 4 / 1e9, "prompts": 100, "k": k, "given_gb": GIVEN / 1e9}

    def cold(body: Callable[[], Any], drop: bool = True) -> float:
        times = []
        for _ in range(3):
            for path in paths if drop else ():
                handle = os.open(path, os.O_RDONLY)
                os.fsync(handle)
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(handle)
            started = time.monotonic()
            body()
            times.append(time.monotonic() - started)
        return sorted(times)[1]

    def read() -> None:
        buffer = bytearray(4 << 20)
        for path in paths:
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass

    def products() -> None:
        for path in paths:
            rows = np.load(path, mmap_mode="r")
            for at in range(0, len(rows), BLOCK_ROWS):
                queries @ rows[at : at + BLOCK_ROWS].T

    found: list[Any] = []

    def ours() -> None:
        found[:] = search(queries, (np.load(path, mmap_mode="r") for path in paths), k)

    out["read_s"] = cold(read)
    out["read_warm_s"] = cold(read, drop=False)
    out["product_s"] = cold(products)
    out["search_s"] = cold(ours)
    out["anonymous_mb"] = _anonymous()
    out["gflops"] = 2e-9 * n * 512 * 100 / out["product_s"]
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    import faiss

    def theirs() -> None:
        best = None
        for path in paths:
            rows = np.load(path)
            scores, index = faiss.knn(queries, rows, min(k, len(rows)), metric=faiss.METRIC_INNER_PRODUCT)
            index = index + int(path.stem)
            if best is not None:
                scores, index = np.concatenate([best[0], scores], 1), np.concatenate([best[1], index], 1)
                order = np.argsort(-scores, 1, kind="stable")[:, :k]
                scores, index = np.take_along_axis(scores, order, 1), np.take_along_axis(index, order, 1)
            best = scores, index
        assert best is not None
        out["same_as_faiss"] = float((best[1] == found[0].rows).mean())

    out["faiss_s"] = cold(theirs)
    return out


def _anonymous() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1000
    return float("nan")


# ---- download ---------------------------------------------------------------------------------

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


# ---- training ---------------------------------------------------------------------------------


def moco(folder: Path, n: int) -> dict[str, Any]:
    """A MoCo step (ResNet-18, 64 pixels, batch 32, queue 4096) beside the same arithmetic written out."""
    import torch
    from torch.nn import functional

    from cl_plugin_clear.method.moco import step
    from cl_plugin_clear.network.backbones import encoder
    from cl_plugin_clear.network.moco import MoCo

    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = MoCo(encoder("resnet18", 128), encoder("resnet18", 128), queue=4096, mlp=True, temperature=0.2)
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.03, momentum=0.9, weight_decay=1e-4)
    x_q, x_k = torch.randn(32, 3, 64, 64), torch.randn(32, 3, 64, 64)
    queue, zero = net.queue.clone(), torch.zeros(32, dtype=torch.long)
    pairs = list(zip(net.encoder_k.parameters(), net.encoder_q.parameters(), strict=True))

    def bare() -> None:
        q = functional.normalize(net.encoder_q(x_q), dim=1)
        with torch.no_grad():
            for k_, q_ in pairs:
                k_.mul_(0.999).add_(q_, alpha=0.001)
            k = functional.normalize(net.encoder_k(x_k), dim=1)
        loss = functional.cross_entropy(torch.cat([(q * k).sum(1, keepdim=True), q @ queue], 1) / 0.2, zero)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        queue[:, :32] = k.T.detach()

    return {"step": "ResNet-18, 64 px, batch 32", **_ratio(lambda: step(net, net, optimizer, x_q, x_k), bare, n)}


def grid(folder: Path, n: int) -> dict[str, Any]:
    """One bucket of the feature-level grid at CLEAR-10's size (2310 x 2048, 11 classes, batch 256): five seeds side by
    side, the same seeds one after the other, and a bare loop. CPU seconds of one thread, the least of three."""
    import torch
    from attrs import evolve

    from cl_kernel import ArraySamples, Field, Resources, Stage, Stream
    from cl_plugin_clear.evaluate.drift import train_seeds
    from cl_plugin_clear.settings import Buckets

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    spec = {
        "vector": Field(shape=(2048,), dtype="float32", kind="vector"),
        "class": Field(shape=(), dtype="int64", kind="class", n=11),
    }

    def samples(rows: int) -> ArraySamples:
        means, labels = np.random.default_rng(7).standard_normal((11, 2048)) / 30, rng.integers(0, 11, rows)
        vectors = (rng.standard_normal((rows, 2048)) + means[labels]).astype(np.float32)
        return ArraySamples(spec, {"vector": vectors, "class": labels})

    streams = [
        Stream(name="grid", task="vector -> class", test=samples(990), test_sets={"1": np.arange(990)},
               stages=[Stage(index=0, name="1", train=samples(2310))], class_names=tuple(map(str, range(11))))
        for _ in range(5)
    ]  # fmt: skip
    resources = [Resources(device="cpu", seed=seed) for seed in range(5)]
    settings = evolve(Buckets(), epochs=n, lr=0.01)

    def several(seeds: list[int]) -> list[np.ndarray]:
        chosen = [streams[seed] for seed in seeds], {"keep": "memory"}, settings, [resources[seed] for seed in seeds]
        return train_seeds(*chosen, seeds, lambda **values: None)

    def bare() -> None:
        x = torch.from_numpy(streams[0].stages[0].train.arrays["vector"])
        y = torch.from_numpy(streams[0].stages[0].train.arrays["class"])
        net = torch.nn.Linear(2048, 11)
        optimizer = torch.optim.SGD(net.parameters(), 1.0, momentum=0.9)
        for _ in range(n):
            for rows in torch.randperm(len(x)).split(256):
                loss = torch.nn.functional.cross_entropy(net(x[rows]), y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    times: dict[str, list[float]] = {"together": [], "alone": [], "bare": []}
    accuracies: dict[str, list[float]] = {}

    def clock(way: str, body: Callable[[], Any], share: int) -> None:
        started = time.process_time()
        found = body()
        times[way].append((time.process_time() - started) / share)
        if found is not None:
            accuracies[way] = [float(R[0, 0]) for R in found]

    several([0])  # imports
    for _ in range(3):
        clock("together", lambda: several([0, 1, 2, 3, 4]), 5)
        clock("alone", lambda: [several([seed])[0] for seed in range(5)], 5)
        clock("bare", bare, 1)
    best = {f"{way}_s": min(found) for way, found in times.items()}
    return {"epochs": n, **best, "times_faster": best["alone_s"] / best["together_s"], "accuracies": accuracies,
            "whole_grid_minutes": best["together_s"] / n * 100 * 9 * 2 * 5 * 10 / 60}  # fmt: skip


def _ratio(mine: Callable[[], Any], floor: Callable[[], Any], n: int) -> dict[str, float]:
    """Medians over interleaved repetitions, so that a busy machine slows both."""
    mine()
    floor()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(n):
        for side, body in enumerate((mine, floor)):
            started = time.process_time()
            body()
            times[side].append(time.process_time() - started)
    a, b = (float(np.median(t)) for t in times)
    return {"ours_ms": 1e3 * a, "bare_ms": 1e3 * b, "ratio": a / b}


# ---- running ----------------------------------------------------------------------------------

PARTS = {
    "ours": ours,
    "packed": packed,
    "as_before": as_before,
    "decompressor": decompressor,
    "restated": restated,
    "polars": polars_way,
    "duckdb": duckdb_way,
    "retrieval": retrieval,
    "download": download,
    "moco": moco,
    "grid": grid,
}


def alone(part: str, folder: Path, n: int) -> dict[str, Any]:
    """Run one part in a process of its own; ``job_s`` is the whole process, its start and imports included."""
    code = [sys.executable, str(Path(__file__).resolve()), "--part", part, "--folder", str(folder), "--n", str(n)]
    started = time.monotonic()
    done = subprocess.run(code, check=True, stdout=subprocess.PIPE, text=True)
    return {**json.loads(done.stdout.splitlines()[-1]), "job_s": time.monotonic() - started}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what", nargs="*", default=[], help="metadata, packed, retrieval, download, moco, grid (default: all)"
    )
    parser.add_argument("--rows", type=int, nargs="*", default=[2_000_000])
    parser.add_argument(
        "--restated-rows", type=int, default=2_000_000, help="rows the row-at-a-time way gets; needs 5 GB a million"
    )
    parser.add_argument("--packed-rows", type=int, nargs="*", default=[400_000], help="of the bz2 form")
    parser.add_argument("--images", type=int, default=1_200_000)
    parser.add_argument("--work", type=Path, default=None, help="scratch folder (default: a temporary one)")
    parser.add_argument("--part", default="", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--n", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        result = PARTS[args.part](args.folder, args.n)
        result["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(result))
        return
    what = args.what or ["metadata", "packed", "retrieval", "download", "moco", "grid"]
    path = RESULTS / "clear.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    results["machine"] = report.machine("numpy", "torch", "pyarrow", "duckdb")
    with tempfile.TemporaryDirectory(dir=args.work) as name:
        work = Path(name)
        if "metadata" in what:
            for n in args.rows:
                known = [entry for entry in results.get("metadata", []) if entry["rows"] != n]
                shutil.rmtree(work / "raw", ignore_errors=True)
                generate(work / "raw", n)
                size = sum(p.stat().st_size for p in (work / "raw").iterdir())
                entry: dict[str, Any] = {"rows": n, "source_gb": size / 1e9, "ours": alone("ours", work, n)}
                if n <= COMPARED_UP_TO:
                    for other in ("polars", "duckdb"):
                        entry[other] = alone(other, work, n)
                    entry["restated"] = alone("restated", work, args.restated_rows)
                    shutil.rmtree(work / "old")
                    slow = entry["restated"]
                    entry["times_faster_wall"] = (slow["seconds"] / slow["rows"]) / (entry["ours"]["seconds"] / n)
                    entry["times_faster_cpu"] = (slow["cpu_s"] / slow["rows"]) / (entry["ours"]["cpu_s"] / n)
                results["metadata"] = sorted([*known, entry], key=lambda e: e["rows"])
                write(path, results)
        if "packed" in what:
            results["packed"] = []
            for n in args.packed_rows:
                shutil.rmtree(work / "raw", ignore_errors=True)
                generate(work / "raw", n)
                entry = {"rows": n, "source_gb": sum(p.stat().st_size for p in (work / "raw").iterdir()) / 1e9}
                entry["packed_gb"] = compress(work)
                entry |= {way: alone(way, work, n) for way in ("ours", "packed", "decompressor", "as_before")}
                results["packed"].append(entry)
                write(path, results)
        if "retrieval" in what:
            shards(work / "shards", args.images)
            results["retrieval"] = alone("retrieval", work, args.images)
            write(path, results)
        if "download" in what:
            results["download"] = alone("download", work, 3000)
        if "moco" in what:
            results["moco"] = alone("moco", work, 12)
        if "grid" in what:
            results["grid"] = alone("grid", work, 40)
    write(path, results)


def write(path: Path, results: dict[str, Any]) -> None:
    """The JSON and a page for people."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    sections = ["# clear", f"Machine: {', '.join(f'{key} {value}' for key, value in results['machine'].items())}."]
    for name in ("metadata", "packed", "retrieval", "download", "moco", "grid"):
        if name in results:
            sections += [f"## {name}", *SECTIONS[name](results[name])]
    path.with_suffix(".md").write_text("\n\n".join(sections) + "\n")


def _metadata_page(entries: list[dict[str, Any]]) -> list[str]:
    rows = [
        (entry[way]["rows"], way, entry[way]["seconds"], entry[way]["cpu_s"],
         int(entry[way]["rows"] / entry[way]["seconds"]), int(entry[way]["peak_mb"]))
        for entry in entries for way in ("ours", "polars", "duckdb", "restated") if way in entry
    ]  # fmt: skip
    first, peaks = entries[0], [entry["ours"]["peak_mb"] for entry in entries]
    old, ours, slow, last = ORIGINAL_MEASURED_ONCE, first["ours"], first["restated"], entries[-1]["ours"]
    return [
        report.table(("rows", "way", "seconds", "CPU seconds", "rows/s", "peak MB"), rows),
        "Ours parses all 29 fields, joins tags, line numbers, hashes and exif, writes Parquet with a status a row, and cuts "
        f"11 buckets (of {ours['seconds']:.1f} s the split takes {ours['split_s']:.1f}). The row-at-a-time re-statement "
        f"needs {first['times_faster_wall']:.0f} times as long by the clock and {first['times_faster_cpu']:.0f} times the "
        f"CPU time; the original itself was once measured at {old['seconds']:.0f} s and {old['peak_gb']} GB for "
        f"{old['rows'] / 1e6:.0f} million rows. 100 million rows take {last['seconds'] / last['rows'] * 1e8 / 3600:.2f} h at the last rate. "
        "Polars and DuckDB here only read one of the files, filter and sort."
        + (f" At {entries[-1]['rows'] / 1e6:.0f} million rows the ratios a row are "
           f"{slow['seconds'] / slow['rows'] / (last['seconds'] / last['rows']):.0f} by the clock and "
           f"{slow['cpu_s'] / slow['rows'] / (last['cpu_s'] / last['rows']):.0f} in CPU time." if len(entries) > 1 else "")
        + (f" Peak memory from {entries[0]['rows'] / 1e6:.0f} to {entries[-1]['rows'] / 1e6:.0f} million rows: "
           f"{' / '.join(f'{peak:,.0f}' for peak in peaks)} MB." if len(entries) > 1 else ""),
        f"CPU seconds are those after the imports, for every way; ours needs {ours['startup_cpu_s']:.1f} to start.",
        "What limits it now: a quarter of the CPU time is Arrow's CSV conversion of the 23 columns, a quarter encoding and "
        "compressing Parquet, a seventh page faults for memory that the allocators had given back, the rest the four "
        "other files, reading, the auto tags and the sort. DuckDB or Polars alone need about half of our CPU time to copy "
        "only the dataset file into Parquet, with no id looked at.",
    ]  # fmt: skip


def _retrieval_page(r: dict[str, Any]) -> list[str]:
    return [
        f"{r['prompts']} prompts x {r['k']:,} of {r['images']:,} images, {r['gigabytes']:.2f} GB of shards; the process may "
        f"hold {r['given_gb']:.2f} GB of its own and holds {r['anonymous_mb'] / 1e3:.2f}. Seconds by the clock, page cache "
        "dropped before each, median of 3:",
        report.table(
            ("search", "products alone", "reading alone", "reading again, from memory", "faiss"),
            [[r["search_s"], r["product_s"], r["read_s"], r["read_warm_s"], r["faiss_s"]]],
        ),
        f"{r['search_s'] / r['read_s']:.1f} times reading the shards from the disk, "
        f"{r['search_s'] / r['read_warm_s']:.1f} times reading them from memory, {r['search_s'] / r['product_s']:.2f} times "
        f"the products; {r['faiss_s'] / r['search_s']:.1f} times as fast as faiss, with the same row at "
        f"{100 * r['same_as_faiss']:.2f} % of the places (at the others the two scores differ by less than 1e-7).",
        f"What limits it now: the products, {r['gflops']:.0f} GFLOP/s; 100 prompts are 50 operations for each byte read, "
        "so these cores reach their arithmetic limit before the memory's: three times reading from memory would take "
        f"{100 * 2e-9 * r['images'] * 512 / (3 * r['read_warm_s']):.0f} GFLOP/s. Fewer prompts are bound by reading.",
    ]


def _download_page(r: dict[str, Any]) -> list[str]:
    return [
        f"{r['records']:,} records from a host on the same machine, pictures of {r['picture_kb']:.0f} kB, "
        f"{100 * r['lies']:.0f} % of the answers slow, redirected, missing, no picture, cut short or endless:",
        report.table(
            ("engine", "records/s", "with the right status"),
            [
                [engine, r[f"{engine}_per_s"], f"{100 * r[f'{engine}_right']:.2f} %"]
                for engine in ("http", "threads", "img2dataset")
                if f"{engine}_per_s" in r  # threads: measured before the pooled client
            ],
        ),
        f"Fetching good pictures alone, nothing decoded: {r['fetching_alone_per_s']:.0f} a second.",
        "What limits it now: decoding and re-encoding each picture, as the original's filter on bytes demands, and the host "
        "itself, which runs on the same cores, and for img2dataset the start of its processes.",
    ]


def _moco_page(r: dict[str, Any]) -> list[str]:
    return [
        f"{r['step']}: {r['ours_ms']:.0f} ms a step, the bare arithmetic {r['bare_ms']:.0f} ms: ratio {r['ratio']:.3f}.",
        "What limits it now: the two encoders' convolutions and the backward pass.",
    ]


def _grid_page(r: dict[str, Any]) -> list[str]:
    per_100 = [r[f"{way}_s"] / r["epochs"] * 100 for way in ("together", "alone", "bare")]
    together, alone_ = r["accuracies"]["together"], r["accuracies"]["alone"]
    return [
        f"A bucket of CLEAR-10's features, 100 epochs, CPU seconds a seed: {per_100[0]:.2f} with five seeds side by side, "
        f"{per_100[1]:.2f} one after the other, {per_100[2]:.2f} in a bare loop; so {r['times_faster']:.1f} times faster. "
        f"Accuracies of the five seeds differ by at most {max(abs(a - b) for a, b in zip(together, alone_, strict=True)):.4f}. "
        f"9 alphas x 2 starts x 5 seeds x 10 buckets: {r['whole_grid_minutes']:.0f} minutes on one core.",
        "What limits it now: the two products of a step and gathering the rows of its batches.",
    ]


def _packed_page(entries: list[dict[str, Any]]) -> list[str]:
    names = {
        "ours": "plain text",
        "packed": "bz2",
        "as_before": "bz2, standard library",
        "decompressor": "decompressor alone",
    }
    rows = [
        (entry["rows"], name, entry[way]["seconds"], entry[way]["job_s"], entry[way]["cpu_s"],
         int(entry["rows"] / entry[way]["seconds"]), int(entry[way]["peak_mb"]))
        for entry in entries for way, name in names.items()
    ]  # fmt: skip
    first = entries[0]
    mine, before, alone_s = (first[way]["seconds"] for way in ("packed", "as_before", "decompressor"))
    return [
        report.table(("rows", "from", "seconds", "whole job", "CPU seconds", "rows/s", "peak MB"), rows),
        f"All five files, {first['source_gb'] * 1e3:.0f} MB as text and {first['packed_gb'] * 1e3:.0f} MB as bz2, one stream each; "
        "rows as above. Every way but the decompressor parses, joins, filters, writes Parquet and splits. From bz2 it is "
        f"{before / mine:.2f} times as fast as with the standard library's decompressor in the reading thread, and takes "
        f"{mine / alone_s:.2f} times as long as the parallel decompressor alone. The whole job counts the start of Python and "
        "all imports. No peer reads these five files together.",
        "What limits it now: decompression, on all cores; parsing runs in between.",
    ]


SECTIONS: dict[str, Callable[[Any], list[str]]] = {
    "metadata": _metadata_page,
    "packed": _packed_page,
    "retrieval": _retrieval_page,
    "download": _download_page,
    "moco": _moco_page,
    "grid": _grid_page,
}


if __name__ == "__main__":
    main()
