"""Labelled folders: retrieval results -> pictures and metadata.

Everything in the folder is relative to it. ``labeled_metadata.json`` and ``labeled_metadata/<b>/<label>.json`` are the
original's, so that its readers and Avalanche's work on what is written here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from cl_kernel import MissingAsset, write_json
from cl_plugin_clear.curation.buckets import Split
from cl_plugin_clear.curation.pictures import Pictures
from cl_plugin_clear.curation.records import COLUMNS
from cl_plugin_clear.curation.store import Store, remove_stale
from cl_plugin_clear.data.labels import LABELED_IMAGES
from cl_plugin_clear.data.members import read_json_object


def record_json(values: Mapping[str, Any], rel_path: str) -> dict[str, Any]:
    """A photo's record under the original's names; the path is relative to the labelled folder."""
    out: dict[str, Any] = {
        name: "" if values.get(name.lower()) is None else str(values[name.lower()]) for name in COLUMNS[:-1]
    }
    out["IMG_OR_VIDEO"] = int(values.get("img_or_video") or 0)
    out |= {
        "AUTO_TAG_SCORES": dict(values.get("auto_tag_scores") or []),
        "LINE_NUM": None if values.get("line_num") is None else str(values["line_num"]),
        "HASH_VALUE": values.get("hash_value"),
        "EXIF": None,
        "IMG_PATH": rel_path,
        "WIDTH": values.get("width"),
        "HEIGHT": values.get("height"),
        "ASPECT_RATIO": max(values["width"], values["height"]) / min(values["width"], values["height"])
        if values.get("width") and values.get("height")
        else None,
    }
    return out


def build_folder(
    root: Path,
    out: Path,
    *,
    save_all_metadata: bool = False,
    save_all_images: bool = False,
    report: Callable[[str], None] = lambda bucket: None,
) -> dict[str, int]:
    """Pictures and metadata of what was retrieved, bucket by bucket; a bucket that is whole is left alone.

    :return: label -> pictures over all buckets.
    :raises MissingAsset: naming a picture that is not in the store.
    """
    store = Store.open(root)
    concepts = read_json_object(out / "concept_group_dict.json")
    results = read_json_object(out / "clip_result.json")
    remove_stale(out)
    split, pictures = Split.open(root, Path(concepts["BUCKET_DICT_PATH"]).stem), Pictures(root)
    index: dict[str, dict[str, str]] = {}
    totals: dict[str, int] = {}
    for bucket in sorted(results, key=int):
        chosen = read_json_object(out / results[bucket])
        index[bucket] = {label: f"labeled_metadata/{bucket}/{label}.json" for label in chosen}
        for label, hits in chosen.items():
            totals[label] = totals.get(label, 0) + len(hits)
        if all(_whole(out, path, len(chosen[label])) for label, path in index[bucket].items()):
            continue
        rows = split.rows(int(bucket), ["row", "rel_path"])
        source_rows, paths = rows["row"].to_numpy(), rows["rel_path"].to_pylist()
        records = _records(store, sorted({int(source_rows[hit["row"]]) for hits in chosen.values() for hit in hits}))
        for label, hits in chosen.items():
            content: dict[str, Any] = {}
            (out / LABELED_IMAGES / bucket / label).mkdir(parents=True, exist_ok=True)
            for hit in hits:
                values, source = records[int(source_rows[hit["row"]])], paths[hit["row"]]
                target = f"{LABELED_IMAGES}/{bucket}/{label}/{hit['ID']}{Path(source).suffix}"
                put(pictures, source, out / target)
                content[hit["ID"]] = record_json(values, target)
            write_json(out / index[bucket][label], content)
        report(bucket)
    write_json(out / "labeled_metadata.json", index)
    if save_all_metadata or save_all_images:
        _save_all(store, split, out, sorted(index, key=int), save_all_images)
    return totals


def _whole(out: Path, path: str, n: int) -> bool:
    if not (out / path).exists():
        return False
    content = json.loads((out / path).read_text())
    return len(content) == n and all((out / record["IMG_PATH"]).exists() for record in content.values())


def _records(store: Store, rows: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Metadata of source rows; only the chunks that hold them are read."""
    by_chunk: dict[int, list[int]] = {}
    for row in rows:
        by_chunk.setdefault(row // store.chunk_size, []).append(row)
    found = {}
    for chunk, members in by_chunk.items():
        table = store.read_chunk(chunk)
        picked = table.take(pa.array([row - chunk * store.chunk_size for row in members]))
        found.update(zip(members, picked.to_pylist(), strict=True))
    return found


def _save_all(store: Store, split: Split, out: Path, buckets: Sequence[str], images: bool) -> None:
    pictures = Pictures(store.root)
    for bucket in buckets:
        path = out / "all_metadata" / f"{bucket}.json"
        rows = split.rows(int(bucket), ["row", "rel_path"])
        if not path.exists():
            records = _records(store, rows["row"].to_pylist())
            write_json(
                path,
                {
                    str(values["id"]): record_json(values, f"all_images/{bucket}/{Path(name).name}")
                    for values, name in (
                        (records[row], rel)
                        for row, rel in zip(rows["row"].to_pylist(), rows["rel_path"].to_pylist(), strict=True)
                    )
                    if name
                },
            )
        if images:
            (out / "all_images" / bucket).mkdir(parents=True, exist_ok=True)
            for name in rows["rel_path"].to_pylist():
                if name:
                    put(pictures, name, out / "all_images" / bucket / Path(name).name)
    write_json(out / "all_metadata.json", {bucket: f"all_metadata/{bucket}.json" for bucket in buckets})


def put(pictures: Pictures, rel_path: str, target: Path) -> None:
    """A picture of the store to ``target``.

    :raises MissingAsset: when it is not there.
    """
    try:
        pictures.put(rel_path, target)
    except FileNotFoundError as error:
        raise MissingAsset(
            "a picture of the store is gone", where=str(pictures.root / rel_path), fix="clk clear download --retry ok"
        ) from error
