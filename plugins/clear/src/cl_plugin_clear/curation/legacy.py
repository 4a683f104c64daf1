"""Reader of the original's download folder: jsons of today, pickles of July 2021 -> a store.

Pickles go through an unpickler that builds plain records and knows nothing else: nothing in them is executed.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
from attrs import frozen

from cl_kernel import BadInput, MissingAsset
from cl_plugin_clear.curation.images import Limits, decode
from cl_plugin_clear.curation.pictures import place
from cl_plugin_clear.curation.records import COLUMNS, TABLE
from cl_plugin_clear.curation.store import DOWNLOADED, Store, remove_stale


class Record:
    """What a pickled object of the original becomes: its attributes, nothing of its code."""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple):
            state = {k: v for part in state if part for k, v in part.items()}
        self.__dict__.update(state)


KNOWN = {"Metadata", "MetadataObject", "FlickrFolder", "FlickrAccessor", "FlickrParser", "Criteria", "EXIF", "AutoTags"}


class Restricted(pickle.Unpickler):
    """Builds :class:`Record` for the original's metadata classes, dates, and containers; refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        """The class a pickle asks for.

        :raises pickle.UnpicklingError: for anything that is not plain data.
        """
        if name in KNOWN:
            return Record
        if (module, name) in (
            ("datetime", "datetime"),
            ("collections", "OrderedDict"),
            ("builtins", "dict"),
            ("builtins", "list"),
        ):
            return getattr(__import__(module), name)
        if (module, name) == ("copyreg", "_reconstructor"):
            return _rebuild
        if (module, name) == ("builtins", "object"):
            return object
        raise pickle.UnpicklingError(f"{module}.{name} is no photo record")


def _rebuild(cls: type, base: type, state: Any) -> Any:
    if cls is not Record:
        raise pickle.UnpicklingError(f"{cls!r} is no photo record")
    return Record()


def load_pickle(path: Path) -> Any:
    """Content of a pickle, records as :class:`Record`.

    :raises BadInput: for anything but plain data.
    """
    try:
        with path.open("rb") as file:
            return Restricted(file).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, TypeError, IndexError) as error:
        raise BadInput(f"the pickle holds more than photo records, or is damaged: {error}", where=str(path)) from error


@frozen
class Imported:
    """What happened."""

    n_records: int
    n_pictures: int
    n_missing: int
    n_chunks: int


def import_folder(source: Path, root: Path, *, old_prefix: str = "", chunk_size: int = 50_000) -> Imported:
    """A finished download of the original as a store: records, and pictures linked or copied.

    Absolute paths are cut after ``old_prefix``; without it, the last ``<chunk>/images/<file>`` of each counts.

    :raises MissingAsset: when there is no ``all_folders``, or not one of the pictures.
    :raises BadInput: for a path that leads nowhere.
    """
    records, origin = _records_of(source)
    _some_picture(source, records, old_prefix)
    store = Store.create(
        root,
        {
            "chunk_size": chunk_size,
            "filter": {"use_valid_date": True, "slack_hours": 0.0},
            "source": {"dataset": [[origin.name, origin.stat().st_size]], "imported": True},
        },
    )
    store.update(images={"min_size": 0, "min_edge": 0, "max_aspect_ratio": 0.0})
    n_pictures = n_missing = n_chunks = 0
    with store.held():
        remove_stale(root / "images")
        for start in range(0, len(records), chunk_size):
            chunk = start // chunk_size
            if store.manifest(chunk) is not None:
                n_chunks += 1
                n_pictures += (store.manifest(chunk) or {})["counts"].get("ok", 0)
                n_missing += (store.manifest(chunk) or {})["counts"].get("http", 0)
                continue
            rows = []
            for offset, record in enumerate(records[start : start + chunk_size]):
                row = _row(record, start + offset)
                picture = _locate(source, record, old_prefix)
                if picture is None:
                    row |= {"status": "http", "error": "the picture is not in the folder"}
                    n_missing += 1
                else:
                    data = picture.read_bytes()
                    found = decode(data, row["ext"], Limits(min_size=0), reencode=False)
                    rel_path = f"images/{chunk}/{row['id']}.{row['ext']}"
                    row |= {"status": found.status, "error": found.error or None}
                    if found.status == "ok":
                        target = root / rel_path
                        target.parent.mkdir(parents=True, exist_ok=True)
                        place(picture, target)
                        row |= {
                            "width": found.width,
                            "height": found.height,
                            "bytes": len(data),
                            "sha256": found.sha256,
                            "rel_path": rel_path,
                        }
                        n_pictures += 1
                rows.append(row)
            store.write_chunk(chunk, pa.Table.from_pylist(rows, schema=TABLE), DOWNLOADED)
            n_chunks += 1
    return Imported(len(records), n_pictures, n_missing, n_chunks)


def _some_picture(source: Path, records: Sequence[Mapping[str, Any]], old_prefix: str) -> None:
    """Is there one at all? Otherwise the paths were cut wrongly, and a whole store of failures would be written."""
    if not records or any(_locate(source, record, old_prefix) for record in records):
        return
    path = _old_path(records[0])
    prefix = str(PurePosixPath(*path.parts[:-3]))
    raise MissingAsset(
        f"none of the {len(records)} pictures is there; the first one's path is {path}",
        where=str(source),
        fix="copy the pictures there too" if prefix in (old_prefix, ".") else f"--old-prefix {prefix}",
    )


def _records_of(source: Path) -> tuple[list[Mapping[str, Any]], Path]:
    index = source / "all_folders.json"
    if index.exists():
        try:
            folders = json.loads(index.read_text())
        except ValueError as error:
            raise BadInput(f"all_folders.json is damaged: {error}", where=str(index)) from error
        records: list[Mapping[str, Any]] = []
        for chunk in sorted(folders, key=int):
            path = source / chunk / "metadata.json"
            if not path.exists():
                path = source / PurePosixPath(str(folders[chunk]["metadata_location"])).parent.name / "metadata.json"
            if not path.exists():
                raise MissingAsset(f"chunk {chunk} has no metadata.json", where=str(path))
            records += json.loads(path.read_text())
        return records, index
    old = source / "all_folders.pickle"
    if not old.exists():
        raise MissingAsset(
            "no download of the original: neither all_folders.json nor all_folders.pickle", where=str(source)
        )
    content = load_pickle(old)
    values = content.values() if isinstance(content, dict) else content if isinstance(content, list) else [content]
    records = []
    for value in values:
        fields = value if isinstance(value, dict) else vars(value)
        listed = next((v for key, v in fields.items() if "metadata" in key.lower() and isinstance(v, list)), None)
        if listed is None:
            location = next((v for key, v in fields.items() if "metadata" in key.lower() and isinstance(v, str)), "")
            name = PurePosixPath(location)
            listed = load_pickle(source / name.parent.name / name.name)
        records += [entry if isinstance(entry, dict) else _fields(entry) for entry in listed]
    return records, old


def _fields(record: Any) -> dict[str, Any]:
    values = vars(record)
    inner = values.get("metadata")
    return dict(vars(inner) if isinstance(inner, Record) else inner if isinstance(inner, dict) else values)


def _row(record: Mapping[str, Any], row: int) -> dict[str, Any]:
    out: dict[str, Any] = dict.fromkeys(TABLE.names)
    for name in COLUMNS:
        value = record.get(name)
        kind = TABLE.field(name.lower()).type
        if value in (None, ""):
            value = None if not pa.types.is_string(kind) else ""
        elif pa.types.is_integer(kind):
            value = int(value)
        elif pa.types.is_floating(kind):
            value = float(value)
        else:
            value = str(value)
        out[name.lower()] = value
    if out["id"] is None:
        raise BadInput("a record has no ID", where=f"record {row}")
    tags = record.get("AUTO_TAG_SCORES") or {}
    out |= {
        "auto_tag_scores": list(dict(tags).items()),
        "line_num": int(record["LINE_NUM"]) if record.get("LINE_NUM") else None,
        "hash_value": record.get("HASH_VALUE"),
        "row": row,
        "exif": None,
        "ext": out["ext"] or "jpg",
    }
    return out


def _locate(source: Path, record: Mapping[str, Any], old_prefix: str) -> Path | None:
    whole = _old_path(record)
    if old_prefix:
        if not str(whole).startswith(old_prefix):
            raise BadInput(f"the path {whole} does not begin with {old_prefix}", where="--old-prefix")
        candidates = [source / str(whole)[len(old_prefix) :].lstrip("/")]
    else:
        parts = whole.parts
        candidates = [source.joinpath(*parts[-k:]) for k in (3, 2, 1) if len(parts) >= k]
    return next((path for path in candidates if path.is_file()), None)


def _old_path(record: Mapping[str, Any]) -> PurePosixPath:
    """Where the picture was on the machine that fetched it."""
    return PurePosixPath(str(record.get("IMG_DIR", ""))) / str(record.get("IMG_PATH", ""))
