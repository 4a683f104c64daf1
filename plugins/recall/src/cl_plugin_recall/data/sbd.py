"""The Semantic Boundaries Dataset's labels as PNGs in a VOC 2012 tree."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from cl_kernel import BadInput, MissingAsset, atomic, write_text
from cl_plugin_recall.data.files import encode_png
from cl_plugin_recall.data.voc import VocFolder

ORIGIN = "benchmark.tgz of the Semantic Boundaries Dataset (SBD), unpacked"


def add_sbd(sbd: Path, voc: Path) -> tuple[int, int, int]:
    """Write ``SegmentationClassAug``, missing images, and ``trainaug.txt``: VOC train and SBD without VOC val.

    What is there already stays, so an interrupted call can be repeated.

    :return: images listed, labels written now, labels that were there.
    :raises MissingAsset: when either tree is incomplete; :raises BadInput: naming a file that cannot be read.
    """
    dataset = next(
        (p for p in (sbd, sbd / "dataset", sbd / "benchmark_RELEASE" / "dataset") if (p / "cls").is_dir()), sbd
    )
    for needed in (dataset / "cls", dataset / "train.txt", dataset / "val.txt"):
        if not needed.exists():
            raise MissingAsset(f"{needed.name} is missing", where=str(needed), fix=f"get {ORIGIN}")
    folder = VocFolder(voc)
    train, val = folder.names("train"), set(folder.names("val"))
    extra = sorted({name for part in ("train", "val") for name in (dataset / f"{part}.txt").read_text().split()} - val)
    target = voc / "SegmentationClassAug"
    target.mkdir(exist_ok=True)
    written = there = 0
    for name in extra:
        if folder.label(name).is_file():
            there += 1
            continue
        if not folder.image(name).is_file():
            image = dataset / "img" / f"{name}.jpg"
            if not image.is_file():
                raise BadInput(f"label without image: {name}", where=str(dataset / "cls"), fix=f"get {ORIGIN} again")
            shutil.copyfile(image, folder.image(name))
        with atomic(target / f"{name}.png") as file:
            file.write(encode_png(segmentation(dataset / "cls" / f"{name}.mat")))
        written += 1
    listed = sorted({*train, *extra})
    write_text(voc / "ImageSets" / "Segmentation" / "trainaug.txt", "".join(f"{name}\n" for name in listed))
    return len(listed), written, there


def segmentation(path: Path) -> np.ndarray:
    """Class indices uint8 [H, W] of one of SBD's files.

    :raises BadInput: when it cannot be read.
    """
    from scipy.io import loadmat

    try:
        return np.asarray(loadmat(str(path))["GTcls"]["Segmentation"][0, 0], np.uint8)
    except Exception as error:  # the reader raises many kinds
        raise BadInput(
            f"label file cannot be read: {type(error).__name__} {str(error)[:80]}",
            where=str(path),
            fix=f"get {ORIGIN} again",
        ) from error
