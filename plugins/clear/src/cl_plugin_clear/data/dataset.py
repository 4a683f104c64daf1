"""Labelled folders: retrieval results -> pictures, metadata, class index, training folder (sec. 4.6).

Everything in the folder is relative to it. ``labeled_metadata.json`` and ``labeled_metadata/<b>/<label>.json`` are the
original's, so that its readers and Avalanche's work on what is written here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from attrs import frozen

from cl_kernel import BadInput, BadSetting, MissingAsset, atomic, write_json, write_text
from cl_plugin_clear.data.buckets import Split
from cl_plugin_clear.data.build import LABELED_IMAGES, SEEDS, class_names, list_bucket, map_labels
from cl_plugin_clear.data.concepts import Concepts, read_json_object
from cl_plugin_clear.data.features import Embedder, Features
from cl_plugin_clear.data.pictures import Pictures
from cl_plugin_clear.data.records import COLUMNS
from cl_plugin_clear.data.retrieval import BACKGROUND, normalise, retrieve
from cl_plugin_clear.data.split import train_test, train_test_by_class
from cl_plugin_clear.data.store import Store, remove_stale


@frozen
class Retrieved:
    """What happened: buckets made and found done."""

    made: list[int]
    reused: list[int]


def retrieve_group(
    root: Path,
    out: Path,
    concepts: Concepts,
    embedder: Embedder,
    *,
    label_map: Mapping[str, str] | None = None,
    label_default: str = "",
    buckets: Sequence[int] | None = None,
    allow_short: bool = False,
    report: Callable[[int], None] = lambda bucket: None,
) -> Retrieved:
    """Search every bucket for every prompt and write ``clip_result/<b>.json``: label -> [{ID, row, score}].

    :raises BadSetting: when the folder was begun with another group, label map or model.
    """
    concepts.check()
    if embedder.name != concepts.model:
        raise BadSetting(
            f"the group asks for {concepts.model!r}, the model is {embedder.name!r}",
            where="CLIP_MODEL",
            fix=f"--model {concepts.model}",
        )
    labels = map_labels(concepts.group, label_map, default=label_default)
    if concepts.background and BACKGROUND in labels:
        raise BadInput(f"a class is called {BACKGROUND}, and a background is asked for", where="label map")
    split = Split.open(root, concepts.split)
    remove_stale(out)
    identity = {**concepts.as_json(), "SAVE_PATH": ""}
    _same_or_write(out / "concept_group_dict.json", identity, "concept group")
    if label_map is not None:
        _same_or_write(out / "label_map_dict.json", dict(zip(concepts.group, labels, strict=True)), "label map")
    queries = normalise(embedder.texts(concepts.queries()))
    made: list[int] = []
    reused: list[int] = []
    wanted = list(buckets) if buckets is not None else split.buckets
    for bucket in wanted:
        path = out / "clip_result" / f"{bucket}.json"
        if path.exists():
            reused.append(bucket)
            continue
        features = Features.open(root, concepts.model, concepts.split, bucket)
        if features.manifest["ids_sha256"] != split.info(bucket)["sha256"]:
            raise BadInput(
                f"the features of bucket {bucket} are of other pictures than the split's",
                where=str(features.folder),
                fix="remove them and run clk clear embed again",
            )
        ids = features.ids()
        chosen = retrieve(
            labels,
            queries,
            list(features.shards()),
            class_size=concepts.class_size,
            pool=min(concepts.pool, len(ids)),
            allow_overlap=concepts.allow_overlap,
            background=concepts.background,
            negative_ratio=concepts.negative_ratio,
            allow_short=allow_short,
            where=f"bucket {bucket}",
        )
        write_json(
            path,
            {
                label: [{"ID": str(ids[row]), "row": row, "score": score} for row, score in hits]
                for label, hits in chosen.items()
            },
        )
        made.append(bucket)
        report(bucket)
    names = class_names(labels + [BACKGROUND] * concepts.background)
    write_text(out / "class_names.txt", "\n".join(names))
    done = sorted(int(p.stem) for p in (out / "clip_result").glob("*.json"))
    write_json(out / "clip_result.json", {str(b): f"clip_result/{b}.json" for b in done})
    return Retrieved(made, reused)


def _same_or_write(path: Path, content: Mapping[str, Any], what: str) -> None:
    if path.exists():
        known = json.loads(path.read_text())
        if known != json.loads(json.dumps(content)):
            changed = sorted(
                key for key in {*known, *content} if known.get(key) != json.loads(json.dumps(content.get(key)))
            )
            raise BadSetting(
                f"the folder was begun with another {what}: {', '.join(changed)} differ",
                where=str(path),
                fix="use another output folder",
            )
    else:
        write_json(path, content)


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


# ---- training folder --------------------------------------------------------------------------


def members_of(folder: Path) -> tuple[list[str], dict[str, dict[str, dict[str, Any]]]]:
    """Class names, and bucket -> label -> {ID: record} in the files' order, buckets in numeric order.

    :raises BadInput: for a label that is no class, or metadata of an unknown form.
    """
    names = read_class_names(folder / "class_names.txt")
    index = read_json_object(folder / "labeled_metadata.json")
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for bucket in sorted(index, key=bucket_number):
        if unknown := sorted(set(index[bucket]) - set(names)):
            raise BadInput(
                f"bucket {bucket} has the label {unknown[0]!r}, which is no class",
                where=str(folder / "labeled_metadata.json"),
            )
        found[bucket] = {label: read_json_object(folder / path) for label, path in index[bucket].items()}
    return names, found


def bucket_number(name: str) -> int:
    """Buckets are numbered; keys of a JSON object are text.

    :raises BadInput: for another name.
    """
    try:
        return int(name)
    except ValueError:
        raise BadInput(f"bucket {name!r} is no number", where="labeled_metadata.json") from None


def read_class_names(path: Path) -> list[str]:
    """Names, one a line; the index is the line.

    :raises MissingAsset: without the file. :raises BadInput: for a name that occurs twice.
    """
    if not path.is_file():
        raise MissingAsset("no class_names.txt", where=str(path))
    names = path.read_text().split("\n")
    while names and not names[-1].strip():
        names.pop()
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadInput(f"class {twice[0]!r} occurs twice", where=str(path))
    return names


def write_training_folder(
    folder: Path,
    *,
    ratio: float = 0.3,
    seeds: Sequence[int] = SEEDS,
    stratified: bool = False,
    feature_sets: Sequence[str] = (),
) -> dict[str, int]:
    """``training_folder``: file lists, splits, feature lists of the named sets.

    :return: bucket -> pictures.
    """
    names, buckets = members_of(folder)
    out = folder / "training_folder"
    remove_stale(out)
    sizes: dict[str, int] = {}
    write_json(out / "bucket_indices.json", list(buckets))
    if stratified and ratio > 0:
        write_text(out / f"testset_ratio_{ratio:g}" / "stratified", "each class was split alone\n")
    for bucket, classes in buckets.items():
        members = {
            label: [(name, Path(record["IMG_PATH"]).suffix.lstrip(".")) for name, record in records.items()]
            for label, records in classes.items()
        }
        listed = list_bucket(bucket, members, names)
        lines = [f"{line.path} {line.label}" for line in listed]
        sizes[bucket] = len(lines)
        write_text(out / "filelists" / bucket / "all.txt", "\n".join(lines) + "\n")
        if ratio > 0:
            for seed in seeds:
                labels = [line.label for line in listed]
                train, test = (
                    train_test_by_class(labels, ratio, seed) if stratified else train_test(len(lines), ratio, seed)
                )
                place_ = out / f"testset_ratio_{ratio:g}" / f"split_{seed}" / bucket
                for side, rows in (("train", train), ("test", test)):
                    write_text(place_ / f"{side}.txt", "".join(lines[row] + "\n" for row in rows))
                    write_json(place_ / f"{side}_indices.json", rows)
        for name in feature_sets:
            _feature_list(folder, name, bucket, [(line.id, names[line.label], line.label) for line in listed])
    return sizes


def _feature_list(folder: Path, name: str, bucket: str, listed: Sequence[tuple[str, str, int]]) -> None:
    import torch

    by_label: dict[str, Any] = {}
    rows = []
    for photo, label, _ in listed:
        if label not in by_label:
            by_label[label] = load_features(folder / "features" / name / bucket / f"{label}.pth")
        if photo not in by_label[label]:
            raise MissingAsset(
                f"no {name} feature of {photo}",
                where=str(folder / "features" / name / bucket / f"{label}.pth"),
                fix="clk clear features",
            )
        rows.append(by_label[label][photo])
    target = folder / "training_folder" / "features" / name / bucket / "all.pth"
    save_torch(target, (torch.stack(rows), [label for _, _, label in listed]))


def load_features(path: Path) -> dict[str, Any]:
    """``{ID: tensor[d]}`` from a .pth, nothing executed.

    :raises MissingAsset: without the file.
    """
    from cl_kernel.torch import state

    return dict(state.read_file(path))


def save_torch(path: Path, content: Any) -> None:
    """``torch.save``, whole or not at all."""
    import torch

    with atomic(path) as file:
        torch.save(content, file)


def write_features(
    folder: Path,
    name: str,
    extract: Callable[[list[Path]], np.ndarray],
    *,
    batch_size: int = 256,
    state_dict: Mapping[str, Any] | None = None,
    report: Callable[[int], None] = lambda n: None,
) -> int:
    """A named feature set of every labelled picture: ``features/<name>/<b>/<label>.pth``; finished files are kept.

    :return: pictures read.
    """
    import torch

    _, buckets = members_of(folder)
    remove_stale(folder / "features")
    n_read = 0
    index: dict[str, dict[str, str]] = {}
    for bucket, classes in buckets.items():
        index[bucket] = {}
        for label, records in classes.items():
            path = f"features/{name}/{bucket}/{label}.pth"
            index[bucket][label] = path
            if (folder / path).exists() and set(load_features(folder / path)) == set(records):
                continue
            ids = list(records)
            rows = []
            for start in range(0, len(ids), batch_size):
                batch = [folder / records[photo]["IMG_PATH"] for photo in ids[start : start + batch_size]]
                rows.append(np.asarray(extract(batch), np.float32))
                n_read += len(batch)
            stacked = torch.from_numpy(np.concatenate(rows)) if rows else torch.empty(0, 0)
            save_torch(folder / path, {photo: stacked[i].clone() for i, photo in enumerate(ids)})
            report(len(ids))
    if state_dict is not None:
        save_torch(folder / "features" / name / "state_dict.pth.tar", dict(state_dict))
    write_json(folder / "features" / name / "features.json", index)
    return n_read


# ---- finished folders -------------------------------------------------------------------------


def relabel(folder: Path, label_map: Mapping[str, str]) -> dict[str, str]:
    """Rename classes of a finished folder: picture folders, metadata, feature files, class names (checklist 19).

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
    _rewrite_training_folder(folder)
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
    _rewrite_training_folder(folder)
    return n


def _rewrite_training_folder(folder: Path) -> None:
    """The same files for what the folder holds now; each is replaced, so that a kill leaves all of their names."""
    place_ = folder / "training_folder"
    if not place_.exists():
        return
    sets = [path.name for path in (place_ / "features").glob("*")]
    ratios = [float(path.name.removeprefix("testset_ratio_")) for path in place_.glob("testset_ratio_*")]
    for ratio in ratios or [0.0]:
        stratified = (place_ / f"testset_ratio_{ratio:g}" / "stratified").exists()
        write_training_folder(folder, ratio=ratio, stratified=stratified, feature_sets=sets)
