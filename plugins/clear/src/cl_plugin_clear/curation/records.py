"""One YFCC100M record: its columns, its statuses, and the rules that read it as text."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
from dateutil.parser import isoparser

COLUMNS = (
    "ID", "USER_ID", "NICKNAME", "DATE_TAKEN", "DATE_UPLOADED", "DEVICE", "TITLE", "DESCRIPTION", "USER_TAGS",
    "MACHINE_TAGS", "LON", "LAT", "GEO_ACCURACY", "PAGE_URL", "DOWNLOAD_URL", "LICENSE_NAME", "LICENSE_URL",
    "SERVER_ID", "FARM_ID", "SECRET", "SECRET_ORIGINAL", "EXT", "IMG_OR_VIDEO",
)  # fmt: skip
"""The original's names, in file order; ours are the same in lower case."""

SQLITE_COLUMNS = (
    "photoid", "uid", "unickname", "datetaken", "dateuploaded", "capturedevice", "title", "description", "usertags",
    "machinetags", "longitude", "latitude", "accuracy", "pageurl", "downloadurl", "licensename", "licenseurl",
    "serverid", "farmid", "secret", "secretoriginal", "ext", "marker",
)  # fmt: skip

FORMS: Mapping[int, tuple[str, ...]] = {
    23: COLUMNS,
    24: ("_line", *COLUMNS),
    25: ("_line", "ID", "_hash", *COLUMNS[1:]),
}
"""Columns of a dataset file by their number: as first published; with a leading line number; today's release, which has
line number, photo id and hash first."""

NUMBERS = {
    "ID": pa.int64(), "DATE_UPLOADED": pa.int64(), "LON": pa.float64(), "LAT": pa.float64(),
    "GEO_ACCURACY": pa.int8(), "SERVER_ID": pa.int32(), "FARM_ID": pa.int32(), "IMG_OR_VIDEO": pa.int8(),
}  # fmt: skip

MEANINGS = {
    "pending": "passed the metadata filter, not tried yet",
    "ok": "in the data set",
    "columns": "bad row: too few or too many columns",
    "utf8": "bad row: invalid UTF-8",
    "number": "bad row: a number that is none",
    "ids": "bad row: the files name different photos",
    "tags": "bad row: an auto tag without a score",
    "hash": "bad row: no hash",
    "duplicate": "bad row: an earlier row has this photo",
    "video": "metadata filter: not a photo",
    "date": "metadata filter: date missing, or not before the upload",
    "address": "a field that the address template asks for is empty",
    "http": "no answer, or one that is no success",
    "rate_limited": "the host asked for patience (429, 503) to the last attempt",
    "decode": "the answer is no picture",
    "too_small_edge": "picture filter: an edge too short",
    "aspect": "picture filter: too long for its height",
    "bytes": "picture filter: re-encoded file too small",
    "unavailable": "the host's picture for photos that are gone",
    "too_large": "the answer is too large to be read",
    "forgotten": "dropped by clk clear forget",
}
"""One status per row, and what it says."""

STATUSES = tuple(MEANINGS)
UNUSABLE = ("columns", "utf8", "number", "ids", "tags", "hash", "duplicate", "video", "date")
"""What the metadata alone decide: there is nothing to fetch."""
PENDING = STATUSES.index("pending")

TABLE = pa.schema(
    [(name.lower(), NUMBERS.get(name, pa.string())) for name in COLUMNS]
    + [
        ("auto_tag_scores", pa.map_(pa.string(), pa.float64())),
        ("line_num", pa.int64()),
        ("hash_value", pa.string()),
        ("exif", pa.null()),
        ("taken", pa.timestamp("us")),
        ("row", pa.int64()),
        ("status", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("rel_path", pa.string()),
        ("error", pa.string()),
    ]
)
"""Columns of ``meta/part-*.parquet``."""

_EPOCH = datetime(1970, 1, 1)
_ISO = isoparser()
NULL_TIME = np.iinfo(np.int64).min
YEAR_ONE = (datetime(1, 1, 1) - _EPOCH) // timedelta(microseconds=1)


class BadRow(ValueError):
    """A record that cannot be used; ``status`` says which kind of bad."""

    def __init__(self, status: str, why: str) -> None:
        self.status = status
        super().__init__(why)


def split_record(line: str, n_columns: int = len(COLUMNS)) -> list[str]:
    """Fields of :data:`COLUMNS` in one dataset line of any form: white space at both ends goes, then TAB separates.

    :raises BadRow: with status ``columns`` when the number of fields is another.
    """
    fields = line.strip().split("\t")
    if len(fields) != n_columns:
        raise BadRow("columns", f"{len(fields)} columns instead of {n_columns}")
    return [value for name, value in zip(FORMS[n_columns], fields, strict=True) if not name.startswith("_")]


def derived_hash(address: str) -> str:
    """Name of a photo in the image mirror: md5 of its download address, each byte in hexadecimal without leading zero.

    So its length varies from 16 to 32 digits.
    """
    digest = hashlib.md5(address.encode(), usedforsecurity=False).hexdigest()
    if "0" not in digest[::2]:
        return digest
    return "".join(digest[at + (digest[at] == "0") : at + 2] for at in range(0, 32, 2))


def split_tags(line: str) -> tuple[str, dict[str, float]]:
    """``id<TAB>tag:score,...`` -> (id, tags). A line without a second field has no tags.

    :raises BadRow: with status ``tags`` for a score that is no number.
    """
    fields = line.strip().split("\t")
    tags: dict[str, float] = {}
    if len(fields) > 1 and fields[1]:
        for entry in fields[1].split(","):
            parts = entry.split(":")
            try:
                tags[parts[0]] = float(parts[1])
            except (IndexError, ValueError):
                raise BadRow("tags", f"auto tag {entry!r} has no score") from None
    return fields[0], tags


def taken_seconds(text: str) -> float:
    """DATE_TAKEN in seconds since 1970, naive; NaN for what is no ISO-8601 date or carries a zone."""
    try:
        moment = _ISO.isoparse(text)
        return (moment - _EPOCH).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return float("nan")
