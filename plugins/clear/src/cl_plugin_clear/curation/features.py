"""Features of every picture of a split, in memory-mapped shards, made once and resumed by shard."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from attrs import frozen
from PIL import Image

from cl_kernel import BadInput, BadSetting, Mismatch, MissingAsset, atomic, open_picture, write_json
from cl_plugin_clear.curation.buckets import Split
from cl_plugin_clear.curation.pictures import Pictures
from cl_plugin_clear.curation.retrieval import normalise
from cl_plugin_clear.curation.store import remove_stale
from cl_plugin_clear.data.split import SHARD_ROWS, shard_sizes

CLIP_MODELS = {
    "RN50": "RN50-quickgelu",
    "RN101": "RN101-quickgelu",
    "RN50x4": "RN50x4-quickgelu",
    "ViT-B/32": "ViT-B-32-quickgelu",
}
"""The original's names -> open_clip's with the activation their weights were trained with."""


class Embedder(Protocol):
    """Two towers; raw features, not normalised."""

    name: str
    dim: int
    preprocess: str
    weights: str

    def images(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """Float [N, dim]."""

    def texts(self, prompts: Sequence[str]) -> np.ndarray:
        """Float [P, dim]."""


class OpenClip:
    """A model of open_clip.

    :param pretrained: weights tag or a file; ``"openai"`` for the original's.
    :raises Mismatch: without open_clip. :raises MissingAsset: when the weights cannot be had.
    """

    def __init__(self, name: str, pretrained: str = "openai", device: str = "auto") -> None:
        try:
            import open_clip
        except ImportError as error:
            raise Mismatch(
                "open_clip is not installed",
                where=f"--model {name}",
                fix="pip install 'cl-plugin-clear[clip]', or --model toy",
            ) from error
        import torch

        from cl_kernel.torch import device as devices

        self.name, self.weights = name, weights_name(pretrained)
        self._torch, self._device = torch, devices.resolve(device)
        full = CLIP_MODELS.get(name, name)
        if full not in open_clip.list_models():
            raise BadSetting(
                f"open_clip knows no model {name!r}",
                where="--model",
                fix=f"{', '.join(CLIP_MODELS)}, or any of open_clip's",
            )
        try:
            self._model, _, self._transform = open_clip.create_model_and_transforms(full, pretrained=pretrained or None)
        except (OSError, RuntimeError, ValueError) as error:
            raise MissingAsset(
                f"no weights {pretrained!r} for {name}: {str(error).splitlines()[0]}",
                where="--model",
                fix="download them where there is a network and pass --weights FILE",
            ) from error
        self._model = self._model.to(self._device).eval()
        self._tokenizer = open_clip.get_tokenizer(full)
        self.dim = int(
            self._model.text_projection.shape[-1]
            if getattr(self._model, "text_projection", None) is not None
            else self._model.visual.output_dim
        )
        self.preprocess = " ".join(str(self._transform).split())

    def images(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """float32 [N, dim] (float16 arithmetic is the original's choice on a GPU)."""
        torch = self._torch
        batch = torch.stack([self._transform(picture) for picture in pictures]).to(self._device)
        with torch.inference_mode():
            return self._model.encode_image(batch).float().cpu().numpy()  # type: ignore[no-any-return]

    def texts(self, prompts: Sequence[str]) -> np.ndarray:
        """float32 [P, dim].

        :raises BadInput: for a prompt beyond the context of 77 tokens.
        """
        torch = self._torch
        for prompt in prompts:
            n = len(self._tokenizer.encode(prompt)) + 2 if hasattr(self._tokenizer, "encode") else 0
            if n > 77:
                raise BadInput(f"a prompt of {n} tokens is longer than the context of 77", where=repr(prompt[:40]))
        with torch.inference_mode():
            return self._model.encode_text(self._tokenizer(list(prompts)).to(self._device)).float().cpu().numpy()  # type: ignore[no-any-return]


def weights_name(weights: str) -> str:
    """A tag as it is; a file by what it holds, so that features know it wherever it lies."""
    path = Path(weights)
    if not weights or not path.is_file():
        return weights
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()[:32]


def open_model(name: str, *, weights: str = "openai", device: str = "auto") -> Embedder:
    """``toy``, a model of open_clip by the original's or open_clip's name, or any network: ``timm:NAME``, ``NAME@96``.

    :raises BadSetting: for a network's edge that is no number.
    """
    if name == "toy":
        from cl_plugin_clear.data.toy import toy_clip

        return toy_clip()
    if ":" in name:
        from cl_plugin_clear.network.extract import Encoder

        encoder, _, edge = name.partition("@")
        if edge and not edge.isdigit():
            raise BadSetting(f"{edge!r} is no edge in pixels", where=f"--model {name}", fix=f"{encoder}@96")
        return Encoder(encoder, "" if weights == "openai" else weights, int(edge or 224), device)
    return OpenClip(name, weights, device)


def model_folder(name: str) -> str:
    """Folder name of a model."""
    return name.replace("/", "_")


@frozen
class Features:
    """Shards of one bucket: normalised rows in bucket order; a row of NaN is a picture that could not be read."""

    folder: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, root: Path, embedder: Embedder, split: str, bucket: int) -> Features:
        """Finished features of a bucket, made by this model with these weights.

        :raises MissingAsset: when they are not there or not finished. :raises BadSetting: when others made them.
        """
        model = embedder.name
        folder = root / "features" / model_folder(model) / split / str(bucket)
        path = folder / "manifest.json"
        manifest = json.loads(path.read_text()) if path.exists() else {}
        missing = [
            shard for shard in range(len(manifest.get("shards", []))) if not (folder / f"{shard:05d}.npy").exists()
        ]
        if not manifest or missing:
            raise MissingAsset(
                f"bucket {bucket} has no {model} features" + (f" (shards {missing} missing)" if missing else ""),
                where=str(folder),
                fix=f"clk clear embed --root {root} --split {split} --model {model}",
            )
        for key in ("weights", "preprocess"):
            if manifest.get(key) != getattr(embedder, key):
                raise BadSetting(
                    f"the features of bucket {bucket} were made with {key} {manifest.get(key)!r}, "
                    f"the prompt would be read with {getattr(embedder, key)!r}",
                    where=str(path),
                    fix="--weights as clk clear embed was given",
                )
        return cls(folder, manifest)

    def shards(self) -> Iterator[np.ndarray]:
        """Normalised rows, memory-mapped."""
        for shard in range(len(self.manifest["shards"])):
            yield np.load(self.folder / f"{shard:05d}.npy", mmap_mode="r")

    def raw(self) -> Iterator[np.ndarray]:
        """Rows as the model gave them.

        :raises MissingAsset: when they were not kept.
        """
        for shard in range(len(self.manifest["shards"])):
            path = self.folder / f"{shard:05d}.raw.npy"
            if not path.exists():
                raise MissingAsset("raw features were not kept", where=str(path), fix="clk clear embed --raw")
            yield np.load(path, mmap_mode="r")

    def ids(self) -> np.ndarray:
        """Photo ids, int64, in the order of the rows."""
        return np.load(self.folder / "ids.npy", mmap_mode="r")  # type: ignore[no-any-return]


