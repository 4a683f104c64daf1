"""Changes of finished labelled folders: classes renamed, photos dropped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from cl_kernel import BadInput, write_json, write_text
from cl_plugin_clear.curation.feature_sets import save_torch
from cl_plugin_clear.curation.store import remove_stale
from cl_plugin_clear.curation.training_folder import rewrite_training_folder
from cl_plugin_clear.data.labels import LABELED_IMAGES
from cl_plugin_clear.data.members import load_features, members_of, read_class_names, read_json_object


def relabel(folder: Path, label_map: Mapping[str, str]) -> dict[str, str]:
    """Rename classes of a finished folder: picture folders, metadata, feature files, class names.

    Restartable: what is already renamed is left alone; the index and the class names are written last. The map of the
    last finished call stays in ``relabelled.json``: given again, it changes nothing (remove the file to swap back).

    :return: old -> new of what changed.
    :raises BadInput: when two classes would become one, or the map names no class.
    """
    names = read_class_names(folder / "class_names.txt")
    index = read_json_object(folder / "labeled_metadata.json")
    remove_stale(folder)
    pending, done = folder / ".relabel.json", folder / "relabelled.json"
    wanted = {old: new for old, new in label_map.items() if old != new}
    if not pending.exists() and done.exists() and read_json_object(done)["plan"] == wanted:
        return wanted
    if pending.exists():
        progress = json.loads(pending.read_text())
        plan = {str(k): str(v) for k, v in progress["plan"].items()}
    else:
        if unknown := sorted(set(label_map) - set(names)):
            raise BadInput(f"no class {unknown[0]!r}", where="label map", fix=f"classes: {', '.join(names)}")
        plan = wanted
        after = [plan.get(name, name) for name in names]
        if twice := sorted({name for name in after if after.count(name) > 1}):
            raise BadInput(f"two classes would be called {twice[0]!r}", where="label map")
        if odd := [name for name in plan.values() if not name or "/" in name]:
            raise BadInput(f"{odd[0]!r} cannot be a folder name", where="label map")
        progress = {"plan": plan, "phase": 1}
        write_json(pending, progress)

    # two phases, so that names may be swapped: everything aside under its new name, then everything into place
    sets = [path.name for path in (folder / "features").glob("*") if path.is_dir()]
    moves = [
        (place_ / f"{old}{ending}", place_ / f"{new}{ending}")
        for bucket in index
        for old, new in plan.items()
        for place_, ending in (
            (folder / LABELED_IMAGES / bucket, ""),
            (folder / "labeled_metadata" / bucket, ".json"),
            *((folder / "features" / s / bucket, ".pth") for s in sets),
        )
    ]
    if progress["phase"] == 1:
        for before, target in moves:
            aside = target.with_name(f".relabel.{target.name}")
            if before.exists() and not aside.exists():
                before.rename(aside)
        write_json(pending, {"plan": plan, "phase": 2})
    for _, target in moves:
        aside = target.with_name(f".relabel.{target.name}")
        if aside.exists():
            aside.rename(target)
    for bucket in index:
        for new in plan.values():
            path = folder / "labeled_metadata" / bucket / f"{new}.json"
            if path.exists():
                content = read_json_object(path)
                for record in content.values():
                    record["IMG_PATH"] = f"{LABELED_IMAGES}/{bucket}/{new}/{Path(record['IMG_PATH']).name}"
                write_json(path, content)
    labels_done = json.loads(pending.read_text()).get("index")
    if labels_done is None:  # the index is rewritten once, whatever happens in between
        labels_done = {bucket: [plan.get(label, label) for label in labels] for bucket, labels in index.items()}
        write_json(
            pending,
            {"plan": plan, "phase": 2, "index": labels_done, "names": sorted(plan.get(name, name) for name in names)},
        )
    renamed = {
        bucket: {label: f"labeled_metadata/{bucket}/{label}.json" for label in labels}
        for bucket, labels in labels_done.items()
    }
    write_json(folder / "labeled_metadata.json", renamed)
    for s in sets:
        path = folder / "features" / s / "features.json"
        if path.exists():
            write_json(
                path, {b: {label: f"features/{s}/{b}/{label}.pth" for label in labels} for b, labels in renamed.items()}
            )
    write_text(folder / "class_names.txt", "\n".join(json.loads(pending.read_text())["names"]))
    rewrite_training_folder(folder)
    write_json(done, {"plan": plan})
    pending.unlink()
    return plan


def forget(folder: Path, ids: Sequence[int]) -> int:
    """Drop photos from a labelled folder: pictures, records, features, lists. :return: pictures dropped."""
    gone = {str(i) for i in ids}
    remove_stale(folder)
    _, buckets = members_of(folder)
    n = 0
    for bucket, classes in buckets.items():
        for label, records in classes.items():
            hit = gone & set(records)
            if not hit:
                continue
            for photo in hit:
                (folder / records[photo]["IMG_PATH"]).unlink(missing_ok=True)
                n += 1
            for path in (folder / "features").glob(f"*/{bucket}/{label}.pth"):
                save_torch(path, {k: v for k, v in load_features(path).items() if k not in gone})
            write_json(
                folder / "labeled_metadata" / bucket / f"{label}.json",
                {k: v for k, v in records.items() if k not in gone},
            )
        result = folder / "clip_result" / f"{bucket}.json"
        if result.exists():
            write_json(
                result,
                {
                    label: [hit for hit in hits if hit["ID"] not in gone]
                    for label, hits in read_json_object(result).items()
                },
            )
        whole = folder / "all_metadata" / f"{bucket}.json"
        if whole.exists():
            write_json(whole, {k: v for k, v in read_json_object(whole).items() if k not in gone})
        for photo in gone:
            for path in (folder / "all_images" / bucket).glob(f"{photo}.*"):
                path.unlink()
    rewrite_training_folder(folder)
    return n
