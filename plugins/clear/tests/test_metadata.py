"""Metadata into the store: every form of the source, every kind of bad row, killed and resumed."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import sqlite3
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cl_kernel.contract.errors import BadInput, BadSetting, MissingAsset, RunConflict
from cl_plugin_clear.curation import columns, metadata, records
from cl_plugin_clear.curation import source as sources
from cl_plugin_clear.curation.ingest import HashCheck, ingest
from cl_plugin_clear.curation.store import Store
from cl_plugin_clear.data import toy

N = 60


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    toy.write_metadata(tmp_path / "raw", 200)
    return tmp_path / "raw"


def lines(raw: Path, name: str) -> list[str]:
    return (raw / f"yfcc100m_{name}").read_text().splitlines()


def rewrite(raw: Path, name: str, rows: list[str]) -> None:
    (raw / f"yfcc100m_{name}").write_bytes("\n".join(rows).encode("utf-8", "surrogateescape") + b"\n")


def parse(raw: Path, tmp_path: Path, name: str = "store", **options: object) -> pa.Table:
    ingest(
        tmp_path / name,
        Source.of_folder(raw) if not options else Source(**options),
        chunk_size=64,
        rule=metadata.Filter(),
        n_threads=2,
    )  # type: ignore[arg-type]
    store = Store.open(tmp_path / name)
    return pa.concat_tables([store.read_chunk(chunk) for chunk in store.chunks()])


Source = sources.Source


def test_every_row_has_one_status_and_stays_in_source_order(raw: Path, tmp_path: Path) -> None:
    table = parse(raw, tmp_path)
    assert table.num_rows == 200
    assert table["row"].to_pylist() == list(range(200))
    assert [str(i) for i in table["id"].to_pylist()] == [line.split("\t")[0] for line in lines(raw, "dataset")]
    assert set(table["status"].to_pylist()) == {"pending", "date", "video"}


@pytest.mark.parametrize(
    ("file", "change", "status"),
    [
        ("dataset", lambda line: line + "\textra", "columns"),
        ("dataset", lambda line: "\t".join(line.split("\t")[:9]), "columns"),
        ("dataset", lambda line: "", "columns"),
        ("dataset", lambda line: line.replace("\t", "\t\udcff", 1), "utf8"),
        ("dataset", lambda line: "x" + line, "number"),
        ("dataset", lambda line: "\t".join([*line.split("\t")[:4], "soon", *line.split("\t")[5:]]), "number"),
        ("autotags-v1", lambda line: "7\toutdoor:0.5", "ids"),
        ("autotags-v1", lambda line: line.split("\t")[0] + "\toutdoor:high", "tags"),
        ("autotags-v1", lambda line: line.split("\t")[0] + "\toutdoor", "tags"),
        ("lines", lambda line: "3\t9999", "ids"),
        ("lines", lambda line: "x\t" + line.split("\t")[1], "number"),
        ("hash", lambda line: "5\tabc", "hash"),
        ("exif", lambda line: "12\tMake:x", "ids"),
    ],
)  # fmt: skip
def test_a_bad_row_costs_one_row(raw: Path, tmp_path: Path, file: str, change: object, status: str) -> None:
    before = parse(raw, tmp_path, "before")
    good = [row for row, s in enumerate(before["status"].to_pylist()) if s == "pending"]
    hit = good[7]
    rows = lines(raw, file)
    rows[hit] = change(rows[hit])  # type: ignore[operator]
    rewrite(raw, file, rows)
    after = parse(raw, tmp_path, "after")
    assert after["status"][hit].as_py() == status
    assert after["error"][hit].as_py()
    keep = pa.array([row for row in range(200) if row != hit])
    assert after.take(keep).equals(before.take(keep))


def test_a_shorter_side_file_costs_the_rows_it_lacks(raw: Path, tmp_path: Path) -> None:
    rewrite(raw, "lines", lines(raw, "lines")[:150])
    statuses = parse(raw, tmp_path)["status"].to_pylist()
    assert set(statuses[150:]) == {"ids"}
    assert "ids" not in statuses[:150]


def test_a_hash_file_in_another_order_is_looked_up(raw: Path, tmp_path: Path) -> None:
    straight = parse(raw, tmp_path, "straight")
    rewrite(raw, "hash", list(reversed(lines(raw, "hash"))))
    assert parse(raw, tmp_path, "turned").equals(straight)


def test_windows_line_ends_and_a_missing_last_newline_change_nothing(raw: Path, tmp_path: Path) -> None:
    straight = parse(raw, tmp_path, "straight")
    for name in ("dataset", "autotags-v1", "lines", "hash", "exif"):
        (raw / f"yfcc100m_{name}").write_bytes("\r\n".join(lines(raw, name)).encode())
    assert parse(raw, tmp_path, "windows").equals(straight)


def test_quotes_are_text(raw: Path, tmp_path: Path) -> None:
    rows = lines(raw, "dataset")
    fields = rows[3].split("\t")
    fields[6] = '"never closed'
    rows[3] = "\t".join(fields)
    rewrite(raw, "dataset", rows)
    table = parse(raw, tmp_path)
    assert table.num_rows == 200
    assert table["title"][3].as_py() == '"never closed'


def test_ten_bz2_parts_the_sqlite_release_and_24_columns_give_the_same_rows(raw: Path, tmp_path: Path) -> None:
    def of(folder: Path, name: str) -> pa.Table:
        ingest(tmp_path / name, Source.of_folder(folder), chunk_size=64, rule=metadata.Filter(), n_threads=1)
        store = Store.open(tmp_path / name)
        return pa.concat_tables([store.read_chunk(c) for c in store.chunks()]).drop(
            ["line_num", "hash_value", "auto_tag_scores"]
        )

    rows = lines(raw, "dataset")
    for path in raw.iterdir():
        if path.name != "yfcc100m_dataset":
            path.unlink()
    plain = of(raw, "plain")
    parts, database, old = tmp_path / "parts", tmp_path / "sqlite", tmp_path / "old"
    for place in (parts, database, old):
        place.mkdir()
    for k in range(10):
        piece = "\n".join(rows[20 * k : 20 * k + 20]) + ("\n" if k != 4 else "")
        (parts / f"yfcc100m_dataset-{k}.bz2").write_bytes(bz2.compress(piece.encode()))
    connection = sqlite3.connect(database / "yfcc100m_dataset.sql")
    connection.execute(f"create table yfcc100m_dataset ({', '.join(records.SQLITE_COLUMNS)})")
    connection.executemany(
        f"insert into yfcc100m_dataset values ({', '.join('?' * 23)})", [row.split("\t") for row in rows]
    )
    connection.commit()
    connection.close()
    (old / "yfcc100m_dataset").write_text("".join(f"{i}\t{row}\n" for i, row in enumerate(rows)))
    assert of(parts, "p").equals(plain)
    assert of(database, "d").equals(plain)
    assert of(old, "o").equals(plain)
    ingest(tmp_path / "o2", Source.of_folder(old), chunk_size=64, rule=metadata.Filter(), n_threads=1)
    assert Store.open(tmp_path / "o2").read_chunk(1)["line_num"].to_pylist() == list(range(64, 128))


def with_25_columns(rows: list[str]) -> list[str]:
    """The same rows in the form of today's release: line number, id and hash first."""
    fields = [row.split("\t") for row in rows]
    return ["\t".join([str(i), f[0], records.derived_hash(f[14]), *f[1:]]) for i, f in enumerate(fields)]


