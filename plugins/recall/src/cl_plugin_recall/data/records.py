"""Tfrecord files of images and labels: written, indexed for random access, and read in the reference's seven modes.

Records stay encoded until they are used, and on disk: shuffling moves row numbers, not images.
Shapes: n a batch, N records, H W image.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from attrs import define, field

from cl_kernel import BadInput, Field, MissingAsset
from cl_plugin_recall.backend import tf
from cl_plugin_recall.data.files import LabelMaps, decode_png, objects, stems
from cl_plugin_recall.data.images import augment, decode_jpeg, resize_bilinear, subtract_mean
from cl_plugin_recall.network.inputs import LEGACY_INPUT, InputSpec

MODES = (
    "training",
    "validation",
    "validation+",
    "images",
    "images_and_labels",
    "resize_images",
    "resize_images_and_subtract_mean",
)


def example_bytes(image: bytes, label: bytes | None = None) -> bytes:
    """One record: feature ``input`` (JPEG) and, if given, ``label`` (PNG)."""
    features = {"input": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image]))}
    if label is not None:
        features["label"] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[label]))
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(deterministic=True)


def parse_example(record: bytes, where: str = "") -> tuple[bytes, bytes]:
    """Image and label bytes of a record; an absent label gives empty bytes."""
    try:
        feature = tf.train.Example.FromString(record).features.feature
    except Exception as error:  # protobuf's DecodeError lives in a private place
        raise BadInput("record is no tf.train.Example", where=where) from error
    if "input" not in feature or not feature["input"].bytes_list.value:
        raise BadInput("record has no feature 'input'", where=where)
    label = feature["label"].bytes_list.value if "label" in feature else ()
    return feature["input"].bytes_list.value[0], label[0] if label else b""


def write_records(path: Path, pairs: Iterable[tuple[bytes, bytes | None]]) -> int:
    """Write (image, label) bytes to ``path``, complete or not at all. Returns how many."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    n = 0
    try:
        with tf.io.TFRecordWriter(str(temporary)) as writer:
            for image, label in pairs:
                writer.write(example_bytes(image, label))
                n += 1
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return n


def index_records(path: Path) -> np.ndarray:
    """Byte span of every record, int64 [N, 2] (start, length), with all checksums verified.

    :raises BadInput: for a truncated or damaged file, naming the record.
    """
    if not path.is_file():
        raise MissingAsset("tfrecord file is missing", where=str(path), fix="run `clk data prepare recall:voc`")
    spans, at = [], 0
    try:
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            spans.append((at + 12, len(record)))
            at += 16 + len(record)
    except tf.errors.DataLossError as error:
        raise BadInput(
            f"tfrecord is damaged or truncated at record {len(spans)} (byte {at})",
            where=str(path),
            fix="delete the file and prepare it again",
        ) from error
    return np.array(spans, np.int64).reshape(-1, 2)


