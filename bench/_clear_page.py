"""CLEAR's benchmark: its page for people."""

# ruff: noqa: E501  the page is text, its lines are as long as they are

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from _report import table

ORIGINAL_MEASURED_ONCE = {"rows": 2_000_000, "seconds": 398.0, "peak_gb": 6.5}


def _metadata_page(entries: list[dict[str, Any]]) -> list[str]:
    rows = [
        (entry[way]["rows"], way, entry[way]["seconds"], entry[way]["cpu_s"],
         int(entry[way]["rows"] / entry[way]["seconds"]), int(entry[way]["peak_mb"]))
        for entry in entries for way in ("ours", "polars", "duckdb", "restated") if way in entry
    ]  # fmt: skip
    first, peaks = entries[0], [entry["ours"]["peak_mb"] for entry in entries]
    old, ours, slow, last = ORIGINAL_MEASURED_ONCE, first["ours"], first["restated"], entries[-1]["ours"]
    return [
        table(("rows", "way", "seconds", "CPU seconds", "rows/s", "peak MB"), rows),
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
        table(
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
        table(
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
        table(("rows", "from", "seconds", "whole job", "CPU seconds", "rows/s", "peak MB"), rows),
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