def test_the_release_of_25_columns_brings_line_numbers_and_hashes(raw: Path, tmp_path: Path) -> None:
    straight = parse(raw, tmp_path, "straight").drop(["auto_tag_scores"])
    new = tmp_path / "new"
    new.mkdir()
    rows = with_25_columns(lines(raw, "dataset"))
    (new / "yfcc100m_dataset").write_text("\n".join(rows) + "\n")
    assert parse(new, tmp_path, "n").drop(["auto_tag_scores"]).equals(straight)
    rows[70] = rows[70].replace("\t", "\t\t", 1)  # one row of another form costs one row
    (new / "yfcc100m_dataset").write_text("\n".join(rows) + "\n")
    assert parse(new, tmp_path, "odd")["status"].to_pylist().count("columns") == 1


def test_hashes_that_nobody_brings_are_derived_from_the_address(raw: Path, tmp_path: Path) -> None:
    straight = parse(raw, tmp_path, "straight")
    (raw / "yfcc100m_hash").unlink()
    table = parse(raw, tmp_path, "derived")
    usable = [row for row, status in enumerate(table["status"].to_pylist()) if status in ("pending", "date", "video")]
    assert usable
    assert table["hash_value"].take(usable).equals(straight["hash_value"].take(usable))


PUBLISHED = (
    ("0", "6985418911", "4e2f7a26a1dfbf165a7e30bdabf7e72a", "http://farm8.staticflickr.com/7205/6985418911_df7747990d.jpg"),
    ("6639", "6162540254", "4ccb23d8746b8d9d76ffd603fc7988", "http://farm7.staticflickr.com/6167/6162540254_5d22abd711.jpg"),
)  # fmt: skip
"""Line number, id, hash and download address of two rows of today's release, as public readers of it quote them."""


