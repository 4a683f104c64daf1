"""The photo store: a folder that can be moved, because nothing in it names an absolute path.

``clear.toml`` says what it is; ``meta/part-*.parquet`` hold one row per source line; a chunk counts only when its part
and its manifest row (``part-*.json``) are both there, each written to a temporary name and renamed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from attrs import define, field

from cl_kernel import BadInput, BadSetting, MissingAsset, RunConflict, atomic, try_lock, write_json, write_text

if TYPE_CHECKING:
    import duckdb

FORMAT = 1
ROW_GROUP = 65_536
PARSED, DOWNLOADED = "parsed", "downloaded"


def one_folder(name: str, flag: str) -> str:
    """A name that a person gave, if it can be that of one folder beside others.

    :raises BadSetting: for one that leads elsewhere (``..``, ``a/b``) or is hidden.
    """
    if not name or name.startswith(".") or {"/", "\\", "\0"} & set(name):
        raise BadSetting(f"{name!r} cannot be the name of a folder", where=flag, fix="letters, digits, - and _")
    return name


@define
class Store:
    """An opened store; every path is taken below ``root``."""

    root: Path
    config: dict[str, Any]
    _lock: IO[str] | None = field(default=None, init=False, repr=False)

    # ---- the folder itself --------------------------------------------------------------------
    @classmethod
    def open(cls, root: Path) -> Store:
        """An existing store.

        :raises MissingAsset: when there is none. :raises BadInput: for a format of another version.
        """
        path = root / "clear.toml"
        if not path.is_file():
            raise MissingAsset(
                "no photo store: clear.toml is not there",
                where=str(root),
                fix=f"clk clear metadata --root {root} --source FOLDER_WITH_THE_YFCC_FILES",
            )
        try:
            config = tomllib.loads(path.read_text())
        except tomllib.TOMLDecodeError as error:
            raise BadInput(f"clear.toml is damaged: {error}", where=str(path)) from error
        if config.get("format") != FORMAT:
            raise BadInput(
                f"the store has format {config.get('format')!r}, this program reads {FORMAT}", where=str(path)
            )
        return cls(root, config)

    @classmethod
    def create(cls, root: Path, config: Mapping[str, Any]) -> Store:
        """A new store, or the existing one if it was made with the same settings.

        :raises BadSetting: naming a setting that differs from the existing store's.
        """
        wanted = {"format": FORMAT, **config}
        if (root / "clear.toml").exists():
            store = cls.open(root)
            for section, value in wanted.items():
                if store.config.get(section) != json.loads(json.dumps(value)):
                    raise BadSetting(
                        f"the store was made with {section} = {store.config.get(section)!r}, asked for {value!r}",
                        where=str(root / "clear.toml"),
                        fix="use another --root, or the same settings",
                    )
            return store
        root.mkdir(parents=True, exist_ok=True)
        write_text(root / "clear.toml", toml(wanted))
        return cls(root, dict(wanted))

    def update(self, **sections: Any) -> None:
        """Put sections into ``clear.toml``."""
        self.config |= json.loads(json.dumps(sections))
        write_text(self.root / "clear.toml", toml(self.config))

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep other writers out.

        :raises RunConflict: when another process writes to this store.
        """
        with (self.root / ".lock").open("a+") as lock:
            if not try_lock(lock):
                raise RunConflict(
                    "another process is writing to this store", where=str(self.root), fix="wait for it to end"
                )
            remove_stale(self.root)
            yield

    @property
    def chunk_size(self) -> int:
        """Source lines of a chunk."""
        return int(self.config["chunk_size"])

    def scratch(self) -> Path:
        """Folder for files that nothing depends on."""
        path = self.root / ".scratch"
        path.mkdir(parents=True, exist_ok=True)
        return path

    # ---- chunks -------------------------------------------------------------------------------
    def part(self, chunk: int) -> Path:
        """Parquet file of a chunk."""
        return self.root / "meta" / f"part-{chunk:06d}.parquet"

    def manifest(self, chunk: int) -> dict[str, Any] | None:
        """Manifest row of a chunk, None when the chunk is not complete."""
        path = self.part(chunk).with_suffix(".json")
        if not (path.exists() and self.part(chunk).exists()):
            return None
        try:
            row: dict[str, Any] = json.loads(path.read_text())
        except ValueError:
            return None
        return row

    def chunks(self, state: str | None = None) -> list[int]:
        """Complete chunks, in order; only those in ``state`` if given."""
        found = sorted(int(path.stem.split("-")[1]) for path in (self.root / "meta").glob("part-*.parquet"))
        rows = {chunk: self.manifest(chunk) for chunk in found}
        return [chunk for chunk, row in rows.items() if row is not None and state in (None, row["state"])]

    def write_chunk(self, chunk: int, table: pa.Table, state: str) -> None:
        """Write a chunk and then its manifest row, each whole or not at all."""
        write_parquet(self.part(chunk), table)
        counts = {entry["values"]: entry["counts"] for entry in table["status"].value_counts().to_pylist()}
        write_json(self.part(chunk).with_suffix(".json"), {
            "chunk": chunk, "state": state, "first": chunk * self.chunk_size, "rows": table.num_rows,
            "counts": dict(sorted(counts.items())), "bytes": self.part(chunk).stat().st_size,
        })  # fmt: skip

    def read_chunk(self, chunk: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Rows of a chunk.

        :raises BadInput: when the part is damaged.
        """
        try:
            return pq.read_table(self.part(chunk), columns=list(columns) if columns else None, memory_map=False)
        except (pa.ArrowInvalid, OSError) as error:
            raise BadInput(
                f"the metadata part is damaged: {error}",
                where=str(self.part(chunk)),
                fix=f"remove {self.part(chunk).name} and run clk clear metadata again",
            ) from error

    def counts(self) -> dict[str, int]:
        """Rows of each status over all complete chunks."""
        total: Counter[str] = Counter()
        for chunk in self.chunks():
            total.update((self.manifest(chunk) or {}).get("counts", {}))
        return dict(sorted(total.items()))

    # ---- queries ------------------------------------------------------------------------------
    def database(self, memory: str = "512MB", threads: int = 2) -> duckdb.DuckDBPyConnection:
        """DuckDB over the parts: view ``photos``; sorts spill to the store's scratch folder beyond ``memory``."""
        import duckdb

        parts = [str(self.part(chunk)) for chunk in self.chunks()]
        if not parts:
            raise MissingAsset(
                "the store has no complete chunk of metadata", where=str(self.root), fix="clk clear metadata"
            )
        config = {"memory_limit": memory, "temp_directory": str(self.scratch()), "threads": threads}
        try:
            connection = duckdb.connect(config=config)
        except duckdb.ParserException as error:
            raise BadSetting(f"{memory!r} of memory: {error}", where="--memory", fix="--memory 384MB") from error
        listed = ", ".join("'" + part.replace("'", "''") + "'" for part in parts)
        connection.execute(f"create view photos as select * from read_parquet([{listed}])")
        return connection


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write a table atomically."""
    with atomic(path) as file:
        pq.write_table(
            table,
            file,
            compression="snappy",
            row_group_size=ROW_GROUP,
            use_dictionary=_DICTIONARY if set(_DICTIONARY) <= set(table.column_names) else True,
            write_statistics=["row", "date_uploaded", "id"] if "date_uploaded" in table.column_names else True,
        )


_DICTIONARY = ["license_name", "license_url", "ext", "status"]


def toml(value: Mapping[str, Any]) -> str:
    """Plain values and one level of sections as TOML text."""
    lines = [f"{key} = {_literal(item)}" for key, item in value.items() if not isinstance(item, Mapping)]
    for key, section in value.items():
        if isinstance(section, Mapping):
            lines += ["", f"[{key}]", *(f"{_key(name)} = {_literal(item)}" for name, item in section.items())]
    return "\n".join(lines) + "\n"


def _key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() else json.dumps(name)


def _literal(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(k)} = {_literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_literal(item) for item in value) + "]"
    if isinstance(value, bool) or not isinstance(value, str):
        return json.dumps(value)
    return json.dumps(value, ensure_ascii=True)


def remove_stale(folder: Path, *, below: bool = True) -> None:
    """Drop temporary files and folders that killed processes left.

    :param below: also in sub-folders; never among the millions of pictures of ``images`` and ``all_images``.
    """
    for place, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            if name.startswith(".") and name.endswith(".tmp") and not _alive(name):
                path = Path(place, name)
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        folders[:] = [name for name in folders if below and name not in ("images", "all_images", ".scratch")]


def _alive(name: str) -> bool:
    pieces = name.split(".")
    pid = next((int(piece) for piece in reversed(pieces) if piece.isdigit()), 0)
    try:
        os.kill(pid, 0)
    except (OSError, OverflowError):
        return False
    return pid != 0
