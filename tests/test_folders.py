"""Images of one's own: folders in torchvision's layout, and Hugging Face's library."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from cl_kernel import discover
from cl_kernel.contract.errors import BadInput, BadSetting
from cl_kernel.data.samples import Subset
from cl_kernel.library.datasets.folder_settings import Folder, HuggingFace
from cl_kernel.library.datasets.folders import EncodedImages, build_folder, build_hugging_face
from cl_kernel.running.resources import Resources
from cl_kernel.running.session import Request, plan, run_plan
from cl_kernel.storage.cache import Cache

Image = pytest.importorskip("PIL.Image")
CLASSES = ("ant", "bee", "cat", "dog")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Four classes that differ in brightness, images of different sizes and modes."""
    rng = np.random.default_rng(0)
    for side, n in (("train", 6), ("val", 3)):
        for k, name in enumerate(CLASSES):
            folder = tmp_path / "tree" / side / name
            folder.mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 20, (10 + i, 16 - i, 3)) + 60 * k
                image = Image.fromarray(pixels.astype(np.uint8))
                (image.convert("L") if i == 0 else image).save(folder / f"{i}.png")
    return tmp_path / "tree"


def resources(**values: object) -> Resources:
    return Resources(n_workers=2, **values)


def test_a_folder_becomes_a_stream_with_its_classes_and_both_sides(tree: Path) -> None:
    stream = build_folder(Folder(path=str(tree), n_stages=2, size=8), resources())
    stream.check()
    assert stream.class_names == CLASSES
    assert [stage.classes for stage in stream.stages] == [(0, 1), (2, 3)]
    assert [len(stage.train) for stage in stream.stages] == [12, 12]
    assert len(stream.test) == 12
    batch = stream.stages[1].train.take(np.arange(12))
    assert batch["image"].shape == (12, 8, 8, 3)
    brightness = batch["image"].reshape(12, -1).mean(1)
    assert ((brightness - 60 * batch["class"] > 0) & (brightness - 60 * batch["class"] < 20)).all()


def test_decoding_late_gives_the_images_of_decoding_early(tree: Path) -> None:
    early = build_folder(Folder(path=str(tree), n_stages=2, size=8), resources())
    late = build_folder(Folder(path=str(tree), n_stages=2, size=8, keep_mb=0), resources())
    assert isinstance(late.stages[0].train, Subset)
    assert isinstance(late.stages[0].train.base, EncodedImages)
    rows = np.array([3, 0, 3, 11])
    for a, b in zip(early.stages, late.stages, strict=True):
        assert all(np.array_equal(x, b.train.take(rows)[name]) for name, x in a.train.take(rows).items())


def test_labels_alone_decode_nothing(tree: Path) -> None:
    stream = build_folder(Folder(path=str(tree), n_stages=2, keep_mb=0), resources())
    shutil.rmtree(tree)
    assert stream.stages[0].train.take(np.arange(3), ["class"])["class"].shape == (3,)
    with pytest.raises(BadInput, match="cannot be decoded"):
        stream.stages[0].train.take(np.arange(1))


def test_without_a_test_side_a_part_of_each_class_is_held_back(tree: Path) -> None:
    stream = build_folder(Folder(path=str(tree / "train"), n_stages=4, test_share=0.34), resources())
    assert [len(stage.train) for stage in stream.stages] == [4] * 4
    assert [len(rows) for rows in stream.test_sets.values()] == [2] * 4


@pytest.mark.parametrize("keep_mb", [256.0, 0.0])
def test_a_corrupt_image_is_named_or_skipped_and_counted(tree: Path, keep_mb: float) -> None:
    bad = tree / "train" / "bee" / "2.png"
    bad.write_bytes(bad.read_bytes()[:60])
    settings = Folder(path=str(tree), n_stages=2, keep_mb=keep_mb)
    with pytest.raises(BadInput, match=r"bee/2\.png"):
        stream = build_folder(settings, resources())
        stream.stages[0].train.take(np.arange(len(stream.stages[0].train)))
    tolerant = resources(on_bad_sample="skip")
    stream = build_folder(settings, tolerant)
    assert len(stream.stages[0].train) == 11
    assert list(tolerant.skipped) == [str(bad)]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda tree: (tree / "val" / "eel").mkdir(), "classes without training images: eel"),
        (lambda tree: (tree / "train" / "eel").mkdir(), "no training samples of class eel"),
        (lambda tree: shutil.rmtree(tree / "val" / "dog"), "no test samples of class dog"),
        (lambda tree: [shutil.rmtree(tree / "train" / name) for name in CLASSES], "no folder of a class"),
        (lambda tree: shutil.rmtree(tree), "is no folder"),
    ],
)
def test_a_wrong_folder_is_named(tree: Path, damage, message: str) -> None:
    damage(tree)
    with pytest.raises(BadInput, match=message):
        build_folder(Folder(path=str(tree), n_stages=1), resources())