def published(n_columns: int) -> list[list[str]]:
    """The published rows in a form; what is not quoted of them is left out, or of no person."""
    rows = []
    for line, photo, name, address in PUBLISHED:
        rest = ["1@N00", "nick", "2010-01-01 00:00:00.0", "1316432672", *[""] * 8, "", address, *[""] * 6, "jpg", "0"]
        rows.append([*{23: [photo], 24: [line, photo], 25: [line, photo, name]}[n_columns], *rest])
    return rows


@pytest.mark.parametrize("form", ["23", "24", "25", "sqlite"])
def test_hashes_of_published_rows_come_out_of_every_form(tmp_path: Path, form: str) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    if form == "sqlite":
        with contextlib.closing(sqlite3.connect(raw / "yfcc100m_dataset.sql")) as connection, connection:
            connection.execute(f"create table yfcc100m_dataset (batchline, {', '.join(records.SQLITE_COLUMNS)})")
            connection.executemany(f"insert into yfcc100m_dataset values ({', '.join('?' * 24)})", published(24))
    else:
        text = "".join("\t".join(row) + "\n" for row in published(int(form)))
        (raw / "yfcc100m_dataset").write_text(text)
    table = parse(raw, tmp_path)
    assert table["status"].to_pylist() == ["pending", "pending"]
    assert table["hash_value"].to_pylist() == [row[2] for row in PUBLISHED]


def test_a_hash_file_of_other_photos_is_noticed(raw: Path, tmp_path: Path) -> None:
    def check(name: str) -> HashCheck:
        done = ingest(tmp_path / name, Source.of_folder(raw), chunk_size=64, rule=metadata.Filter(), n_threads=1)
        return done.hashes

    good = check("good")
    assert good.n_rows > 100 and good.n_others == 0
    rewrite(raw, "hash", [f"{line.split(chr(9))[0]}\t{'0' * 32}" for line in lines(raw, "hash")])
    other = check("other")
    assert other.n_others == other.n_rows == good.n_rows
    assert "derived" in other.example


@pytest.mark.parametrize(
    ("body", "why"), [(b"<html>not found</html>", "begins so"), (b"BZh9", "begins so"), (b"", "empty")]
)
@pytest.mark.parametrize("ending", ["bz2", "gz"])
def test_a_part_that_is_no_archive_is_not_passed_over(
    raw: Path, tmp_path: Path, ending: str, body: bytes, why: str
) -> None:
    rows = lines(raw, "dataset")
    (raw / "yfcc100m_dataset").unlink()
    pack = {"bz2": bz2.compress, "gz": gzip.compress}[ending]
    (raw / f"yfcc100m_dataset-0.{ending}").write_bytes(pack("\n".join(rows).encode() + b"\n"))
    (raw / f"yfcc100m_dataset-1.{ending}").write_bytes(body)
    with pytest.raises(BadInput, match=why):
        parse(raw, tmp_path)