@frozen
class Embedded:
    """What happened."""

    n_made: int
    n_reused: int
    n_bad: int
    n_pictures: int


def embed(
    root: Path,
    split_name: str,
    embedder: Embedder,
    *,
    buckets: Sequence[int] | None = None,
    batch_size: int = 128,
    shard_rows: int = SHARD_ROWS,
    dtype: str = "float32",
    keep_raw: bool = True,
    n_threads: int = 4,
    rank: int = 0,
    world: int = 1,
    on_bad: Callable[[str, Exception], None] | None = None,
    report: Callable[[int], None] = lambda n: None,
) -> Embedded:
    """Features of the buckets; a shard that is there is not made again.

    :param rank, world: this process' share of the shards.
    :param on_bad: told of a picture that cannot be read; may raise. Its row is NaN and never retrieved.
    :raises BadSetting: when the folder holds features of another model, weights, order or shard size.
    """
    split = Split.open(root, split_name)
    n_made = n_reused = n_bad = n_pictures = 0
    pictures = Pictures(root)
    with ThreadPoolExecutor(n_threads, thread_name_prefix="decode") as pool:
        for bucket in buckets if buckets is not None else split.buckets:
            info = split.info(bucket)
            folder = root / "features" / model_folder(embedder.name) / split_name / str(bucket)
            sizes = shard_sizes(info["n"], shard_rows)
            manifest = {
                "format": 1,
                "model": embedder.name,
                "weights": embedder.weights,
                "preprocess": embedder.preprocess,
                "dim": embedder.dim,
                "dtype": dtype,
                "raw": keep_raw,
                "ids_sha256": info["sha256"],
                "shards": sizes.tolist(),
            }
            _agree(folder, manifest)
            remove_stale(folder)
            starts = np.concatenate([[0], np.cumsum(sizes)])
            table = None
            for shard in range(rank, len(sizes), world):
                target = folder / f"{shard:05d}.npy"
                if target.exists() and (not keep_raw or target.with_suffix(".raw.npy").exists()):
                    n_reused += 1
                    continue
                if table is None:
                    table = split.rows(bucket, ["id", "rel_path"])
                    if not (folder / "ids.npy").exists() and rank == 0:
                        save_npy(folder / "ids.npy", table["id"].to_numpy())
                paths = table["rel_path"].slice(int(starts[shard]), int(sizes[shard])).to_pylist()
                raw = np.full((len(paths), embedder.dim), np.nan, np.float32)
                for at, rows in _batches(pictures, paths, embedder, batch_size, pool, on_bad):
                    raw[at] = rows
                    n_pictures += len(at)
                    report(len(at))
                normal = normalise(raw)
                n_bad += int(np.isnan(normal).any(1).sum())
                if keep_raw:
                    save_npy(folder / f"{shard:05d}.raw.npy", raw.astype(dtype))
                save_npy(target, normal.astype(dtype))
                n_made += 1
    return Embedded(n_made, n_reused, n_bad, n_pictures)


