"""VOC folders to the tfrecords of all protocols."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cl_kernel import MissingAsset, Resources, write_json
from cl_plugin_recall.data.files import encode_png
from cl_plugin_recall.data.pairs import FilePairs, scan
from cl_plugin_recall.data.records import index_records, write_records
from cl_plugin_recall.data.steps import highest, labels_of_step, rows_of_step
from cl_plugin_recall.data.voc import locate
from cl_plugin_recall.experiments import TESTS, class_steps, parse_structure
from cl_plugin_recall.settings import Voc
from cl_plugin_recall.weights.names import class_ids

MANIFEST = "manifest.json"

Job = tuple[str, FilePairs, np.ndarray, np.ndarray | None]
"""File to write, images it is written from, their rows, and how labels are renamed."""


def step_files(n_classes: int, structure: str) -> dict[str, tuple[list[int], str]]:
    """Training file -> (classes, protocol): of all tests for 20 classes, else of one structure."""
    sizes = {test.sizes for test in TESTS} if n_classes == 20 else {parse_structure(structure, n_classes)}
    found: dict[str, tuple[list[int], str]] = {}
    for size in sorted(sizes):
        for step, classes in enumerate(class_steps(size)):
            for protocol in ("sequential", "overlapped") if step == 0 else ("sequential", "disjoint", "overlapped"):
                ids = f"1-{size[0]}" if step == 0 else class_ids(classes)
                folder = "training_first_step" if step == 0 else "training_incremental"
                found[f"data/{folder}/train_{protocol}_{ids}.tfrecord"] = (classes, protocol)
    return found


def prepare(settings: Voc, resources: Resources) -> Path:
    """Write every training and validation tfrecord below the cache; what is already there and whole is left alone.

    The tree is told by what images and labels hold, so other pictures under the same names get a tree of their own.

    :return: the tree's root, for ``--data-root`` with ``--set dataset.prepared=true``.
    """
    folder = locate(settings, resources)
    classes = folder.classes()
    train, present = scan(folder.pairs(folder.training_list(settings.train_list)), len(classes), resources, folder.root)
    val, val_present = scan(folder.pairs(settings.val_list), len(classes), resources, folder.root)
    identity = resources.identify("recall-voc", revision=2, classes=classes, train=train, val=val)
    root = resources.cache.place(identity.name, identity)
    jobs: list[Job] = []
    for name, (step, protocol) in step_files(len(classes), settings.structure).items():
        jobs.append((name, train, rows_of_step(present, step, protocol), labels_of_step(step, protocol)))
    top = highest(val_present)
    for c in range(1, len(classes) + 1):
        rows = np.flatnonzero((top == c) | ((top == 0) & (c == 1)))
        jobs.append((f"data/validation/val_{c}.tfrecord", val, rows, None))
    if not all(_whole(root, name, _manifest(root)) for name, *_ in jobs) or not (root / "classes.txt").is_file():
        with resources.cache.claimed(identity.name, identity):
            _write(root, jobs, classes)
    return root


def _write(root: Path, jobs: Sequence[Job], classes: Sequence[str]) -> None:
    """The files that are not there yet."""
    manifest = _manifest(root)
    for name, pairs, rows, table in jobs:
        if not _whole(root, name, manifest):
            path = root / name
            count = write_records(path, _encoded(pairs, rows, table))
            manifest[name] = {"records": count, "bytes": path.stat().st_size, "sha256": file_digest(path)}
            write_json(root / MANIFEST, manifest)
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in classes))


def _manifest(root: Path) -> dict[str, Any]:
    path = root / MANIFEST
    return json.loads(path.read_text()) if path.is_file() else {}


def _whole(root: Path, name: str, manifest: Mapping[str, Any]) -> bool:
    """Whether a file is there as it was written."""
    path, known = root / name, manifest.get(name)
    return known is not None and path.is_file() and path.stat().st_size == known["bytes"]


def _encoded(pairs: FilePairs, rows: np.ndarray, table: np.ndarray | None) -> Iterator[tuple[bytes, bytes]]:
    for row in map(int, rows):
        mask = pairs.mask(row)
        yield pairs.image(row), encode_png(mask if table is None else table[mask])


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_tree(root: Path) -> list[tuple[str, int]]:
    """Every tfrecord of a tree with its record count, all checksums verified.

    :raises MissingAsset: for a tree without any; :raises BadInput: for a damaged file.
    """
    found = sorted((root / "data").rglob("*.tfrecord"))
    if not found:
        raise MissingAsset(
            "no tfrecords below data/",
            where=str(root),
            fix="unpack the authors' data.zip here, or `clk data prepare recall:voc`",
        )
    return [(str(path.relative_to(root)), len(index_records(path))) for path in found]


def tree_of(settings: Voc, resources: Resources) -> Path:
    """The prepared tree: a root that holds ``data/``, or what was prepared from the VOC folder.

    :raises MissingAsset: when there is none.
    """
    places = [Path(settings.folder).expanduser()] if settings.folder else list(resources.roots)
    for place in places:
        if (place / "data" / "validation").is_dir():
            return place
    try:
        return prepare(settings, resources)
    except MissingAsset as error:
        raise MissingAsset(
            "no prepared tfrecords (data/training_first_step, data/validation, ...)",
            where=", ".join(map(str, places)) or "no data root given",
            fix="clk data prepare recall:voc --data-root DIR",
        ) from error