def test_a_damaged_block_is_named(raw: Path, tmp_path: Path) -> None:
    whole = bytearray(bz2.compress((raw / "yfcc100m_dataset").read_bytes()))
    whole[len(whole) // 2] ^= 4
    (raw / "yfcc100m_dataset").unlink()
    (raw / "yfcc100m_dataset.bz2").write_bytes(whole)
    with pytest.raises(BadInput, match="damaged or not all there"):
        parse(raw, tmp_path)


def test_an_archive_that_ends_too_early_is_named_and_goes_on_when_it_is_whole(raw: Path, tmp_path: Path) -> None:
    straight = parse(raw, tmp_path, "straight")
    rows = lines(raw, "dataset")
    (raw / "yfcc100m_dataset").unlink()
    (raw / "yfcc100m_dataset-0.bz2").write_bytes(bz2.compress("\n".join(rows[:150]).encode() + b"\n"))
    whole = bz2.compress("\n".join(rows[150:]).encode() + b"\n")
    part = raw / "yfcc100m_dataset-1.bz2"
    part.write_bytes(whole[:-200])
    with pytest.raises(BadInput, match="not all there") as told:
        parse(raw, tmp_path)
    assert told.value.where == str(part)
    assert Store.open(tmp_path / "store").chunks() == [0, 1]
    part.write_bytes(whole)
    done = ingest(tmp_path / "store", Source.of_folder(raw), chunk_size=64, rule=metadata.Filter(), n_threads=2)
    assert (done.n_reused, done.n_parsed) == (2, 2)
    assert parse(raw, tmp_path).equals(straight)
    part.write_bytes(whole + bz2.compress(rows[0].encode() + b"\n"))  # all rows are in: now it is another source
    with pytest.raises(BadSetting, match="dataset-1"):
        parse(raw, tmp_path)


@pytest.mark.parametrize("ending", ["", "-0.bz2", ".gz", ".sql"])
def test_a_source_without_rows_is_no_success(tmp_path: Path, ending: str) -> None:
    name = f"yfcc100m_dataset{ending}"
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / name).touch()
    if name.endswith(".sql"):
        connection = sqlite3.connect(tmp_path / "raw" / name)
        connection.execute(f"create table yfcc100m_dataset ({', '.join(records.SQLITE_COLUMNS)})")
        connection.close()
    with pytest.raises(BadInput, match=r"not one row|is empty"):
        parse(tmp_path / "raw", tmp_path)


def test_a_photo_that_comes_twice_counts_once(raw: Path, tmp_path: Path) -> None:
    before = parse(raw, tmp_path, "before")
    good = [row for row, s in enumerate(before["status"].to_pylist()) if s == "pending"]
    first, second, third = good[3], good[-9], good[-2]
    for name in ("dataset", "autotags-v1", "hash", "exif"):
        rows = lines(raw, name)
        rows[second] = rows[third] = rows[first]
        rewrite(raw, name, rows)
    rows = lines(raw, "lines")
    for row in (second, third):
        rows[row] = f"{row}\t" + rows[first].split("\t")[1]
    rewrite(raw, "lines", rows)
    table = parse(raw, tmp_path)
    assert [row for row, s in enumerate(table["status"].to_pylist()) if s == "duplicate"] == [second, third]
    assert table["error"][third].as_py() == f"source row {first} has the same id"
    assert table["status"][first].as_py() == "pending"


@pytest.mark.parametrize(("n_lines", "read_size"), [(1, 3), (7, 10), (7, 1 << 20), (1000, 5)])
def test_blocks_hold_whole_lines(n_lines: int, read_size: int) -> None:
    import io

    text = b"".join(b"x" * (i % 5) + b"\n" for i in range(50)) + b"no newline at the end"
    blocks = list(sources.line_blocks(io.BytesIO(text), n_lines, read_size))
    assert b"".join(blocks) == text + b"\n"
    assert [block.count(b"\n") for block in blocks] == [n_lines] * (51 // n_lines) + (
        [51 % n_lines] if 51 % n_lines else []
    )


