"""Toybox: frames from videos, the index of them, and the balanced sample."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
from attrs import frozen

from cl_kernel import BadInput, MissingAsset

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


def videos(root: Path) -> Iterator[Video]:
    """The clips below ``<supercategory>/<category>_<nn>_pivothead/``; "present" and "absent" are left out.

    :raises MissingAsset: when there is none. :raises BadInput: for a file name of another form.
    """
    found = False
    for group, categories in CATEGORIES.items():
        for category in categories:
            for place in sorted((root / group).glob(f"{category}_*_pivothead")):
                for path in sorted(place.glob("*.mp4")):
                    parts = path.stem.split("_")
                    session = parts[-2] if len(parts) > 1 else ""
                    if session in ("present", "absent"):
                        continue
                    number = place.name.removeprefix(f"{category}_").removesuffix("_pivothead")
                    if session not in SESSIONS or not number.isdigit():
                        raise BadInput(
                            f"the name {path.name!r} tells no session (one of {', '.join(SESSIONS)}) or its "
                            f"folder {place.name!r} no object number",
                            where=str(path),
                        )
                    found = True
                    yield Video(path=path, category=category, object=int(number), session=SESSIONS[session])
    if not found:
        raise MissingAsset(
            "no Toybox videos",
            where=str(root),
            fix=f"unpack the parts so that {', '.join(CATEGORIES)} lie in this folder",
        )


def ffmpeg() -> str:
    """The ffmpeg program: of imageio-ffmpeg, or the system's.

    :raises MissingAsset: when neither is there.
    """
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError):
        import shutil

        if found := shutil.which("ffmpeg"):
            return found
    raise MissingAsset("ffmpeg is missing", where="toybox frames", fix="pip install 'cl-plugin-crumb[video]'")


def frames_of(video: Video, root: Path) -> list[Path]:
    """Frames of a clip on disk, in order; none when it was not extracted whole."""
    place = _place(video, root)
    if not (place / f".{video.path.stem}.done").exists():
        return []
    numbered = sorted((int(p.stem.rpartition("_")[2]), p) for p in place.glob(f"{video.path.stem}_*.png"))
    return [path for _, path in numbered]


def _place(video: Video, root: Path) -> Path:
    return root / "images" / video.path.parent.parent.name / video.path.parent.name


def extract_one(video: Video, root: Path, *, fps: float | None = 1.0, size: int = 224) -> int:
    """Frames of one clip as square png files; a clip that was done before is left alone.

    :param fps: frames a second; None for every frame.
    :return: how many frames there are.
    :raises BadInput: with ffmpeg's own words when it cannot read the file.
    """
    if done := frames_of(video, root):
        return len(done)
    place = _place(video, root)
    place.mkdir(parents=True, exist_ok=True)
    rate = f"fps={fps:g}," if fps else ""
    command = [
        ffmpeg(),
        "-nostdin",
        "-loglevel",
        "error",
        "-y",
        "-i",
        str(video.path),
        "-vf",
        f"{rate}scale={size}:{size}",
        str(place / f"{video.path.stem}_%d.png"),
    ]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    n = len(list(place.glob(f"{video.path.stem}_*.png")))
    if ran.returncode or not n:
        words = ran.stderr.strip().splitlines() or ["no frame came out"]
        raise BadInput(
            f"ffmpeg cannot read the video: {words[-1]}",
            where=str(video.path),
            fix="fetch the file again, or go on without it: --on-bad-sample skip",
        )
    (place / f".{video.path.stem}.done").touch()
    return n


def extract(
    root: Path,
    *,
    fps: float | None = 1.0,
    n_workers: int = 0,
    on_bad: Callable[[str, Exception], None],
    on_step: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Extract all clips, several at once, and index the frames. Stopped half way, it goes on where it stopped.

    :param on_bad: called with a clip that cannot be read; may raise.
    :param on_step: called with (clips done, clips in all).
    :return: the dirmap before balancing.
    """
    clips = list(videos(root))

    def one(video: Video) -> Exception | None:
        try:
            extract_one(video, root, fps=fps)
        except BadInput as error:
            return error
        return None

    with ThreadPoolExecutor(n_workers or os.cpu_count() or 1) as pool:
        for done, (video, error) in enumerate(zip(clips, pool.map(one, clips), strict=True), 1):
            if error is not None:
                on_bad(str(video.path), error)
            if on_step:
                on_step(done, len(clips))
    return index(root)


def index(root: Path) -> pd.DataFrame:
    """The dirmap of all extracted frames: class, object, session, im_num, im_path."""
    rows = []
    for video in videos(root):
        for number, path in enumerate(frames_of(video, root), 1):
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
