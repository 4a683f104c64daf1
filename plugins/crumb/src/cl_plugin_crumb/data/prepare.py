"""``clk data prepare crumb:NAME``: from the files as their authors publish them to images with a dirmap.

Every step is left alone when it was done before, so a command that was stopped, or stopped by a damaged file, goes on
when it is repeated.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cl_kernel import BadInput, MissingAsset, Resources
from cl_plugin_crumb import settings as choices
from cl_plugin_crumb.data import archives, cifar, dirmap, ilab, indexes, toybox

_log = logging.getLogger(__name__)


def _find(name: str, resources: Resources, folders: Sequence[str], files: Sequence[str]) -> tuple[Path, Path]:
    """Folder that holds the raw data set, and the file or folder in it that was recognised.

    :param folders: names the folder may have below a data root. :param files: names of what it must hold, one of them.
    :raises MissingAsset: naming all of them, and where to get them.
    """
    for root in resources.roots:
        for place in (root, *(root / folder for folder in (name, *folders))):
            for file in files:
                if (place / file).exists():
                    return place, place / file
    asset = choices.ASSETS[name]
    raise MissingAsset(
        f"no {' or '.join(files)} of {name}",
        where=", ".join(map(str, resources.roots)) or "no data root given",
        fix=f"fetch {asset.origin}, then: clk data prepare crumb:{name} --data-root DIR",
    )


def _unpack(archive: Path, target: Path) -> None:
    _log.info("unpacking %s", archive)
    n = archives.unpack(archive, target, lambda done, _: done % 10_000 or _log.info("%s files", f"{done:,}"))
    _log.info("%s files in %s", f"{n:,}", target)


def _counted(name: str, table: pd.DataFrame, expected: int) -> None:
    """Say when there are not as many images as published."""
    if len(table) != expected:
        _log.warning("%s: %s images, published are %s", name, f"{len(table):,}", f"{expected:,}")


def core50(settings: choices.Dirmap, resources: Resources) -> Path:
    """CORe50 from ``core50_128x128/`` or its zip file."""
    name = "core50_128x128"
    root, found = _find("core50", resources, ("CORe50", "Core50"), (name, f"{name}.zip"))
    if found.is_file():
        _unpack(found, root)
    table = indexes.core50(path.name for path in sorted((root / name).glob("s*/o*/*.png")))
    if gaps := indexes.core50_gaps(table):
        raise BadInput(
            f"{len(gaps)} of 550 clips are missing: {', '.join(gaps[:5])}{' ...' if len(gaps) > 5 else ''}",
            where=str(root / name),
            fix="unpack the archive again: clk data prepare crumb:core50 with core50_128x128.zip beside the folder",
        )
    _counted("core50", table, 164_866)
    dirmap.write(table, root / "core50_dirmap.csv")
    return root


def toybox_(settings: choices.Dirmap, resources: Resources) -> Path:
    """Toybox from its videos: one frame a second, then the balanced sample."""
    root, _ = _find("toybox", resources, ("Toybox",), tuple(toybox.CATEGORIES))
    if absent := [group for group in toybox.CATEGORIES if not (root / group).is_dir()]:
        raise MissingAsset(f"no folder {', '.join(absent)}", where=str(root), fix=f"fetch it from {toybox.ORIGIN}")

    def on_bad(path: str, error: Exception) -> None:
        raise error

    def on_step(done: int, total: int) -> None:
        if done % 100 == 0 or done == total:
            _log.info("%d of %d videos", done, total)

    table = toybox.extract(root, n_workers=resources.n_workers, on_bad=on_bad, on_step=on_step)
    dirmap.write(table, root / "toybox_dirmap_unbalanced.csv")
    _write_sample(toybox.sample(table), root / "toybox_dirmap.csv")
    return root


def ilab_(settings: choices.Dirmap, resources: Resources) -> Path:
    """iLab-2M-Light from ``train_img/*.jpg`` or its archive: the balanced sample, copied into folders of its own."""
    folders = ("iLab-2M-Light", "ilab2M/iLab-2M-Light")
    root, found = _find("ilab2mlight", resources, folders, ("train_img", "iLab-2M-Light.tar.gz"))
    if found.is_file():
        _unpack(found, root)
        root = root if (root / "train_img").is_dir() else root / "iLab-2M-Light"
    sampled = ilab.sample(ilab.index_folder(root))
    target = root if root.name == "ilab2mlight" else root.parent / "ilab2mlight"
    _write_sample(sampled, root / "ilab2mlight_dirmap_massed.csv")
    dirmap.write(ilab.distribute(sampled, root, target), target / "ilab2mlight_dirmap.csv")
    return target


def _write_sample(table: pd.DataFrame, path: Path) -> None:
    if table.empty:
        raise BadInput(
            "nothing is left after balancing: no object has all its sessions",
            where=str(path.parent),
            fix="clk crumb stats says what there is",
        )
    for words in dirmap.imbalances(table):
        _log.warning("%s is not balanced: %s", path.name, words)
    dirmap.write(table, path)


def cifar100(settings: choices.Dirmap, resources: Resources) -> Path:
    """CIFAR-100 from ``cifar-100-python/`` or its archive, as pictures in folders of classes."""
    archive = f"{cifar.FOLDER}.tar.gz"
    root, found = _find("cifar100", resources, (), (cifar.FOLDER, archive))
    if found.is_file():
        _unpack(found, root)
    target = root if root.name == "cifar100" else root / "cifar100"
    for side, n in cifar.write_pictures(root / cifar.FOLDER, target).items():
        if n != cifar.SIDES[side]:
            _log.warning("cifar100: %s images in %s, published are %s", f"{n:,}", side, f"{cifar.SIDES[side]:,}")
    dirmap.write(indexes.cifar100(target), target / "cifar100_dirmap.csv")
    return target


def imagenet(settings: choices.Dirmap, resources: Resources) -> Path:
    """ImageNet from ``train/WNID/`` and ``val/WNID/``; a flat ``val/`` is sorted by ``LOC_val_solution.csv``."""
    folders = ("ILSVRC/Data/CLS-LOC", "ILSVRC2012", "imagenet")
    root, _ = _find("imagenet", resources, folders, ("train",))
    flat = sorted(p for p in (root / "val").glob("ILSVRC2012_val_*") if p.is_file())
    if flat:
        _sort_validation(flat, root)
    table, classes = indexes.imagenet(root)
    _counted("imagenet", table, 1_331_167)
    classes.to_csv(root / "imagenet_classes.csv", index=False)
    dirmap.write(table, root / "imagenet_dirmap.csv")
    return root


def _sort_validation(flat: Sequence[Path], root: Path) -> None:
    """Move validation images into the folders of their classes; goes on where it stopped."""
    places = [parent / "LOC_val_solution.csv" for parent in (root, *root.parents[:3])]
    solution = next((path for path in places if path.is_file()), None)
    if solution is None:
        raise MissingAsset(
            f"{len(flat)} validation images lie in val/ itself, and no LOC_val_solution.csv says which is what",
            where=str(root / "val"),
            fix="put LOC_val_solution.csv (of the challenge at kaggle.com) beside val/, or sort them as val/WNID/",
        )
    with solution.open(newline="") as file:
        wnid_of = {row["ImageId"]: row["PredictionString"].split()[0] for row in csv.DictReader(file)}
    if unknown := [path.name for path in flat if path.stem not in wnid_of]:
        raise BadInput(f"{len(unknown)} images are not listed, the first: {unknown[0]}", where=str(solution))
    for path in flat:
        place = path.parent / wnid_of[path.stem] / path.name
        place.parent.mkdir(exist_ok=True)
        path.replace(place)


def icubworld(settings: choices.Dirmap, resources: Resources) -> Path:
    """ICubWorld Transformations from its four parts: the left camera's first days, every tenth frame."""
    root, _ = _find("icubworldtransf", resources, ("iCubWorld", "icubworld"), ("part1",))
    if absent := [f"part{n}" for n in range(1, 5) if not (root / f"part{n}").is_dir()]:
        raise MissingAsset(
            f"no folder {', '.join(absent)}", where=str(root), fix=f"fetch {choices.ASSETS['icubworldtransf'].origin}"
        )
    table = indexes.icubworld(root)
    for words in dirmap.imbalances(table):
        _log.warning("icubworldtransf is not balanced: %s", words)
    dirmap.write(table, root / "icubworldtransf_dirmap.csv", index=False)
    return root


def combined(settings: choices.Dirmap, resources: Resources) -> Path:
    """Both parts, each where it is prepared alone."""
    ilab_(settings, resources)
    return core50(settings, resources)
