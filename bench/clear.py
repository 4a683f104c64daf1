"""CLEAR at size: metadata, retrieval, the MoCo step, the feature-level grid. Writes bench/results/clear.{json,md}.

    python bench/clear.py                      everything, 2 million rows
    python bench/clear.py metadata --rows 2000000 10000000

Every measurement runs in a process of its own; peak memory is that process' largest resident size.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _clear_download import download
from _clear_metadata import as_before, compress, decompressor, duckdb_way, generate, ours, packed, polars_way, restated
from _clear_page import SECTIONS
from _clear_retrieval import retrieval, shards
from _clear_training import grid, moco
from _report import machine

RESULTS = Path(__file__).parent / "results"
COMPARED_UP_TO = 2_000_000
"""Rows up to which the other ways are measured as well."""

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
    results["machine"] = machine("numpy", "torch", "pyarrow", "duckdb")
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


if __name__ == "__main__":
    main()
