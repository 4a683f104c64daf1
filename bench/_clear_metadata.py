"""CLEAR's benchmark: records of the release in plain and bz2 form, ours and other ways."""

# ruff: noqa: E501  the page is text, its lines are as long as they are

from __future__ import annotations

import bz2
import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np


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
