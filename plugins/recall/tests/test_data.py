"""Protocols, VOC trees, tfrecords, the stand-in."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import numpy as np
import pytest

from cl_kernel import BadInput, BadSetting, Cache, MissingAsset, Resources, identify
from cl_kernel.cli.main import main
from cl_plugin_recall.data import files, records, steps, streams, toy
from cl_plugin_recall.data.prepare import MANIFEST, check_tree, prepare
from cl_plugin_recall.data.streams import build_prepared
from cl_plugin_recall.experiments import TESTS, parse_structure
from cl_plugin_recall.settings import Shapes, Voc


def resources(tmp_path: Path, **options: object) -> Resources:
    return Resources(cache=Cache(tmp_path / "cache"), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text, n, sizes",
    [
        ("15-1", 20, (15, 1, 1, 1, 1, 1)),
        ("10-5-5", 20, (10, 5, 5)),
        ("4-1", 8, (4, 1, 1, 1, 1)),
        ("10-2x5", 20, (10, 2, 2, 2, 2, 2)),
        ("19-1", 20, (19, 1)),
        ("joint", 8, (8,)),
        ("20", 20, (20,)),
        ("10-4-6", 20, (10, 4, 6)),
    ],
)
def test_structure_strings_are_read(text: str, n: int, sizes: tuple[int, ...]) -> None:
    assert parse_structure(text, n) == sizes


@pytest.mark.parametrize(
    "text, n", [("15-1", 8), ("10-3", 20), ("10-5-3", 19), ("0-20", 20), ("abc", 20), ("25-5", 20), ("10-4-7", 20)]
)
def test_structures_that_do_not_fit_are_refused(text: str, n: int) -> None:
    with pytest.raises(BadSetting):
        parse_structure(text, n)


def test_test_aliases_are_unique() -> None:
    aliases = [alias for test in TESTS for alias in test.aliases]
    assert len(aliases) == len(set(aliases))


PRESENT = np.array(
    [  # labels 0..4 of four images
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 0, 1, 0, 1],
        [1, 0, 0, 1, 0],
    ],
    bool,
)


@pytest.mark.parametrize(
    "protocol, classes, rows",
    [
        ("sequential", [1, 2], [0, 1]),
        ("disjoint", [1, 2], [0, 1]),
        ("overlapped", [1, 2], [0, 1, 2]),
        ("overlapped", [4], [2]),
        ("sequential", [3], [3]),
    ],
)
def test_protocols_choose_images(protocol: str, classes: list[int], rows: list[int]) -> None:
    assert steps.rows_of_step(PRESENT, classes, protocol).tolist() == rows


@pytest.mark.parametrize(
    "protocol, label",
    [("sequential", [0, 1, 3, 4, 255, 0]), ("disjoint", [0, 0, 3, 4, 255, 0]), ("overlapped", [0, 0, 3, 4, 255, 0])],
)
def test_protocols_choose_labels(protocol: str, label: list[int]) -> None:
    assert steps.labels_of_step([3, 4], protocol)[[0, 1, 3, 4, 255, 5]].tolist() == label


def test_the_stand_in_is_a_stream_of_declared_classes(tmp_path: Path) -> None:
    stream = toy.build(Shapes(structure="10-5", per_class_first=2, per_class_later=2, n_val=40), resources(tmp_path))
    stream.check()
    assert [stage.classes for stage in stream.stages] == [
        tuple(range(1, 11)),
        tuple(range(11, 16)),
        tuple(range(16, 21)),
    ]
    for stage in stream.stages:
        seen = set(
            np.unique(
                np.concatenate([m.reshape(-1) for m in stage.train.take(np.arange(len(stage.train)), ["mask"])["mask"]])
            )
        )
        assert seen <= {0, 255, *stage.classes}
    rows = np.concatenate(list(stream.test_sets.values()))
    assert sorted(rows.tolist()) == list(range(40))


def test_another_seed_gives_other_images(tmp_path: Path) -> None:
    settings = Shapes(per_class_first=2, per_class_later=2, n_val=20)
    first, again, other = (
        identify("stage", samples=toy.build(settings, resources(tmp_path, seed=seed)).stages[0].train).key
        for seed in (0, 0, 1)
    )
    assert first == again != other


def test_a_voc_tree_is_read_with_its_palette_labels(voc: Path, tmp_path: Path) -> None:
    stream = build(voc, tmp_path, structure="4-1")
    stream.check()
    assert stream.class_names == ("background", *(f"thing{k}" for k in range(1, 7)))
    masks = stream.stages[1].train.take(np.arange(3), ["mask"])["mask"]
    assert {int(v) for mask in masks for v in np.unique(mask)} <= {0, 5, 255}
    assert len({mask.shape for mask in masks}) > 1


def build(root: Path, tmp_path: Path, **options: object) -> object:
    skip = options.pop("on_bad_sample", "fail")
    return streams.build(attrs.evolve(Voc(folder=str(root)), **options), resources(tmp_path, on_bad_sample=skip))


def test_a_label_above_the_class_count_is_named(voc: Path, tmp_path: Path) -> None:
    from PIL import Image

    bad = voc / "SegmentationClass" / "train_2_0.png"
    mask = np.asarray(Image.open(bad)).copy()
    mask[0, 0] = 77
    Image.fromarray(mask, "L").save(bad)
    with pytest.raises(BadInput, match=r"label 77(.|\n)*train_2_0.png"):
        build(voc, tmp_path, structure="4-1")


@pytest.mark.parametrize("part, name", [("SegmentationClass", "train_1_0.png"), ("JPEGImages", "train_1_0.jpg")])
def test_a_missing_partner_is_named(voc: Path, tmp_path: Path, part: str, name: str) -> None:
    (voc / part / name).unlink()
    with pytest.raises(BadInput, match=name):
        build(voc, tmp_path, structure="4-1")


def test_an_undecodable_jpeg_is_named_or_skipped_and_counted(voc: Path, tmp_path: Path) -> None:
    path = voc / "JPEGImages" / "train_1_0.jpg"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(BadInput, match=r"train_1_0.jpg"):
        build(voc, tmp_path, structure="4-1")
    where = resources(tmp_path, on_bad_sample="skip")
    stream = streams.build(Voc(folder=str(voc), structure="4-1"), where)
    assert list(where.skipped) == [str(path)]
    assert not any("train_1_0" in stream.stages[0].train.where(row) for row in range(len(stream.stages[0].train)))


def test_an_image_of_another_size_than_its_label_is_named(voc: Path, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (9, 9)).save(voc / "JPEGImages" / "train_1_0.jpg")
    with pytest.raises(BadInput, match="9x9"):
        build(voc, tmp_path, structure="4-1")


def test_duplicate_class_names_are_refused(voc: Path, tmp_path: Path) -> None:
    (voc / "classes.txt").write_text("a\nb\na\nd\ne\nf\n")
    with pytest.raises(BadInput, match="'a' is named twice"):
        build(voc, tmp_path, structure="4-1")


def test_a_missing_data_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingAsset, match="VOC2012"):
        streams.build(Voc(), resources(tmp_path))


def test_an_image_in_both_lists_is_refused(voc: Path, tmp_path: Path) -> None:
    listing = voc / "ImageSets/Segmentation/val.txt"
    listing.write_text(listing.read_text() + "train_1_0\n")
    with pytest.raises(BadInput, match="both lists"):
        build(voc, tmp_path, structure="4-1")


def test_steps_without_own_validation_images_use_all_of_them(voc: Path, tmp_path: Path) -> None:
    listing = voc / "ImageSets/Segmentation/val.txt"
    listing.write_text(
        "".join(f"{name}\n" for name in listing.read_text().split() if name.startswith(("val_6", "val_1")))
    )
    assert list(build(voc, tmp_path, structure="4-1").test_sets) == ["val"]  # type: ignore[attr-defined]
    with pytest.raises(BadInput, match="thing5"):
        build(voc, tmp_path, structure="4-1", validation="cumulative")


def test_preparing_twice_does_nothing_the_second_time(voc: Path, tmp_path: Path) -> None:
    settings, where = Voc(folder=str(voc), structure="4-1"), resources(tmp_path)
    root = prepare(settings, where)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*.tfrecord")}
    assert len(before) == 2 + 2 * 3 + 6
    assert prepare(settings, where) == root
    assert before == {path: path.stat().st_mtime_ns for path in root.rglob("*.tfrecord")}
    victim = sorted(before)[0]
    victim.unlink()
    prepare(settings, where)
    changed = [path for path in before if path.stat().st_mtime_ns != before[path]]
    assert changed == [victim]
    manifest = json.loads((root / MANIFEST).read_text())
    assert {name for name, _ in check_tree(root)} == set(manifest)


def test_prepared_records_give_the_stream_of_the_tree(voc: Path, tmp_path: Path) -> None:
    settings, where = (
        Voc(
            folder=str(voc),
            structure="4-1",
            protocol="disjoint",
            protocol_first="sequential",
            protocol_helpers="sequential",
        ),
        resources(tmp_path),
    )
    direct = streams.build(settings, where)
    root = prepare(settings, where)
    again = build_prepared(attrs.evolve(settings, folder=str(root)), where)
    assert [len(s.train) for s in direct.stages] == [len(s.train) for s in again.stages]
    for a, b in zip(direct.stages, again.stages, strict=True):
        for x, y in zip(a.train.take(np.arange(2))["mask"], b.train.take(np.arange(2))["mask"], strict=True):
            np.testing.assert_array_equal(x, y)
    assert {k: len(v) for k, v in direct.test_sets.items()} == {k: len(v) for k, v in again.test_sets.items()}
    assert direct.stages[1].info["helper_rows"] == again.stages[1].info["helper_rows"]


def test_a_truncated_record_file_is_named(voc: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.tfrecord"
    n = records.write_records(path, files.pairs_of_folders(voc / "JPEGImages", voc / "SegmentationClass"))
    assert n == 36 and len(records.index_records(path)) == 36
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(BadInput, match=r"record 35(.|\n)*a.tfrecord"):
        records.index_records(path)


def test_folders_are_paired_by_stem_and_missing_partners_named(voc: Path) -> None:
    (voc / "SegmentationClass" / "train_1_0.png").unlink()
    with pytest.raises(BadInput, match="train_1_0"):
        list(files.pairs_of_folders(voc / "JPEGImages", voc / "SegmentationClass"))


def test_numbered_files_come_in_numeric_order(tmp_path: Path) -> None:
    for name in ("10", "9", "2", "b", "a"):
        (tmp_path / f"{name}.jpg").write_bytes(b"")
    assert list(files.stems(tmp_path, (".jpg",))) == ["2", "9", "10", "a", "b"]


def test_a_list_file_names_its_bad_line(tmp_path: Path) -> None:
    listing = tmp_path / "list.txt"
    listing.write_text("a.jpg  a.png\n")
    with pytest.raises(BadInput, match="line 1"):
        list(files.pairs_of_list(listing))


@pytest.mark.parametrize("mode", records.MODES)
def test_every_reader_mode_reads(voc: Path, tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.tfrecord"
    records.write_records(path, files.pairs_of_folders(voc / "JPEGImages", voc / "SegmentationClass"))
    element = next(iter(records.read_dataset(tmp_path, mode, size=33)))
    wanted = {
        "training": {"input", "label"},
        "validation": {"input", "label"},
        "validation+": {"input", "label", "rgb_input"},
        "images": {"input"},
        "images_and_labels": {"input", "label"},
    }.get(mode, {"input"})
    assert set(element) == wanted
    if mode in ("training", "resize_images", "resize_images_and_subtract_mean"):
        assert element["input"].shape == (33, 33, 3)


def test_an_unknown_reader_mode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="trainig"):
        records.read_dataset([tmp_path / "a"], "trainig")


def test_sbd_labels_join_a_voc_tree_once(voc: Path, tmp_path: Path) -> None:
    from PIL import Image

    savemat = pytest.importorskip("scipy.io").savemat
    sbd = tmp_path / "sbd" / "dataset"
    for part in ("cls", "img"):
        (sbd / part).mkdir(parents=True)
    label = np.zeros((30, 40), np.uint8)
    label[3:9, 4:20] = 5
    for name in ("more_0", "more_1", "val_1_0", "train_1_0"):
        savemat(sbd / "cls" / f"{name}.mat", {"GTcls": {"Segmentation": label, "CategoriesPresent": [5]}})
        Image.new("RGB", (40, 30)).save(sbd / "img" / f"{name}.jpg")
    (sbd / "train.txt").write_text("more_0\nval_1_0\n")
    (sbd / "val.txt").write_text("more_1\ntrain_1_0\n")
    command = ["recall", "import-sbd", str(tmp_path / "sbd"), "--voc", str(voc)]
    assert main(command) == 0
    names = (voc / "ImageSets/Segmentation/trainaug.txt").read_text().split()
    assert len(names) == 20 and {"more_0", "more_1"} < set(names) and "val_1_0" not in names
    stream = build(voc, tmp_path, structure="4-1")
    masks = stream.stages[1].train.take(np.arange(len(stream.stages[1].train)), ["mask"])["mask"]  # type: ignore[attr-defined]
    assert sum(mask.shape == label.shape and (mask == label).all() for mask in masks) == 2
    before = (voc / "SegmentationClassAug" / "more_0.png").stat().st_mtime_ns
    assert main(command) == 0 and (voc / "SegmentationClassAug" / "more_0.png").stat().st_mtime_ns == before
    (voc / "SegmentationClassAug" / "more_0.png").unlink()
    (sbd / "cls" / "more_0.mat").write_bytes(b"MATLAB")
    assert main(command) == 2


def test_records_are_made_from_folders_and_lists(voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = ["--images", str(voc / "JPEGImages"), "--labels", str(voc / "SegmentationClass")]
    assert main(["recall", "make-records", str(tmp_path / "a.tfrecord"), *folders]) == 0
    listing = voc / "list.txt"
    listing.write_text("JPEGImages/train_1_0.jpg SegmentationClass/train_1_0.png\n")
    for k, more in enumerate(([], ["--without-labels"])):
        path = tmp_path / f"{k}.tfrecord"
        assert main(["recall", "make-records", str(path), "--list", str(listing), *more]) == 0
        assert len(records.index_records(path)) == 1
    assert len(records.index_records(tmp_path / "a.tfrecord")) == 36
    assert main(["recall", "make-records", str(tmp_path / "b.tfrecord")]) == 2
    assert "list file or a folder" in capsys.readouterr().err


def test_an_imported_tree_is_checked_and_its_damage_named(
    voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = prepare(Voc(folder=str(voc), structure="4-1"), resources(tmp_path))
    assert main(["recall", "import-data", str(root)]) == 0
    assert "all records whole" in capsys.readouterr().out
    victim = next((root / "data" / "validation").glob("*.tfrecord"))
    victim.write_bytes(victim.read_bytes()[:-7])
    assert main(["recall", "import-data", str(root)]) == 2
    assert victim.name in capsys.readouterr().err
    assert main(["recall", "import-data", str(tmp_path)]) == 2
