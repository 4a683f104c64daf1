"""iLab-2M-Light: index from file names, the balanced sample, and its distribution into folders."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd

from cl_kernel import BadInput, MissingAsset

CLASSES = (
    "boat",
    "bus",
    "car",
    "equip",
    "f1car",
    "heli",
    "mil",
    "monster",
    "pickup",
    "plane",
    "semi",
    "tank",
    "train",
    "ufo",
    "van",
)
CLASS_IDS = {name: number for number, name in enumerate(CLASSES, 1)}
DROPPED = "semi"
FRAMES, SESSIONS, OBJECTS = 15, 8, 28

_NAME = re.compile(
    r"(?P<class>[a-z0-9]+)-i(?P<instance>\d+)-b(?P<background>\d+)-c(?P<camera>\d+)-r(?P<rotation>\d+)"
    r"-l(?P<lighting>\d+)"
)
_FIELDS = ("instance", "background", "camera", "rotation", "lighting")


def number(table: pd.DataFrame) -> pd.DataFrame:
    """Sort, and number objects in their class, sessions in their object and images in their session, all from 1."""
    table = table.sort_values(["class", *_FIELDS], kind="stable").reset_index(drop=True)
    table["object"] = table.groupby("class")["instance"].transform(lambda v: v.rank(method="dense")).astype(int)
    table["session"] = (
        table.groupby(["class", "instance"])["background"].transform(lambda v: v.rank(method="dense")).astype(int)
    )
    table["im_num"] = table.groupby(["class", "object", "session"]).cumcount() + 1
    return table[["class", "object", "session", "im_num", "im_path", *_FIELDS]]


def index(paths: Iterable[str]) -> pd.DataFrame:
    """The dirmap of image paths whose names tell everything.

    :raises BadInput: for a name of another form.
    """
    rows = []
    for path in paths:
        found = _NAME.match(Path(path).name)
        if not found:
            raise BadInput(f"the name {Path(path).name!r} is not CLASS-iNN-bNN-cNN-rNN-lN.jpg", where=path)
        rows.append((found["class"], path, *(int(found[name]) for name in _FIELDS)))
    if not rows:
        raise MissingAsset("no iLab images", where="train_img/", fix="unpack iLab-2M-Light there")
    return number(pd.DataFrame(rows, columns=["class", "im_path", *_FIELDS]))


def index_folder(root: Path) -> pd.DataFrame:
    """The dirmap of ``root/train_img/*.jpg``."""
    return index(path.relative_to(root).as_posix() for path in sorted((root / "train_img").glob("*.jpg")))


def sample(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """15 consecutive images of 8 sessions of 28 objects of 14 classes; the runs of images are drawn at random."""
    rng = random.Random(seed)
    table = number(table[table["class"] != DROPPED])
    sizes = table.groupby(["class", "object", "session"])["im_num"].transform("size")
    table = number(table[sizes >= FRAMES])
    sessions = table.groupby(["class", "object"])["session"].transform("nunique")
    table = number(table[sessions >= SESSIONS])
    table = table[(table["session"] <= SESSIONS) & (table["object"] <= OBJECTS)]
    kept = []
    for _, clip in table.groupby(["class", "object", "session"]):
        start = rng.randint(1, len(clip) - FRAMES + 1)
        kept.append(clip[(clip["im_num"] >= start) & (clip["im_num"] < start + FRAMES)])
    if not kept:
        raise BadInput("no object has 8 sessions of 15 images", where="iLab dirmap")
    return number(pd.concat(kept))


def distribute(
    table: pd.DataFrame, source: Path, target: Path, on_step: Callable[[int, int], None] | None = None
) -> pd.DataFrame:
    """Copy the sample into ``<class>/obj_<o>/sess_<s>/`` and number its classes; images already there are left alone.

    :raises BadInput: when a session has not 15 images.
    """
    sizes = table.groupby(["class", "object", "session"]).size()
    if (sizes != FRAMES).any():
        raise BadInput(
            f"session {sizes.index[(sizes != FRAMES).to_numpy().argmax()]} has not {FRAMES} images",
            where="iLab sample",
            fix="clk crumb sample ilab2mlight",
        )
    paths = []
    for done, row in enumerate(table.itertuples(index=False), 1):
        name = f"{row[0]}/obj_{row[1]}/sess_{row[2]}/{Path(row[4]).name}"
        place = target / name
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            part = place.with_name(place.name + ".part")
            shutil.copyfile(source / row[4], part)
            part.replace(place)
        paths.append(name)
        if on_step:
            on_step(done, len(table))
    out = table.copy()
    out["im_path"], out["class_str"] = paths, table["class"]
    out["class"] = table["class"].map(CLASS_IDS)
    return out
