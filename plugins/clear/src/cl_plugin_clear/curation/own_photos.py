"""Anybody's dated photographs as a photo store: CLEAR's method without YFCC100M.

A photo's id is taken from what the file holds, so the same picture has the same id wherever it lies, and comes once.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from attrs import frozen
from PIL import ExifTags, Image

from cl_kernel import BadInput, BadSetting, MissingAsset
from cl_plugin_clear.curation.images import Limits, decode
from cl_plugin_clear.curation.pictures import place
from cl_plugin_clear.curation.records import TABLE, taken_seconds
from cl_plugin_clear.curation.store import DOWNLOADED, Store, remove_stale
from cl_plugin_clear.data.members import csv_rows

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
FIRST_EXIF = datetime(1995, 1, 1, tzinfo=UTC).timestamp()
"""Exif was published in 1995: earlier dates are those of clocks that nobody set."""

Dates = Callable[[Path], float | None]
"""File -> seconds since 1970, None where it has no date."""


@frozen
class Taken:
    """What happened: rows by status, photos with the same content as another."""

    counts: dict[str, int]
    n_chunks: int
    n_reused: int


def take_folder(
    folder: Path,
    root: Path,
    *,
    dates: str = "exif",
    limits: Limits | None = None,
    chunk_size: int = 10_000,
    report: Callable[[int], None] = lambda rows: None,
) -> Taken:
    """A store of the photographs below ``folder``, linked or copied; finished chunks are left alone.

    :param dates: ``exif``, ``file`` (time of the last change) or a csv file with the columns path and date.
    :raises BadInput: when there are no pictures, or the csv names one that is not there.
    """
    limits = limits or Limits(min_size=0)
    if root.resolve() == folder.resolve():
        raise BadSetting("the store would lie among the photographs", where="--root", fix="a folder of its own")
    files = sorted(_pictures(folder), key=lambda path: path.relative_to(folder).as_posix())
    if not files:
        raise BadInput("no pictures", where=str(folder), fix=f"files that end in {', '.join(ENDINGS)}")
    date_of = dates_by(dates, folder, files)
    names = hashlib.sha256("\n".join(path.relative_to(folder).as_posix() for path in files).encode()).hexdigest()
    kept = {
        "min_size": limits.min_size,
        "min_edge": limits.min_edge,
        "max_aspect_ratio": float(limits.max_aspect_ratio),
    }
    store = Store.create(
        root,
        {
            "chunk_size": chunk_size,
            "source": {"photographs": len(files), "names": names[:32], "dates": _dates_name(dates)},
            "images": kept,
        },
    )
    n_chunks = n_reused = 0
    seen: dict[int, str] = {}
    with store.held():
        for chunk, first in enumerate(range(0, len(files), chunk_size)):
            if chunk in store.chunks(DOWNLOADED):
                table = store.read_chunk(chunk, ["id", "title", "status"]).to_pylist()
                seen |= {row["id"]: row["title"] for row in table if row["status"] == "ok"}
                n_reused += 1
                continue
            (root / "images" / str(chunk)).mkdir(parents=True, exist_ok=True)
            remove_stale(root / "images" / str(chunk), below=False)
            rows = [
                _row(folder, path, first + at, chunk, root, date_of, limits, seen)
                for at, path in enumerate(files[first : first + chunk_size])
            ]
            store.write_chunk(chunk, pa.Table.from_pylist(rows, schema=TABLE), DOWNLOADED)
            n_chunks += 1
            report(first + len(rows))
    return Taken(store.counts(), n_chunks, n_reused)


def _pictures(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        raise MissingAsset("no such folder", where=str(folder), fix="clk clear from-folder DIR")
    for above, below, names in os.walk(folder):
        # a photo store below, such as the one that is being made, holds copies
        below[:] = sorted(n for n in below if not n.startswith(".") and not Path(above, n, "clear.toml").exists())
        yield from (Path(above, name) for name in names if name.lower().endswith(ENDINGS) and not name.startswith("."))


def _row(
    folder: Path, path: Path, row: int, chunk: int, root: Path, date_of: Dates, limits: Limits, seen: dict[int, str]
) -> dict[str, Any]:
    """One photo: its record, and its picture in the store if it passes."""
    data, name = path.read_bytes(), path.relative_to(folder).as_posix()
    photo = int.from_bytes(hashlib.sha256(data).digest()[:8], "big") >> 1
    extension = path.suffix.lower().lstrip(".")
    record = {"id": photo, "title": name, "row": row, "line_num": row, "ext": extension, "img_or_video": 0}
    found, stamp = decode(data, extension, limits, reencode=False), date_of(path)
    record |= {"status": found.status, "width": found.width or None, "height": found.height or None}
    if found.status != "ok":
        return record | {"error": found.error or None}
    if stamp is None:
        return record | {"status": "date", "error": "no date, or one of a clock that was not set"}
    if photo in seen:
        return record | {"status": "duplicate", "error": f"the same picture as {seen[photo]}"}
    seen[photo] = name
    when = datetime.fromtimestamp(stamp, UTC).replace(tzinfo=None)
    rel_path = f"images/{chunk}/{photo}.{extension}"
    place(path, root / rel_path)
    return record | {
        "date_uploaded": int(stamp),
        "date_taken": when.strftime("%Y-%m-%d %H:%M:%S.0"),
        "taken": when,
        "user_tags": ",".join(Path(name).parent.parts),
        "bytes": len(data),
        "sha256": found.sha256,
        "rel_path": rel_path,
    }


# ---- dates ------------------------------------------------------------------------------------


def _dates_name(dates: str) -> str:
    return dates if dates in ("exif", "file") else hashlib.sha256(Path(dates).read_bytes()).hexdigest()[:32]


def dates_by(kind: str, folder: Path, files: list[Path]) -> Dates:
    """Where dates come from: see :func:`take_folder`.

    :raises BadSetting: for another word that is no file.
    """
    if kind == "exif":
        return exif_date
    if kind == "file":
        return lambda path: path.stat().st_mtime
    if not Path(kind).is_file():
        raise BadSetting(f"{kind!r} is neither exif, nor file, nor a csv file", where="--dates")
    known = read_dates(Path(kind))
    names = {path.relative_to(folder).as_posix() for path in files}
    if foreign := sorted(set(known) - names):
        raise BadInput(f"the csv names {foreign[0]}, which is not below {folder}", where=kind)
    return lambda path: known.get(path.relative_to(folder).as_posix())


def read_dates(path: Path) -> Mapping[str, float]:
    """``path,date`` with a header line; dates in ISO 8601, taken as UTC.

    :raises BadInput: naming the line that cannot be read.
    """
    found: dict[str, float] = {}
    for line, row in csv_rows(path, ["path", "date"]):
        name, stamp = Path(row["path"].strip()).as_posix(), taken_seconds(row["date"].strip())
        if stamp != stamp:
            raise BadInput(f"line {line}: {row['date']!r} is no date", where=str(path), fix="2014-05-31")
        if found.setdefault(name, stamp) != stamp:
            raise BadInput(f"line {line}: {name} has two dates", where=str(path))
    return found


def exif_date(path: Path) -> float | None:
    """When the photo was taken by its Exif, local time taken as UTC; None without one, or before there was Exif."""
    try:
        with Image.open(path) as image:
            exif = image.getexif()
    except (OSError, ValueError, SyntaxError):
        return None
    inner = exif.get_ifd(ExifTags.IFD.Exif)
    for text in (
        inner.get(ExifTags.Base.DateTimeOriginal),
        inner.get(ExifTags.Base.DateTimeDigitized),
        exif.get(ExifTags.Base.DateTime),
    ):
        try:
            stamp = datetime.strptime(str(text).strip("\0 ")[:19], "%Y:%m:%d %H:%M:%S").replace(tzinfo=UTC).timestamp()
        except ValueError:
            continue
        if stamp >= FIRST_EXIF:
            return stamp
    return None
