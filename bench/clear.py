"""CLEAR at size: metadata, retrieval, the MoCo step, the feature-level grid. Writes bench/results/clear.{json,md}.

    python bench/clear.py                      everything, 2 million rows
    python bench/clear.py metadata --rows 2000000 10000000

Every measurement runs in a process of its own; peak memory is that process' largest resident size.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
BLOCK = 100_000
COMPARED_UP_TO = 2_000_000
"""Rows up to which the other ways are measured as well."""
ORIGINAL_MEASURED_ONCE = {"rows": 2_000_000, "seconds": 398.0, "peak_gb": 6.5}


# ---- metadata ---------------------------------------------------------------------------------


def generate(folder: Path, n: int) -> None:
    """About 0.5 kB a row: one block of rows, written over and over with other ids and shifted uploads."""
    from datetime import UTC, datetime

    rng = np.random.default_rng(0)
    uploaded = rng.integers(1_100_000_000, 1_398_682_159, BLOCK)
    parts: dict[str, list[str]] = {"dataset": [], "autotags-v1": [], "lines": [], "hash": []}
    for i, stamp in enumerate(uploaded.tolist()):
        photo = f"@@@{i:05d}7"
        taken = datetime.fromtimestamp(stamp - 86_400 + (200_000 if i % 33 == 0 else 0), UTC).strftime(
            "%Y-%m-%d %H:%M:%S.0"
        )
        parts["dataset"].append(
            f"{photo}\t{i % 99999:08d}@N0{i % 8}\tnick+{i % 777}\t{taken}\t{stamp}\tCanon+EOS+{i % 9}\tIMG+{i}%20at+the+lake\t"  # noqa: E501
            f"{'some+longer+words+about+what+is+seen+here+' * 3}\tlake,mountain,summer,{i % 100}\t\t12.5\t-33.25\t16\t"
            f"http://www.flickr.com/photos/{i % 99999:08d}@N0{i % 8}/{photo}/\thttp://farm{i % 9}.staticflickr.com/{i % 6000}/"  # noqa: E501
            f"{photo}_0a1b2c3d4e.jpg\tAttribution-NonCommercial License\thttp://creativecommons.org/licenses/by-nc/2.0/\t{i % 6000}\t"  # noqa: E501
            f"{i % 9}\t0a1b2c3d4e\t0a1b2c3d4f\tjpg\t{int(i % 125 == 0)}"
        )
        parts["autotags-v1"].append(f"{photo}\toutdoor:0.912,lake:0.812,nature:0.701" if i % 5 else f"{photo}\t")
        parts["lines"].append(f"{i}\t{photo}")
        parts["hash"].append(f"{photo}\t{i:032x}")
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in parts.items():
        text = ("\n".join(rows) + "\n").encode()
        with (folder / f"yfcc100m_{name}").open("wb") as out:
            for block in range(-(-n // BLOCK)):
                out.write(text.replace(b"@@@", f"{100 + block}".encode()))


def ours(folder: Path, n: int) -> dict[str, Any]:
    """Parse, filter and split by the store: chunks to Parquet on two threads, one sort that spills."""
    from cl_plugin_clear.data.buckets import Rule, make_split
    from cl_plugin_clear.data.ingest import ingest
    from cl_plugin_clear.data.metadata import Filter, Source

    started = time.monotonic()
    done = ingest(folder / "store", Source.of_folder(folder / "raw"), chunk_size=50_000, rule=Filter(), n_threads=2)
    parsed = time.monotonic()
    split = make_split(folder / "store", "equal-11", Rule(), statuses=("pending",))
    end = time.monotonic()
    return {"rows": sum(done.counts.values()), "kept": split["n_items"], "parse_s": parsed - started, "split_s": end - parsed,  # noqa: E501
            "seconds": end - started, "cpu_s": time.process_time(), "digests": [b["sha256"][:12] for b in split["buckets"]]}  # fmt: skip  # noqa: E501


def restated(folder: Path, n: int) -> dict[str, Any]:
    """What the original does, row at a time: dictionaries of strings, one json a chunk, a sort, buckets with their metadata."""  # noqa: E501
    from datetime import datetime

    from cl_plugin_clear.data.metadata import COLUMNS, split_record, split_tags, taken_seconds

    started, cpu = time.monotonic(), time.process_time()
    raw = folder / "raw"
    with (raw / "yfcc100m_hash").open() as file:
        hashes = dict(line.strip().split("\t") for _, line in zip(range(n), file, strict=False))
    kept: list[dict[str, Any]] = []
    (folder / "old").mkdir()
    with (
        (raw / "yfcc100m_dataset").open() as a,
        (raw / "yfcc100m_autotags-v1").open() as b,
        (raw / "yfcc100m_lines").open() as c,
    ):
        for i, (row, tags, number) in enumerate(zip(a, b, c, strict=True)):
            if i == n:
                break
            record: dict[str, Any] = dict(zip(COLUMNS, split_record(row), strict=True))
            record["IMG_OR_VIDEO"] = int(record["IMG_OR_VIDEO"])
            record["AUTO_TAG_SCORES"] = split_tags(tags)[1]
            record["LINE_NUM"] = number.strip().split("\t")[0]
            record["HASH_VALUE"], record["EXIF"] = hashes[record["ID"]], None
            record["IMG_PATH"], record["IMG_DIR"] = f"{record['ID']}.{record['EXT']}", f"/data/{i // 50_000}/images"
            if record["IMG_OR_VIDEO"] == 0 and taken_seconds(record["DATE_TAKEN"]) < int(record["DATE_UPLOADED"]):
                kept.append(record)
    for chunk in range(0, len(kept), 50_000):
        (folder / "old" / f"{chunk}.json").write_text(json.dumps(kept[chunk : chunk + 50_000]))
    order = sorted(range(len(kept)), key=lambda i: kept[i]["DATE_UPLOADED"])
    size, rest = divmod(len(order), 11)
    at = 0
    for bucket in range(11):
        members = order[at : at + size + (bucket < rest)]
        at += len(members)
        dates = [datetime.fromtimestamp(int(kept[i]["DATE_UPLOADED"])) for i in members]
        (folder / "old" / f"bucket_{bucket}.json").write_text(json.dumps({
            "indices": members, "all_metadata": [kept[i] for i in members], "min_date": str(min(dates)), "max_date": str(max(dates))}))  # fmt: skip  # noqa: E501
    return {"rows": n, "kept": len(kept), "seconds": time.monotonic() - started, "cpu_s": time.process_time() - cpu}


def polars_way(folder: Path, n: int) -> dict[str, Any]:
    """The same rows through Polars' own CSV reader: parse, filter, sort pointers (no status a row, no maps, no hashes)."""  # noqa: E501
    import polars as pl

    started, cpu = time.monotonic(), time.process_time()
    names = [f"c{i}" for i in range(23)]
    frame = pl.scan_csv(folder / "raw" / "yfcc100m_dataset", separator="\t", has_header=False, quote_char=None, new_columns=names,  # noqa: E501
                        infer_schema=False, n_rows=n)  # fmt: skip
    taken = pl.col("c3").str.slice(0, 19).str.to_datetime("%Y-%m-%d %H:%M:%S", strict=False).dt.epoch("s")
    kept = (frame.with_row_index("row").filter((pl.col("c22") == "0") & (taken < pl.col("c4").cast(pl.Int64)))
            .select("row", pl.col("c0").cast(pl.Int64), pl.col("c4").cast(pl.Int64)).sort("c4", "row").collect())  # fmt: skip  # noqa: E501
    return {"rows": n, "kept": len(kept), "seconds": time.monotonic() - started, "cpu_s": time.process_time() - cpu}


