"""Dirmaps of data sets that need no sampling: CIFAR-100, ImageNet, iCubWorld; and CIFAR-100 at 224 pixels."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

import pandas as pd
from PIL import Image

from cl_kernel import BadInput, MissingAsset
from cl_plugin_crumb.data import images

CORE50_SESSIONS, CORE50_OBJECTS = 11, 50
_CORE50 = re.compile(r"C_(\d{2})_(\d{2})_(\d{3})\.png")
ICUB_SESSIONS = ("MIX", "ROT2D", "ROT3D", "SCALE", "TRANSL")


def _sides(root: Path, sides: tuple[str, str]) -> list[tuple[int, str, list[Path]]]:
    out = []
    for session, side in enumerate(sides):
        if not (root / side).is_dir():
            raise MissingAsset(f"no folder {side}/", where=str(root), fix=f"lay the images out as {side}/CLASS/*")
        for place in sorted(p for p in (root / side).iterdir() if p.is_dir()):
            files = sorted(p for p in place.iterdir() if images.is_image(p))
            if not files:
                raise BadInput(f"class {place.name} has no images in {side}/", where=str(place))
            out.append((session, place.name, files))
    by_side = [{name for session, name, _ in out if session == number} for number in (0, 1)]
    for side, own, other in zip(sides, by_side, reversed(by_side), strict=True):
        if lost := sorted(other - own):
            raise BadInput(
                f"{len(lost)} classes have images on the other side, but none in {side}/: {', '.join(lost[:5])}",
                where=str(root / side),
                fix="add their images, or move these classes away",
            )
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
    if any(is_flat := [p for p in (root / "val").glob("ILSVRC2012_val_*") if p.is_file()][:1]):
        raise BadInput(
            "the validation images lie in val/ itself, as published, not in val/WNID/",
            where=str(is_flat[0]),
            fix="clk data prepare crumb:imagenet sorts them by LOC_val_solution.csv",
        )
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


def core50(names: Iterable[str]) -> pd.DataFrame:
    """The dirmap of CORe50 from the names of its images alone, ``C_<session>_<object>_<frame>.png``.

    Five objects in a row make a class; paths are those below ``core50_128x128/``.

    :param names: of files, in a folder or an archive; those of another form are left out.
    :raises MissingAsset: when none has the form.
    """
    rows = []
    for name in names:
        if found := _CORE50.fullmatch(PurePosixPath(name).name):
            session, number, frame = map(int, found.groups())
            place = f"s{session}/o{number}/{found[0]}"
            rows.append(((number - 1) // 5 + 1, number, session, frame, place))
    if not rows:
        raise MissingAsset("no image named C_SS_OO_FFF.png", where="CORe50", fix="unpack core50_128x128.zip")
    return pd.DataFrame(sorted(rows), columns=["class", "object", "session", "im_num", "im_path"])


def core50_gaps(table: pd.DataFrame) -> list[str]:
    """Clips that CORe50 has and this dirmap lacks, as ``s3/o7``."""
    there = set(zip(table["session"], table["object"], strict=True))
    everywhere = [(s, o) for s in range(1, CORE50_SESSIONS + 1) for o in range(1, CORE50_OBJECTS + 1)]
    return [f"s{s}/o{o}" for s, o in everywhere if (s, o) not in there]


def icubworld(root: Path, *, every: int = 10, camera: str = "left") -> pd.DataFrame:
    """``part1-4/CLASS/CLASS1/MIX/DAY/left/*.jpg``: the first day, one camera, every 10th frame, all counted from 0.

    :raises MissingAsset: when nothing of that form is there, or a day lacks the camera's folder.
    """
    rows = []
    places = sorted(
        (place.name, place) for part in sorted(root.glob("part*")) for place in part.iterdir() if place.is_dir()
    )
    for class_id, (name, place) in enumerate(places):
        numbered = {p.name.removeprefix(name): p for p in place.iterdir() if p.is_dir() and p.name.startswith(name)}
        objects = sorted((int(number), p) for number, p in numbered.items() if number.isdigit())
        for object_id, (_, one) in enumerate(objects):
            for session_id, session in enumerate(ICUB_SESSIONS):
                for number, path in enumerate(_icub_frames(one / session, camera)[::every]):
                    rows.append((class_id, object_id, session_id, number, path.relative_to(root).as_posix()))
    if not rows:
        raise MissingAsset(
            "no iCubWorld images",
            where=str(root),
            fix="unpack the parts as part1/CLASS/CLASS1/MIX/DAY/left/*.jpg: https://robotology.github.io/iCubWorld/",
        )
    return pd.DataFrame(rows, columns=["class", "object", "session", "im_num", "im_path"])


def _icub_frames(session: Path, camera: str) -> list[Path]:
    """Frames of a session's first day, by name; none without the session."""
    days = sorted(p for p in session.iterdir() if p.is_dir()) if session.is_dir() else []
    if not days:
        return []
    if not (days[0] / camera).is_dir():
        raise MissingAsset(
            f"the first day has no folder of the {camera} camera", where=str(days[0]), fix="unpack the part again"
        )
    return sorted(p for p in (days[0] / camera).iterdir() if images.is_image(p))


def upsample(root: Path, target: Path, *, size: int = 224, on_step: Callable[[int, int], None] | None = None) -> int:
    """Copy an image tree with every image at ``size`` pixels; images already there are left alone.

    :return: how many images there are.
    """
    files = sorted(p for p in root.rglob("*") if images.is_image(p))
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
