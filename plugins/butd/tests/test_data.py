"""Data: layouts and sizes, the preparer, the importer, bad input."""

from __future__ import annotations

import argparse
import hashlib
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import attrs
import numpy as np
import pytest

from cl_kernel import BadInput, Cache, MissingAsset, Resources
from cl_plugin_butd import settings
from cl_plugin_butd.data import (
    augment,
    glyphs,
    grid,
    grid_sets,
    legacy,
    packed,
    persons,
    prepare,
    sets,
    sources,
    spatial,
    streams,
    toy,
)

SMALL = {
    "variant": "custom",
    "source": "digits",
    "n_characters": 4,
    "per_row": 4,
    "canvas": (1, 6),
    "cell": 10,
    "n_test": 20,
    "n_val": 20,
    "n_train": 30,
}


def resources(folder: Path, **more: object) -> Resources:
    return Resources(cache=Cache(folder / "cache"), **more)


def digests(folder: Path) -> dict[str, str]:
    return {
        str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest()
        for f in sorted(folder.rglob("*"))
        if f.is_file()
    }


@pytest.mark.parametrize(
    ("n", "strings", "share"),
    [
        (6, [[40, 8, 39, 23, 10, 14]], 0.6158),
        (24, [[40, 8, 39, 23, 10, 14, 3, 9, 36, 29, 5, 4, 2, 1, 13, 0, 32, 19, 27, 31, 20, 38, 30, 42]], 2.4631),
    ],
)
def test_held_out_strings_are_the_published_ones(n: int, strings: list[list[int]], share: float) -> None:
    usable = tuple(c for c in range(47) if c not in glyphs.EMNIST_CONFUSED)
    recipe = spatial.SpatialRecipe(n_characters=n)
    found = spatial.held_strings(recipe, usable)
    assert found.tolist() == strings
    assert spatial.excluded_percentage(spatial.allowed_pairs(recipe, found, 47, usable), usable) == pytest.approx(
        share, abs=1e-4
    )


@pytest.mark.parametrize(
    ("n", "extended", "train"), [(6, False, 10_000), (6, True, 50_000), (24, False, 100_000), (24, True, 400_000)]
)
def test_sets_have_the_published_sizes(n: int, extended: bool, train: int) -> None:
    recipe = spatial.SpatialRecipe(n_characters=n, extended=extended)
    asked = recipe.n_pictures["train"] * recipe.n_questions * (2 if recipe.both_directions else 1)
    assert (asked, recipe.n_test, recipe.n_val) == (train, 2000, 2000)


def test_no_training_picture_shows_a_held_out_pair() -> None:
    source = glyphs.digits()
    recipe = spatial.SpatialRecipe(n_characters=4, per_row=4, n_train=200, n_test=5, n_val=5)
    string = spatial.held_strings(recipe, source.usable)[0]
    held = set(zip(string[:-1].tolist(), string[1:].tolist(), strict=True))
    for split, picture in spatial.pictures(recipe, source):
        pairs = set(zip(picture.characters[:-1].tolist(), picture.characters[1:].tolist(), strict=True))
        assert (pairs == held) if split == "test" else not (pairs & held)


def test_preparing_twice_does_nothing_the_second_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = settings.Spatial(**SMALL)
    first = sets.prepare_spatial(chosen, resources(tmp_path))
    before = {f: (f.stat().st_mtime_ns, f.stat().st_ino) for f in first.rglob("*")}
    monkeypatch.setattr(spatial, "render", lambda *a, **k: pytest.fail("drew again"))
    assert sets.prepare_spatial(chosen, resources(tmp_path)) == first
    assert {f: (f.stat().st_mtime_ns, f.stat().st_ino) for f in first.rglob("*")} == before


