"""Golden cases of the generators and label tables."""

from __future__ import annotations

from typing import Any

import numpy as np

from cl_plugin_butd.data import persons, spatial
from cl_plugin_butd.data.directions import NAMES, adjacency, direction_index, published_direction_index
from cl_plugin_butd.data.glyphs import EMNIST_CONFUSED, Glyphs

Case = dict[str, Any]
Arrays = dict[str, np.ndarray]


def same_picture(actual: np.ndarray, expected: np.ndarray, name: str) -> None:
    """Within what two versions of the resizer differ by (manifest, 'rendered images')."""
    difference = np.abs(actual.astype(int) - expected.astype(int))
    assert difference.max() <= 4 and difference.mean() <= 0.05, (name, difference.max(), difference.mean())


def check_emnist(case: Case, arrays: Arrays) -> None:
    config = case["config"]
    n_classes = arrays["valid_pairs"].shape[0]
    glyphs = Glyphs(
        name="raw",
        images=arrays["raw.images"],
        labels=arrays["raw.labels"],
        class_names=tuple(str(c) for c in range(n_classes)),
        usable=tuple(c for c in range(n_classes) if c not in EMNIST_CONFUSED),
    )
    recipe = spatial.SpatialRecipe(
        n_characters=config["nchars"],
        extended=config["extended"],
        n_train=config["n_train_images"],
        n_test=config["n_test_images"],
        n_val=config["n_val_images"],
        n_held_strings=config["ntest_strings"],
        string_seed=config["string_seed"],
    )
    assert list(config["split_seeds"]) == list(spatial.SPLITS)
    strings = spatial.held_strings(recipe, glyphs.usable)
    assert np.array_equal(strings, arrays["test_strings"])
    allowed = spatial.allowed_pairs(recipe, strings, n_classes, glyphs.usable)
    assert np.array_equal(allowed, arrays["valid_pairs"].astype(bool))
    np.testing.assert_allclose(spatial.excluded_percentage(allowed, glyphs.usable), arrays["exclude_percentage"])

    found: dict[str, list[tuple[spatial.Picture, int, int]]] = {split: [] for split in spatial.SPLITS}
    for split, picture in spatial.pictures(recipe, glyphs, dict(config["split_seeds"])):
        found[split] += [(picture, direction, place) for direction, place in picture.questions]
    for split, examples in found.items():
        assert len(examples) == len(arrays[f"{split}.query"])
        for i, (picture, direction, place) in enumerate(examples):
            where = f"{split} {i}"
            assert np.array_equal(picture.characters, arrays[f"{split}.chars"][i]), where
            assert np.array_equal(picture.instances, arrays[f"{split}.raw_index"][i]), where
            np.testing.assert_allclose(picture.scales, arrays[f"{split}.scale"][i], rtol=0, atol=1e-12)
            assert np.array_equal(picture.top_left, arrays[f"{split}.top_left_yx"][i]), where
            assert (direction, place) == (arrays[f"{split}.direction"][i], arrays[f"{split}.query"][i]), where
            answer = spatial.neighbour(picture.characters, direction, place, recipe.per_row, n_classes)
            assert answer == arrays[f"{split}.label_task"][i], where
            places = np.arange(len(picture.characters))
            last = (places % recipe.per_row == recipe.per_row - 1) | (places == len(places) - 1)
            assert np.array_equal(arrays[f"{split}.row_end"][i].astype(bool), last), where
            assert [direction, picture.characters[place]] == arrays[f"{split}.flag"][i].tolist(), where
            assert np.array_equal(
                picture.characters.reshape(arrays[f"{split}.label_ordered"][i].shape),
                arrays[f"{split}.label_ordered"][i],
            ), where
            assert np.array_equal(
                np.bincount(picture.characters, minlength=n_classes), arrays[f"{split}.label_existence"][i]
            ), where
            if i < len(arrays[f"{split}.image"]):
                if split == "train" and config["augment"]:
                    # the augmenter is another library's: same range and as much ink, give or take
                    assert arrays[f"{split}.image"][i].dtype == np.uint8
                    continue
                same_picture(spatial.render(recipe, glyphs, picture), arrays[f"{split}.image"][i], where)
                same_picture(spatial.render(recipe, glyphs, picture, only=place), arrays[f"{split}.seg"][i], where)