def test_dates_in_columns_equal_dates_one_by_one() -> None:
    rng = np.random.default_rng(0)
    texts = ["2011-05-03 10:00:00.0", "2012-02-29 00:00:00.9", "2011-02-29 00:00:00.0", "2011-13-01 00:00:00.0", "null", "", "2011",  # noqa: E501
             "2011-05-03T10:00:00", "2011-05-03 24:00:00.0", "2011-05-03 10:60:00.0", "2011-5-3 10:00:00.00", "20110503T101112",  # noqa: E501
             "2011-05-03 10:00:00,5", "0000-01-01 00:00:00.0", "2011-W05-3", "2011-05-03 10:00:00Z", "2011-05-03 10:00:00.123456"]  # fmt: skip  # noqa: E501
    for _ in range(300):
        year, month, day = rng.integers(1, 9999), rng.integers(0, 14), rng.integers(0, 33)
        texts.append(
            f"{year:04d}-{month:02d}-{day:02d} {rng.integers(0, 25):02d}:{rng.integers(0, 61):02d}:{rng.integers(0, 61):02d}.0"  # noqa: E501
        )
    together = columns.taken_micros(pa.array(texts)).tolist()
    alone = [int(columns.taken_micros(pa.array([text]))[0]) for text in texts]
    expected = [None if (seconds := records.taken_seconds(text)) != seconds else seconds for text in texts]
    for found in (together, alone):
        assert [None if v == np.iinfo(np.int64).min else v / 1e6 for v in found] == expected


def test_lines_read_as_they_are_equal_lines_looked_at(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"dataset": "dataset", "autotags": "autotags-v1", "lines": "lines", "hashes": "hash", "exif": "exif"}
    whole = {
        key: b"\n".join((raw / f"yfcc100m_{name}").read_bytes().split(b"\n")[:30]) + b"\n"
        for key, name in names.items()
    }
    marks = [
        b" ",
        b"\t",
        b"\n",
        b"\r",
        b"\r\n",
        b"\x0b",
        b"\xc2\xa0",
        b"\xff",
        b"\xc3\xa9",
        b"0",
        b"-",
        b",",
        b":",
        b"x",
        b'"',
    ]
    rng = np.random.default_rng(0)
    original, taken = columns.read_clean, 0
    for case in range(120):
        files = dict(whole)
        name = list(files)[case % 5]
        text = files[name]
        places = [0] + [i + shift for i, c in enumerate(text) if c in b"\t\n,:" for shift in (0, 1)]
        at = int(rng.choice(places if case % 3 else len(text))) % (len(text) - 1)
        files[name] = text[:at] + marks[rng.integers(len(marks))] + text[at + int(rng.integers(2)) :]
        block = sources.Block(first=0, **files)
        fast = metadata.parse_block(block)
        with monkeypatch.context() as patch:
            patch.setattr(columns, "read_clean", lambda *args: None)
            slow = metadata.parse_block(block)
        assert fast.equals(slow), files[name][max(0, at - 40) : at + 40]
        taken += original(files["dataset"], dict.fromkeys(records.COLUMNS, pa.string())) is not None
    assert 80 < taken < 120  # both ways were walked


@pytest.mark.parametrize(
    ("marker", "taken", "rule", "status"),
    [
        (0, "2010-01-01 00:00:00.0", metadata.Filter(), "date"),  # the second of the upload
        (0, "2009-12-31 23:59:59.0", metadata.Filter(), "pending"),
        (0, "2010-01-01 01:00:00.0", metadata.Filter(slack_hours=2), "pending"),
        (0, "null", metadata.Filter(use_valid_date=False), "pending"),
        (1, "2009-12-31 23:59:59.0", metadata.Filter(use_valid_date=False), "video"),
    ],
)
def test_equal_dates_are_rejected_and_slack_lets_them_pass(
    marker: int, taken: str, rule: metadata.Filter, status: str
) -> None:
    fields = ["7", "1@N00", "nick", taken, "1262304000", *[""] * 9, "http://a.example/7.jpg", *[""] * 6, "jpg"]
    row = "\t".join([*fields, str(marker)]).encode() + b"\n"
    block = sources.Block(first=0, dataset=row, autotags=None, lines=None, hashes=None, exif=None)
    assert metadata.parse_block(block, rule=rule)["status"].to_pylist() == [status]


def test_complete_chunks_are_not_parsed_again_and_a_lost_part_is(raw: Path, tmp_path: Path) -> None:
    source = Source.of_folder(raw)
    first = ingest(tmp_path / "s", source, chunk_size=64, rule=metadata.Filter())
    assert (first.n_parsed, first.n_reused) == (4, 0)
    whole = {p.name: p.read_bytes() for p in (tmp_path / "s" / "meta").iterdir()}
    (tmp_path / "s" / "meta" / "part-000001.json").unlink()
    (tmp_path / "s" / "meta" / "part-000003.parquet").unlink()
    again = ingest(tmp_path / "s", source, chunk_size=64, rule=metadata.Filter())
    assert (again.n_parsed, again.n_reused) == (2, 2)
    assert {p.name: p.read_bytes() for p in (tmp_path / "s" / "meta").iterdir()} == whole


