"""What a labelled folder says of itself: class names, records of each bucket and class, feature files."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cl_kernel import BadInput, MissingAsset


def members_of(folder: Path) -> tuple[list[str], dict[str, dict[str, dict[str, Any]]]]:
    """Class names, and bucket -> label -> {ID: record} in the files' order, buckets in numeric order.

    :raises BadInput: for a label that is no class, or metadata of an unknown form.
    """
    names = read_class_names(folder / "class_names.txt")
    index = read_json_object(folder / "labeled_metadata.json")
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for bucket in sorted(index, key=bucket_number):
        if unknown := sorted(set(index[bucket]) - set(names)):
            raise BadInput(
                f"bucket {bucket} has the label {unknown[0]!r}, which is no class",
                where=str(folder / "labeled_metadata.json"),
            )
        found[bucket] = {label: read_json_object(folder / path) for label, path in index[bucket].items()}
    return names, found


def bucket_number(name: str) -> int:
    """Buckets are numbered; keys of a JSON object are text.

    :raises BadInput: for another name.
    """
    try:
        return int(name)
    except ValueError:
        raise BadInput(f"bucket {name!r} is no number", where="labeled_metadata.json") from None


def read_class_names(path: Path) -> list[str]:
    """Names, one a line; the index is the line.

    :raises MissingAsset: without the file. :raises BadInput: for a name that occurs twice.
    """
    if not path.is_file():
        raise MissingAsset("no class_names.txt", where=str(path))
    names = path.read_text().split("\n")
    while names and not names[-1].strip():
        names.pop()
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadInput(f"class {twice[0]!r} occurs twice", where=str(path))
    return names


def load_features(path: Path) -> dict[str, Any]:
    """``{ID: tensor[d]}`` from a .pth, nothing executed.

    :raises MissingAsset: without the file.
    """
    from cl_kernel.torch import state

    return dict(state.read_file(path))


def csv_rows(path: Path, needed: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, row) of a csv file with a header line; a byte-order mark, as spreadsheets write it, is no part of it.

    :raises MissingAsset: without the file. :raises BadInput: without one of the columns, or for other than UTF-8.
    """
    if not path.is_file():
        raise MissingAsset("no such csv file", where=str(path))
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            if missing := [name for name in needed if name not in (reader.fieldnames or [])]:
                fix = f"a header line with {', '.join(needed)}, separated by commas"
                raise BadInput(f"no column {', '.join(missing)}", where=str(path), fix=fix)
            for row in reader:
                yield reader.line_num, row
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"no csv in UTF-8: {error}", where=str(path)) from error


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    :raises MissingAsset: without the file. :raises BadInput: with the place of the mistake.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise MissingAsset(f"no file {path.name}", where=str(path)) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"no JSON: {error}", where=str(path)) from error
    if not isinstance(content, dict):
        raise BadInput(f"a JSON object is expected, not a {type(content).__name__}", where=str(path))
    return content