@define
class RecordSamples:
    """Images and masks of tfrecord files by row; files are mapped, not read."""

    paths: tuple[Path, ...]
    spec: Mapping[str, Field]
    _spans: list[np.ndarray] = field(init=False)
    _starts: np.ndarray = field(init=False)
    _maps: list[mmap.mmap | None] = field(init=False)
    _labels: LabelMaps = field(init=False, factory=LabelMaps, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._spans = [index_records(path) for path in self.paths]
        self._starts = np.cumsum([0, *(len(spans) for spans in self._spans)])
        self._maps = []
        for path, spans in zip(self.paths, self._spans, strict=True):
            if not len(spans):
                self._maps.append(None)
                continue
            with path.open("rb") as handle:
                self._maps.append(mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ))

    def __len__(self) -> int:
        return int(self._starts[-1])

    def where(self, row: int) -> str:
        """File and record number of a row, for messages."""
        at = int(np.searchsorted(self._starts, row, side="right")) - 1
        return f"{self.paths[at]}, record {row - self._starts[at]}"

    def encoded(self, row: int) -> tuple[bytes, bytes]:
        """JPEG and PNG bytes of one row."""
        at = int(np.searchsorted(self._starts, row, side="right")) - 1
        start, length = self._spans[at][row - self._starts[at]]
        return parse_example(self._maps[at][start : start + length], self.where(row))

    def _label(self, row: int, data: bytes) -> np.ndarray:
        return self._labels.get(row, lambda: decode_png(data, self.where(row)))

    def identify(self, files: Any, rows: np.ndarray | None = None) -> str:
        """By what the files hold, and the rows of them."""
        digest: str = files.content(files.digests(self.paths), None if rows is None else np.asarray(rows).tolist())
        return digest

    def take(self, rows: np.ndarray, fields: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Encoded images and decoded masks."""
        fields = tuple(fields or self.spec)
        pairs = [self.encoded(int(row)) for row in rows]
        batch: dict[str, np.ndarray] = {}
        if "image" in fields:
            batch["image"] = objects([image for image, _ in pairs])
        if "mask" in fields:
            batch["mask"] = objects([self._label(int(row), label) for row, (_, label) in zip(rows, pairs, strict=True)])
        return batch


def resolve_paths(paths: Sequence[Path] | Path) -> list[Path]:
    """A list of files as it is, or the tfrecords of a folder in order."""
    if isinstance(paths, Path):
        files = list(stems(paths, (".tfrecord",)).values())
        if not files:
            raise MissingAsset("folder holds no tfrecord", where=str(paths))
        return files
    return list(paths)


def read_dataset(
    paths: Sequence[Path] | Path,
    mode: str,
    *,
    size: int = 321,
    input_spec: InputSpec = LEGACY_INPUT,
    seed: int = 0,
    n_parallel: int = 2,
) -> tf.data.Dataset:
    """A ``tf.data`` pipeline over tfrecords in one of the reference's modes, one element an image.

    ``training``: augmented ``input`` and ``label``; ``validation``: less the mean; ``validation+``: and ``rgb_input``;
    ``images``, ``images_and_labels``: raw; ``resize_images``: to ``size`` squared;
    ``resize_images_and_subtract_mean``: subtracted, then resized.
    """
    if mode not in MODES:
        raise BadInput(f"unknown reader mode {mode!r}; known: {', '.join(MODES)}")
    features = {"input": tf.io.FixedLenFeature([], tf.string, ""), "label": tf.io.FixedLenFeature([], tf.string, "")}
    labelled = mode in ("training", "validation", "validation+", "images_and_labels")

    def read(number: tf.Tensor, record: tf.Tensor) -> dict[str, tf.Tensor]:
        parsed = tf.io.parse_single_example(record, features)
        rgb = decode_jpeg(parsed["input"])
        label = tf.io.decode_png(parsed["label"], channels=1) if labelled else None
        if mode == "training":
            draws = tf.random.stateless_uniform([4], tf.stack([tf.constant(seed, tf.int64), number]))
            image, label = augment(
                subtract_mean(rgb, input_spec),
                label,
                scale=0.5 + draws[0],
                flip=draws[1],
                offset=None,
                draws=draws[2:],
                size=size,
            )
            return {"input": image, "label": label}
        if mode == "images":
            return {"input": rgb}
        if mode == "images_and_labels":
            return {"input": rgb, "label": label}
        if mode == "resize_images":
            return {"input": resize_bilinear(tf.cast(rgb, tf.float32), tf.constant([size, size]))}
        if mode == "resize_images_and_subtract_mean":
            return {"input": resize_bilinear(subtract_mean(rgb, input_spec), tf.constant([size, size]))}
        out = {"input": subtract_mean(rgb, input_spec), "label": label}
        return out | {"rgb_input": rgb} if mode == "validation+" else out

    files = [str(path) for path in resolve_paths(paths)]
    return tf.data.TFRecordDataset(files).enumerate().map(read, num_parallel_calls=n_parallel, deterministic=True)