def test_other_settings_or_another_source_are_refused(raw: Path, tmp_path: Path) -> None:
    source = Source.of_folder(raw)
    ingest(tmp_path / "s", source, chunk_size=64, rule=metadata.Filter())
    with pytest.raises(BadSetting, match="chunk_size"):
        ingest(tmp_path / "s", source, chunk_size=32, rule=metadata.Filter())
    with pytest.raises(BadSetting, match="filter"):
        ingest(tmp_path / "s", source, chunk_size=64, rule=metadata.Filter(use_valid_date=False))


def test_two_writers_are_kept_apart(raw: Path, tmp_path: Path) -> None:
    ingest(tmp_path / "s", Source.of_folder(raw), chunk_size=64, rule=metadata.Filter())
    with Store.open(tmp_path / "s").held(), pytest.raises(RunConflict, match="another process"):
        ingest(tmp_path / "s", Source.of_folder(raw), chunk_size=64, rule=metadata.Filter())


def test_missing_damaged_and_foreign_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingAsset, match="no metadata"):
        Source.of_folder(tmp_path)
    (tmp_path / "yfcc100m_dataset").write_text("a,b,c\n1,2,3\n")
    with pytest.raises(BadInput, match="1 columns"):
        ingest(tmp_path / "s", Source.of_folder(tmp_path), chunk_size=64, rule=metadata.Filter())
    (tmp_path / "yfcc100m_dataset").unlink()
    (tmp_path / "yfcc100m_dataset.bz2").write_bytes(bz2.compress(b"x" * 10**5)[:40])
    with pytest.raises(BadInput, match="damaged"):
        ingest(tmp_path / "s2", Source.of_folder(tmp_path), chunk_size=64, rule=metadata.Filter())


def test_what_a_killed_fetch_left_is_no_part(raw: Path) -> None:
    rows = (raw / "yfcc100m_dataset").read_bytes()
    (raw / "yfcc100m_dataset").unlink()
    for name in ("2.bz2", "10.bz2", "3.bz2.part", "odd.bz2"):
        (raw / f"yfcc100m_dataset-{name}").write_bytes(bz2.compress(rows))
    parts = [Path(part).name for part in Source.of_folder(raw).dataset]
    assert parts == ["yfcc100m_dataset-2.bz2", "yfcc100m_dataset-10.bz2"]


def test_a_file_that_is_not_there_begins_no_store(raw: Path, tmp_path: Path) -> None:
    for source in (Source(sqlite=str(raw / "none.sql")), Source(dataset=(str(raw / "none"),))):
        with pytest.raises(MissingAsset, match="no such file"):
            ingest(tmp_path / "s", source, chunk_size=64, rule=metadata.Filter())
    assert not (tmp_path / "s").exists()


def test_a_release_lies_where_it_likes(raw: Path, tmp_path: Path) -> None:
    place = tmp_path / "50%20? #1"
    place.mkdir()
    with sqlite3.connect(place / "x.sql") as connection:
        connection.execute(f"create table yfcc100m_dataset ({', '.join(records.SQLITE_COLUMNS)})")
        rows = [row.split("\t") for row in lines(raw, "dataset")]
        connection.executemany(f"insert into yfcc100m_dataset values ({', '.join('?' * 23)})", rows)
    connection.close()
    done = ingest(tmp_path / "s", Source(sqlite=str(place / "x.sql")), chunk_size=64, rule=metadata.Filter())
    assert sum(done.counts.values()) == 200


def test_nothing_in_the_store_names_an_absolute_path(finished_store: Path) -> None:
    marks = [str(finished_store.parent).encode(), str(finished_store).encode()]
    for path in finished_store.rglob("*"):
        if path.is_file() and path.suffix in (".toml", ".json", ".parquet"):
            content = path.read_bytes()
            assert not any(mark in content for mark in marks), path
