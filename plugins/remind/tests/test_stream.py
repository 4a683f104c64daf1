"""The learners through the kernel's stage loop: resume, bad samples, bad pieces, VQA modes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cl_kernel import BadInput, BadSetting, Interrupted, MissingAsset, Request, discover, load_tree, plan, run_plan
from cl_kernel.running.session import request_of
from cl_plugin_remind.evaluate import metrics as evaluate
from cl_plugin_remind.method import base, step
from cl_plugin_remind.method import questions as vqa
from cl_plugin_remind.settings import BaseTraining
from cl_plugin_remind.weights import buffers

SHORT = {
    "dataset.n_train": 16,
    "dataset.n_test": 4,
    "learner.base_epochs": 2,
    "codec.codebook_size": 32,
    "run.plots": False,
    "run.device": "cpu",
}
QUESTIONS = {
    "dataset.n_train": 20,
    "dataset.n_test": 5,
    "dataset.n_images": 40,
    "dataset.codebook_size": 16,
    "learner.epochs": 1,
    "learner.replay_samples": 4,
    "run.plots": False,
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLK_CACHE", str(tmp_path / "cache"))


def run(
    folder: Path, test: str = "imagenet-cls-iid", settings: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    request = Request(
        test=test, plugin="remind", overrides=(("test", settings if settings is not None else SHORT),), **more
    )
    registry = discover()
    return dict(run_plan(registry, plan(registry, request), folder, comparisons=False).results)


def latest(folder: Path) -> Any:
    return load_tree(sorted((folder / "checkpoints").glob("*.ckpt"))[-1])


def go_on(folder: Path) -> None:
    registry = discover()
    run_plan(registry, plan(registry, request_of(folder)), folder, resume=True, comparisons=False)


@pytest.mark.parametrize("stop", [3, 10, 50])
def test_a_stopped_run_ends_like_an_uninterrupted_one(
    stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**SHORT, "learner.crops": True, "learner.mixup": True, "learner.replay_samples": 5}
    whole = run(tmp_path / "whole", settings=settings)
    monkeypatch.setenv("CLK_CACHE", str(tmp_path / "other cache"))  # so that base training is interrupted, too
    with pytest.raises(Interrupted):
        run(tmp_path / "stopped", settings={**settings, "run.stop_at_step": stop})
    go_on(tmp_path / "stopped")
    again = json.loads((tmp_path / "stopped" / "metrics.json").read_text())
    assert again["digest"] == whole["digest"]
    assert again["state_digest"] == whole["state_digest"]


def test_the_offline_run_shares_base_network_and_codebooks(tmp_path: Path) -> None:
    def kept(kind: str) -> int:
        return len([folder for folder in (tmp_path / "cache" / kind).iterdir() if not folder.name.startswith(".")])

    ours = run(tmp_path / "run")
    run(tmp_path / "offline", test="offline-upper", settings={**SHORT, "learner.epochs": 1})
    assert (kept("remind-base"), kept("remind-pq")) == (1, 1)
    run(tmp_path / "other", settings={**SHORT, "codec.codebook_size": 16})
    assert (kept("remind-base"), kept("remind-pq")) == (1, 2)
    assert run(tmp_path / "again")["state_digest"] == ours["state_digest"]


def test_codes_in_the_memory_take_exactly_their_bytes(tmp_path: Path) -> None:
    results = run(tmp_path / "run")
    n = 12 * 16
    codebooks = 64 * 32 * 4  # 64 channels, 32 centroids, float32
    assert results["cost"]["memory_examples"] == n
    assert results["cost"]["memory_bytes"] == n * (4 * 4 * 16 + 8 + 8) + codebooks


def test_the_memory_never_passes_its_capacity(tmp_path: Path) -> None:
    results = run(tmp_path / "run", settings={**SHORT, "run.memory": "40"})
    assert results["cost"]["memory_examples"] == 40


def test_codebooks_that_do_not_divide_the_channels_are_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="3 codebooks do not divide 64 channels"):
        run(tmp_path / "run", settings={**SHORT, "codec.codebooks": 3})


def test_a_checkpoint_with_another_classifier_is_refused_before_training(tmp_path: Path) -> None:
    torch.save({"state_dict": {"model.fc.weight": torch.zeros(5, 64)}}, tmp_path / "base.pth")
    with pytest.raises(BadInput, match="classifies 5 classes, the network 12"):
        run(tmp_path / "run", settings={**SHORT, "learner.base": str(tmp_path / "base.pth")})


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for side, count in (("train", 6), ("val", 2)):
        for name in "abc":
            (tmp_path / "images" / side / name).mkdir(parents=True)
            for k in range(count):
                Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(
                    tmp_path / "images" / side / name / f"{k}.png"
                )
    return tmp_path / "images"


SMALL = {
    "metrics": "accuracy",
    "dataset.base_classes": 2,
    "learner.base_epochs": 1,
    "learner.base_batch": 4,
    "codec.codebook_size": 16,
    "run.plots": False,
    "model.widths": (8, 8, 32, 32),
    "learner.replay_samples": 3,
    "learner.norm": "train",
}


@pytest.mark.parametrize("augment", ["shift", "imagenet"])
def test_one_corrupt_image_follows_on_bad_sample(augment: str, photographs: Path, tmp_path: Path) -> None:
    settings = {**SMALL, "dataset.images": str(photographs), "learner.base_augment": augment}
    (photographs / "train" / "c" / "3.png").write_bytes(b"broken")
    with pytest.raises(BadInput, match=r"c/3\.png"):
        run(tmp_path / "fails", settings=settings, profile="small")
    results = run(tmp_path / "skips", settings={**settings, "run.on_bad_sample": "skip"}, profile="small")
    assert len(results["skipped"]) == 1
    assert results["cost"]["memory_examples"] == 17


def test_the_authors_files_are_written_and_can_be_taken_up(photographs: Path, tmp_path: Path) -> None:
    settings = {**SMALL, "dataset.images": str(photographs), "codec.codebook_size": 16}
    run(tmp_path / "run", settings={**settings, "learner.authors_files": True}, profile="small")
    folder = tmp_path / "run" / "authors"
    lists = json.loads((folder / "accuracies_min_trained_0_max_trained_3.json").read_text())
    assert {name: len(values) for name, values in lists.items() if "top1" in name} == {
        "base_classes_top1": 2,
        "seen_classes_top1": 2,
        "non_base_classes_top1": 1,
    }
    scores = torch.load(folder / "preds_min_trained_0_max_trained_3.pth", weights_only=False)
    assert scores.shape == (6, 3) and scores.sum(1) == pytest.approx(np.ones(6), abs=1e-5)
    start = tmp_path / "start"
    assert (
        buffers.convert_legacy(
            folder / "remind_model" / "remind_buffer_2.pkl",
            folder / "remind_model" / "remind_classifier_F_2.pth",
            start,
        )
        == 12
    )
    again = run(tmp_path / "again", settings={**settings, "learner.start_from": str(start)}, profile="small")
    assert again["cost"]["memory_examples"] == 18


def test_the_same_names_with_other_pictures_share_nothing(photographs: Path, tmp_path: Path) -> None:
    def kept(kind: str) -> int:
        return len([folder for folder in (tmp_path / "cache" / kind).iterdir() if not folder.name.startswith(".")])

    settings = {**SMALL, "dataset.images": str(photographs)}
    run(tmp_path / "first", settings=settings, profile="small")
    shutil.copytree(photographs, tmp_path / "copy")
    run(tmp_path / "copied", settings={**settings, "dataset.images": str(tmp_path / "copy")}, profile="small")
    assert [kept(kind) for kind in ("remind-base", "remind-pq", "remind-codes")] == [1, 1, 2]
    path = photographs / "train" / "a" / "1.png"
    Image.new("RGB", (32, 32), (9, 200, 9)).save(path)
    run(tmp_path / "second", settings=settings, profile="small")
    assert [kept(kind) for kind in ("remind-base", "remind-pq", "remind-codes")] == [2, 2, 4]


@pytest.mark.parametrize(("scope", "epochs"), [("upper", 2), ("none", 2), ("whole", 0)])
def test_a_lower_part_that_is_not_trained_stays_bit_equal(
    scope: str, epochs: int, photographs: Path, tmp_path: Path
) -> None:
    settings = {**SMALL, "dataset.images": str(photographs), "learner.base_scope": scope}
    results = run(tmp_path / "run", settings={**settings, "learner.base_epochs": epochs}, profile="small")
    outcome = run(tmp_path / "again", settings={**settings, "learner.base_epochs": 0}, profile="small")
    trees = [latest(tmp_path / name)["learner"]["network"] for name in ("run", "again")]
    lower = [name for name in trees[0] if "layer4.1" not in name and "fc" not in name]
    assert len(lower) > 20 and all(np.array_equal(trees[0][name], trees[1][name]) for name in lower)
    assert (results["state_digest"] == outcome["state_digest"]) is (scope != "upper")


def test_a_new_head_is_trained_with_the_base_classes(photographs: Path, tmp_path: Path) -> None:
    settings = {**SMALL, "dataset.images": str(photographs), "learner.base_epochs": 4}
    run(tmp_path / "first", settings=settings, profile="small")
    tree = latest(tmp_path / "first")["learner"]["network"]
    tensors = {name.removeprefix("model."): torch.from_numpy(np.array(value)) for name, value in tree.items()}
    tensors = {name: value for name, value in tensors.items() if "num_batches" not in name}  # as older files are
    torch.save({**tensors, "fc.weight": torch.zeros(7, 32), "fc.bias": torch.zeros(7)}, tmp_path / "base.pth")
    settings |= {"learner.base": "base.pth", "learner.new_head": True}
    with pytest.raises(MissingAsset, match=r"no base checkpoint base\.pth"):
        run(tmp_path / "nowhere", settings=settings, profile="small")
    results = run(tmp_path / "run", settings=settings, profile="small", data_roots=(str(tmp_path),))
    assert results["finished"]
    after = latest(tmp_path / "run")["learner"]["network"]
    assert np.array_equal(after["model.conv1.weight"], tree["model.conv1.weight"])
    assert np.array_equal(after["model.bn1.running_mean"], tree["model.bn1.running_mean"])


def test_classes_of_an_imported_buffer_are_not_streamed_again(photographs: Path, tmp_path: Path) -> None:
    settings = {**SMALL, "dataset.images": str(photographs), "codec.codebook_size": 16}
    whole = run(tmp_path / "run", settings={**settings, "learner.authors_files": True}, profile="small")
    model = tmp_path / "run" / "authors" / "remind_model"
    for n in (2, 3):
        buffers.convert_legacy(
            model / f"remind_buffer_{n}.pkl", model / f"remind_classifier_F_{n}.pth", tmp_path / f"start{n}"
        )
    settings["learner.start_from"] = str(tmp_path / "start3")
    again = run(tmp_path / "again", settings=settings, profile="small")
    assert again["cost"]["memory_examples"] == whole["cost"]["memory_examples"] == 18
    kept = latest(tmp_path / "again")["learner"]["memory"]["slots"]["item"]
    assert sorted(np.asarray(kept).tolist()) == list(range(18))
    other = {"dataset.base_classes": 1, "dataset.increment": 2, "dataset.class_order": order(tmp_path)}
    with pytest.raises(BadInput, match=r"brings 2 classes, and the imported buffer holds 1"):
        run(
            tmp_path / "overlap",
            settings=settings | other | {"learner.start_from": str(tmp_path / "start2")},
            profile="small",
        )


def order(folder: Path) -> str:
    (folder / "order.txt").write_text("a\nb\nc\n")
    return str(folder / "order.txt")


# ---- rates, Omega -----------------------------------------------------------------------------------


def test_a_class_reaches_its_last_rate_after_its_examples_whatever_comes_between() -> None:
    rates = step.Rates(0.1, step.decay(100, 0.1, 0.001), 100)
    for _ in range(1300):
        rates.of(3)
        rates.advance(3)
        rates.advance(4)
    assert rates.of(3) == pytest.approx(0.001) and rates.of(5) == 0.1


def test_base_rates_follow_their_schedules() -> None:
    published = BaseTraining()
    assert [base.base_rate(published, epoch, 0, 1) for epoch in (0, 14, 15, 30)] == pytest.approx(
        [0.1, 0.1, 0.01, 0.001]
    )
    cycle = BaseTraining(base_schedule="one-cycle", base_lr=0.2)
    ours = [base.base_rate(cycle, 0, k, 40) for k in range(40)]
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.2, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=40, cycle_momentum=False)
    theirs = []
    for _ in range(40):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert ours == pytest.approx(theirs, rel=1e-6)


def test_omega_refuses_series_that_do_not_belong_together() -> None:
    with pytest.raises(BadInput):
        evaluate.omega([0.5], [0.5, 0.4])
    with pytest.raises(BadInput):
        evaluate.omega([0.5], [0.0])


# ---- questions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["remind", "stream", "full", "offline"])
def test_every_mode_answers_questions(mode: str, tmp_path: Path) -> None:
    test = "clevr-qtype" if mode == "remind" else f"clevr-qtype-{mode}"
    settings = {k: v for k, v in QUESTIONS.items() if mode == "remind" or k != "learner.replay_samples"}
    results = run(tmp_path / "run", test=test, settings={**settings, "learner.authors_files": True})
    lines = (tmp_path / "run" / "snapshots" / "train_log.csv").read_text().splitlines()
    assert lines[0] == "Num_classes,Data_subset,Epoch,Acc,VQAAcc" and len(lines) == 6
    values = results["metrics"]["answers"]["seen"][-1]
    assert 0 <= values["mean_per_type"] <= 1 and len(results["metrics"]["answers"]["seen"]) == 5


@pytest.mark.parametrize("network", ["updown", "mac", "ramen", "q_only", "qi"])
def test_every_network_streams(network: str, tmp_path: Path) -> None:
    settings = {**QUESTIONS, "dataset.n_train": 6, "model.network": network}
    results = run(tmp_path / "run", test="clevr-qtype", settings=settings)
    assert results["finished"]


@pytest.mark.parametrize("strategy", ["random", "queue"])
def test_a_limited_buffer_stays_limited(strategy: str, tmp_path: Path) -> None:
    results = run(tmp_path / "run", test=f"clevr-qtype-limited-{strategy}", settings={**QUESTIONS, "run.memory": "30"})
    assert results["cost"]["memory_examples"] == 30


def test_a_stopped_question_stream_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    settings = {**QUESTIONS, "learner.average": True, "learner.test_interval": 1, "learner.epochs": 2}
    whole = run(tmp_path / "whole", test="clevr-qtype", settings=settings)
    with pytest.raises(Interrupted):
        run(tmp_path / "stopped", test="clevr-qtype", settings={**settings, "run.stop_at_step": 30})
    go_on(tmp_path / "stopped")
    assert json.loads((tmp_path / "stopped" / "metrics.json").read_text())["digest"] == whole["digest"]


def test_padding_does_not_change_an_answer() -> None:
    from cl_plugin_remind.network.questions import Sizes, make

    net = make("updown", Sizes(n_words=9, n_answers=3, region_dim=4, word_dim=4, lstm=4, hidden=4, attention=4)).eval()
    question, image, length = torch.tensor([[1, 2, 9], [3, 4, 5]]), torch.rand(2, 4, 4), torch.tensor([2, 3])
    alone = net(question[:1, :2], image[:1], length[:1])
    assert torch.allclose(net(question, image, length)[:1], alone, atol=1e-6)


def test_batches_are_merged_longest_first() -> None:
    assert vqa.merge_batch(0, np.array([1, 2, 3]), np.array([3, 5, 3, 9])).tolist() == [3, 1, 0, 2]
