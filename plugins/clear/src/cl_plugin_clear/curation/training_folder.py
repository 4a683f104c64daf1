"""``training_folder`` of a labelled folder: file lists, splits, feature lists of named sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cl_kernel import MissingAsset, write_json, write_text
from cl_plugin_clear.curation.feature_sets import save_torch
from cl_plugin_clear.curation.store import remove_stale
from cl_plugin_clear.data.labels import SEEDS, list_bucket
from cl_plugin_clear.data.members import load_features, members_of
from cl_plugin_clear.data.split import train_test, train_test_by_class


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
    for name in feature_sets:
        if not (folder / "features" / name).is_dir():
            raise MissingAsset(f"no feature set {name!r}", where=str(folder), fix="clk clear features")
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


def rewrite_training_folder(folder: Path) -> None:
    """The same files for what the folder holds now; each is replaced, so that a kill leaves all of their names."""
    place_ = folder / "training_folder"
    if not place_.exists():
        return
    sets = [path.name for path in (place_ / "features").glob("*")]
    ratios = [float(path.name.removeprefix("testset_ratio_")) for path in place_.glob("testset_ratio_*")]
    for ratio in ratios or [0.0]:
        stratified = (place_ / f"testset_ratio_{ratio:g}" / "stratified").exists()
        write_training_folder(folder, ratio=ratio, stratified=stratified, feature_sets=sets)