def _agree(folder: Path, manifest: dict[str, Any]) -> None:
    path = folder / "manifest.json"
    if not path.exists():
        write_json(path, manifest)
        return
    known = json.loads(path.read_text())
    for key, value in manifest.items():
        if known.get(key) != value:
            raise BadSetting(
                f"the folder holds features with {key} = {known.get(key)!r}, asked for {value!r}",
                where=str(path),
                fix="remove the folder, or use the same settings",
            )


def _batches(
    store: Pictures,
    paths: Sequence[str | None],
    embedder: Embedder,
    batch_size: int,
    pool: ThreadPoolExecutor,
    on_bad: Callable[[str, Exception], None] | None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    def load(place: int) -> Image.Image | Exception:
        name = paths[place]
        try:
            if name is None:
                raise FileNotFoundError("never downloaded")
            return open_picture(store.read(name), name=name)
        except (OSError, BadInput) as error:
            return error

    starts = list(range(0, len(paths), batch_size))
    ahead = [pool.submit(load, place) for place in range(min(batch_size, len(paths)))]
    for start in starts:
        following = [
            pool.submit(load, place) for place in range(start + batch_size, min(start + 2 * batch_size, len(paths)))
        ]
        good, pictures = [], []
        for place, future in enumerate(ahead, start):
            loaded = future.result()
            if isinstance(loaded, Exception):
                if on_bad is not None:
                    on_bad(str(paths[place]), loaded)
                continue
            good.append(place)
            pictures.append(loaded)
        ahead = following
        if pictures:
            yield np.array(good), embedder.images(pictures)


def save_npy(path: Path, array: np.ndarray) -> None:
    """Write an array whole or not at all."""
    with atomic(path) as file:
        np.save(file, array)
