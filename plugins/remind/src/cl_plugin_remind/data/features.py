"""Image features for VQA: a residual network up to a stage, stored as HDF5, then as codes.

Shapes: I images, R regions, D channels, M codebooks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from cl_kernel import BadInput, MissingAsset, write_json
from cl_kernel.library.networks import IMAGENET_MEAN, IMAGENET_STD
from cl_kernel.torch.loaders import ahead
from cl_kernel.torch.state import assign, read_weights
from cl_plugin_remind.data.places import raw_folder
from cl_plugin_remind.data.vqa import encode_features, images_for_pq, read_annotations

_log = logging.getLogger(__name__)

DEFAULTS = {
    "clevr": ("resnet101", 3, "all_clevr_resnet_largestage3", "map_clevr_resnet_largestage3"),
    "tdiuc": ("resnet152", 4, "all_tdiuc_resnet", "map_tdiuc_resnet"),
}


WEIGHTS = {"resnet101": "resnet101-63fe2227.pth", "resnet152": "resnet152-394f9c45.pth"}
"""Torchvision's files of ImageNet weights of 2015's kind (IMAGENET1K_V1)."""
_FLUSHED = 32  # batches after which the features so far are safe from a killed process


def image_files(name: str, root: Path) -> list[tuple[int, Path]]:
    """(image id, file) of all images, train first, in name order.

    :raises MissingAsset: without images. :raises BadInput: for a file name without a number.
    """
    folders = {"clevr": ("images/train", "images/val"), "tdiuc": ("Images/train2014", "Images/val2014")}[name]
    found: list[tuple[int, Path]] = []
    for digit, folder in zip("12", folders, strict=True):
        for path in sorted(p for p in (root / folder).glob("*") if p.suffix.lower() in (".png", ".jpg", ".jpeg")):
            tail = path.stem.rsplit("_", 1)[-1]
            if not tail.isdigit():
                raise BadInput(f"{path.name} does not end in an image number", where=str(path))
            found.append((int(f"{digit}{int(tail)}") if name == "clevr" else int(tail), path))
    if not found:
        raise MissingAsset(f"no images of {name}", where=", ".join(str(root / f) for f in folders))
    return found


def trunk(network: str, stage: int, weights: str) -> nn.Module:
    """Torchvision's network up to ``layer<stage>``.

    :param weights: a weight file, ``torchvision`` for its ImageNet weights (downloaded), or empty for random ones.
    """
    import torchvision

    build = getattr(torchvision.models, network, None)
    if build is None or not network.startswith("resnet"):
        raise BadInput(f"no network {network!r}; resnet18 ... resnet152", where="--network")
    try:
        whole = build(weights="IMAGENET1K_V1" if weights == "torchvision" else None)
    except OSError as error:
        raise MissingAsset(
            f"the weights cannot be fetched: {error}",
            where="--weights torchvision",
            fix=f"get {WEIGHTS.get(network, network)} from download.pytorch.org/models and give it: --weights FILE",
        ) from error
    if weights and weights != "torchvision":
        assign(whole, read_weights(weights), where=weights)
    parts = [
        whole.conv1,
        whole.bn1,
        whole.relu,
        whole.maxpool,
        *[getattr(whole, f"layer{k}") for k in range(1, stage + 1)],
    ]
    return nn.Sequential(*parts).eval()


def extract(
    name: str,
    root: Path,
    folder: Path,
    *,
    network: str = "",
    stage: int = 0,
    weights: str = "torchvision",
    batch_size: int = 32,
    device: torch.device | None = None,
    n_workers: int = 2,
    made_from: str = "",
) -> Path:
    """Write the feature file and the map of image ids; images are resized to 224x224 (bicubic), not cropped.

    :param made_from: identity of images and network: an unfinished file of the same goes on where it stopped. Empty:
        from the start.
    :return: the HDF5 file: ``image_features`` float32 [I, R, D], ``iids`` int64 [I].
    :raises BadInput: naming an image that cannot be read.
    """
    device = device or torch.device("cpu")
    default_network, default_stage, title, map_title = DEFAULTS[name]
    net = trunk(network or default_network, stage or default_stage, weights).to(device)
    files = image_files(name, raw_folder(name, root))
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{title}.h5"
    temporary = target.with_suffix(".tmp")
    with _unfinished(temporary, made_from) as file, torch.inference_mode():
        _fill(file, files, net, device, batch_size, n_workers)
        if "iids" not in file:
            file.create_dataset("iids", data=np.array([iid for iid, _ in files], np.int64))
    temporary.replace(target)
    ids = [iid for iid, _ in files]
    write_json(
        folder / f"{map_title}.json",
        {
            "image_id_to_ix": {str(iid): row for row, iid in enumerate(ids)},
            "image_ix_to_id": {str(row): iid for row, iid in enumerate(ids)},
        },
    )
    return target


@contextmanager
def _unfinished(path: Path, made_from: str) -> Iterator[Any]:
    """The open feature file, the one begun before if it is of the same images and network and can be read."""
    import h5py

    file = None
    if made_from and path.is_file():
        try:
            file = h5py.File(path, "r+")
            if file.attrs.get("made_from") != made_from:
                file.close()
                file = None
        except OSError:  # the process was killed while it wrote
            file = None
    file = file or h5py.File(path, "w")
    try:
        file.attrs["made_from"] = made_from
        yield file
    finally:
        file.close()


def _fill(
    file: Any, files: Sequence[tuple[int, Path]], net: nn.Module, device: torch.device, batch_size: int, n_workers: int
) -> None:
    """Features of all images, from where the file stands (its attribute ``done``)."""
    start = int(file.attrs.get("done", 0))
    pieces = [files[at : at + batch_size] for at in range(start, len(files), batch_size)]
    done = start
    for number, batch in enumerate(ahead(_read, pieces, n_workers), 1):
        maps = net(torch.from_numpy(batch).to(device)).flatten(2).transpose(1, 2).cpu().numpy()
        if "image_features" not in file:
            file.create_dataset("image_features", (len(files), *maps.shape[1:]), "float32")
        file["image_features"][done : done + len(maps)] = maps
        done += len(maps)
        if number % _FLUSHED == 0 or done == len(files):
            file.attrs["done"] = done
            file.flush()
            _log.info("features of %s of %s images", f"{done:,}", f"{len(files):,}")


def _read(part: Sequence[tuple[int, Path]]) -> np.ndarray:
    """Normalised images, float32 [n, 3, 224, 224].

    :raises BadInput: naming an image that cannot be read.
    """
    mean, std = (np.array(v, np.float32) for v in (IMAGENET_MEAN, IMAGENET_STD))
    images = []
    for _, path in part:
        try:
            with Image.open(path) as opened:
                picture = opened.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)
        except (OSError, SyntaxError, ValueError) as error:
            raise BadInput(f"the image cannot be read: {error}", where=str(path), fix="fetch it again") from error
        images.append((np.asarray(picture, np.float32) / 255 - mean) / std)
    return np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))


def check_images(name: str, folder: Path, images: Sequence[tuple[int, Path]]) -> None:
    """:raises BadInput: when questions ask about images that are not there, before features are computed."""
    known = {iid for iid, _ in images}
    for side in ("train", "val"):
        path = folder / f"{side}_{name}.h5"
        asked = read_annotations(path)["iid"]
        if missing := sorted(set(asked.tolist()) - known):
            raise BadInput(
                f"{len(missing):,} images that questions ask about are missing, the first has the number {missing[0]}",
                where=str(path),
                fix="unpack the images again, and repeat the command",
            )


def encode(name: str, folder: Path, settings: Any, *, decoded: bool = False) -> Path:
    """Turn the feature file into codes: 128 (CLEVR) to 256 (TDIUC) times smaller.

    :param settings: Questions settings: order, quantiser, which images train it.
    :param decoded: write the authors' file of decoded floats too.
    :return: ``codes_<order>.h5``: ``codes`` [I, R, M], ``centroids`` [M, K, d].
    :raises BadInput: for a feature file cut short, or questions about unknown images.
    """
    import h5py

    from cl_plugin_remind.data import questions
    from cl_plugin_remind.data.vqa import Asked, read_table

    _, _, title, map_title = DEFAULTS[name]
    path = folder / f"{title}.h5"
    if not path.is_file():
        raise MissingAsset(
            f"no feature file {path.name}", where=str(path), fix=f"clk remind features {name} --root DIR"
        )
    index = read_table(folder / f"{map_title}.json", "image_id_to_ix", "image_ix_to_id")
    content = read_annotations(folder / f"train_{name}.h5")
    images = np.array([index["image_id_to_ix"].get(str(iid), -1) for iid in content["iid"].tolist()], np.int64)
    if (images < 0).any():
        bad = int(np.flatnonzero(images < 0)[0])
        raise BadInput(
            f"question {content['qid'][bad]} asks about image {content['iid'][bad]}, which has no features",
            where=str(folder / f"train_{name}.h5"),
            fix=f"clk remind features {name} --root DIR, with all images",
        )
    train = Asked(text=[], qid=content["qid"], image=images, answer=content["aidx"], kind=content["qtypeidx"])
    order, boundaries = questions.dataset_order(settings.order, train.kind, train.answer, int(train.answer.max()) + 1)
    target = folder / f"codes_{settings.order}.h5"
    try:
        with h5py.File(path) as file:
            features = file["image_features"]
            if len(features) != len(index["image_id_to_ix"]):
                raise BadInput(
                    f"the feature file holds {len(features)} images, its map {len(index['image_id_to_ix'])}",
                    where=str(path),
                )
            chosen = images_for_pq(settings, train, order[: boundaries[0]])
            codes, centroids = encode_features(features, chosen, settings.codebooks, settings.codebook_size, unit=False)
    except (OSError, KeyError) as error:
        raise BadInput(
            f"the feature file cannot be read: {error}",
            where=str(path),
            fix=f"it may have been cut short; clk remind features {name} --root DIR",
        ) from error
    temporary = target.with_suffix(".tmp")
    with h5py.File(temporary, "w") as file:
        file.create_dataset("codes", data=codes)
        file.create_dataset("centroids", data=centroids)
        file.attrs["pq_images"] = settings.pq_images
    temporary.replace(target)
    write_json(folder / "map.json", index)
    if decoded:
        _write_decoded(folder / f"{title}pq_{settings.order}.h5", codes, centroids)
    return target


def _write_decoded(path: Path, codes: np.ndarray, centroids: np.ndarray) -> None:
    import h5py

    from cl_plugin_remind.method.pq import decode_regions

    table = torch.from_numpy(centroids)
    with h5py.File(path, "w") as file:
        out = file.create_dataset(
            "image_features", (*codes.shape[:2], centroids.shape[0] * centroids.shape[2]), "float32"
        )
        for at in range(0, len(codes), 64):
            out[at : at + 64] = decode_regions(torch.from_numpy(codes[at : at + 64]), table).numpy()
