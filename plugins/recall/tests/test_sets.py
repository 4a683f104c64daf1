"""Data sets in the forms in which they are published, class orders, and masks of any kind."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from PIL import Image

from cl_kernel import BadInput, BadSetting, Cache, MissingAsset, Resources, UnknownName
from cl_plugin_recall.data import ade20k, cityscapes, streams
from cl_plugin_recall.data.cropping import choose_window, decode_window
from cl_plugin_recall.data.files import encode_jpeg
from cl_plugin_recall.data.images import augment, decode_jpeg, subtract_mean
from cl_plugin_recall.data.masks import Coloured
from cl_plugin_recall.data.orders import PUBLISHED, steps_of
from cl_plugin_recall.data.voc import VocFolder
from cl_plugin_recall.network.inputs import InputSpec
from cl_plugin_recall.settings import Ade20k, Cityscapes, Folder, Voc

from .conftest import write_voc


def resources(tmp_path: Path, **options: Any) -> Resources:
    return Resources(cache=Cache(tmp_path / "cache"), **options)


def save_mask(path: Path, mask: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.astype(np.uint8)).save(path)


def save_image(path: Path, height: int = 24, width: int = 32, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)


NAMES = ("a", "b", "c", "d", "e", "f")


@pytest.mark.parametrize(
    "order, structure, steps",
    [
        ("", "4-1", [[1, 2, 3, 4], [5], [6]]),
        ("6,5,4,3,2,1", "4-1", [[6, 5, 4, 3], [2], [1]]),
        ("c,b,a/f/d,e", "order", [[3, 2, 1], [6], [4, 5]]),
        ("c,b,a/f/d,e", "3-1-2", [[3, 2, 1], [6], [4, 5]]),
        ("", "2-1-3", [[1, 2], [3], [4, 5, 6]]),
    ],
)
def test_orders_make_steps(order: str, structure: str, steps: list[list[int]]) -> None:
    assert steps_of(order, structure, NAMES) == steps


@pytest.mark.parametrize(
    "order, structure, words",
    [
        ("1,2,3", "4-1", "missing"),
        ("1,1,2,3,4,5,6", "4-1", "twice"),
        ("1,2,3,4,5,7", "4-1", "unknown"),
        ("1,2/3,4,5,6", "4-1", "makes steps"),
        ("1,2,3,4,5,6", "order", "slashes"),
        ("voc-b", "4-1", "no permutation"),
    ],
)
def test_orders_that_do_not_fit_are_refused(order: str, structure: str, words: str) -> None:
    with pytest.raises(BadSetting, match=words):
        steps_of(order, structure, NAMES)
    with pytest.raises(UnknownName):
        steps_of("voc-z", structure, NAMES)


def test_published_orders_are_permutations() -> None:
    for name, order in PUBLISHED.items():
        assert sorted(order) == list(range(1, (20 if name.startswith("voc") else 150) + 1)), name


def test_another_order_renumbers_labels_and_names(voc: Path, tmp_path: Path) -> None:
    settings = Voc(folder=str(voc), structure="order", order="6,2,4,1/3/5", validation="full")
    stream = streams.build(settings, resources(tmp_path))
    stream.check()
    assert stream.class_names == ("background", "thing6", "thing2", "thing4", "thing1", "thing3", "thing5")
    assert [stage.classes for stage in stream.stages] == [(1, 2, 3, 4), (5,), (6,)]
    raw = streams.build(Voc(folder=str(voc), structure="joint", validation="full"), resources(tmp_path))
    ours, theirs = (s.test.take(np.arange(len(s.test)), ["mask"])["mask"] for s in (stream, raw))
    number = {0: 0, 255: 255, 6: 1, 2: 2, 4: 3, 1: 4, 3: 5, 5: 6}
    for a, b in zip(ours, theirs, strict=True):
        assert (a == np.vectorize(number.get)(b)).all()
    assert {
        int(v) for mask in stream.stages[1].train.take(np.arange(2), ["mask"])["mask"] for v in np.unique(mask)
    } <= {0, 5, 255}


# ---- VOC as it is passed on -------------------------------------------------------------------------


def test_voc_is_found_where_its_archive_unpacks(voc: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.move(voc, root / "VOCdevkit" / "VOC2012")
    assert len(streams.build(Voc(structure="4-1"), resources(tmp_path, roots=(root,))).stages) == 3


def test_train_aug_lists_of_paths_marks_and_byte_order_are_read(voc: Path, tmp_path: Path) -> None:
    (voc / "SegmentationClassAug").mkdir()
    names = VocFolder(voc).names("train")
    for name in names[1:]:
        shutil.move(voc / "SegmentationClass" / f"{name}.png", voc / "SegmentationClassAug" / f"{name}.png")
    (voc / "ImageSets" / "SegmentationAug").mkdir()
    lines = [f"/JPEGImages/{name}.jpg /SegmentationClassAug/{name}.png" for name in names[1:]]
    listing = voc / "ImageSets" / "SegmentationAug" / "train_aug.txt"
    listing.write_text("\ufeff" + "\r\n".join(lines) + "\r\n", encoding="utf-8")
    folder = VocFolder(voc)
    assert folder.training_list("") == "train_aug" and folder.names("train_aug") == names[1:]
    stream = streams.build(Voc(folder=str(voc), structure="joint"), resources(tmp_path))
    assert len(stream.stages[0].train) == len(names) - 1
    listing.write_text("a b c\n")
    with pytest.raises(BadInput, match="line 1"):
        folder.names("train_aug")


def test_png_images_are_read(voc: Path, tmp_path: Path) -> None:
    for path in (voc / "JPEGImages").glob("train_*.jpg"):
        Image.open(path).save(path.with_suffix(".png"))
        path.unlink()
    stream = streams.build(Voc(folder=str(voc), structure="joint"), resources(tmp_path))
    assert stream.stages[0].train.take(np.array([0]), ["image"])["image"][0][:4] == b"\x89PNG"


def test_other_labels_under_the_same_names_are_another_stream(voc: Path, tmp_path: Path) -> None:
    from cl_kernel import identify

    def identity() -> str:
        stream = streams.build(Voc(folder=str(voc), structure="joint"), resources(tmp_path))
        return identify("stage", samples=stream.stages[0].train).key

    first, again = identity(), identity()
    path = sorted((voc / "SegmentationClass").glob("train_*.png"))[0]
    mask = np.asarray(Image.open(path)).copy()
    mask[1:3, 1:3] = 2
    Image.fromarray(mask).save(path)
    assert first == again != identity()
    shutil.copytree(voc, tmp_path / "copy")
    moved = streams.build(Voc(folder=str(tmp_path / "copy"), structure="joint"), resources(tmp_path))
    assert identify("stage", samples=moved.stages[0].train).key == identity()


def test_a_class_that_no_image_shows_is_named(voc: Path, tmp_path: Path) -> None:
    (voc / "classes.txt").write_text("".join(f"thing{k}\n" for k in range(1, 8)))
    with pytest.raises(BadInput, match="thing7"):
        streams.build(Voc(folder=str(voc), structure="joint"), resources(tmp_path))


# ---- folders ----------------------------------------------------------------------------------------

COLOURS = {"road": (128, 64, 128), "car": (0, 0, 142)}


def write_folder(root: Path, *, coloured: bool, shift: int = 1) -> Path:
    for part in ("train", "val"):
        for k in range(4):
            name = f"{part} {k}"
            save_image(root / "images" / part / f"{name}.{'png' if k % 2 else 'jpg'}", seed=k)
            mask = np.zeros((24, 32), np.uint8)
            mask[2:12, 2:12] = 1
            mask[14:20, 14:30] = 2
            if coloured:
                rgb = np.zeros((24, 32, 3), np.uint8)
                rgb[mask == 1], rgb[mask == 2] = COLOURS["road"], COLOURS["car"]
                save_mask(root / "masks" / part / f"{name}.png", rgb)
            else:
                save_mask(root / "masks" / part / f"{name}.png", np.maximum(mask.astype(int) - 1 + shift, 0))
    lines = [f"{n} {r} {g} {b}" if coloured else n for n, (r, g, b) in COLOURS.items()]
    (root / "classes.txt").write_text("\n".join(lines) + "\n")
    return root


@pytest.mark.parametrize("coloured", [False, True])
def test_any_folder_is_a_stream(tmp_path: Path, coloured: bool) -> None:
    root = write_folder(tmp_path / "set", coloured=coloured)
    stream = streams.build_folder(Folder(folder=str(root), structure="1-1"), resources(tmp_path))
    stream.check()
    assert stream.class_names == ("background", "road", "car")
    (mask,) = stream.test.take(np.array([0]), ["mask"])["mask"]
    assert mask[5, 5] == 1 and mask[16, 20] == 2 and mask[0, 0] == 0


def test_a_folder_without_background_begins_with_label_0(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", coloured=False, shift=0)
    settings = Folder(folder=str(root), structure="1-1", background=False)
    stream = streams.build_folder(settings, resources(tmp_path))
    (mask,) = stream.test.take(np.array([0]), ["mask"])["mask"]
    assert mask[0, 0] == 1 and mask[16, 20] == 2
    assert stream.info["background"] is False
    save_mask(root / "masks" / "train" / "train 0.png", np.full((24, 32), 9))
    with pytest.raises(BadInput, match="label value 9"):
        streams.build_folder(settings, resources(tmp_path))


def test_a_colour_outside_the_palette_is_named_with_its_file(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", coloured=True)
    path = root / "masks" / "train" / "train 1.png"
    rgb = np.asarray(Image.open(path)).copy()
    rgb[3, 3] = (1, 2, 3)
    Image.fromarray(rgb).save(path)
    with pytest.raises(BadInput, match=r"colour 1 2 3 .*1 pixels") as caught:
        streams.build_folder(Folder(folder=str(root), structure="1-1"), resources(tmp_path))
    assert "train 1.png" in str(caught.value)
    assert Coloured({(9, 9, 9): 1}).describe() != Coloured({(9, 9, 8): 1}).describe()


def test_what_a_folder_lacks_is_named(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", coloured=False)
    (root / "masks" / "val" / "val 2.png").unlink()
    with pytest.raises(BadInput, match="'val 2' has no mask"):
        streams.build_folder(Folder(folder=str(root)), resources(tmp_path))
    (root / "classes.txt").write_text("road 1 2 3\ncar\n")
    with pytest.raises(BadInput, match="1 of 2 classes have a colour"):
        streams.build_folder(Folder(folder=str(root)), resources(tmp_path))
    with pytest.raises(MissingAsset):
        streams.build_folder(Folder(folder=str(tmp_path / "nowhere")), resources(tmp_path))


# ---- ADE20K and Cityscapes --------------------------------------------------------------------------


def write_ade(root: Path) -> Path:
    head = "Idx\tRatio\tTrain\tVal\tStuff\tName"
    rows = [f"{k}\t0.1\t10\t1\t0\tthing{k}, other" for k in range(1, 151)]
    root.mkdir(parents=True)
    (root / "objectInfo150.txt").write_text("\n".join([head, *rows]) + "\n")
    for part in ("training", "validation"):
        for k in range(15):
            save_image(root / "images" / part / f"ADE_{part}_{k:08d}.jpg", seed=k)
            mask = np.repeat(np.arange(24)[:, None], 32, 1) // 2 % 11  # rows of 0 .. 10
            mask = np.where(mask == 0, 0, 10 * k + mask)
            save_mask(root / "annotations" / part / f"ADE_{part}_{k:08d}.png", mask)
    return root


def test_ade20k_is_read_as_published(tmp_path: Path) -> None:
    root = write_ade(tmp_path / "data" / "ADEChallengeData2016")
    settings = Ade20k(structure="100-10", validation="full")
    stream = streams.build_ade20k(settings, resources(tmp_path, roots=(tmp_path / "data",)))
    stream.check()
    assert [len(stage.classes) for stage in stream.stages] == [100, 10, 10, 10, 10, 10]
    assert stream.class_names[1] == "thing1" and stream.info["background"] is False
    (train,) = stream.stages[0].train.take(np.array([0]), ["mask"])["mask"]
    (val,) = stream.test.take(np.array([0]), ["mask"])["mask"]
    assert train[0, 0] == 0 and val[0, 0] == 255
    other = streams.build_ade20k(
        attrs.evolve(settings, order="ade-b", structure="50-50"), resources(tmp_path, roots=(root,))
    )
    assert other.class_names[1:4] == ("thing1", "thing9", "thing14") and len(other.stages) == 3


def write_cityscapes(root: Path, kind: str) -> Path:
    for part, cities in (("train", ("aachen", "bochum")), ("val", ("munster",))):
        for city in cities:
            for k in range(10):
                stem = f"{city}_{k:06d}_000019"
                save_image(root / "leftImg8bit" / part / city / f"{stem}_leftImg8bit.png", seed=k)
                ids = np.array(cityscapes.IDS)[np.arange(24) % 19][:, None].repeat(32, 1)
                ids[0] = 4
                if kind == "labelTrainIds":
                    ids = np.vectorize(lambda i: cityscapes.IDS.index(i) if i in cityscapes.IDS else 255)(ids)
                save_mask(root / "gtFine" / part / city / f"{stem}_gtFine_{kind}.png", ids)
    return root


@pytest.mark.parametrize("kind", ["labelIds", "labelTrainIds"])
def test_cityscapes_is_read_as_published(tmp_path: Path, kind: str) -> None:
    root = write_cityscapes(tmp_path / "cityscapes", kind)
    settings = Cityscapes(structure="13-1", validation="full", folder=str(root))
    stream = streams.build_cityscapes(settings, resources(tmp_path))
    stream.check()
    assert len(stream.stages) == 7 and stream.class_names[1] == "road" and stream.class_names[19] == "bicycle"
    (mask,) = stream.test.take(np.array([0]), ["mask"])["mask"]
    assert mask[0, 0] == 255 and mask[1, 0] == 2 and mask[18, 0] == 19


def test_cityscapes_by_city_brings_all_classes_first(tmp_path: Path) -> None:
    root = write_cityscapes(tmp_path / "cityscapes", "labelIds")
    settings = Cityscapes(by="city", structure="1-1", folder=str(root))
    stream = streams.build_cityscapes(settings, resources(tmp_path))
    stream.check()
    assert [stage.name for stage in stream.stages] == ["aachen", "bochum", "munster"]
    assert [len(stage.classes) for stage in stream.stages] == [19, 0, 0]
    assert [len(stage.train) for stage in stream.stages] == [8, 8, 8]
    assert {name: len(rows) for name, rows in stream.test_sets.items()} == {"aachen": 2, "bochum": 2, "munster": 2}


def test_a_missing_annotation_is_named(tmp_path: Path) -> None:
    root = write_ade(tmp_path / "ade")
    (root / "annotations" / "training" / "ADE_training_00000003.png").unlink()
    with pytest.raises(BadInput, match="ADE_training_00000003"):
        ade20k.pairs(root, "training")
    city = write_cityscapes(tmp_path / "cityscapes", "labelIds")
    next((city / "gtFine").rglob("*.png")).unlink()
    with pytest.raises(BadInput, match="1 of 30 images have no label"):
        cityscapes.pairs(city, ("train", "val"))


# ---- crops ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_cropping_first_gives_what_scaling_first_gives(seed: int) -> None:
    from cl_plugin_recall.backend import tf

    rng = np.random.default_rng(seed)
    height, width, size = int(rng.integers(30, 140)), int(rng.integers(30, 140)), 65
    coarse = rng.integers(0, 255, (18, 18, 3), dtype=np.uint8)
    data = tf.constant(encode_jpeg(np.kron(coarse, np.ones((8, 8, 1), np.uint8))[:height, :width], 90))
    mask = rng.integers(0, 21, (height, width)).astype(np.uint8)
    spec = InputSpec()
    for scale in (0.5, 0.73, 1.0, 1.5):
        draws = rng.random(3).astype(np.float32)
        want, label = augment(
            subtract_mean(decode_jpeg(data), spec),
            tf.constant(mask[..., None]),
            scale=tf.constant(scale, tf.float32),
            flip=draws[0],
            offset=None,
            draws=tf.constant(draws[1:]),
            size=size,
        )
        window = choose_window(mask.shape, np.float32(scale), draws, size)
        found, labelled = np.empty((size, size, 3), np.float32), np.empty((size, size), np.uint8)
        window.image(decode_window(data.numpy(), window, ""), spec, found)
        window.label(np.arange(256, dtype=np.uint8), mask, labelled)
        np.testing.assert_allclose(found, want.numpy(), atol=0.001 if scale != 1.0 else 0)
        assert (labelled == label.numpy()[..., 0]).all()


def test_voc_trees_of_tests_have_what_they_say(tmp_path: Path) -> None:
    assert VocFolder(write_voc(tmp_path / "v", 3, 1)).classes() == ("thing1", "thing2", "thing3")
