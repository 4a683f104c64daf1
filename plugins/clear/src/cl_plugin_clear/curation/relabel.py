"""Changes of finished labelled folders: classes renamed, photos dropped."""

from __future__ import annotations

import os
import shutil
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

    A new folder is built beside it, pictures as hard links, and takes its place when it is whole; so a kill leaves the
    old one or the new one. The map stays in ``relabelled.json``: given again, it changes nothing (remove the file to
    swap back).

    :return: old -> new of what changed.
    :raises BadInput: when two classes would become one, or the map names no class.
    """
    new, before = (folder.with_name(f".{folder.name}.{what}") for what in ("relabelled", "before"))
    if not folder.exists() and before.exists():  # killed between the two renames: the new one is whole
        (new if new.exists() else before).rename(folder)
    for left in (new, before):
        shutil.rmtree(left, ignore_errors=True)
    names = read_class_names(folder / "class_names.txt")
    done = folder / "relabelled.json"
    plan = {old: label for old, label in label_map.items() if old != label}
    if done.exists() and read_json_object(done)["plan"] == plan:
        return plan
    _check(names, label_map)
    remove_stale(folder)
    shutil.copytree(folder, new, copy_function=_link)
    _rename(new, plan)
    write_text(new / "class_names.txt", "\n".join(sorted(plan.get(name, name) for name in names)))
    rewrite_training_folder(new)
    write_json(new / "relabelled.json", {"plan": plan})
    folder.rename(before)
    new.rename(folder)
    shutil.rmtree(before)
    return plan


def _check(names: Sequence[str], label_map: Mapping[str, str]) -> None:
    if unknown := sorted(set(label_map) - set(names)):
        raise BadInput(f"no class {unknown[0]!r}", where="label map", fix=f"classes: {', '.join(names)}")
    after = [label_map.get(name, name) for name in names]
    if twice := sorted({name for name in after if after.count(name) > 1}):
        raise BadInput(f"two classes would be called {twice[0]!r}", where="label map")
    if odd := [name for name in label_map.values() if not name or name.startswith(".") or "/" in name]:
        raise BadInput(f"{odd[0]!r} cannot be a folder name", where="label map")


def _link(source: str, target: str) -> None:
    """The same file under another name where the disk can, else a copy; what is rewritten later becomes a new file."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _rename(folder: Path, plan: Mapping[str, str]) -> None:
    """Everything of every class under its new name, in a folder that nobody uses yet."""
    index = read_json_object(folder / "labeled_metadata.json")
    sets = [path.name for path in (folder / "features").glob("*") if path.is_dir()]
    for bucket in index:
        places = [(folder / LABELED_IMAGES / bucket, ""), (folder / "labeled_metadata" / bucket, ".json")]
        places += [(folder / "features" / name / bucket, ".pth") for name in sets]
        for place, ending in places:
            there = [(old, place / (old + ending)) for old in plan if (place / (old + ending)).exists()]
            for old, path in there:  # all aside first: names may be swapped
                path.rename(place / f".{plan[old]}{ending}")
            for old, path in there:
                (place / f".{plan[old]}{ending}").rename(path.with_name(plan[old] + ending))
        for label in plan.values():
            _rewrite_records(folder, bucket, label)
    renamed = {bucket: [plan.get(label, label) for label in labels] for bucket, labels in index.items()}

    def listed(place: str, ending: str) -> dict[str, dict[str, str]]:
        return {b: {label: f"{place}/{b}/{label}{ending}" for label in labels} for b, labels in renamed.items()}

    write_json(folder / "labeled_metadata.json", listed("labeled_metadata", ".json"))
    for name in sets:
        if (folder / "features" / name / "features.json").exists():
            write_json(folder / "features" / name / "features.json", listed(f"features/{name}", ".pth"))


def _rewrite_records(folder: Path, bucket: str, label: str) -> None:
    path = folder / "labeled_metadata" / bucket / f"{label}.json"
    if path.exists():
        content = read_json_object(path)
        for record in content.values():
            record["IMG_PATH"] = f"{LABELED_IMAGES}/{bucket}/{label}/{Path(record['IMG_PATH']).name}"
        write_json(path, content)


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
