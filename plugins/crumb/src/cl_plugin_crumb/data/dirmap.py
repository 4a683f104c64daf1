"""Dirmaps: one csv row per image with class, object, session and frame; reading, checking, counting."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cl_kernel import BadInput, MissingAsset

COLUMNS = ("class", "object", "session", "im_num", "im_path")


def read(path: Path) -> pd.DataFrame:
    """A dirmap.

    :raises MissingAsset: when the file is absent. :raises BadInput: when it cannot be used.
    """
    if not path.is_file():
        raise MissingAsset(f"no dirmap {path.name}", where=str(path), fix="make it with: clk crumb index")
    try:
        table = pd.read_csv(path)
    except (ValueError, UnicodeDecodeError) as error:
        raise BadInput(f"not a csv table: {error}", where=str(path)) from error
    check(table, str(path))
    return table


def check(table: pd.DataFrame, where: str) -> None:
    """Refuse what would fail half way: missing columns, no rows, empty cells, paths over two lines.

    :raises BadInput: naming the column or the first row.
    """
    if missing := [name for name in COLUMNS if name not in table.columns]:
        raise BadInput(
            f"the dirmap has no column {', '.join(missing)}; it has {', '.join(map(str, table.columns))}",
            where=where,
            fix=f"a dirmap has the columns {', '.join(COLUMNS)}",
        )
    if table.empty:
        raise BadInput("the dirmap has no rows", where=where)
    empty = table[list(COLUMNS)].isna().any(axis=1)
    if empty.any():
        raise BadInput("a cell is empty", where=f"{where}, row {int(empty.to_numpy().argmax()) + 2}")
    broken = table["im_path"].astype(str).str.contains(r"[\r\n]", regex=True)
    if broken.any():
        at = int(broken.to_numpy().argmax())
        raise BadInput(
            f"the image path {table['im_path'].iloc[at]!r} goes over two lines, and file lists have a line an image",
            where=f"{where}, row {at + 2}",
            fix="rename the file or folder",
        )


def statistics(table: pd.DataFrame, *, full_session: int = 15) -> dict[str, dict[str, float]]:
    """Counts: images per class and session, sessions and objects, and what short sessions cost.

    :param full_session: sessions with fewer images count as short.
    :return: heading -> name -> number.
    """

    def spread(sizes: pd.Series) -> dict[str, float]:
        return {"mean": float(sizes.mean()), "min": float(sizes.min()), "max": float(sizes.max())}

    images = table.groupby(["class", "object", "session"]).size()
    clips = table[["class", "object", "session"]].drop_duplicates()
    return {
        "images per class": {str(c): float(n) for c, n in table.groupby("class").size().items()},
        "images per session": spread(images),
        "sessions per object": spread(clips.groupby(["class", "object"]).size()),
        "sessions per class": spread(clips.groupby("class").size()),
        "objects per class": spread(clips[["class", "object"]].drop_duplicates().groupby("class").size()),
        "sessions": {
            "all": float(len(images)),
            f"with at least {full_session} images": float((images >= full_session).sum()),
        },
    }


def imbalances(table: pd.DataFrame) -> list[str]:
    """Whatever is not the same everywhere, in words; nothing for a balanced data set."""
    found = []
    counts = statistics(table)
    per_class = set(counts["images per class"].values())
    if len(per_class) > 1:
        found.append(f"classes have {min(per_class):.0f} to {max(per_class):.0f} images")
    for heading in ("images per session", "sessions per object", "objects per class"):
        if counts[heading]["min"] != counts[heading]["max"]:
            found.append(f"{heading}: {counts[heading]['min']:.0f} to {counts[heading]['max']:.0f}")
    if table["im_path"].duplicated().any():
        found.append(f"{int(table['im_path'].duplicated().sum())} rows repeat an image")
    return found


def missing_files(table: pd.DataFrame, root: Path) -> list[str]:
    """Images of the dirmap that are not below ``root``."""
    return [name for name in table["im_path"].astype(str) if not (root / name).is_file()]


def sparse(table: pd.DataFrame, every: int) -> pd.DataFrame:
    """Every ``every``-th image of each session, in frame order."""
    kept = table.sort_values("im_num", kind="stable").groupby(["class", "object", "session"]).cumcount() % every == 0
    return table[kept.reindex(table.index)].reset_index(drop=True)


def write(table: pd.DataFrame, path: Path, *, index: bool = True, columns: Sequence[str] | None = None) -> None:
    """Write a dirmap, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    table.to_csv(part, index=index, columns=columns)
    part.replace(path)