def check_adjacency(case: Case, arrays: Arrays) -> None:
    for suffix in {name.removeprefix("layout") for name in arrays if name.startswith("layout")}:
        for (dx, dy), word in NAMES.items():
            answers = arrays.get(f"{word}{suffix}")
            if answers is not None:
                for layout, expected in zip(arrays[f"layout{suffix}"], answers, strict=True):
                    assert np.array_equal(adjacency(layout, dx, dy, answers.shape[1]), expected)


def check_directions(case: Case, arrays: Arrays) -> None:
    found: dict[tuple[int, int], list[int]] = {}
    for reach_x, reach_y, dx, dy, published, with_language, ours in arrays["table"].tolist():
        assert published_direction_index(dx, dy, reach_x, reach_y) == published
        n_directions = (2 * reach_x + 1) * (2 * reach_y + 1)
        assert published + n_directions == with_language
        assert direction_index(dx, dy, reach_x, reach_y) == ours
        found.setdefault((reach_x, reach_y), []).append(ours)
    for indices in found.values():
        assert len(set(indices)) == len(indices), "two directions share a number"


def check_persons(case: Case, arrays: Arrays) -> None:
    config = case["config"]
    people = persons.People(
        images=arrays["raw.images"],
        masks=arrays["raw.masks"],
        labels=arrays["raw.labels"],
        n_people=len(arrays["train_allowed"]),
    )
    recipe = persons.PersonsRecipe(
        extended=config["extended"],
        hide_many=config["hide_many"],
        n_configurations=config["nsamples"],
        n_test=config["n_test"],
    )
    assert list(config["split_seeds"]) == list(persons.SPLIT_SEEDS)
    train, test = persons.allowed_instances(recipe, people)
    assert np.array_equal(train, arrays["train_allowed"].astype(bool))
    assert np.array_equal(test, arrays["test_allowed"].astype(bool))
    assert (arrays["absent_value"] == people.absent).all()
    assert (arrays["ntypes"] == people.absent + 1).all()

    found: dict[str, list[tuple[persons.Scene, int, int]]] = {split: [] for split in persons.SPLIT_SEEDS}
    for split, scene in persons.scenes(recipe, people, dict(config["split_seeds"])):
        found[split] += [(scene, place, feature) for place, feature in scene.questions]
    for split, examples in found.items():
        assert len(examples) == len(arrays[f"{split}.query"]), split
        for i, (scene, place, feature) in enumerate(examples):
            where = f"{split} {i}"
            assert np.array_equal(scene.people, arrays[f"{split}.person"][i]), where
            assert np.array_equal(scene.instances, arrays[f"{split}.raw_index"][i]), where
            np.testing.assert_allclose(scene.scales, arrays[f"{split}.scale"][i], atol=1e-12, err_msg=where)
            np.testing.assert_allclose(scene.background, arrays[f"{split}.background"][i], atol=1e-12, err_msg=where)
            assert np.array_equal(scene.top_left, arrays[f"{split}.top_left_yx"][i]), where
            assert (place, feature) == (arrays[f"{split}.query"][i], arrays[f"{split}.feature"][i]), where
            person = scene.people[place]
            assert [person, feature] == arrays[f"{split}.flag"][i].tolist(), where
            mine = people.labels[scene.instances[place]]
            assert mine[feature] == arrays[f"{split}.label_task"][i], where
            assert np.array_equal(mine, arrays[f"{split}.person_features"][i]), where
            table, weight = persons.labels_of(scene, people)
            assert np.array_equal(table, arrays[f"{split}.label_all"][i]), where
            assert np.array_equal(weight, arrays[f"{split}.loss_weight"][i]), where
            assert np.array_equal(
                np.bincount(scene.people, minlength=people.n_people), arrays[f"{split}.label_existence"][i]
            ), where
            if i < len(arrays[f"{split}.image"]) and not (split == "train" and config["augment"]):
                same_picture(persons.render(recipe, people, scene), arrays[f"{split}.image"][i], where)
                same_picture(persons.render(recipe, people, scene, only=place), arrays[f"{split}.seg"][i], where)