def test_a_split_that_drops_a_class_is_refused(tree: Path) -> None:
    with pytest.raises(BadInput, match="4 classes do not divide into 3 equal stages"):
        build_folder(Folder(path=str(tree), n_stages=3), resources())
    uneven = build_folder(Folder(path=str(tree), stage_sizes=(1, 3)), resources())
    assert [stage.classes for stage in uneven.stages] == [(0,), (1, 2, 3)]
    with pytest.raises(BadSetting, match="no folder named"):
        build_folder(Folder(), resources())


def test_a_class_of_one_image_is_named_where_nothing_says_which_are_for_testing(tree: Path) -> None:
    shutil.rmtree(tree / "val")
    for path in sorted((tree / "train" / "bee").iterdir())[1:]:
        path.unlink()
    with pytest.raises(BadInput, match="class bee has 1 image: one to learn from"):
        build_folder(Folder(path=str(tree), n_stages=1), Resources())


def test_a_folder_runs_by_name_on_the_command_line_form(tree: Path, tmp_path: Path) -> None:
    registry = discover(only=())
    values = {
        "dataset": f"folder:{tree}",
        "learner": "linear",
        "dataset.n_stages": 2,
        "dataset.size": 8,
        "run.plots": False,
    }
    outcome = run_plan(registry, plan(registry, Request(overrides=(("test", values),))), tmp_path / "run")
    assert outcome.results["data"]["name"] == "tree"
    assert outcome.results["stages"] == ["ant+bee", "cat+dog"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_hugging_face_data_set_becomes_the_same_stream(tree: Path, tmp_path: Path, monkeypatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    datasets.disable_progress_bars()
    features = datasets.Features({"picture": datasets.Image(), "kind": datasets.ClassLabel(names=list(CLASSES))})
    sides = {}
    for side in ("train", "val"):
        files = [(str(path), k) for k, name in enumerate(CLASSES) for path in sorted((tree / side / name).iterdir())]
        columns = {"picture": [path for path, _ in files], "kind": [k for _, k in files]}
        sides["validation" if side == "val" else side] = datasets.Dataset.from_dict(columns, features=features)
    datasets.DatasetDict(sides).save_to_disk(str(tmp_path / "tree-hf"))
    theirs = build_hugging_face(HuggingFace(path=str(tmp_path / "tree-hf"), n_stages=2, size=8), resources())
    ours = build_folder(Folder(path=str(tree), n_stages=2, size=8), resources())
    assert theirs.class_names == ours.class_names
    for a, b in zip(ours.stages, theirs.stages, strict=True):
        first, second = a.train.take(np.arange(12)), b.train.take(np.arange(12))
        order = [np.lexsort(batch["image"].reshape(12, -1).T) for batch in (first, second)]
        for name in ("image", "class"):
            assert np.array_equal(first[name][order[0]], second[name][order[1]])
    with pytest.raises(BadInput, match="no column 'colour'; there are picture, kind"):
        build_hugging_face(HuggingFace(path=str(tmp_path / "tree-hf"), label="colour"), resources())
    with pytest.raises(BadInput, match="no split 'extra'"):
        build_hugging_face(HuggingFace(path=str(tmp_path / "tree-hf"), train="extra"), resources())


def test_a_limit_takes_the_first_images_of_each_class_on_both_sides(tree: Path) -> None:
    whole = build_folder(Folder(path=str(tree), n_stages=4, size=8), resources())
    few = build_folder(Folder(path=str(tree), n_stages=4, size=8, limit=2), resources())
    assert [len(stage.train) for stage in few.stages] == [2] * 4 and len(few.test) == 8
    for a, b in zip(whole.stages, few.stages, strict=True):
        images = {image.tobytes() for image in a.train.take(np.arange(len(a.train)))["image"]}
        assert {image.tobytes() for image in b.train.take(np.arange(2))["image"]} < images


def test_pictures_that_were_read_once_are_not_decoded_by_the_next_run(tree: Path, tmp_path: Path) -> None:
    shared = Resources(cache=Cache(tmp_path / "cache"))
    first = build_folder(Folder(path=str(tree), n_stages=2, size=8), shared)
    again = build_folder(Folder(path=str(tree), n_stages=2, size=8), Resources(cache=Cache(tmp_path / "cache")))
    held = [stream.stages[0].train.identify(shared.files) for stream in (first, again)]
    assert held[0] == held[1]
    rows = np.arange(5)
    one, two = (stream.stages[0].train.take(rows)["image"] for stream in (first, again))
    assert np.array_equal(one, two)
    late = build_folder(Folder(path=str(tree), n_stages=2, size=8), Resources(cache=Cache(tmp_path / "cache")))
    shutil.rmtree(tree)
    assert len(late.stages[0].train.take(rows, ["class"])["class"]) == 5  # nothing was decoded so far
    with pytest.raises(BadInput, match="cannot be decoded"):
        late.stages[0].train.take(rows)
