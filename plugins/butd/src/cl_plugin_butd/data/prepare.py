"""The preparer: pictures drawn once into shards, label tables beside them; repeated, it does nothing.

Pictures lie deflated in one memory-mapped file a split (:mod:`cl_plugin_butd.data.packed`).

A prepared set is a folder named by a hash of everything it depends on: recipe, its version, the raw data's checksum.
Each shard is written to a temporary name and renamed, so a killed preparation continues with the next shard, and the
result is the same to the byte.

Shapes: N pictures, Q questions, M characters, H W canvas.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from attrs import define

from cl_kernel import BadInput, Cache, Field, Resources, content_key, write_json
from cl_plugin_butd.data import packed
from cl_plugin_butd.data.questions import Questions, question_fields

RECIPE_VERSION = 3
SHARD = 500
"""Pictures in a shard."""
MANIFEST = "MANIFEST.json"
STORED = {"task": "u1", "argument": "<i2", "class": "<i2", "box": "<i2", "picture": "<i4"}
"""Narrow types of tables on disk; they are read back as the stream's fields say."""
PER_PICTURE = ("existence", "answers", "answer_weight")
"""Tables with a row a picture; the others have a row a question."""
PACKED = ("image", "seg")
"""Pictures of the scene, and of the queried object alone."""


@define
class Prepared:
    """A finished folder."""

    folder: Path
    manifest: dict[str, Any]

    def array(self, split: str, name: str) -> np.ndarray:
        """A table of a split, memory-mapped."""
        return np.load(self.folder / split / f"{name}.npy", mmap_mode="r")

    def samples(self, split: str) -> Questions:
        """The questions of a split."""
        info = self.manifest["info"]
        fields = question_fields(info["n_tasks"], info["n_arguments"], info["n_occurrence"], info["n_classes"])
        names = [f.stem for f in sorted((self.folder / split).glob("*.npy"))]
        picture = np.asarray(self.array(split, "picture"), np.int64)
        tables = {name: np.asarray(self.array(split, name)) for name in names if name != "picture"}
        for name in tables:
            if name in PER_PICTURE:
                tables[name] = tables[name][picture]
            if name in fields:
                tables[name] = tables[name].astype(fields[name].dtype, copy=False)
            else:
                fields[name] = Field(shape=tuple(tables[name].shape[1:]), dtype=str(tables[name].dtype), kind="vector")
        image, seg = (packed.read(self.folder / split, name) for name in PACKED)
        if image is None:
            raise BadInput(
                "no pictures", where=str(self.folder / split), fix="remove the prepared folder and prepare it again"
            )
        return Questions(image, picture, tables, fields, tuple(info["shape"]), tuple(info["corner"]), seg)


def prepare(
    kind: str,
    inputs: Mapping[str, Any],
    root: Path,
    info: Mapping[str, Any],
    pictures: Callable[[], Iterator[tuple[str, Any]]],
    draw: Callable[[str, int, Any], dict[str, Any]],
    cache: Cache,
) -> Prepared:
    """Make a set, or find it made.

    :param inputs: everything the result depends on.
    :param pictures: all (split, layout) in order; cheap, drawn again when a preparation is continued.
    :param draw: (split, number, layout) -> ``image`` (one picture or one per question), optional ``seg``, and label
        rows, one a question; those of :data:`PER_PICTURE` one in all.
    :param cache: holds the claim while a set is made.
    :raises BadInput: when a folder of that name holds something else.
    """
    key = content_key({"version": RECIPE_VERSION, "kind": kind, **inputs})
    folder = root / f"{kind}-{key[:16]}"
    # of two processes that prepare one set, the second waits and finds it whole
    claim = contextlib.nullcontext() if (folder / MANIFEST).exists() else cache.claimed("butd-prepare", {"key": key})
    with claim:
        return _whole(folder, key, kind, inputs, info, pictures, draw)