def test_a_killed_preparation_continues_and_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "SHARD", 10)
    chosen = settings.Spatial(**SMALL)
    whole = sets.prepare_spatial(chosen, resources(tmp_path / "a"))
    real, drawn = spatial.render, []

    def dies(*args: object, **kwargs: object) -> np.ndarray:
        if len(drawn) == 45:
            raise KeyboardInterrupt
        drawn.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(spatial, "render", dies)
    with pytest.raises(KeyboardInterrupt):
        sets.prepare_spatial(chosen, resources(tmp_path / "b"))
    monkeypatch.setattr(spatial, "render", lambda *a, **k: drawn.append(1) or real(*a, **k))
    again = sets.prepare_spatial(chosen, resources(tmp_path / "b"))
    assert len(drawn) < 45 + 70 - 30, "finished shards were drawn again"
    assert digests(again) == digests(whole)


PREPARE = """
import sys
from pathlib import Path
from cl_kernel import Cache, Resources
from cl_plugin_butd import settings
from cl_plugin_butd.data import prepare, sets
prepare.SHARD = 5
chosen = settings.Spatial(**{**eval(sys.argv[2]), "n_train": 600})
sets.prepare_spatial(chosen, Resources(cache=Cache(Path(sys.argv[1]))))
"""


def test_a_preparation_ended_by_the_system_continues_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = subprocess.Popen([sys.executable, "-c", PREPARE, str(tmp_path / "killed" / "cache"), repr(SMALL)])
    while len(list((tmp_path / "killed").rglob("*.npz"))) < 20:
        assert process.poll() is None, "finished before it could be killed"
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert not list((tmp_path / "killed").rglob(prepare.MANIFEST))
    monkeypatch.setattr(prepare, "SHARD", 5)
    chosen = settings.Spatial(**{**SMALL, "n_train": 600})
    again = sets.prepare_spatial(chosen, resources(tmp_path / "killed"))
    assert digests(again) == digests(sets.prepare_spatial(chosen, resources(tmp_path / "whole")))


def test_another_recipe_or_raw_file_is_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = settings.Spatial(**SMALL)
    first = sets.prepare_spatial(chosen, resources(tmp_path))
    assert sets.prepare_spatial(attrs.evolve(chosen, n_train=31), resources(tmp_path)) != first
    other = glyphs.digits()
    other.images[0, 0, 0] += 1
    monkeypatch.setattr(glyphs, "digits", lambda: other)
    assert sets.prepare_spatial(chosen, resources(tmp_path)) != first


def test_prepared_samples_are_what_the_generator_drew(tmp_path: Path) -> None:
    chosen = settings.Spatial(**SMALL, segmentation=True)
    made = sets.spatial_set(chosen, resources(tmp_path)).samples("train")
    recipe, source = sets.spatial_recipe(chosen), glyphs.digits()
    row = 0
    for split, picture in spatial.pictures(recipe, source):
        if split != "train":
            continue
        for direction, place in picture.questions:
            taken = made.take(np.array([row]))
            assert np.array_equal(taken["image"][0], spatial.render(recipe, source, picture))
            assert np.array_equal(taken["drawing"][0], spatial.render(recipe, source, picture, only=place))
            assert (taken["task"][0], taken["argument"][0]) == (direction, picture.characters[place])
            row += 1
        if row > 20:
            break


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 255, (4, 5, 6), np.uint8)
    packed.write(tmp_path, "image", pictures)
    found = packed.read(tmp_path, "image")
    assert found.shape == (4, 5, 6) and np.array_equal(found, pictures)
    assert np.array_equal(found[np.array([3, 1, 3])], pictures[[3, 1, 3]])
    content = bytearray((tmp_path / "image.bin").read_bytes())
    content[found.start[2] + 8] ^= 255
    (tmp_path / "image.bin").write_bytes(content)
    with pytest.raises(BadInput, match="picture 2 cannot be inflated"):
        packed.read(tmp_path, "image")[np.arange(4)]
    assert packed.read(tmp_path, "seg") is None


def test_the_offline_augmentation_is_seeded_by_the_sample(tmp_path: Path) -> None:
    chosen = settings.Spatial(**{**SMALL, "n_train": 6}, augment="offline")
    made = sets.spatial_set(chosen, resources(tmp_path)).samples("train")
    images = made.take(np.arange(3), ["image"])["image"]
    assert not np.array_equal(images[0], images[1])
    picture = np.full((8, 12), 100, np.uint8)
    one = augment.augment_one(picture, augment.SPATIAL, 7)
    assert np.array_equal(one, augment.augment_one(picture, augment.SPATIAL, 7))
    assert one.std() == 0 and abs(int(one[0, 0]) - 100) <= 51


