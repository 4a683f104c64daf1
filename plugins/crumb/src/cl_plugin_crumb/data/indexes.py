"""Dirmaps of data sets that need no sampling: CIFAR-100, ImageNet, iCubWorld; and CIFAR-100 at 224 pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
from PIL import Image

from cl_kernel import BadInput, MissingAsset

IMAGES = (".png", ".jpg", ".jpeg", ".JPEG", ".bmp")
ICUB_SESSIONS = ("MIX", "ROT2D", "ROT3D", "SCALE", "TRANSL")


def _sides(root: Path, sides: tuple[str, str]) -> list[tuple[int, str, list[Path]]]:
    out = []
    for session, side in enumerate(sides):
        if not (root / side).is_dir():
            raise MissingAsset(f"no folder {side}/", where=str(root), fix=f"lay the images out as {side}/CLASS/*")
        for place in sorted(p for p in (root / side).iterdir() if p.is_dir()):
            files = sorted(p for p in place.iterdir() if p.suffix in IMAGES)
            if not files:
                raise BadInput(f"class {place.name} has no images in {side}/", where=str(place))
            out.append((session, place.name, files))
    return out


def cifar100(root: Path) -> pd.DataFrame:
    """``train|test/<class>/*.png``: class is the name, session 0 training and 1 test."""
    rows = [
        (name, 0, session, path.relative_to(root).as_posix(), number)
        for session, name, files in _sides(root, ("train", "test"))
        for number, path in enumerate(files, 1)
    ]
    return pd.DataFrame(rows, columns=["class", "object", "session", "im_path", "im_num"])


def imagenet(root: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """``train|val/<wnid>/*.JPEG``: class is the place of the sorted wnid.

    :return: the dirmap, and the table of classes (``imagenet_classes.csv``).
    """
    sides = _sides(root, ("train", "val"))
    names = sorted({name for _, name, _ in sides})
    number_of = {name: number for number, name in enumerate(names)}
    rows = [
        (number_of[name], 0, session, path.relative_to(root).as_posix(), number)
        for session, name, files in sides
        for number, path in enumerate(files, 1)
    ]
    table = pd.DataFrame(rows, columns=["class", "object", "session", "im_path", "im_num"])
    return table, pd.DataFrame({"class": range(len(names)), "wnid": names})


def icubworld(root: Path, *, every: int = 10) -> pd.DataFrame:
    """``part1-4/<cls>/<cls><i>/<session>/<first day>/<left|right>/*.jpg``: the first day, every 10th frame, all from 0.

    :raises MissingAsset: when nothing of that form is there.
    """
    rows = []
    places = sorted(
        (place.name, place) for part in sorted(root.glob("part*")) for place in part.iterdir() if place.is_dir()
    )
    for class_id, (name, place) in enumerate(places):
        objects = sorted(
            (p for p in place.iterdir() if p.is_dir()),
            key=lambda p: int(p.name.removeprefix(name) or 0) if p.name.removeprefix(name).isdigit() else 0,
        )
        for object_id, one in enumerate(objects):
            for session_id, session in enumerate(ICUB_SESSIONS):
                days = sorted(p for p in (one / session).iterdir() if p.is_dir()) if (one / session).is_dir() else []
                if not days:
                    continue
                frames = sorted(p for p in days[0].rglob("*") if p.suffix in IMAGES)[::every]
                rows += [
                    (class_id, object_id, session_id, number, path.relative_to(root).as_posix())
                    for number, path in enumerate(frames)
                ]
    if not rows:
        raise MissingAsset(
            "no iCubWorld images", where=str(root), fix="unpack the parts as part1/CLASS/CLASS1/MIX/DAY/left/*.jpg"
        )
    return pd.DataFrame(rows, columns=["class", "object", "session", "im_num", "im_path"])


def upsample(root: Path, target: Path, *, size: int = 224, on_step: Callable[[int, int], None] | None = None) -> int:
    """Copy an image tree with every image at ``size`` pixels; images already there are left alone.

    :return: how many images there are.
    """
    files = sorted(p for p in root.rglob("*") if p.suffix in IMAGES)
    if not files:
        raise MissingAsset("no images", where=str(root))
    for done, path in enumerate(files, 1):
        place = target / path.relative_to(root)
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            part = place.with_name(f".{place.stem}.part{place.suffix}")
            try:
                with Image.open(path) as image:
                    image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR).save(part)
            except (OSError, SyntaxError, ValueError) as error:
                raise BadInput(f"cannot read the image: {error}", where=str(path)) from error
            part.replace(place)
        if on_step:
            on_step(done, len(files))
    return len(files)
