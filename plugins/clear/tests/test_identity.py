"""Same or refused: feature sets, CLIP features, MoCo checkpoints, results of runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from attrs import evolve

from cl_kernel import identify
from cl_kernel.contract.errors import BadInput, BadSetting, RunConflict
from cl_plugin_clear.curation import explore, feature_sets, retrieve
from cl_plugin_clear.data import toy
from cl_plugin_clear.evaluate import runs
from cl_plugin_clear.method import moco
from cl_plugin_clear.settings import Moco

from .conftest import GROUP, LABELS


def test_a_feature_set_holds_what_one_encoder_gave(folder: Path) -> None:
    def extract(paths: list[Path]) -> np.ndarray:
        return np.ones((len(paths), 3), np.float32)

    made = identify("clear-features", encoder="resnet18", weights="a", size=64)
    feature_sets.write_features(folder, "mine", extract, made_from=made)
    assert feature_sets.write_features(folder, "mine", extract, made_from=made) == 0
    for other in ({"encoder": "resnet50"}, {"weights": "b"}, {"size": 96}):
        wanted = identify("clear-features", **{"encoder": "resnet18", "weights": "a", "size": 64, **other})
        with pytest.raises(RunConflict, match=next(iter(other))):
            feature_sets.write_features(folder, "mine", extract, made_from=wanted)


def test_a_feature_set_that_was_killed_at_its_beginning_gets_its_identity(folder: Path) -> None:
    def extract(paths: list[Path]) -> np.ndarray:
        return np.ones((len(paths), 3), np.float32)

    (folder / "features" / "mine").mkdir()
    feature_sets.write_features(folder, "mine", extract, made_from=identify("clear-features", encoder="a"))
    with pytest.raises(RunConflict, match="encoder"):
        feature_sets.write_features(folder, "mine", extract, made_from=identify("clear-features", encoder="b"))
    with pytest.raises(BadSetting, match="name of a folder"):
        feature_sets.write_features(folder, "../mine", extract, made_from=identify("clear-features", encoder="a"))


def test_prompts_are_read_by_the_weights_that_made_the_features(store: Path, tmp_path: Path) -> None:
    other = toy.ToyClip()
    other.weights = "another"
    with pytest.raises(BadSetting, match="another"):
        explore.Explorer(store, "equal", other).query("a ring", 1, 5)
    with pytest.raises(BadSetting, match="another"):
        retrieve.retrieve_group(store, tmp_path / "T", GROUP, other, label_map=LABELS)


def test_moco_goes_on_only_as_it_was_begun(tmp_path: Path) -> None:
    small = Moco(arch="tiny", epochs=2, batch_size=16, queue=64, dim=16, image_size=24, lr=0.05)
    data = moco.toy_pictures(32, 0, 24)
    moco.pretrain(data, small, tmp_path, device="cpu", stop_after=1)
    for changed in ({"temperature": 0.07}, {"batch_size": 32}, {"lr": 0.1}):
        with pytest.raises(RunConflict, match=next(iter(changed))):
            moco.pretrain(data, evolve(small, **changed), tmp_path, device="cpu")
    assert len(moco.pretrain(data, small, tmp_path, device="cpu")) == 2


def finished(folder: Path, seed: int, *, test: str = "iid/nap", epochs: int = 3, n: int = 3) -> Path:
    (folder / "clear").mkdir(parents=True)
    (folder / "clear" / "matrix.json").write_text(json.dumps({"R": np.full((n, n), 0.5).tolist()}))
    (folder / "run.json").write_text(json.dumps({"test": test, "pieces": {"learner": "clear:buckets"}}))
    (folder / "settings.yaml").write_text(f"run:\n  seed: {seed}\nlearner:\n  epochs: {epochs}\n")
    return folder


def test_results_are_means_over_seeds_of_one_experiment(tmp_path: Path) -> None:
    one, two = finished(tmp_path / "1", 0), finished(tmp_path / "2", 1)
    assert len(runs.matrices([one, two])) == 2
    longer = finished(tmp_path / "3", 2, epochs=9)
    with pytest.raises(BadInput, match="epochs"):
        runs.matrices([one, longer])
    assert len(runs.matrices([one, longer], mixed=True)) == 2
    with pytest.raises(BadInput, match="iid/all"):
        runs.matrices([one, finished(tmp_path / "4", 0, test="iid/all")])
    with pytest.raises(BadInput, match="no mean"):
        runs.matrices([one, finished(tmp_path / "5", 0, n=4)])
