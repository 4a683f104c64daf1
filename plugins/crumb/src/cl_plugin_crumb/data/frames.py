"""Frames of videos with ffmpeg: one a second, or every one of them once."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from cl_kernel import BadInput, MissingAsset


@cache
def ffmpeg() -> str:
    """The ffmpeg program: of imageio-ffmpeg, or the system's.

    :raises MissingAsset: when neither is there.
    """
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError):
        if found := shutil.which("ffmpeg"):
            return found
    raise MissingAsset("ffmpeg is missing", where="toybox frames", fix="pip install 'cl-plugin-crumb[video]'")


@cache
def _as_they_come() -> tuple[str, ...]:
    """Flags that write each frame once: by default ffmpeg repeats or drops frames of a clip with a variable rate."""
    known = subprocess.run([ffmpeg(), "-hide_banner", "-h", "full"], capture_output=True, text=True, check=False).stdout
    return ("-fps_mode", "passthrough") if "-fps_mode" in known else ("-vsync", "passthrough")


def existing(place: Path, stem: str, *, fps: float | None, size: int, source: Path) -> list[Path]:
    """Frames on disk in order, when they were taken whole, in this way, from this file; else none."""
    try:
        done = json.loads((place / f".{stem}.done").read_text())
    except (OSError, ValueError):
        return []
    if (done.get("fps"), done.get("size")) != (fps, size) or not _same_file(done, source):
        return []
    found = [place / f"{stem}_{number}.png" for number in range(1, done["frames"] + 1)]
    return found if all(path.is_file() for path in found) else []


def _same_file(done: dict[str, Any], source: Path) -> bool:
    """Whether a video holds what it held: by size and time of change, and by its content when only the time differs."""
    stat = source.stat()
    if stat.st_size != done.get("bytes"):
        return False
    return stat.st_mtime_ns == done.get("changed") or _content(source) == done.get("content")


def _content(source: Path) -> str:
    with source.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


def extract(source: Path, place: Path, *, fps: float | None, size: int) -> int:
    """Square frames ``STEM_1.png``, ``STEM_2.png``, ... of a video; frames taken before in the same way are left alone.

    :param fps: frames a second; None for every frame. A clip too short for one frame at that rate gives its first.
    :return: how many frames there are.
    :raises BadInput: with ffmpeg's own words when it cannot read the file.
    """
    stem = source.stem
    if done := existing(place, stem, fps=fps, size=size, source=source):
        return len(done)
    place.mkdir(parents=True, exist_ok=True)
    (place / f".{stem}.done").unlink(missing_ok=True)
    for old in _numbered(place, stem):
        old.unlink()
    scale = f"scale={size}:{size}"
    words = _run(source, place, ("-vf", f"fps={fps:g},{scale}") if fps else ("-vf", scale, *_as_they_come()))
    n = len(_numbered(place, stem))
    if not n and not words:
        words = _run(source, place, ("-vf", scale, "-frames:v", "1"))
        n = len(_numbered(place, stem))
    if words or not n:
        raise BadInput(
            f"ffmpeg cannot read the video ({source.stat().st_size:,} bytes): {words or 'no frame came out'}",
            where=str(source),
            fix="fetch the file again, or go on without it: clk crumb extract --on-bad-sample skip",
        )
    stat = source.stat()
    content = {"fps": fps, "size": size, "frames": n, "bytes": stat.st_size, "changed": stat.st_mtime_ns}
    (place / f".{stem}.done").write_text(json.dumps({**content, "content": _content(source)}))
    return n


def _numbered(place: Path, stem: str) -> list[Path]:
    return [path for path in place.glob("*.png") if path.stem.rpartition("_")[0] == stem and path.stem[-1].isdigit()]


def _run(source: Path, place: Path, flags: tuple[str, ...]) -> str:
    """Write frames; ffmpeg's last words when it failed, else nothing."""
    command = [ffmpeg(), "-nostdin", "-loglevel", "error", "-y", "-i", str(source), *flags]
    pattern = str(place / source.stem).replace("%", "%%")
    ran = subprocess.run([*command, f"{pattern}_%d.png"], capture_output=True, text=True, check=False)
    lines = ran.stderr.strip().splitlines()
    return (lines[-1] if lines else "it failed without a word") if ran.returncode else ""
