"""Every data set in the form in which its authors publish it, generated small, from ``clk data list`` to a resumed run.

Names and folders are those of the data sets' own pages and papers; pictures are noise.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from crumb_trees import (
    TREES,
    cifar_archive,
    clip,
    core50_zip,
    icub_tree,
    ilab_archive,
    imagenet_tree,
    picture,
    put,
    weights,
)

from cl_kernel import BadInput, Interrupted, MissingAsset, Resources, discover, run
from cl_kernel.cli.main import main
from cl_plugin_crumb import settings
from cl_plugin_crumb.data import archives, cifar, folder, frames, images, indexes, prepare, stream, toybox

IMAGES = {
    "core50": 550,
    "toybox": 12 * 10 * 15,
    "ilab2mlight": 14 * 8 * 15,
    "cifar100": 300,
    "imagenet": 400,
    "icubworldtransf": 20 * 3 * 5 * 2,
}


def clk(*words: str) -> int:
    return main(list(words))


@pytest.mark.parametrize("name", TREES)
def test_prepare_makes_images_and_an_index_of_the_published_form(name: str, tmp_path: Path) -> None:
    TREES[name](tmp_path)
    assert clk("data", "prepare", f"crumb:{name}", "--data-root", str(tmp_path)) == 0
    place = discover().locate(settings.ASSETS[name], [tmp_path])
    assert place is not None
    table = pd.read_csv(place / f"{name}_dirmap.csv")
    assert len(table) == IMAGES[name]
    (dirmap_before,) = [(place / f"{name}_dirmap.csv").read_bytes()]
    assert clk("data", "prepare", f"crumb:{name}", "--data-root", str(tmp_path)) == 0
    assert (place / f"{name}_dirmap.csv").read_bytes() == dirmap_before


def test_list_names_an_address_for_every_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert clk("data", "list", "--data-root", str(tmp_path), "--json") == 0
    listed = capsys.readouterr().out
    for asset in settings.ASSETS.values():
        assert "http" in asset.origin
        assert asset.origin.split(" ")[0][:40] in listed


def status(capsys: pytest.CaptureFixture[str], root: Path, name: str) -> str:
    capsys.readouterr()
    assert clk("data", "list", "--data-root", str(root), "--json") == 0
    return next(row["status"] for row in json.loads(capsys.readouterr().out) if row["name"] == f"crumb:{name}")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TREES, "combined"])
def test_a_published_tree_reaches_a_paper_run_and_comes_back(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights(tmp_path)
    for part in ("ilab2mlight", "core50") if name == "combined" else (name,):
        TREES[part](tmp_path)
    assert status(capsys, tmp_path, name) == "missing"
    assert clk("data", "prepare", f"crumb:{name}", "--data-root", str(tmp_path)) == 0
    assert status(capsys, tmp_path, name) == "found"
    n_classes = {"core50": 10, "toybox": 12, "ilab2mlight": 14, "cifar100": 100, "imagenet": 200}
    per_task = {**n_classes, "icubworldtransf": 20, "combined": 24}[name] // 2
    asked = {"plugin": "crumb", "test": f"stream-{name}", "profile": "paper", "data_roots": [str(tmp_path)]}
    short = {"dataset.classes_per_task": per_task, "learner.first_epochs": 1, "learner.batch_size": 400}
    short |= {"learner.start": "none", "run.plots": False, "learner.write_tables": False}
    short |= {"model.size": 64, "dataset.size": 64}  # a twelfth of the arithmetic
    with pytest.raises(Interrupted):
        run(**asked, output=tmp_path / "run", settings={**short, "run.stop_at_step": 1})
    assert clk("resume", str(tmp_path / "run")) == 0
    whole = run(**asked, output=tmp_path / "whole", settings=short)
    again = run_metrics(tmp_path / "run")
    assert again == run_metrics(tmp_path / "whole") == whole.results["metrics"]


def run_metrics(place: Path) -> Any:
    return json.loads((place / "metrics.json").read_text())["metrics"]


# ---- names ----


def test_core50_is_indexed_from_the_names_in_its_archive(tmp_path: Path) -> None:
    table = indexes.core50(archives.names(core50_zip(tmp_path)))
    assert len(table) == 550
    assert table[table["object"] == 50]["class"].tolist() == [10] * 11
    assert table["im_path"].iloc[0] == "s1/o1/C_01_01_010.png"
    assert indexes.core50_gaps(table[table["session"] != 3])[:2] == ["s3/o1", "s3/o2"]


def test_icubworld_takes_one_camera_of_the_first_day_only(tmp_path: Path) -> None:
    table = indexes.icubworld(icub_tree(tmp_path), every=1)
    assert set(table["im_path"].str.split("/").str[4]) == {"day4"}
    assert set(table["im_path"].str.split("/").str[5]) == {"left"}
    assert table["object"].max() == 2
    assert table[table["object"] == 2]["im_path"].str.contains("10/").all()
    assert set(indexes.icubworld(tmp_path, every=1, camera="right")["im_path"].str.split("/").str[5]) == {"right"}


def test_a_day_without_the_camera_is_named(tmp_path: Path) -> None:
    root = icub_tree(tmp_path)
    place = root / "part1" / "thinga" / "thinga1" / "MIX" / "day4" / "left"
    for path in place.iterdir():
        path.unlink()
    place.rmdir()
    with pytest.raises(MissingAsset, match="no folder of the left camera") as error:
        indexes.icubworld(root)
    assert "day4" in str(error.value)


def test_toybox_tells_category_object_and_session_from_the_published_name(tmp_path: Path) -> None:
    name = "helicopter_07_pivothead"
    put(tmp_path / "vehicles" / name / f"{name}_hodgepodge.mp4", b"")
    put(tmp_path / "vehicles" / name / f"{name}_absent.mp4", b"")
    (found,) = toybox.videos(tmp_path)
    assert (found.category, found.object, found.session, found.class_id) == ("helicopter", 7, 10, 12)
    put(tmp_path / "vehicles" / name / f"{name}_sideways.mp4", b"")
    with pytest.raises(BadInput, match="sideways"):
        list(toybox.videos(tmp_path))


# ---- frames ----


def test_every_frame_of_a_clip_of_variable_rate_comes_once(tmp_path: Path) -> None:
    source = clip(
        tmp_path / "a.mp4", rate="10", seconds=2, flags=("-vf", r"select=not(between(n\,3\,12))", "-fps_mode", "vfr")
    )
    assert frames.extract(source, tmp_path / "all", fps=None, size=16) == 10
    seen = {path.read_bytes() for path in (tmp_path / "all").glob("*.png")}
    assert len(seen) == 10


def test_a_clip_under_a_second_gives_a_frame(tmp_path: Path) -> None:
    source = clip(tmp_path / "short.mp4", rate="10", seconds=0.2)
    assert frames.extract(source, tmp_path / "out", fps=1.0, size=16) == 1


def test_frames_taken_in_another_way_or_from_another_video_are_taken_again(tmp_path: Path) -> None:
    root = tmp_path / "toybox"
    name = "cup_01_pivothead"
    source = clip(root / "households" / name / f"{name}_rxplus.mp4", rate="5", seconds=4)
    assert len(toybox.extract(root, on_bad=print)) == 4
    assert len(toybox.extract(root, fps=None, on_bad=print)) == 20
    assert len(toybox.index(root)) == 4
    clip(tmp_path / "other.mp4", rate="5", seconds=6).replace(source)
    assert len(toybox.extract(root, on_bad=print)) == 6
    touched = source.read_bytes()
    source.write_bytes(touched)
    assert len(toybox.index(root)) == 6


def test_a_video_without_its_index_is_named_with_its_size(tmp_path: Path) -> None:
    source = clip(tmp_path / "a.mp4", rate="5", seconds=4)
    source.write_bytes(source.read_bytes()[:1500])  # the moov atom stands at the end
    with pytest.raises(BadInput, match=r"1,500 bytes") as error:
        frames.extract(source, tmp_path / "out", fps=1.0, size=16)
    assert str(source) in str(error.value)


# ---- damaged files ----


@pytest.mark.parametrize("make", [core50_zip, cifar_archive, ilab_archive])
def test_a_truncated_archive_is_named_with_its_size(make: Callable[[Path], Path], tmp_path: Path) -> None:
    path = make(tmp_path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BadInput, match="not fetched whole") as error:
        archives.unpack(path, tmp_path / "out")
    assert path.name in str(error.value)


def test_unpacking_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = core50_zip(tmp_path)
    assert archives.unpack(path, tmp_path / "out") == 550
    first = tmp_path / "out" / "core50_128x128" / "s1" / "o1" / "C_01_01_010.png"
    kept = first.stat().st_mtime_ns
    (tmp_path / "out" / "core50_128x128" / "s2" / "o1" / "C_02_01_010.png").write_bytes(b"short")
    archives.unpack(path, tmp_path / "out")
    assert first.stat().st_mtime_ns == kept
    assert (tmp_path / "out" / "core50_128x128" / "s2" / "o1" / "C_02_01_010.png").stat().st_size > 5


def test_a_name_that_leads_out_of_the_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../out.png", b"x")
    with pytest.raises(BadInput, match="leads out"):
        archives.unpack(path, tmp_path / "in")
    assert not (tmp_path / "out.png").exists()


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("/nowhere/at/all"),)


def test_a_pickle_that_asks_for_more_than_arrays_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path / "train", pickle.dumps({"data": Harmful()}))
    with pytest.raises(BadInput, match="which plain arrays and texts do not need"):
        cifar.read_pickle(path)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_every_protocol_are_read(protocol: int, tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.uint8).reshape(2, 3)
    path = put(tmp_path / "train", pickle.dumps({"data": array, b"names": [b"a", "b"]}, protocol=protocol))
    found = cifar.read_pickle(path)
    np.testing.assert_array_equal(found.get("data", found.get(b"data")), array)


def test_a_truncated_pickle_and_wrong_numbers_are_named(tmp_path: Path) -> None:
    cifar_archive(tmp_path, spoil=lambda name, content: content[:-50] if name == "test" else content)
    with pytest.raises(BadInput, match="cannot read the pickle") as error:
        prepare.cifar100(settings.Dirmap(), Resources(roots=(tmp_path,)))
    assert "cifar-100-python/test" in str(error.value)
    short = {"data": np.zeros((3, 3072), np.uint8), "fine_labels": [0, 1], "filenames": ["a", "b", "c"]}
    path = put(tmp_path / "short", pickle.dumps(short))
    with pytest.raises(BadInput, match="3 images, 2 labels, 3 names"):
        cifar.read_side(path, 100)


def test_a_clip_missing_from_core50_is_named(tmp_path: Path) -> None:
    archives.unpack(core50_zip(tmp_path), tmp_path)
    (tmp_path / "core50_128x128.zip").unlink()
    (tmp_path / "core50_128x128" / "s4" / "o17" / "C_04_17_010.png").unlink()
    with pytest.raises(BadInput, match="1 of 550 clips are missing: s4/o17"):
        prepare.core50(settings.Dirmap(), Resources(roots=(tmp_path,)))


def test_flat_validation_images_without_their_solution_are_refused(tmp_path: Path) -> None:
    root = imagenet_tree(tmp_path / "imagenet", 3)
    (root / "LOC_val_solution.csv").unlink()
    with pytest.raises(MissingAsset, match=r"LOC_val_solution.csv says"):
        prepare.imagenet(settings.Dirmap(), Resources(roots=(tmp_path,)))


# ---- folders of one's own ----


def test_webp_spaces_and_capitals_are_read(tmp_path: Path) -> None:
    for side in ("train", "val"):
        put(tmp_path / side / "my cats" / "one of them.webp", picture(1, ending="webp"))
        put(tmp_path / side / "dogs" / "TWO.PNG", picture(2))
    made = stream_of(tmp_path)
    assert sorted(made.class_names) == ["dogs", "my cats"]
    assert made.test.take(np.arange(2))["image"].shape == (2, 16, 16, 3)


def stream_of(root: Path) -> Any:
    return folder.build_folder(settings.Folder(path=str(root), size=16), Resources())


def test_a_class_that_is_only_in_val_is_named(tmp_path: Path) -> None:
    for side, names in (("train", "ab"), ("val", "abc")):
        for name in names:
            put(tmp_path / side / name / "1.png", picture(1))
    with pytest.raises(BadInput, match="class c has no images in train/"):
        stream_of(tmp_path)
    with pytest.raises(BadInput, match="none in train/: c"):
        indexes.imagenet(tmp_path)


def test_other_pictures_under_the_same_names_are_another_stream(tmp_path: Path) -> None:
    for side in ("train", "val"):
        for name in "ab":
            put(tmp_path / side / name / "1.png", picture(1))
    files = Resources().files
    rows = np.arange(2)
    before = stream_of(tmp_path).stages[0].train.identify(files, rows)
    put(tmp_path / "train" / "a" / "1.png", picture(2))
    files.forget()
    assert stream_of(tmp_path).stages[0].train.identify(files, rows) != before


def test_reduced_decoding_keeps_the_size_and_counts_as_another_way(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jpg", picture(3, (640, 480), "jpg"))
    exact, reduced = (images.read_image(path, 64, reduced=way) for way in (False, True))
    assert exact.shape == reduced.shape == (64, 64, 3)
    assert 0 < np.abs(exact.astype(int) - reduced).mean() < 40
    files = Resources().files
    kinds = [images.ImageFiles(tmp_path, ["a.jpg"], np.zeros(1, np.int64), 64, 1, reduced=way) for way in (False, True)]
    assert kinds[0].identify(files) != kinds[1].identify(files)


def test_parts_of_the_combined_set_may_lie_apart(tmp_path: Path) -> None:
    ilab_archive(tmp_path / "one")
    core50_zip(tmp_path / "two")
    roots = (tmp_path / "one", tmp_path / "two")
    resources = Resources(roots=roots, locator=discover().locate)
    prepare.combined(settings.Dirmap(), resources)
    made = stream.build_combined(settings.Dirmap(scenario="class_iid", size=8), resources)
    assert len(made.stages) == 12
    assert made.test.take(np.arange(3))["image"].shape == (3, 8, 8, 3)


# ---- task file lists ----


def core50_by_lists(root: Path) -> tuple[Path, Callable[..., Any]]:
    """Lists of CORe50 in the authors' folders, and a way to the stream of such lists or of other settings."""
    core50_zip(root)
    assert clk("data", "prepare", "crumb:core50", "--data-root", str(root)) == 0
    words = ["crumb", "lists", "core50", "--dirmap", str(root / "core50_dirmap.csv"), "--scenario", "class_instance"]
    assert clk(*words, "--runs", "2", "--output", str(root / "lists")) == 0
    resources = Resources(roots=(root,), locator=discover().locate)

    def build(**chosen: Any) -> Any:
        return stream.build_core50(settings.Dirmap(scenario="class_instance", size=8, **chosen), resources)

    return root / "lists" / "core50_task_filelists" / "class_instance", build


