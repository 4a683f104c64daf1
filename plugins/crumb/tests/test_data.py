"""Dirmaps, lists, samplers and streams; a tree of generated videos from end to end."""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from cl_kernel import BadInput, BadSetting, MissingAsset, Resources, run
from cl_plugin_crumb import settings
from cl_plugin_crumb.commands import data as data_commands
from cl_plugin_crumb.commands import figures
from cl_plugin_crumb.data import base, dirmap, folder, ilab, images, indexes, lists, stream, toy, toybox


class Quiet:
    """A console that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.content: object = None

    def table(self, title: str, columns: object, rows: object) -> None:
        self.lines.append(title)

    def print(self, text: str = "") -> None:
        self.lines.append(text)

    def json(self, content: object) -> None:
        self.content = content


def command(name: str, *words: str) -> tuple[int, Quiet]:
    parser, console = argparse.ArgumentParser(), Quiet()
    handler = getattr(figures if name == "overlay" else data_commands, name)(parser)
    return handler(parser.parse_args(list(words)), console), console


def image_tree(root: Path, sides: dict[str, int], classes: tuple[str, ...] = ("apple", "bear", "cup", "dog")) -> Path:
    rng = np.random.default_rng(0)
    for side, n in sides.items():
        for name in classes:
            (root / side / name).mkdir(parents=True)
            for number in range(n):
                pixels = rng.integers(0, 255, (40, 30, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / side / name / f"{name}_{number}.png")
    return root


def table(**columns: object) -> pd.DataFrame:
    rows = [
        (c, o, s, f, f"c{c}/o{o}/s{s}_{f}.png") for c in range(4) for o in range(2) for s in range(3) for f in range(5)
    ]
    return pd.DataFrame(rows, columns=list(dirmap.COLUMNS)).assign(**columns)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    table().drop(columns="session").to_csv(tmp_path / "a.csv")
    with pytest.raises(BadInput, match="no column session"):
        dirmap.read(tmp_path / "a.csv")


def test_a_path_over_two_lines_is_named_with_its_row(tmp_path: Path) -> None:
    bad = table()
    bad.loc[3, "im_path"] = "c0/my\npicture.png"
    bad.to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(BadInput, match=r"picture.png.*goes over two lines") as error:
        dirmap.read(tmp_path / "a.csv")
    assert "row 5" in str(error.value)


def test_paths_with_spaces_come_back_from_file_lists(tmp_path: Path) -> None:
    rows = table()
    rows["im_path"] = "my pictures/" + rows["im_path"]
    (place,) = lists.write(tmp_path, "mine", rows, "class_iid", n_runs=1, test_sessions=(2,))
    lines = [line.rpartition(" ") for line in (place / "train_task_00_filelist.txt").read_text().splitlines()]
    assert {name for name, _, _ in lines} <= set(rows["im_path"])
    assert {label for _, _, label in lines} == {"0", "1"}


def test_an_absent_dirmap_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(MissingAsset, match="no dirmap"):
        dirmap.read(tmp_path / "a.csv")


def test_a_class_without_training_images_is_named() -> None:
    rows = table()
    rows.loc[rows["class"] == 2, "session"] = 2
    with pytest.raises(BadInput, match="class 2 has no training images"):
        lists.make("mine", rows, "class_iid", test_sessions=(2,))


def test_test_sessions_that_do_not_exist_are_refused() -> None:
    with pytest.raises(BadInput, match="no test images"):
        lists.make("mine", table(), "class_iid", test_sessions=(9,))


def test_an_unknown_scenario_is_refused() -> None:
    with pytest.raises(BadSetting, match="unknown scenario"):
        lists.make("mine", table(), "sideways", test_sessions=(2,))


@pytest.mark.parametrize("scenario", lists.SCENARIOS)
def test_every_training_image_comes_once(scenario: str) -> None:
    made = lists.make("mine", table(), scenario, test_sessions=(2,), n_instance=3, task_size_iid=7)
    everything = pd.concat(made.tasks)
    assert sorted(everything["im_path"]) == sorted(table().query("session < 2")["im_path"])
    assert made.tasks[0]["label"].iloc[0] == 0
    assert set(made.test["label"]) == set(everything["label"])


def test_iid_tasks_overlap_only_as_shipped() -> None:
    ours = lists.make("mine", table(), "iid", test_sessions=(2,), task_size_iid=10)
    shipped = lists.make("mine", table(), "iid", test_sessions=(2,), task_size_iid=10, shipped=True)
    assert not set(ours.tasks[0]["im_path"]) & set(ours.tasks[1]["im_path"])
    assert len(set(shipped.tasks[0]["im_path"]) & set(shipped.tasks[1]["im_path"])) == 1


def test_the_combined_set_keeps_every_class_and_is_balanced() -> None:
    """Class 11 is absent, and no real class may be dropped for it."""
    ilab_rows = [
        (c, o, s, f, f"i{c}/{o}/{s}/{f}.png")
        for c in range(1, 16)
        if c != 11
        for o in (1, 2)
        for s in range(1, 9)
        for f in range(1, 4)
    ]
    core_rows = [
        (c, o, s, f, f"k{c}/{o}/{s}/{f}.png")
        for c in range(1, 11)
        for o in range(1, 3)
        for s in range(1, 12)
        for f in (10, 15, 30)
    ]
    parts = {
        "ilab2mlight": pd.DataFrame(ilab_rows, columns=list(dirmap.COLUMNS)),
        "core50": pd.DataFrame(core_rows, columns=list(dirmap.COLUMNS)),
    }
    combined = lists.prepare(lists.COMBINED, parts)
    made = lists.make(lists.COMBINED, combined, "class_instance", run=3)
    assert len(made.classes) == 24
    assert len(made.tasks) == 12
    assert max(made.classes[:14]) <= 15 < min(made.classes[14:])
    clips = pd.concat(made.tasks)[["class", "object", "session"]].drop_duplicates().groupby("class").size()
    assert clips.nunique() == 1


def test_statistics_and_balance() -> None:
    assert dirmap.imbalances(table()) == []
    found = dirmap.statistics(table(), full_session=5)
    assert found["images per class"] == {str(c): 30.0 for c in range(4)}
    assert found["sessions"] == {"all": 24.0, "with at least 5 images": 24.0}
    uneven = table().iloc[:-3]
    assert dirmap.imbalances(uneven)
    assert len(dirmap.sparse(table(), 2)) == 4 * 2 * 3 * 3


def test_a_folder_of_images_becomes_a_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = image_tree(tmp_path, {"train": 5, "val": 2})
    monkeypatch.chdir(root)
    assert folder.build_folder(settings.Folder(path=".", size=16), Resources()).name == root.name
    made = folder.build_folder(settings.Folder(path=str(root), size=16), Resources(seed=1))
    made.check()
    assert [len(s.train) for s in made.stages] == [10, 10]
    batch = made.stages[0].train.take(np.arange(3))
    assert batch["image"].shape == (3, 16, 16, 3)
    assert set(batch["class"]) <= {0, 1}
    held = folder.build_folder(settings.Folder(path=str(root), size=16, in_memory=True), Resources(seed=1))
    np.testing.assert_array_equal(batch["image"], held.stages[0].train.take(np.arange(3))["image"])


def test_a_broken_image_is_named_or_left_out(tmp_path: Path) -> None:
    root = image_tree(tmp_path, {"train": 5, "val": 2})
    (root / "train" / "bear" / "bear_1.png").write_bytes(b"no image")
    options = settings.Folder(path=str(root), size=16, in_memory=True)
    with pytest.raises(BadInput, match="bear_1"):
        folder.build_folder(options, Resources())
    resources = Resources(on_bad_sample="skip")
    made = folder.build_folder(options, resources)
    assert sum(len(s.train) for s in made.stages) == 19
    assert list(resources.skipped) == ["train/bear/bear_1.png"]


def test_a_class_without_images_is_refused(tmp_path: Path) -> None:
    root = image_tree(tmp_path, {"train": 2, "val": 1})
    for path in (root / "val" / "cup").iterdir():
        path.unlink()
    with pytest.raises(BadInput, match="class cup has no images in val"):
        folder.build_folder(settings.Folder(path=str(root)), Resources())


def test_a_base_folder_leaves_out_what_the_stream_uses(tmp_path: Path) -> None:
    root = image_tree(tmp_path, {"train": 3})
    pixels, labels = base.read_classes(root / "train", 16, skip=1)
    assert pixels.shape == (8, 16, 16, 3)
    assert labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert np.array_equal(pixels[0], images.read_image(root / "train" / "apple" / "apple_1.png", 16))
    with pytest.raises(BadInput, match="class apple has no images after the first 3"):
        base.read_classes(root / "train", 16, skip=3)
    with pytest.raises(MissingAsset, match="nowhere"):
        base.read_classes(tmp_path / "nowhere", 16)


def test_the_toy_data_are_the_same_again_and_differs_by_seed() -> None:
    a, b, c = (toy.stream(seed, n_objects=1, n_frames=2) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a.pixels, b.pixels)
    assert not np.array_equal(a.pixels, c.pixels)
    made = stream.build_toy(settings.Ministream(n_objects=1), Resources(seed=2))
    made.check()
    assert [len(s.classes) for s in made.stages] == [2, 2, 2, 2]


def test_cifar_and_imagenet_and_icub_are_indexed(tmp_path: Path) -> None:
    root = image_tree(tmp_path / "cifar", {"train": 2, "test": 1})
    assert set(indexes.cifar100(root)["session"]) == {0, 1}
    root = image_tree(tmp_path / "imagenet", {"train": 2, "val": 1})
    made, classes = indexes.imagenet(root)
    assert made["class"].max() == 3
    assert classes["wnid"].tolist() == ["apple", "bear", "cup", "dog"]
    for number in (1, 2):
        for session in ("MIX", "SCALE"):
            place = tmp_path / "icub" / "part1" / "mug" / f"mug{number}" / session / "day1" / "left"
            place.mkdir(parents=True)
            for frame in range(21):
                Image.new("RGB", (8, 8)).save(place / f"{frame:03d}.jpg")
    found = indexes.icubworld(tmp_path / "icub")
    assert len(found) == 2 * 2 * 3
    assert set(found["session"]) == {0, 3}
    assert indexes.upsample(root, tmp_path / "big", size=48) == 12
    with Image.open(tmp_path / "big" / "val" / "cup" / "cup_0.png") as image:
        assert image.size == (48, 48)


def test_ilab_s_sample_is_distributed(tmp_path: Path) -> None:
    paths = []
    for instance in range(3):
        for background in range(8):
            for camera in range(16):
                paths.append(f"train_img/boat-i{instance:04d}-b{background:04d}-c{camera:02d}-r00-l0.jpg")
    for path in paths:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(b"x")
    sampled = ilab.sample(ilab.index_folder(tmp_path))
    assert len(sampled) == 3 * 8 * 15
    made = ilab.distribute(sampled, tmp_path, tmp_path / "out")
    assert set(made["class"]) == {1}
    assert dirmap.missing_files(made, tmp_path / "out") == []
    with pytest.raises(BadInput, match="has not 15 images"):
        ilab.distribute(sampled.iloc[:-1], tmp_path, tmp_path / "out2")
    with pytest.raises(BadInput, match="is not CLASS-iNN"):
        ilab.index(["train_img/holiday.jpg"])


def videos(root: Path, *, broken: bool = False) -> Path:
    """A Toybox-form tree: 2 categories x 2 objects x 10 sessions, each clip 8 seconds of one frame a second."""
    program = pytest.importorskip("imageio_ffmpeg", reason="imageio-ffmpeg is not installed").get_ffmpeg_exe()
    root.mkdir(parents=True, exist_ok=True)
    clip = root / "clip.mp4"
    subprocess.run(
        [
            program,
            "-loglevel",
            "error",
            "-f",
            "lavfi",
            "-i",
            "testsrc=size=32x32:rate=2:duration=8",
            "-pix_fmt",
            "yuv420p",
            str(clip),
        ],
        check=True,
        capture_output=True,
    )
    content = clip.read_bytes()
    for group, category in (("households", "cup"), ("animals", "duck")):
        for number in (1, 2):
            place = root / group / f"{category}_{number:02d}_pivothead"
            place.mkdir(parents=True)
            for session in (*toybox.SESSIONS, "present"):
                (place / f"{category}_{number:02d}_pivothead_{session}_x.mp4").write_bytes(content)
    if broken:
        (root / "animals" / "duck_02_pivothead" / "duck_02_pivothead_tx_x.mp4").write_bytes(b"no video at all")
    clip.unlink()
    return root


def test_a_tree_of_videos_becomes_a_balanced_stream(tmp_path: Path) -> None:
    root = videos(tmp_path / "toybox")
    code, console = command("extract", "--root", str(root), "--jobs", "2")
    assert code == 0
    assert console.content["frames"] == 2 * 2 * 10 * 8
    first = next(root.rglob("*_1.png"))
    taken = first.stat().st_mtime_ns
    assert len(toybox.extract(root, on_bad=print)) == 2 * 2 * 10 * 8
    assert first.stat().st_mtime_ns == taken  # done before: nothing is extracted again
    code, _ = command("sample", "toybox", "--root", str(root))
    assert code == 0
    code, console = command("check", str(root / "toybox_dirmap.csv"))
    assert code == 0
    assert console.content == {
        "images": 2 * 2 * 10 * 15,
        "missing": 0,
        "imbalances": [console.content["imbalances"][0]],
    }
    assert "repeat an image" in console.content["imbalances"][0]  # clips of 8 frames are played backwards
    code, _ = command("stats", str(root / "toybox_dirmap.csv"))
    assert code == 0
    code, console = command(
        "lists",
        "toybox",
        "--dirmap",
        str(root / "toybox_dirmap.csv"),
        "--output",
        str(tmp_path / "lists"),
        "--scenario",
        "class_instance",
        "--runs",
        "2",
    )
    assert code == 0
    assert len(console.content["folders"]) == 2
    made = stream.build_toybox(settings.Dirmap(size=16, classes_per_task=1), Resources(roots=(tmp_path,)))
    made.check()
    assert [len(s.train) for s in made.stages] == [2 * 7 * 15] * 2
    assert made.stages[0].train.take(np.arange(2))["image"].shape == (2, 16, 16, 3)


def test_a_tree_of_videos_is_learnt_and_analysed_in_two_styles(tmp_path: Path) -> None:
    root = videos(tmp_path / "toybox")
    for words in (("extract", "--root", str(root), "--jobs", "2"), ("sample", "toybox", "--root", str(root))):
        assert command(*words)[0] == 0
    for path in sorted((root / "images").rglob("*.png")):
        pair = tmp_path / "style" / path.relative_to(root)
        pair.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(255 - images.read_image(path, 16)).save(pair)
    settings_of_run = {
        "dataset.scenario": "class_instance",
        "dataset.size": 32,
        "dataset.classes_per_task": 1,
        "model.weights": "none",
        "learner.start": "none",
        "learner.first_epochs": 1,
        "learner.analyse": True,
        "learner.style": str(tmp_path / "style"),
        "learner.save_every_epoch": True,
        "run.plots": False,
    }
    asked: dict[str, Any] = {
        "dataset": "crumb:toybox",
        "model": "crumb:tiny",
        "learner": "crumb:crumb",
        "memory": "20",
        "data_roots": [str(tmp_path)],
    }
    out = run(output=tmp_path / "run", profile="tiny", settings=settings_of_run, **asked)
    assert out.results["finished"]
    place = next((tmp_path / "run").rglob("mem_stats.csv")).parent
    biased = pd.read_csv(place / "shape_bias_accs_run0_top1.csv")
    assert {"unablated_acc", "spatial_perturb_acc", "style_perturb_acc"} <= set(biased)
    assert (place / "CRUMB_run0_task1_epoch0_mem.pth").is_file()
    first, last = (torch.load(place / f"CRUMB_run0{part}_mem.pth", weights_only=False) for part in ("_start", ""))
    assert first.shape == last.shape
    assert not torch.equal(first, last)
    code, _ = command("overlay", str(tmp_path / "run"), "--output", str(tmp_path / "overlays"), "--images", "3")
    assert code == 0
    drawn = sorted((tmp_path / "overlays").glob("block*_class*.png"))
    assert drawn
    for path in drawn:
        with Image.open(path) as image:
            assert image.size[1] == 32
            assert image.size[0] <= 3 * 32
    next(iter((tmp_path / "style").rglob("*tz_x_3.png"))).unlink()
    with pytest.raises(MissingAsset, match="have no pair"):
        run(output=tmp_path / "again", profile="tiny", settings=settings_of_run, **asked)


def test_a_video_that_cannot_be_read_is_named_or_left_out(tmp_path: Path) -> None:
    root = videos(tmp_path, broken=True)
    with pytest.raises(BadInput, match="ffmpeg cannot read the video"):
        command("extract", "--root", str(root), "--jobs", "1")
    code, console = command("extract", "--root", str(root), "--jobs", "1", "--on-bad-sample", "skip")
    assert code == 0
    assert len(console.content["skipped"]) == 1