def _whole(
    folder: Path,
    key: str,
    kind: str,
    inputs: Mapping[str, Any],
    info: Mapping[str, Any],
    pictures: Callable[[], Iterator[tuple[str, Any]]],
    draw: Callable[[str, int, Any], dict[str, Any]],
) -> Prepared:
    """Find the set, or make it; see :func:`prepare`."""
    done, shards = folder / MANIFEST, folder / "shards"
    if done.exists():
        manifest = json.loads(done.read_text(encoding="utf-8"))
        shutil.rmtree(shards, ignore_errors=True)  # killed between the last two steps
        if manifest["key"] != key:
            raise BadInput(
                f"prepared data of another recipe: {manifest['key'][:12]}, wanted {key[:12]}",
                where=str(done),
                fix="remove the folder or choose another dataset.directory",
            )
        # names are no part of the key: a set prepared before they were kept has them from here
        return Prepared(folder, {**manifest, "info": {**info, **manifest["info"]}})
    shards.mkdir(parents=True, exist_ok=True)
    position: dict[str, int] = {}
    for split, chunk, first in _chunks(pictures(), SHARD):
        number = position.get(split, 0)
        position[split] = number + 1
        target = shards / f"{split}-{number:05d}.npz"
        if not target.exists():
            _write_shard(target, split, first, chunk, draw)
    files = {}
    for split in sorted(position):
        files[split] = _join(shards, folder / split, split, position[split])
    manifest = {
        "key": key,
        "kind": kind,
        "version": RECIPE_VERSION,
        "inputs": dict(inputs),
        "info": dict(info),
        "splits": files,
    }
    write_json(done, manifest)
    shutil.rmtree(shards)
    return Prepared(folder, manifest)


def imported(directory: str) -> Prepared | None:
    """A folder that ``clk butd import-legacy samples`` wrote, or None."""
    manifest = Path(directory).expanduser() / MANIFEST
    if not directory or not manifest.is_file():
        return None
    content = json.loads(manifest.read_text(encoding="utf-8"))
    return Prepared(manifest.parent, content) if content.get("kind") == "imported" else None


def _chunks(pictures: Iterator[tuple[str, Any]], size: int) -> Iterator[tuple[str, list[Any], int]]:
    chunk: list[Any] = []
    current, first = "", 0
    for split, picture in pictures:
        if split != current or len(chunk) == size:
            if chunk:
                yield current, chunk, first
                first += len(chunk)
            if split != current:
                current, first = split, 0
            chunk = []
        chunk.append(picture)
    if chunk:
        yield current, chunk, first


def _write_shard(
    target: Path, split: str, first: int, chunk: list[Any], draw: Callable[[str, int, Any], dict[str, Any]]
) -> None:
    rows = [draw(split, first + i, picture) for i, picture in enumerate(chunk)]
    arrays: dict[str, np.ndarray] = {}
    for name in rows[0]:
        if name in PER_PICTURE:
            arrays[name] = np.concatenate([np.repeat(row[name], len(row["image"]), 0) for row in rows])
        else:
            joined = np.concatenate([row[name] for row in rows])
            arrays[name] = joined.astype(STORED[name], casting="same_kind") if name in STORED else joined
    temporary = target.with_suffix(".tmp")
    with temporary.open("wb") as handle:
        np.savez(handle, **arrays)
        handle.flush()
        os.fsync(handle.fileno())
    temporary.rename(target)


def _join(shards: Path, folder: Path, split: str, n: int) -> dict[str, Any]:
    """Shards of a split as one table a label and one file of packed pictures; pictures are numbered through."""
    folder.mkdir(exist_ok=True)

    def parts(name: str) -> Iterator[np.ndarray]:
        for i in range(n):
            with np.load(shards / f"{split}-{i:05d}.npz") as part:
                yield part[name]

    with np.load(shards / f"{split}-00000.npz") as part:
        names = list(part.files)
    for name in PACKED:
        if name in names:
            packed.write(folder, name, (picture for part in parts(name) for picture in part))
    tables = {name: list(parts(name)) for name in names if name not in PACKED}
    n_pictures = 0
    for picture, existence in zip(tables["picture"], tables["existence"], strict=True):
        picture += n_pictures
        n_pictures += len(existence)
    for name, values in tables.items():
        np.save(folder / f"{name}.npy", np.concatenate(values))
    return {"questions": sum(map(len, tables["class"])), "pictures": n_pictures}


def data_folder(directory: str, resources: Resources) -> Path:
    """Where prepared data lies: as set, or below the cache; never relative to the working directory."""
    return Path(directory).expanduser().resolve() if directory else resources.cache.root.resolve() / "butd"
