"""Small stores and labelled folders shared by the tests; torch on one thread."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest

from cl_plugin_clear.curation import (
    buckets,
    concepts,
    download,
    feature_sets,
    features,
    fetch,
    ingest,
    labelled,
    retrieve,
    training_folder,
)
from cl_plugin_clear.curation.images import Limits
from cl_plugin_clear.curation.metadata import Filter
from cl_plugin_clear.curation.source import Source
from cl_plugin_clear.curation.store import Store
from cl_plugin_clear.data import toy
from cl_plugin_clear.data.members import members_of

LIMITS = Limits(min_size=10, min_edge=50, max_aspect_ratio=2.0)
FAST = fetch.Options(limits=LIMITS, n_threads=2, retry_wait_s=0.0)


def build_store(folder: Path, n: int = 700, *, chunk_size: int = 200, n_buckets: int = 3) -> Path:
    """A store of toy data, up to features."""
    toy.write_metadata(folder / "raw", n)
    root = folder / "store"
    ingest.ingest(root, Source.of_folder(folder / "raw"), chunk_size=chunk_size, rule=Filter(), n_threads=2)
    download.download(root, FAST)
    buckets.make_split(root, "equal", buckets.Rule(n=n_buckets))
    features.embed(root, "equal", toy.toy_clip(), shard_rows=90, n_threads=1)
    return root


GROUP = concepts.Concepts(name="T", group=("a disc", "a ring", "some stripes"), split="equal", model="toy", class_size=10, pool=40,  # noqa: E501
                          background=True, negative_ratio=0.2)  # fmt: skip
LABELS = {"a disc": "disc", "a ring": "ring", "some stripes": "stripes"}


@pytest.fixture(scope="session")
def finished_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Never changed by a test."""
    return build_store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def store(finished_store: Path, tmp_path: Path) -> Path:
    """A copy that a test may change; that it works is itself the proof that stores can be moved."""
    return Path(shutil.copytree(finished_store, tmp_path / "moved" / "store"))


@pytest.fixture(scope="session")
def finished_folder(finished_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelled folder with features and training folder; never changed by a test."""
    out = tmp_path_factory.mktemp("labelled") / "T"
    retrieve.retrieve_group(finished_store, out, GROUP, toy.toy_clip(), label_map=LABELS)
    labelled.build_folder(finished_store, out, save_all_metadata=True)
    feature_sets.write_features(out, "clip", extractor())
    training_folder.write_training_folder(out, ratio=0.3, feature_sets=["clip"])
    return out


@pytest.fixture
def folder(finished_folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(finished_folder, tmp_path / "elsewhere" / "T"))


def extractor() -> Callable[[list[Path]], object]:
    from PIL import Image

    def extract(paths: list[Path]) -> object:
        pictures = []
        for path in paths:
            with Image.open(path) as image:
                pictures.append(image.convert("RGB"))
        return toy.toy_clip().images(pictures)

    return extract


def as_original(store: Path, place: Path, prefix: str) -> None:
    """The finished pictures of a store as the original's program left its downloads."""
    index = {}
    opened = Store.open(store)
    for chunk in opened.chunks():
        rows = [row for row in opened.read_chunk(chunk).to_pylist() if row["status"] == "ok"]
        folder = place / str(chunk)
        (folder / "images").mkdir(parents=True)
        records = []
        for row in rows:
            record = labelled.record_json(row, "")
            record |= {"IMG_PATH": f"{row['id']}.{row['ext']}", "IMG_DIR": f"{prefix}/{chunk}/images"}
            shutil.copy(store / row["rel_path"], folder / "images" / record["IMG_PATH"])
            records.append(record)
        (folder / "metadata.json").write_text(json.dumps(records))
        index[str(chunk)] = {"folder": f"{prefix}/{chunk}", "num_images": len(rows), "image_folder": f"{prefix}/{chunk}/images",  # noqa: E501
                             "metadata_location": f"{prefix}/{chunk}/metadata.json"}  # fmt: skip
    (place / "all_folders.json").write_text(json.dumps(index))


def verified(folder: Path, answers: Path) -> None:
    """Write the answers of people who agree with every label of a training folder."""
    _, members = members_of(folder)
    for bucket, classes in members.items():
        for label, records in classes.items():
            for photo in records:
                path = answers / bucket / label / f"{photo}.json"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps({"task_result": {"annotations": [{"input": {"value": [label]}}]}}))


def cut(uploaded: np.ndarray, rule: buckets.Rule) -> tuple[np.ndarray, np.ndarray]:
    """A rule on a stream that fits into memory: (kept items in stream order, bucket of each)."""
    order = np.argsort(uploaded, kind="stable")
    bucket = buckets.Cutter(rule, len(uploaded))(uploaded[order])
    return order[bucket >= 0], bucket[bucket >= 0]
