"""One's own dated photographs: a store, buckets, classes from folders; dates of every kind, bad ones named."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from PIL import Image

from cl_kernel.contract.errors import BadInput, BadSetting, MissingAsset
from cl_plugin_clear.curation import buckets, feature_sets, folder_classes, labelled, own_photos, training_folder
from cl_plugin_clear.curation.store import Store
from cl_plugin_clear.data import release, toy
from cl_plugin_clear.settings import Released

from .conftest import extractor

START = datetime(2005, 1, 1, tzinfo=UTC)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve photographs in each of two class folders, a month apart, by Exif."""
    for shape in ("disc", "ring"):
        folder = tmp_path / "my photos" / shape
        folder.mkdir(parents=True)
        for i in range(12):
            when = START + timedelta(days=30 * i + (shape == "ring"))
            exif = Image.Exif()
            exif[0x0132] = when.strftime("%Y:%m:%d %H:%M:%S")
            Image.fromarray(toy.render(shape, i / 2, (shape, i))).save(folder / f"{shape} {i}.jpg", exif=exif)
    return tmp_path / "my photos"


def table(root: Path) -> dict[str, dict[str, object]]:
    store = Store.open(root)
    return {row["title"]: row for chunk in store.chunks() for row in store.read_chunk(chunk).to_pylist()}


def test_photographs_go_to_a_benchmark(photos: Path, tmp_path: Path) -> None:
    done = own_photos.take_folder(photos, tmp_path / "store", chunk_size=10)
    assert (done.counts, done.n_chunks) == ({"ok": 24}, 3)
    assert own_photos.take_folder(photos, tmp_path / "store", chunk_size=10).n_reused == 3
    assert str(photos) not in (tmp_path / "store" / "clear.toml").read_text()
    split = buckets.make_split(tmp_path / "store", "equal-3", buckets.Rule(n=3))
    assert [bucket["n"] for bucket in split["buckets"]] == [8, 8, 8]
    out = tmp_path / "bench"
    assert folder_classes.classes_from_folders(tmp_path / "store", out, "equal-3") == {"disc": 12, "ring": 12}
    labelled.build_folder(tmp_path / "store", out)
    training_folder.write_training_folder(out)
    feature_sets.write_features(out, "toy", extractor())
    stream = release.build_stream(Released(features="toy", skip_buckets=()), out, "mine")
    assert (len(stream.stages), stream.class_names) == (3, ("disc", "ring"))


def test_a_photograph_has_its_id_wherever_it_lies_and_comes_once(photos: Path, tmp_path: Path) -> None:
    (photos / "ring" / "copy.jpg").write_bytes((photos / "disc" / "disc 0.jpg").read_bytes())
    own_photos.take_folder(photos, tmp_path / "one")
    moved = photos.rename(tmp_path / "elsewhere")
    own_photos.take_folder(moved, tmp_path / "two")
    one, two = table(tmp_path / "one"), table(tmp_path / "two")
    assert {name: row["id"] for name, row in one.items()} == {name: row["id"] for name, row in two.items()}
    assert one["ring/copy.jpg"]["status"] == "duplicate"
    assert one["ring/copy.jpg"]["error"] == "the same picture as disc/disc 0.jpg"


@pytest.mark.parametrize("date", ["1970:01:01 00:00:00", "0000:00:00 00:00:00", "", "soon"])
def test_clocks_that_were_not_set_are_no_dates(photos: Path, tmp_path: Path, date: str) -> None:
    exif = Image.Exif()
    exif[0x0132] = date
    Image.fromarray(toy.render("disc", 1.0, ("odd",))).save(photos / "odd.jpg", exif=exif)
    (photos / "broken.jpg").write_bytes(b"no picture")
    own_photos.take_folder(photos, tmp_path / "store")
    rows = table(tmp_path / "store")
    assert (rows["odd.jpg"]["status"], rows["broken.jpg"]["status"]) == ("date", "decode")
    assert rows["odd.jpg"]["rel_path"] is None


def test_dates_come_from_files_or_a_table(photos: Path, tmp_path: Path) -> None:
    for path in photos.rglob("*.jpg"):
        os.utime(path, (1_200_000_000, 1_200_000_000))
    own_photos.take_folder(photos, tmp_path / "by-file", dates="file")
    assert {row["date_uploaded"] for row in table(tmp_path / "by-file").values()} == {1_200_000_000}
    dates = tmp_path / "dates.csv"
    dates.write_text("path,date\ndisc/disc 0.jpg,2031-02-03\nring/ring 1.jpg,2009-05-06 07:08:09\n")
    own_photos.take_folder(photos, tmp_path / "by-csv", dates=str(dates))
    rows = table(tmp_path / "by-csv")
    assert {name for name, row in rows.items() if row["status"] == "ok"} == {"disc/disc 0.jpg", "ring/ring 1.jpg"}
    assert rows["disc/disc 0.jpg"]["date_uploaded"] == datetime(2031, 2, 3, tzinfo=UTC).timestamp()


def test_a_table_of_a_spreadsheet_is_read(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "dates.csv").write_bytes("\ufeffpath,date\r\n./disc/disc 0.jpg,2009-05-06\r\n".encode())
    own_photos.take_folder(photos, tmp_path / "store", dates=str(tmp_path / "dates.csv"))
    assert [name for name, row in table(tmp_path / "store").items() if row["status"] == "ok"] == ["disc/disc 0.jpg"]


def test_a_store_below_its_photographs_is_none_of_them(photos: Path, tmp_path: Path) -> None:
    first = own_photos.take_folder(photos, photos / "store")
    again = own_photos.take_folder(photos, photos / "store")
    assert (again.counts, again.n_reused) == (first.counts, first.n_chunks)
    assert own_photos.take_folder(photos, tmp_path / "other").counts == first.counts
    with pytest.raises(BadSetting, match="among the photographs"):
        own_photos.take_folder(photos, photos)


def test_what_cannot_be_is_named(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingAsset, match="no such folder"):
        own_photos.take_folder(tmp_path / "none", tmp_path / "s")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="no pictures"):
        own_photos.take_folder(tmp_path / "empty", tmp_path / "s")
    with pytest.raises(BadSetting, match="neither exif"):
        own_photos.take_folder(photos, tmp_path / "s", dates="sometimes")
    dates = tmp_path / "dates.csv"
    for text, told in (("a,b\n", "no column path, date"), ("path,date\ndisc/disc 0.jpg,soon\n", "line 2"),
                       ("path,date\nnowhere.jpg,2010-01-01\n", "nowhere.jpg"),
                       ("path,date\ndisc/disc 0.jpg,2010\n./disc/disc 0.jpg,2011\n", "two dates")):  # fmt: skip
        dates.write_text(text)
        with pytest.raises(BadInput, match=told):
            own_photos.take_folder(photos, tmp_path / "s", dates=str(dates))
    own_photos.take_folder(photos, tmp_path / "store")
    with pytest.raises(BadSetting, match="dates"):
        own_photos.take_folder(photos, tmp_path / "store", dates="file")
    buckets.make_split(tmp_path / "store", "equal-24", buckets.Rule(n=24))
    with pytest.raises(BadInput, match="has no photo of"):
        folder_classes.classes_from_folders(tmp_path / "store", tmp_path / "out", "equal-24")