def test_persons_stand_in_has_the_real_tables(tmp_path: Path) -> None:
    chosen = settings.PersonsData(stand_in=True, n_configurations=20, n_test=6, size=28)
    stream = streams.build_persons(chosen, resources(tmp_path))
    taken = stream.stages[0].train.take(np.arange(10))
    assert taken["answers"].shape == (10, 42) and taken["answer_weight"].shape == (10, 42)
    held = stream.test.take(stream.test_sets["cg_test"], ["argument", "task"])
    assert set(zip(held["argument"].tolist(), held["task"].tolist(), strict=True)) <= {(1, 5), (2, 4)}


def test_pictures_of_training_and_test_come_from_other_handwriting() -> None:
    halves = streams.split_instances(glyphs.digits())
    train = {image.tobytes() for image in halves["train"].images}
    shared = [image for image in halves["test"].images if image.tobytes() in train]
    assert len(shared) < 5  # scikit-learn's set repeats a few drawings


# ---- bad input ------------------------------------------------------------------------------------------
def test_a_grid_too_small_for_its_characters_is_named() -> None:
    with pytest.raises(BadInput, match="do not fit into cells of 4"):
        grid.GridRecipe(cell=4).check(glyphs.digits())
    with pytest.raises(BadInput, match="different characters"):
        grid.GridRecipe(rows=4, columns=4, cell=10).check(glyphs.digits())
    with pytest.raises(BadInput, match="do not fit into"):
        spatial.SpatialRecipe(n_characters=24, canvas=(2, 8))


def test_a_direction_that_leaves_the_canvas_everywhere_is_named() -> None:
    with pytest.raises(BadInput, match=r"'up' leaves a grid of 1 x 3"):
        grid.parse_direction("up", 1, 3)
    with pytest.raises(BadInput, match="unknown direction 'sideways'"):
        grid.parse_direction("sideways", 3, 3)


def test_missing_raw_files_say_where_they_were_looked_for(tmp_path: Path) -> None:
    with pytest.raises(MissingAsset, match="data roots"):
        sources.source_of(resources(tmp_path, roots=(tmp_path,)), "emnist")
    with pytest.raises(MissingAsset, match="scenes"):
        from cl_plugin_butd.data import clevr

        clevr.prepare(settings.Scenes(), resources(tmp_path, roots=(tmp_path,)))


def test_a_folder_of_another_recipe_is_refused(tmp_path: Path) -> None:
    chosen = settings.Spatial(**SMALL)
    folder = sets.prepare_spatial(chosen, resources(tmp_path))
    manifest = folder / prepare.MANIFEST
    manifest.write_text(manifest.read_text().replace('"key": "', '"key": "0'))
    with pytest.raises(BadInput, match="another recipe"):
        sets.prepare_spatial(chosen, resources(tmp_path))


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("false",)


def test_the_importer_executes_nothing(tmp_path: Path) -> None:
    bomb = tmp_path / "avatars_6_raw.pkl"
    bomb.write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(BadInput, match="not data"):
        legacy.import_people(bomb, tmp_path / "out")
    bomb.write_bytes(b"\x80\x04garbage")
    with pytest.raises(BadInput, match="not a readable table"):
        legacy.import_people(bomb, tmp_path / "out")


def test_raw_people_are_imported(tmp_path: Path) -> None:
    people = persons.procedural(np.random.default_rng(0))
    source = tmp_path / "avatars_6_raw.pkl"
    source.write_bytes(pickle.dumps((list(people.images), list(people.masks), people.labels, 6)))
    path = legacy.import_people(source, tmp_path / "root")
    found = sets.people_of(settings.PersonsData(), resources(tmp_path, roots=(path.parent,)))
    assert np.array_equal(found.labels, people.labels) and np.array_equal(found.images, people.images)


