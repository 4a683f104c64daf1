"""Classes that are there already, as sub-folders of one's own photographs: a labelled folder without a search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cl_kernel import BadInput, write_json, write_text
from cl_plugin_clear.curation.buckets import Split
from cl_plugin_clear.curation.concepts import Concepts
from cl_plugin_clear.curation.store import Store


def classes_from_folders(root: Path, out: Path, split_name: str, *, allow_short: bool = False) -> dict[str, int]:
    """What ``clk clear retrieve`` writes, from the first folder of each photo's path. :return: class -> photos.

    :raises BadInput: when photos lie in no folder, or a bucket lacks a class.
    """
    split, store = Split.open(root, split_name), Store.open(root)
    titles: dict[int, str] = {}
    for chunk in store.chunks():
        table = store.read_chunk(chunk, ["row", "title", "status"]).to_pylist()
        titles |= {row["row"]: row["title"] for row in table if row["status"] == "ok"}
    found = {bucket: _bucket(split, bucket, titles) for bucket in split.buckets}
    names = sorted({label for classes in found.values() for label in classes})
    for bucket, classes in found.items():
        if (lacking := sorted(set(names) - set(classes))) and not allow_short:
            raise BadInput(
                f"bucket {bucket} has no photo of {', '.join(lacking)}",
                where=f"split {split_name}",
                fix="fewer buckets, or --allow-short",
            )
    size = max(len(hits) for classes in found.values() for hits in classes.values())
    group = Concepts(name=out.name, group=tuple(names), split=split_name, model="", class_size=size, pool=size + 1)
    write_json(out / "concept_group_dict.json", {**group.as_json(), "SAVE_PATH": ""})
    for bucket, classes in found.items():
        write_json(out / "clip_result" / f"{bucket}.json", {name: classes[name] for name in names if name in classes})
    write_text(out / "class_names.txt", "\n".join(names))
    write_json(out / "clip_result.json", {str(bucket): f"clip_result/{bucket}.json" for bucket in found})
    return {name: sum(len(classes.get(name, ())) for classes in found.values()) for name in names}


def _bucket(split: Split, bucket: int, titles: dict[int, str]) -> dict[str, list[dict[str, Any]]]:
    table = split.rows(bucket, ["id", "row"])
    classes: dict[str, list[dict[str, Any]]] = {}
    for place, (photo, row) in enumerate(zip(table["id"].to_pylist(), table["row"].to_pylist(), strict=True)):
        label, inside, _ = titles[row].partition("/")
        if not inside:
            raise BadInput(f"{titles[row]} lies in no class folder", where="photographs")
        classes.setdefault(label, []).append({"ID": str(photo), "row": place, "score": 1.0})
    return classes