def duckdb_way(folder: Path, n: int) -> dict[str, Any]:
    """The same through DuckDB's CSV reader and NTILE."""
    import duckdb

    started, cpu = time.monotonic(), time.process_time()
    columns = ", ".join(f"'c{i}': 'VARCHAR'" for i in range(23))
    connection = duckdb.connect(config={"memory_limit": "3GB", "threads": 2, "temp_directory": str(folder)})
    kept = connection.execute(
        f"select count(*), max(b) from (select ntile(11) over (order by cast(c4 as bigint)) b from read_csv('{folder}/raw/yfcc100m_dataset',"  # noqa: E501
        f" delim='\t', header=false, quote='', escape='', columns={{{columns}}}, auto_detect=false) where c22 = '0' and "  # noqa: E501
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
    """100 prompts x 30,000 in one pass, beside reading alone, the matrix products alone, and faiss."""
    import torch

    from cl_plugin_clear.data.retrieval import BLOCK_ROWS, normalise, search

    torch.set_num_threads(1)  # CPU seconds of one thread: other work on the machine does not count
    paths = sorted((folder / "shards").glob("*.npy"), key=lambda p: int(p.stem))
    queries = normalise(np.random.default_rng(1).standard_normal((100, 512)))
    k = min(30_000, n)
    out: dict[str, Any] = {"images": n, "gigabytes": n * 512 * 4 / 1e9, "prompts": 100, "k": k}
    started = time.process_time()
    for path in paths:
        rows = np.load(path, mmap_mode="r")
        for at in range(0, len(rows), BLOCK_ROWS):
            np.array(rows[at : at + BLOCK_ROWS])
    out["read_s"] = time.process_time() - started
    started = time.process_time()
    q = torch.from_numpy(queries).T.contiguous()
    for path in paths:
        rows = np.load(path, mmap_mode="r")
        for at in range(0, len(rows), BLOCK_ROWS):
            torch.mm(torch.from_numpy(np.array(rows[at : at + BLOCK_ROWS])), q)
    out["read_and_product_s"] = time.process_time() - started
    anonymous = []
    started = time.process_time()
    top, _ = search(queries, (np.load(path, mmap_mode="r") for path in paths), k)
    out["search_s"] = time.process_time() - started
    anonymous.append(_anonymous())
    out["anonymous_mb"] = max(anonymous)
    try:
        import faiss

        faiss.omp_set_num_threads(1)

        started = time.process_time()
        best = None
        for path in paths:
            rows = np.load(path)
            scores, index = faiss.knn(queries, rows, min(k, len(rows)), metric=faiss.METRIC_INNER_PRODUCT)
            index = index + int(path.stem)
            if best is None:
                best = scores, index
            else:
                scores, index = np.concatenate([best[0], scores], 1), np.concatenate([best[1], index], 1)
                order = np.argsort(-scores, 1, kind="stable")[:, :k]
                best = np.take_along_axis(scores, order, 1), np.take_along_axis(index, order, 1)
        out["faiss_s"] = time.process_time() - started
        assert best is not None
        out["same_as_faiss"] = float((best[1] == top.rows).mean())
    except ImportError:
        out["faiss_s"] = None
    return out


def _anonymous() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1000
    return float("nan")


# ---- training ---------------------------------------------------------------------------------


def moco(folder: Path, n: int) -> dict[str, Any]:
    """A MoCo step (ResNet-18, 64 pixels, batch 32, queue 4096) beside the same arithmetic written out."""
    import torch
    from torch.nn import functional

    from cl_plugin_clear.model import MoCo, encoder
    from cl_plugin_clear.train.moco import step

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
    """One bucket of the feature-level grid at CLEAR-10's size (2310 x 2048, 11 classes, batch 256), beside a bare loop."""  # noqa: E501
    import torch
    from attrs import evolve

    from cl_kernel import ArraySamples, Field, Site, Stage, Stream
    from cl_plugin_clear.pipeline import train_over
    from cl_plugin_clear.settings import Buckets

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    spec = {
        "vector": Field(shape=(2048,), dtype="float32", kind="vector"),
        "class": Field(shape=(), dtype="int64", kind="class", n=11),
    }

    def samples(rows: int) -> ArraySamples:
        return ArraySamples(
            spec, {"vector": rng.standard_normal((rows, 2048), np.float32), "class": rng.integers(0, 11, rows)}
        )

    stream = Stream(name="grid", task="vector -> class", test=samples(990), test_sets={"1": np.arange(990)},
                    stages=[Stage(index=0, name="1", train=samples(2310))], class_names=tuple(map(str, range(11))))  # fmt: skip  # noqa: E501
    settings = evolve(Buckets(), epochs=n)
    site = Site(device="cpu")
    started = time.process_time()
    train_over(stream, {"keep": "memory"}, settings, site, 0, lambda **values: None)
    mine = time.process_time() - started
    x = torch.from_numpy(stream.stages[0].train.arrays["vector"])
    y = torch.from_numpy(stream.stages[0].train.arrays["class"])
    net = torch.nn.Linear(2048, 11)
    optimizer = torch.optim.SGD(net.parameters(), 1.0, momentum=0.9)
    started = time.process_time()
    for _ in range(n):
        order = torch.randperm(len(x))
        for rows in order.split(256):
            loss = torch.nn.functional.cross_entropy(net(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    floor = time.process_time() - started
    buckets = 9 * 2 * 5 * 10
    return {"epochs": n, "bucket_s": mine, "bare_s": floor, "ratio": mine / floor,
            "whole_grid_minutes": mine / n * 100 * buckets / 60}  # fmt: skip


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
    "restated": restated,
    "polars": polars_way,
    "duckdb": duckdb_way,
    "retrieval": retrieval,
    "moco": moco,
    "grid": grid,
}


def alone(part: str, folder: Path, n: int) -> dict[str, Any]:
    """Run one part in a process of its own."""
    code = [sys.executable, str(Path(__file__).resolve()), "--part", part, "--folder", str(folder), "--n", str(n)]
    done = subprocess.run(code, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=[], help="metadata, retrieval, moco, grid (default: all)")
    parser.add_argument("--rows", type=int, nargs="*", default=[2_000_000])
    parser.add_argument(
        "--restated-rows", type=int, default=200_000, help="the row-at-a-time way is linear; scaled up from these"
    )
    parser.add_argument("--images", type=int, default=600_000)
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
    what = args.what or ["metadata", "retrieval", "moco", "grid"]
    path = RESULTS / "clear.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    results["machine"] = {"cores": os.cpu_count(), "load_before": round(os.getloadavg()[0], 1)}
    with tempfile.TemporaryDirectory(dir=args.work) as name:
        work = Path(name)
        if "metadata" in what:
            for n in args.rows:
                known = [entry for entry in results.get("metadata", []) if entry["rows"] != n]
                generate(work / "raw", n)
                size = sum(p.stat().st_size for p in (work / "raw").iterdir())
                entry: dict[str, Any] = {"rows": n, "source_gb": size / 1e9, "ours": alone("ours", work, n)}
                shutil.rmtree(work / "store")
                if n <= COMPARED_UP_TO:
                    for other in ("polars", "duckdb"):
                        entry[other] = alone(other, work, n)
                    entry["restated"] = alone("restated", work, args.restated_rows)
                    shutil.rmtree(work / "old")
                    slow = entry["restated"]
                    entry["times_faster_wall"] = (slow["seconds"] / slow["rows"]) / (entry["ours"]["seconds"] / n)
                    entry["times_faster_cpu"] = (slow["cpu_s"] / slow["rows"]) / (entry["ours"]["cpu_s"] / n)
                    entry["hundred_million_hours"] = entry["ours"]["seconds"] / n * 1e8 / 3600
                results["metadata"] = sorted([*known, entry], key=lambda e: e["rows"])
                write(path, results)
        if "retrieval" in what:
            shards(work / "shards", args.images)
            results["retrieval"] = alone("retrieval", work, args.images)
            write(path, results)
        if "moco" in what:
            results["moco"] = alone("moco", work, 12)
        if "grid" in what:
            results["grid"] = alone("grid", work, 10)
    results["machine"]["load_after"] = round(os.getloadavg()[0], 1)
    write(path, results)


def write(path: Path, results: dict[str, Any]) -> None:
    """The JSON and a page for people."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    machine = results["machine"]
    lines = [
        "# clear",
        "",
        f"{machine['cores']} cores, load before {machine['load_before']}, after {machine.get('load_after', '-')}.",
        "",
    ]
    if "metadata" in results:
        lines += ["| rows | way | seconds | CPU seconds | rows/s | peak MB |", "|---|---|---|---|---|---|"]
        for entry in results["metadata"]:
            for way in ("ours", "polars", "duckdb", "restated"):
                if way in entry:
                    r = entry[way]
                    lines.append(
                        f"| {r['rows']:,} | {way} | {r['seconds']:.1f} | {r['cpu_s']:.1f} | {r['rows'] / r['seconds']:,.0f} | {r['peak_mb']:,.0f} |"  # noqa: E501
                    )
        first = results["metadata"][0]
        if "times_faster_wall" in first:
            lines += ["", f"Ours parses all 29 fields, joins tags, line numbers and hashes, writes Parquet with a status a row, and cuts 11 buckets; "  # noqa: E501
                      f"it takes {first['times_faster_cpu']:.0f} times less CPU than the row-at-a-time way, and spreads it over the cores; by the clock, on a machine this "  # noqa: E501
                f"busy, {first['times_faster_wall']:.0f} times less; "
                      f"100 million rows take {first['hundred_million_hours']:.2f} h at this rate. Polars and DuckDB here only read one of the files, "  # noqa: E501
                      "filter and sort. The original itself was once measured at 398 s and 6.5 GB for 2 million rows.", ""]  # fmt: skip  # noqa: E501
    if "retrieval" in results:
        r = results["retrieval"]
        faiss = f"{r['faiss_s']:.1f} s" if r.get("faiss_s") else "not installed"
        lines += ["", f"Retrieval of {r['prompts']} prompts x {r['k']:,} of {r['images']:,} images ({r['gigabytes']:.2f} GB on disk), CPU seconds of one thread: {r['search_s']:.1f} s; "  # noqa: E501
                  f"reading alone {r['read_s']:.1f} s, reading and matrix products {r['read_and_product_s']:.1f} s, faiss {faiss}. "  # noqa: E501
                  f"{r['search_s'] / r['read_s']:.1f} times the reading floor, {r['search_s'] / r['read_and_product_s']:.2f} times reading and arithmetic. "  # noqa: E501
                  f"Memory of its own {r['anonymous_mb']:.0f} MB.", ""]  # fmt: skip
    if "moco" in results:
        r = results["moco"]
        lines += [
            f"MoCo step ({r['step']}): {r['ours_ms']:.0f} ms, the bare arithmetic {r['bare_ms']:.0f} ms: ratio {r['ratio']:.2f}.",  # noqa: E501
            "",
        ]
    if "grid" in results:
        r = results["grid"]
        lines += [f"Feature-level grid: a bucket of CLEAR-10 takes {r['bucket_s'] / r['epochs'] * 100:.1f} s for 100 epochs (CPU seconds; bare loop ratio {r['ratio']:.2f}); "  # noqa: E501
                  f"9 alphas x 2 starts x 5 seeds x 10 buckets: {r['whole_grid_minutes']:.0f} minutes on one core.", ""]  # fmt: skip  # noqa: E501
    path.with_suffix(".md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