def test_published_samples_are_imported(tmp_path: Path) -> None:
    from PIL import Image

    source = tmp_path / "6_sufficient"
    source.mkdir()
    (source / "conf").write_bytes(pickle.dumps((2, 1, 1, 47, 3, 28, [112, 224], np.full(47, 49), 47, 48)))
    for split, n in (("train", 2), ("test", 1), ("val", 1)):
        folder = source / split / "0"
        folder.mkdir(parents=True)
        for i in range(n):
            Image.fromarray(np.full((8, 12, 3), 40 * i, np.uint8)).save(folder / f"{i}_img.jpg")
            sample = argparse.Namespace(
                label_existence=np.eye(47, dtype=int)[i], label_task=np.array([i + 3]), flag=np.array([1, i]), id=i
            )
            (folder / f"{i}_raw.pkl").write_bytes(pickle.dumps(sample))
    target = legacy.import_samples(source, tmp_path / "out")
    import json

    made = prepare.Prepared(target, json.loads((target / prepare.MANIFEST).read_text())).samples("train")
    taken = made.take(np.arange(2))
    assert taken["class"].tolist() == [3, 4] and taken["task"].tolist() == [1, 1]
    stream = streams.build_spatial(settings.Spatial(directory=str(target)), resources(tmp_path))
    assert stream.n_classes == 49
    assert stream.class_names[10] == "A"
    assert len(stream.stages[0].train) == 2
    (source / "val" / "0" / "0_raw.pkl").unlink()
    with pytest.raises(BadInput, match="sample 0 of val"):
        legacy.import_samples(source, tmp_path / "again")


def test_the_held_out_stand_in_never_trains_on_its_pairs(tmp_path: Path) -> None:
    stream = toy.build_held_out(settings.HeldOut(n_train=300, n_test=50), resources(tmp_path))
    held = {tuple(pair) for pair in stream.info["held_out"]}
    train = stream.stages[0].train.take(np.arange(len(stream.stages[0].train)), ["argument", "class"])
    assert not held & set(zip(train["argument"].tolist(), train["class"].tolist(), strict=True))
    rows = stream.test_sets["held-out pairs"]
    test = stream.test.take(rows, ["argument", "class"])
    assert set(zip(test["argument"].tolist(), test["class"].tolist(), strict=True)) <= held


def test_raw_files_of_another_checksum_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="expected feed"):
        sets.prepare_spatial(settings.Spatial(**SMALL, raw_checksum="feed"), resources(tmp_path))


def test_an_instruction_for_an_unknown_task_is_named(tmp_path: Path) -> None:
    from cl_plugin_butd.method.inputs import check_instructions

    stream = toy.build(settings.Patterns(n_train=20, n_test=10), resources(tmp_path))
    check_instructions(stream.test, 2, 5)
    stream.test.tables["task"][3] = 7
    with pytest.raises(BadInput, match="unknown task 7"):
        check_instructions(stream.test, 2, 5)


def test_cifar_comes_in_ten_stages_without_its_test_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cifar-100-python").mkdir()
    rng = np.random.default_rng(0)
    fake = glyphs.Glyphs(
        name="CIFAR100",
        images=rng.integers(0, 255, (12_000, 2, 2, 3), dtype=np.uint8),
        labels=np.arange(12_000) % 100,
        class_names=tuple(map(str, range(100))),
        usable=tuple(range(100)),
    )
    fake.images[10_000:] = 255
    monkeypatch.setattr(glyphs, "cifar", lambda name, root: fake)
    stream = streams.build_cifar_classes(None, resources(tmp_path, roots=(tmp_path,)))
    assert [len(stage.classes) for stage in stream.stages] == [10] * 10
    assert sum(len(stage.train) for stage in stream.stages) == 9000 and len(stream.test) == 1000
    assert stream.test.take(np.arange(1000), ["image"])["image"].min(axis=(1, 2, 3)).max() < 255


def test_a_grid_is_drawn_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = settings.GridStream(
        source="digits", rows=2, columns=3, cell=12, directions=("right", "up"), n_train=30, n_test=10
    )
    first = grid_sets.prepare_grid(chosen, resources(tmp_path))
    before = digests(first)
    monkeypatch.setattr(grid, "draw", lambda *a: pytest.fail("drew again"))
    assert grid_sets.prepare_grid(chosen, resources(tmp_path)) == first
    assert digests(first) == before
