"""Networks of timm, torchvision and transformers from files on this machine, by commands alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision

from cl_kernel.library.backbones.efficientnet_lite import weight_file

N_CLASSES, EACH, SIDE = 4, 12, 48
PLAIN = ("--set", "run.plots=false", "--set", "dataset.n_stages=2", "--no-comparisons")


def as_timm(folder: Path) -> Path:
    """The packaged weights under timm's names: both networks hold the same tensors in the same order."""
    names = timm.create_model("tf_efficientnet_lite0").state_dict()
    tensors = torch.load(weight_file(), weights_only=True)
    kept = [[name for name in one if not name.endswith("num_batches_tracked")] for one in (names, tensors)]
    torch.save({theirs: tensors[ours] for theirs, ours in zip(*kept, strict=True)}, folder / "lite0.pth")
    return folder / "lite0.pth"


@pytest.fixture
def place(clk: Any) -> Path:
    """Coloured noise of four classes, and files of three networks."""
    folder: Path = clk.folder
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(N_CLASSES), EACH)
    tint = rng.integers(0, 90, (N_CLASSES, 1, 1, 3))[y]
    np.savez(folder / "mine.npz", x=(rng.integers(0, 160, (len(y), SIDE, SIDE, 3)) + tint).astype(np.uint8), y=y)
    as_timm(folder)
    torch.manual_seed(0)
    torch.save(torchvision.models.mobilenet_v3_small().state_dict(), folder / "mobilenet.pth")
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, patch_size=8, image_size=SIDE
    )
    ViTModel(config).save_pretrained(folder / "vit")
    return folder


def scores(clk: Any, name: str, *arguments: str) -> dict[str, Any]:
    clk("run", "--dataset", "arrays:mine.npz", *arguments, *PLAIN, "--output", name, CLK_PLUGINS="butd")
    made: dict[str, Any] = json.loads((clk.folder / name / "metrics.json").read_text())
    return made


@pytest.mark.slow
def test_timms_network_with_the_packaged_weights_is_the_packaged_network(place: Path, clk: Any) -> None:
    seen = ("--set", "model.mean=[0.5, 0.5, 0.5]", "--set", "model.std=[0.5, 0.5, 0.5]", "--learner", "clk:slda")
    timms = scores(clk, "timm", "--model", "timm:tf_efficientnet_lite0", "--set", "model.weights=lite0.pth", *seen)
    ours = scores(clk, "ours", "--model", "efficientnet-lite0", *seen)
    assert timms["metrics"]["accuracy"]["matrix"] == ours["metrics"]["accuracy"]["matrix"]
    assert timms["cost"]["kept"] == ours["cost"]["kept"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "network",
    [
        ("timm:tf_efficientnet_lite0", "model.weights=lite0.pth", "model.cut=blocks.6"),
        ("torchvision:mobilenet_v3_small", "model.weights=mobilenet.pth", "model.cut=features.12"),
        ("hf:vit", "model.cut=backbone.blocks.1", "model.new_head=true"),
    ],
)
@pytest.mark.parametrize("learner", [("clk:er", "--memory", "12"), ("butd:isolate", "--set", "stream.scenario=task")])
def test_every_librarys_network_learns_from_a_file_under_plain_learners_and_butd(
    network: tuple[str, ...], learner: tuple[str, ...], place: Path, clk: Any
) -> None:
    name, *settings = network
    chosen = [part for setting in settings for part in ("--set", setting)]
    made = scores(clk, "out", "--model", name, *chosen, "--learner", *learner)
    assert len(made["metrics"]["accuracy"]["seen"]) == 2


@pytest.mark.slow
def test_a_directory_of_transformers_answers_butds_instructions(place: Path, clk: Any) -> None:
    image = ("--set", f"learner.image={SIDE}", "--set", "learner.epochs=1")
    clk(
        "run",
        "--plugin",
        "butd",
        "--test",
        "VIT_GUIDED",
        "--set",
        "learner.hub=vit",
        *image,
        "--output",
        "out",
        CLK_PLUGINS="butd",
    )
    assert (place / "out" / "metrics.json").exists()
