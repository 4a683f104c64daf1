"""What a pretrained frozen part computes is computed once, for all methods, seeds and orders of classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import cl_kernel
from cl_kernel import BadInput
from cl_kernel.contract import events

NETWORK = """
import torch
from torch import nn

def make(n_classes, scale=1.0):
    with torch.random.fork_rng():
        torch.manual_seed(7)
        body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
    with torch.no_grad():
        body[0].weight.mul_(scale)
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, n_classes))

def louder(n_classes):
    return make(n_classes, 2.0)

def huge(n_classes):
    network = make(n_classes)
    network[0][1].weight.data.fill_(1e6)
    return network
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setenv("CLK_CACHE", str(tmp_path / "cache"))
    (tmp_path / "own.py").write_text(NETWORK)
    rng = np.random.default_rng(0)
    for side, n in (("train", 12), ("val", 4)):
        for label, hue in enumerate(((200, 40, 40), (40, 200, 40), (40, 40, 200), (200, 200, 40))):
            folder = tmp_path / "photos" / side / f"class{label}"
            folder.mkdir(parents=True)
            for k in range(n):
                picture = np.clip(rng.normal(hue, 60, (16, 16, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(picture).save(folder / f"{k:02d}.png")


def run(tmp_path: Path, name: str, *, make: str = "make", learner: str = "ncm", **settings: Any) -> tuple[Any, str]:
    """Results of a run, and what it said of the features."""
    said: list[str] = []

    def listen(event: Any) -> None:
        if isinstance(event, events.Noted) and event.text.startswith("features"):
            said.append(event.text)

    replay = {"replay": "class-balanced+raw", "memory": "12"} if learner == "er" else {}
    made = cl_kernel.run(
        dataset=f"folder:{tmp_path / 'photos'}",
        model=f"module:{tmp_path / 'own.py'}:{make}",
        learner=learner,
        output=tmp_path / name,
        listen=[listen],
        settings={
            "dataset.size": 16,
            "dataset.n_stages": 2,
            "model.cut": "head",
            "run.device": "cpu",
            "run.plots": False,
            **settings,
        },
        **replay,
    )
    return made.results, said[0] if said else ""


def test_another_method_seed_and_order_of_classes_find_the_features(tmp_path: Path) -> None:
    _, first = run(tmp_path, "first")
    assert "48 computed" in first and "0 found" in first and "128 bytes each" in first
    _, second = run(
        tmp_path, "second", learner="er", **{"run.seed": 3, "dataset.order": (3, 1, 0, 2), "learner.epochs": 2}
    )
    assert "48 found" in second and "0 computed" in second


def test_found_features_give_the_numbers_that_computed_ones_gave(tmp_path: Path) -> None:
    one, _ = run(tmp_path, "one", learner="er", **{"learner.epochs": 3})
    two, said = run(tmp_path, "two", learner="er", **{"learner.epochs": 3})
    assert "0 computed" in said
    assert (one["digest"], one["state_digest"]) == (two["digest"], two["state_digest"])


def test_a_run_may_compute_them_alone_and_scores_the_same(tmp_path: Path) -> None:
    shared, _ = run(tmp_path, "shared", learner="slda")
    alone, said = run(tmp_path, "alone", learner="slda", **{"run.features": "off"})
    assert "in this run alone: run.features=off" in said
    assert shared["metrics"]["accuracy"]["matrix"] == alone["metrics"]["accuracy"]["matrix"]


def test_a_changed_picture_or_network_is_computed_anew(tmp_path: Path) -> None:
    run(tmp_path, "first")
    _, other = run(tmp_path, "other", make="louder")
    assert "48 computed" in other
    picture = tmp_path / "photos" / "train" / "class1" / "03.png"
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(picture)
    _, again = run(tmp_path, "again")
    assert "48 computed" in again
    _, resized = run(tmp_path, "resized", **{"dataset.size": 8})
    assert "48 computed" in resized


def test_half_the_bytes_are_kept_apart_from_whole_ones(tmp_path: Path) -> None:
    run(tmp_path, "whole")
    _, half = run(tmp_path, "half", **{"run.features": "half"})
    assert "48 computed" in half and "64 bytes each" in half


def test_features_too_large_for_half_the_bytes_are_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="does not fit half the bytes"):
        run(tmp_path, "half", make="huge", **{"run.features": "half"})
    run(tmp_path, "whole", make="huge")


def test_random_weights_of_the_seed_are_not_kept(tmp_path: Path) -> None:
    _, said = run(tmp_path, "random", **{"model.weights": "none"})
    assert said == "" and not (tmp_path / "cache" / "frozen-features").exists()
