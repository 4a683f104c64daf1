"""Toybox: frames from videos, the index of them, and the balanced sample."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
from attrs import frozen

from cl_kernel import BadInput, MissingAsset
from cl_plugin_crumb.data import frames

CATEGORIES = {
    "households": ("cup", "mug", "spoon", "ball"),
    "animals": ("duck", "cat", "horse", "giraffe"),
    "vehicles": ("car", "truck", "airplane", "helicopter"),
}
CLASS_IDS = {name: number for number, name in enumerate((n for names in CATEGORIES.values() for n in names), 1)}
SESSIONS = {
    name: number
    for number, name in enumerate(
        ("rxplus", "ryplus", "rzplus", "rxminus", "ryminus", "rzminus", "tx", "ty", "tz", "hodgepodge"), 1
    )
}

LEFT_OUT = ("present", "absent")
ORIGIN = "https://aivaslab.github.io/toybox/"

FRAMES, ALL_SESSIONS, MANY_OBJECTS = 15, 10, 30


@frozen(kw_only=True)
class Video:
    """A clip of one object."""

    path: Path
    category: str
    object: int
    session: int

    @property
    def class_id(self) -> int:
        """1 to 12."""
        return CLASS_IDS[self.category]


_NAME = re.compile(r"(?P<category>[a-z]+)_(?P<object>\d+)_(?P<camera>[a-z]+)_(?P<session>[a-z]+)(?:_[a-z0-9]+)?")
"""``cup_01_pivothead_rxplus``: category, object, camera, session; some copies carry one more word."""


def videos(root: Path) -> Iterator[Video]:
    """The clips below ``<supercategory>/<category>_<nn>_pivothead/``; "present" and "absent" are left out.

    :raises MissingAsset: when there is none. :raises BadInput: for a file name of another form.
    """
    found = False
    for group, categories in CATEGORIES.items():
        for category in categories:
            for path in sorted((root / group).glob(f"{category}_*/*.mp4")):
                named = _NAME.fullmatch(path.stem)
                if named and named["session"] in LEFT_OUT:
                    continue
                if not named or named["session"] not in SESSIONS or named["category"] != category:
                    raise BadInput(
                        f"the name {path.name!r} is not {category}_NN_pivothead_SESSION.mp4 with a session of "
                        f"{', '.join((*SESSIONS, *LEFT_OUT))}",
                        where=str(path),
                    )
                found = True
                yield Video(
                    path=path, category=category, object=int(named["object"]), session=SESSIONS[named["session"]]
                )
    if not found:
        raise MissingAsset(
            "no Toybox videos",
            where=str(root),
            fix=f"unpack the parts so that {', '.join(CATEGORIES)} lie in this folder: {ORIGIN}",
        )


def _place(video: Video, root: Path, fps: float | None) -> Path:
    """Folder of a clip's frames; every frame and one a second lie apart, so that each stays whole."""
    kind = "images" if fps else "images_allframes"
    return root / kind / video.path.parent.parent.name / video.path.parent.name


def extract(
    root: Path,
    *,
    fps: float | None = 1.0,
    size: int = 224,
    n_workers: int = 0,
    on_bad: Callable[[str, Exception], None],
    on_step: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Extract all clips, several at once, and index the frames. Stopped half way, it goes on where it stopped.

    :param fps: frames a second; None for every frame.
    :param on_bad: called with a clip that cannot be read; may raise.
    :param on_step: called with (clips done, clips in all).
    :return: the dirmap before balancing.
    """
    clips = list(videos(root))

    def one(video: Video) -> Exception | None:
        try:
            frames.extract(video.path, _place(video, root, fps), fps=fps, size=size)
        except BadInput as error:
            return error
        return None

    with ThreadPoolExecutor(n_workers or os.cpu_count() or 1) as pool:
        for done, (video, error) in enumerate(zip(clips, pool.map(one, clips), strict=True), 1):
            if error is not None:
                on_bad(str(video.path), error)
            if on_step:
                on_step(done, len(clips))
    return index(root, fps=fps, size=size)


def index(root: Path, *, fps: float | None = 1.0, size: int = 224) -> pd.DataFrame:
    """The dirmap of all extracted frames: class, object, session, im_num, im_path."""
    rows = []
    for video in videos(root):
        place = _place(video, root, fps)
        found = frames.existing(place, video.path.stem, fps=fps, size=size, source=video.path)
        for number, path in enumerate(found, 1):
            rows.append((video.class_id, video.object, video.session, number, path.relative_to(root).as_posix()))
    return pd.DataFrame(rows, columns=["class", "object", "session", "im_num", "im_path"])


def _bounce(n: int) -> list[int]:
    """Frames of a session of n, extended by playing backwards once without repeating the turning frame, cut at 15.

    >>> _bounce(9)
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 8, 7, 6, 5, 4, 3]
    """
    forward = list(range(1, n + 1))
    return (forward + forward[-2::-1])[:FRAMES]


def sample(table: pd.DataFrame) -> pd.DataFrame:
    """The balanced data set: 15 frames a session, 10 sessions an object, at most 29 objects a class, numbered from 1.

    Sessions under 15 frames are played backwards once, so those under 8 stay short (as in the original).
    """
    table = table[table["im_num"] <= FRAMES]
    parts = []
    for _, clip in table.groupby(["class", "object", "session"], sort=False):
        clip = clip.sort_values("im_num", kind="stable")
        played = clip.iloc[[frame - 1 for frame in _bounce(len(clip))]].copy()
        played["im_num"] = range(1, len(played) + 1)
        parts.append(played)
    table = pd.concat(parts).drop_duplicates()
    n_sessions = table.groupby(["class", "object"])["session"].transform("nunique")
    table = table[n_sessions >= ALL_SESSIONS]
    n_objects = table.groupby("class")["object"].transform("nunique")
    table = table[~((n_objects >= MANY_OBJECTS) & (table["object"] == MANY_OBJECTS))].copy()
    table["object"] = table.groupby("class")["object"].transform(lambda ids: ids.rank(method="dense")).astype(int)
    return table.reset_index(drop=True)
