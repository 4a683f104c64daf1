"""CLEAR's benchmark: exact neighbours over shards on disk."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

GIVEN = 1 << 30
"""Bytes a retrieval may hold of its own; the shards are larger."""


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
