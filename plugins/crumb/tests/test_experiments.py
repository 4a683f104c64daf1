"""Named runs: every one can be planned in every profile; those of unusual form run on a handful of clips."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cl_kernel import BadInput, BadSetting, Mismatch, MissingAsset, Request, discover, plan, run_plan
from cl_plugin_crumb import experiments
from cl_plugin_crumb.evaluate.statistics import paired_t_test
from cl_plugin_crumb.weights import files

REGISTRY = discover()
SHORT: dict[str, Any] = {
    "dataset.n_objects": 1,
    "model.base_epochs": 1,
    "model.base_images": 4,
    "learner.first_epochs": 2,
    "learner.pretrain_epochs": 1,
    "run.plots": False,
}
UNUSUAL = [
    "arm-image-replay",
    "arm-merec",
    "arm-enhanced-raw-feature-replay",
    "arm-no-replay",
    "arm-blocks-512",
    "arm-small-base-pretrain",
    "stream-sample-first-batch",
    "stream-unlimited-memory",
    "stream-1run-per-pretraining",
    "pretrain-imagenet",
]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    torch.set_num_threads(1)
    monkeypatch.setenv("CLK_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def request(test: str, profile: str = "tiny", **values: Any) -> Request:
    return Request(test=test, plugin="crumb", profile=profile, overrides=(("test", values),))


def run(test: str, folder: Path, **values: Any) -> dict[str, Any]:
    out = run_plan(REGISTRY, plan(REGISTRY, request(test, **{**SHORT, **values})), folder, comparisons=False)
    return dict(out.results)


def test_every_named_run_can_be_planned() -> None:
    for record in experiments.EXPERIMENTS:
        for profile in record.profiles:
            assert plan(REGISTRY, request(record.name, profile)).pieces


@pytest.mark.parametrize("profile", ["paper", *(f"paper-{name}" for name in experiments.DATASETS)])
def test_no_two_arms_are_the_same_run_of_the_same_weights(profile: str) -> None:
    """What only the pretraining reads tells arms apart by the pretraining that they ask for."""
    seen: dict[str, str] = {}
    for record in experiments.EXPERIMENTS:
        if not record.name.startswith("arm-"):
            continue
        values = {**record.settings, **record.profiles[profile]}
        loaded = ("codec.init", "learner.arm", "learner.pretrain_w_direct")
        key = repr(sorted((k, v) for k, v in values.items() if k not in loaded))
        assert key not in seen, f"{record.name} is {seen[key]}"
        seen[key] = record.name


def test_weights_of_another_pretraining_are_refused(tmp_path: Path) -> None:
    stem = tmp_path / "CRUMB_run0"
    Path(f"{stem}_net.pth").touch()
    files.check_pretraining(str(stem), "unablated")
    with pytest.raises(BadSetting, match="of 'unablated' \\(or do not say\\)") as error:
        files.check_pretraining(str(stem), "minus-direct-loss")
    assert "pretrain-minus-direct-loss" in str(error.value)
    files.check_pretraining(str(stem), "minus-direct-loss", "minus-direct-loss")
    files.save_pretraining(stem, "dense-init")
    files.check_pretraining(str(stem), "dense-init", "said otherwise")
    with pytest.raises(BadSetting, match="of 'dense-init'"):
        files.check_pretraining(str(stem), "unablated", "unablated")
    with pytest.raises(BadSetting, match="needs weights of the pretraining 'uniform-init'"):
        run("arm-uniform-init", tmp_path / "run", **{"learner.pretrained": str(stem)})


def test_a_run_folder_stands_for_the_weights_in_it(tmp_path: Path) -> None:
    place = tmp_path / "made" / "crumb" / "iid" / "Crumb_Network_offline" / "runs-0"
    place.mkdir(parents=True)
    with pytest.raises(MissingAsset, match=r"made_net\.pth nor"):
        files.find_stem(str(tmp_path / "made"))
    for name in ("net", "mem", "start_mem", "task0_epoch1_net", "task0_epoch1_mem"):
        (place / f"CRUMB_run0_{name}.pth").touch()
    for given in (place / "CRUMB_run0", place, tmp_path / "made"):
        assert files.find_stem(str(given)) == str(place / "CRUMB_run0")
    (place / "CRUMB_run1_mem.pth").touch()
    with pytest.raises(BadInput, match=r"of 2 pretrainings .*CRUMB_run0, .*CRUMB_run1"):
        files.find_stem(str(tmp_path))


def test_every_pretraining_that_an_arm_needs_has_a_test() -> None:
    names = {record.name for record in experiments.EXPERIMENTS}
    assert {f"pretrain-{name}" for name in experiments.PRETRAINED_APART.values()} <= names


@pytest.mark.parametrize("test", UNUSUAL)
def test_an_unusual_arm_runs(test: str, tmp_path: Path) -> None:
    results = run(test, tmp_path / "run")
    assert results["finished"]
    assert results["cost"]["memory_examples"] <= max(results["cost"]["memory_capacity"], 0)
    assert list((tmp_path / "run" / "crumb").rglob("top1_test_all_direct_all_runs.csv"))


@pytest.mark.slow
@pytest.mark.parametrize("arm", experiments.ARMS)
def test_every_arm_runs(arm: str, tmp_path: Path) -> None:
    assert run(f"arm-{arm}", tmp_path / "run")["finished"]


def test_photographs_pretrain_for_a_stream_of_others(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for side, name, number in itertools.product(("train", "val"), ("ant", "bee"), range(6)):
        (tmp_path / side / name).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / side / name / f"{number}.png")
    folder = str(tmp_path / "train")
    asked: dict[str, Any] = {"dataset.path": str(tmp_path), "dataset.limit": 3, "dataset.classes_per_task": 1}
    asked |= {"model.base": folder, "model.base_epochs": 1, "model.base_skip": 3}
    asked |= {"learner.base": folder, "learner.base_skip": 3, "learner.pretrain_epochs": 1, "run.plots": False}
    out = run_plan(REGISTRY, plan(REGISTRY, request("images", **asked)), tmp_path / "run", comparisons=False)
    assert out.results["finished"]


def test_blocks_cannot_keep_images(tmp_path: Path) -> None:
    with pytest.raises(Mismatch):
        run("ministream", tmp_path / "run", **{"learner.storage": "image"})


def test_a_memory_below_the_classes_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="smaller than the 4 classes"):
        run("ministream", tmp_path / "run", **{"run.memory": "3"})


def test_a_task_of_one_batch_and_top_5_of_two_classes_run(tmp_path: Path) -> None:
    results = run("ministream", tmp_path / "run", **{"learner.batch_size": 1000, "learner.top_k": [1, 5]})
    assert results["finished"]


def test_the_analysis_writes_its_tables(tmp_path: Path) -> None:
    run("ministream", tmp_path / "run", **{"learner.analyse": True})
    for name in (
        "batchwise_accs_run0.csv",
        "shape_bias_accs_run0_top1.csv",
        "memory_blocks_usage.csv",
        "class_memory_slot_counts_slice0.csv",
        "mem_stats.csv",
        "hyperparams.csv",
    ):
        assert list((tmp_path / "run").rglob(name)), name


def test_a_paired_test_of_one_batch_is_refused_and_one_without_spread_has_no_p() -> None:
    one = [np.array([50.0])]
    with pytest.raises(BadInput, match="two batches of test images or more, there are 1"):
        paired_t_test(one, [np.array([40.0])])
    found = paired_t_test([np.array([50.0, 60.0, 70.0])], [np.array([40.0, 50.0, 60.0])])
    assert np.isnan([found.statistic, found.p]).all() and found.mean_difference == 10
