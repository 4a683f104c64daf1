"""VOC folders to the tfrecords of all protocols, and streams over such a tree, ours or the authors' (spec 4.3)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cl_kernel import BadInput, MissingAsset, Resources, Stage, Stream, fingerprint, write_json
from cl_plugin_recall.data.files import decode_png, encode_png, record_fields
from cl_plugin_recall.data.records import RecordSamples, index_records, write_records
from cl_plugin_recall.data.steps import highest, labels_of_step, presence, rows_of_step
from cl_plugin_recall.data.voc import VocFolder, locate, scan
from cl_plugin_recall.experiments import TESTS, VOC_CLASSES, class_steps, parse_structure
from cl_plugin_recall.settings import Voc
from cl_plugin_recall.weights.names import Names, class_ids

MANIFEST = "manifest.json"


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

    :return: the tree's root, for ``--data-root`` with ``--set dataset.prepared=true``.
    """
    folder = locate(settings, resources)
    classes = folder.classes()
    names, present = scan(folder, folder.names(folder.training_list(settings.train_list)), len(classes), resources)
    val_names, val_present = scan(folder, folder.names(settings.val_list), len(classes), resources)
    key = fingerprint(str(folder.root.resolve()), classes, names, val_names, present, val_present)
    root = resources.cache.root / "recall-voc" / key
    manifest: dict[str, Any] = json.loads((root / MANIFEST).read_text()) if (root / MANIFEST).is_file() else {}
    jobs: list[tuple[str, Sequence[str], np.ndarray, np.ndarray | None]] = []
    for name, (step, protocol) in step_files(len(classes), settings.structure).items():
        jobs.append((name, names, rows_of_step(present, step, protocol), labels_of_step(step, protocol)))
    top = highest(val_present)
    for c in range(1, len(classes) + 1):
        rows = np.flatnonzero((top == c) | ((top == 0) & (c == 1)))
        jobs.append((f"data/validation/val_{c}.tfrecord", val_names, rows, None))
    for name, listing, rows, table in jobs:
        path = root / name
        if (known := manifest.get(name)) and path.is_file() and path.stat().st_size == known["bytes"]:
            continue
        count = write_records(path, _pairs(folder, listing, rows, table))
        manifest[name] = {"records": count, "bytes": path.stat().st_size, "sha256": file_digest(path)}
        write_json(root / MANIFEST, manifest)
    if not (root / "classes.txt").is_file():
        (root / "classes.txt").write_text("".join(f"{name}\n" for name in classes))
    return root


def _pairs(
    folder: VocFolder, names: Sequence[str], rows: np.ndarray, table: np.ndarray | None
) -> Iterator[tuple[bytes, bytes]]:
    for row in rows:
        name = names[row]
        mask = decode_png(folder.label(name).read_bytes(), str(folder.label(name)))
        yield folder.image(name).read_bytes(), encode_png(mask if table is None else table[mask])


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


def build_prepared(settings: Voc, resources: Resources) -> Stream:
    """Stream over prepared tfrecords, ours or those of the authors' archive."""
    root = tree_of(settings, resources)
    listing = root / "classes.txt"
    class_names = (
        tuple(line.strip() for line in listing.read_text().splitlines() if line.strip())
        if listing.is_file()
        else VOC_CLASSES
    )
    n = len(class_names)
    sizes = parse_structure(settings.structure, n)
    protocols = (settings.protocol_first, settings.protocol_helpers, settings.protocol)
    first = ("sequential" if protocols[0] == "disjoint" else protocols[0], *protocols[1:])
    names = Names(test_name="", test="", sizes=sizes, index=(0, 0, 0, 0), protocols=first, base=str(root))
    spec = record_fields(n + 1)
    stages = []
    for step, classes in enumerate(names.steps):
        samples = RecordSamples((Path(names.train(step)),), spec)
        info: dict[str, Any] = {"protocol": protocols[0] if step == 0 else protocols[2]}
        if 0 < step < len(sizes) - 1:
            labels = [decode_png(samples.encoded(row)[1], samples.where(row)) for row in range(len(samples))]
            present = presence(labels, n, [samples.where(row) for row in range(len(samples))])
            kind = protocols[1] if protocols[1] == "overlapped" or len(classes) == 1 else "sequential"
            info["helper_rows"] = {
                "-".join(map(str, group)): rows_of_step(present, group, kind).tolist()
                for group in [classes, *([c] for c in classes)]
            }
        title = [class_names[c - 1] for c in classes]
        stages.append(
            Stage(
                index=step,
                name=title[0] if len(title) == 1 else f"{title[0]}..{title[-1]}",
                train=samples,
                classes=tuple(classes),
                info=info,
            )
        )
    files = [root / "data" / "validation" / f"val_{c}.tfrecord" for c in range(1, n + 1)]
    counts = np.cumsum([0, *(len(index_records(path)) for path in files)])
    test = RecordSamples(tuple(files), spec)
    sets, begin = {}, 0
    for stage, size in zip(stages, sizes, strict=True):
        sets[stage.name] = np.arange(counts[begin], counts[begin + size])
        begin += size
    if any(not len(rows) for rows in sets.values()):
        if settings.validation == "cumulative":
            raise BadInput(
                "a step has no validation images of its own",
                where="dataset.validation",
                fix="--set dataset.validation=full",
            )
        sets = {"val": np.arange(len(test))}
    digest = fingerprint(
        "records",
        *(
            (path.name, path.stat().st_size)
            for path in sorted((root / "data").rglob("*.tfrecord"))
            if "replay" not in str(path)
        ),
    )
    return Stream(
        name="voc",
        task="image -> mask",
        stages=stages,
        test=test,
        test_sets=sets,
        class_names=("background", *class_names),
        fingerprint=digest,
        info={"structure": settings.structure, "sizes": list(sizes), "protocols": list(protocols)},
    )
