"""Drop photos from a store for good: pictures, texts, features. Rows stay, empty, so that counts still add up."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cl_kernel import write_json
from cl_plugin_clear.curation.features import save_npy
from cl_plugin_clear.curation.pictures import members, pack
from cl_plugin_clear.curation.records import TABLE
from cl_plugin_clear.curation.store import Store, write_parquet

_STAYS = {"id", "row", "status", "line_num", "date_uploaded", "img_or_video", "error"}


def forget(root: Path, ids: Sequence[int]) -> int:
    """Forget photos by id. May be repeated; an interrupted call is finished by the next.

    :return: photos found.
    """
    store = Store.open(root)
    wanted = pa.array(sorted(ids), pa.int64())
    n = 0
    with store.held():
        for chunk in store.chunks():
            table = store.read_chunk(chunk)
            hit = pc.is_in(table["id"], value_set=wanted)
            if not pc.any(hit).as_py():
                continue
            n += int(pc.sum(hit).as_py())
            _pictures(root, [path for path in table.filter(hit)["rel_path"].to_pylist() if path])
            for index, name in enumerate(TABLE.names):
                if name == "status":
                    column = pc.if_else(hit, pa.scalar("forgotten"), table[name])
                elif name in _STAYS or pa.types.is_null(TABLE.field(name).type):
                    continue
                elif pa.types.is_map(TABLE.field(name).type):
                    gone = hit.to_pylist()
                    column = pa.array(
                        [None if g else v for g, v in zip(gone, table[name].to_pylist(), strict=True)],
                        TABLE.field(name).type,
                    )
                else:
                    column = pc.if_else(hit, pa.scalar(None, TABLE.field(name).type), table[name])
                table = table.set_column(index, TABLE.field(name), column)
            manifest = store.manifest(chunk) or {}
            store.write_chunk(chunk, table, manifest.get("state", "downloaded"))
        for described in sorted((root / "buckets").glob("*.json")):
            _split(root, described, wanted)
    return n


def _pictures(root: Path, paths: Sequence[str]) -> None:
    for name in paths:
        (root / name).unlink(missing_ok=True)
    gone = {Path(name).stem for name in paths}
    for archive in sorted({(root / name).parent.with_suffix(".tar") for name in paths}):
        spans = members(archive)
        kept = {name: span for name, span in spans.items() if Path(name).stem not in gone}
        if not kept:
            archive.unlink(missing_ok=True)
        elif len(kept) < len(spans):
            with archive.open("rb") as file:
                pack(archive, [(name, partial(_span, file, *span)) for name, span in kept.items()])


def _span(file: IO[bytes], offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)


def _split(root: Path, described: Path, wanted: pa.Array) -> None:
    content = json.loads(described.read_text())
    gone = set(wanted.to_pylist())
    for entry in content["buckets"]:
        parts = sorted((root / "buckets" / described.stem / f"bucket={entry['bucket']}").glob("part-*.parquet"))
        ids: list[int] = []
        for part in parts:
            table = pq.ParquetFile(part).read()
            ids += table["id"].to_pylist()
            keep = pc.invert(pc.is_in(table["id"], value_set=wanted))
            if not pc.all(keep).as_py():
                write_parquet(part, table.filter(keep))
        left = [i for i in ids if i not in gone]
        digest = hashlib.sha256(np.array(left, np.int64).tobytes()).hexdigest()
        for folder in (root / "features").glob(f"*/{described.stem}/{entry['bucket']}"):
            _features(folder, gone, digest)
        entry |= {"n": len(left), "sha256": digest}
    content["n_items"] = sum(entry["n"] for entry in content["buckets"]) + content.get("dropped", 0)
    from cl_plugin_clear.curation.buckets import _fingerprint

    content["rows"] = _fingerprint(Store.open(root))
    write_json(described, content)


def _features(folder: Path, gone: set[int], digest: str) -> None:
    if not (folder / "ids.npy").exists():
        return
    manifest = json.loads((folder / "manifest.json").read_text())
    ids = np.load(folder / "ids.npy")
    keep = ~np.isin(ids, np.array(sorted(gone), np.int64))
    if keep.all() and manifest["ids_sha256"] == digest:
        return
    start, sizes = 0, []
    for shard, size in enumerate(manifest["shards"]):
        mine = keep[start : start + size]
        start += size
        for path in (folder / f"{shard:05d}.npy", folder / f"{shard:05d}.raw.npy"):
            if path.exists():
                rows = np.load(path)
                if len(rows) == len(mine):
                    save_npy(path, rows[mine])
        sizes.append(int(mine.sum()))
    save_npy(folder / "ids.npy", ids[keep])
    write_json(folder / "manifest.json", {**manifest, "ids_sha256": digest, "shards": sizes})