def test_lists_give_the_stream_that_they_were_written_from(tmp_path: Path) -> None:
    place, build = core50_by_lists(tmp_path)
    by_settings, by_lists = build(order=1), build(order=1, lists=str(place / "run{run}" / "stream"))
    files = Resources().files
    for one, other in zip(by_settings.stages, by_lists.stages, strict=True):
        assert one.train.base.identify(files, one.train.rows) == other.train.base.identify(files, other.train.rows)
        assert (one.name, one.classes) == (other.name, other.classes)
    assert len(by_settings.test) == len(by_lists.test)


def test_lists_that_do_not_fit_are_named(tmp_path: Path) -> None:
    place, build = core50_by_lists(tmp_path)
    with pytest.raises(MissingAsset, match="names the folder of one run"):
        build(lists=str(place))
    first = place / "run0" / "stream" / "train_task_00_filelist.txt"
    lines = first.read_text().splitlines()
    for line, message in (
        ("s1/o1/C_01_01_999.png 0", r"line 1 names an image that the dirmap has not"),
        ("s1/o1/C_01_01_010.png", r"line 1 is no line 'path label'"),
        (lines[0].rpartition(" ")[0] + " 7", "stands for"),
    ):
        first.write_text("\n".join([line, *lines[1:]]))
        with pytest.raises(BadInput, match=message):
            build(lists=str(first.parent))
