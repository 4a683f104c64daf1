"""The generic learners through the kernel's loop: resume, bounds, memory at the cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cl_kernel import ArraySamples, BadSetting, Field, Interrupted, Mismatch, Request, discover, plan, resume, run_plan
from cl_kernel.library.networks import resnet18
from cl_kernel.torch import distributed
from cl_kernel.torch.features import extract
from cl_kernel.torch.loaders import Batches, ahead, take_good, to_input
from cl_kernel.torch.split import Split, cut

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def run(folder: Path, learner: str, **settings: Any) -> dict[str, Any]:
    pieces = {
        "dataset": "clk:digits",
        "learner": f"clk:{learner}",
        **({"run.memory": "100"} if learner == "er" else {}),
    }
    values = {**pieces, "run.device": "cpu", "run.plots": False, **settings}
    registry = discover()
    request = Request(overrides=(("test", values),))
    return dict(run_plan(registry, plan(registry, request), folder).results)


@pytest.mark.parametrize(
    ("learner", "settings"),
    [
        ("naive", {"learner.momentum": 0.9}),
        ("er", {"learner.update": "batch", "learner.epochs": 2}),
        ("er", {"learner.update": "stage", "model.cut": "head"}),
        ("er", {"model": "clk:convnet", "model.widths": (4, 8), "learner.optimizer": "adam"}),
        ("joint", {"learner.epochs": 2}),
    ],
)
def test_a_stopped_run_ends_like_an_uninterrupted_one(learner: str, settings: dict[str, Any], tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", learner, **settings)
    with pytest.raises(Interrupted):
        run(tmp_path / "stopped", learner, **{**settings, "run.stop_at_step": 17})
    resume(discover(), tmp_path / "stopped")
    again = json.loads((tmp_path / "stopped" / "metrics.json").read_text())
    assert again["digest"] == whole["digest"] and again["state_digest"] == whole["state_digest"]


def test_replay_beats_naive_training_and_joint_training_bounds_it(tmp_path: Path) -> None:
    last = {
        name: run(tmp_path / name, name, **{"learner.epochs": 2})["metrics"]["accuracy"]["seen"][-1]["accuracy"]
        for name in ("naive", "er", "joint")
    }
    assert last["er"] > last["naive"] + 0.3
    assert last["joint"] > last["er"] - 0.05


def test_another_seed_gives_another_run(tmp_path: Path) -> None:
    assert run(tmp_path / "a", "er")["state_digest"] != run(tmp_path / "b", "er", **{"run.seed": 1})["state_digest"]


def test_a_cut_network_remembers_what_crosses_the_cut(tmp_path: Path) -> None:
    results = run(tmp_path / "run", "er", **{"model.cut": "head"})
    assert results["cost"]["memory_bytes"] == 100 * (128 * 4 + 8)


def test_replay_without_a_memory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Mismatch, match="memory"):
        run(tmp_path / "run", "er", replay="none", **{"run.memory": ""})


def test_an_unknown_cut_names_the_layers(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="hidden0, head"):
        run(tmp_path / "run", "naive", **{"model.cut": "hidden7"})


# ---- loaders, features, parts -----------------------------------------------------------------------


def samples(n: int = 10) -> ArraySamples:
    spec = {
        "image": Field(shape=(4, 4, 3), dtype="uint8", kind="image"),
        "class": Field(shape=(), dtype="int64", kind="class", n=n),
    }
    rng = np.random.default_rng(0)
    return ArraySamples(spec, {"image": rng.integers(0, 255, (n, 4, 4, 3), np.uint8), "class": np.arange(n)})


@pytest.mark.parametrize("limit", [1 << 30, 0])
@pytest.mark.parametrize("start", [0, 4, 8])
def test_batches_come_in_the_order_asked_for_from_any_position(limit: int, start: int) -> None:
    data = samples()
    order = np.random.default_rng(1).permutation(10)
    found = list(Batches(data, CPU, limit=limit, n_workers=3)(order, 4, start))
    assert np.concatenate([rows for rows, _, _ in found]).tolist() == order[start:].tolist()
    assert torch.cat([labels for _, _, labels in found]).tolist() == order[start:].tolist()
    expected = torch.from_numpy(data.arrays["image"][order[start:]]).permute(0, 3, 1, 2) / 255
    assert torch.equal(torch.cat([images for _, images, _ in found]), expected)


def test_images_without_channels_and_float_images_become_planes() -> None:
    grey = to_input(np.full((2, 5, 5), 255, np.uint8), Field(shape=(5, 5), dtype="uint8", kind="image"), CPU)
    assert grey.shape == (2, 1, 5, 5) and (grey == 1).all() and grey.is_contiguous()
    floats = to_input(np.ones((2, 5, 6, 3), np.float32), Field(shape=(5, 6, 3), dtype="float32", kind="image"), CPU)
    assert floats.shape == (2, 3, 5, 6) and (floats == 1).all()


def test_unreadable_samples_are_left_out_and_named() -> None:
    class Faulty:
        spec = samples().spec

        def __len__(self) -> int:
            return 10

        def take(self, rows: np.ndarray, fields: Any = None) -> dict[str, np.ndarray]:
            if 3 in rows:
                raise ValueError("broken")
            return samples().take(rows, fields)

    bad: list[tuple[str, Exception]] = []
    rows, batch = take_good(Faulty(), np.array([1, 3, 5]), ["class"], bad)
    assert rows.tolist() == [1, 5] and batch["class"].tolist() == [1, 5] and [which for which, _ in bad] == ["sample 3"]
    told: list[str] = []
    kept = [
        labels for _, _, labels in Batches(Faulty(), CPU, on_bad=lambda which, _: told.append(which))(np.arange(10), 4)
    ]
    assert torch.cat(kept).tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9] and told == ["sample 3"]


def test_work_done_ahead_keeps_its_order_and_its_errors() -> None:
    assert list(ahead(lambda k: k * k, range(20), 4)) == [k * k for k in range(20)]
    with pytest.raises(ZeroDivisionError):
        list(ahead(lambda k: 1 // (k - 3), range(5), 2))


def test_any_layer_can_be_read_by_name() -> None:
    network = resnet18(10).train()
    found = extract(network, torch.rand(2, 3, 64, 64), ["layer1.0.bn1", "layer4.0"])
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == {
        "layer1.0.bn1": (2, 64, 16, 16),
        "layer4.0": (2, 512, 2, 2),
    }
    assert extract(network, torch.rand(2, 3, 64, 64), "fc").shape == (2, 10)
    assert network.training and not found["layer4.0"].requires_grad
    with pytest.raises(LookupError, match=r"layer4\.0"):
        extract(network, torch.rand(1, 3, 64, 64), "layer4.00")


def test_layers_above_the_last_one_asked_for_are_not_run() -> None:
    ran: list[str] = []
    network = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU(), torch.nn.Linear(3, 3))
    network[2].register_forward_hook(lambda *_: ran.append("last"))
    extract(network, torch.rand(1, 3), "1")
    assert ran == []


def test_the_lower_part_of_a_split_network_stays_as_it_is() -> None:
    network: Split = cut([("a", torch.nn.BatchNorm1d(3)), ("b", torch.nn.Linear(3, 2))], "b").train()
    before = network.lower.state_dict()["a.running_mean"].clone()
    network(torch.rand(8, 3) + 5).sum().backward()
    assert torch.equal(before, network.lower.state_dict()["a.running_mean"])
    assert all(p.grad is None for p in network.lower.parameters()) and network.upper[0].weight.grad is not None


def test_a_single_process_needs_no_group() -> None:
    with distributed.started("cpu") as device:
        assert device.type == "cpu" and distributed.rank() == 0 and distributed.world() == 1
        assert distributed.share_of(np.arange(5)).tolist() == [0, 1, 2, 3, 4]
