"""Trees in the form the data sets are published in, from the list of data sets to a finished run and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cl_kernel import Interrupted, Request, discover, plan, run_plan
from cl_kernel.running.session import request_of

SHORT = {"run.plots": False, "run.device": "cpu", "learner.base_epochs": 1, "learner.replay_samples": 4}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLK_CACHE", str(tmp_path / "cache"))


def core50(root: Path) -> dict[str, Any]:
    """``core50_128x128/s<session>/o<object>/C_<session>_<object>_<frame>.png``, two objects of two categories."""
    rng = np.random.default_rng(0)
    for session in (1, 2, 4, 3):
        for thing in (1, 2, 6, 7, 11, 12):
            folder = root / "core50_128x128" / f"s{session}" / f"o{thing}"
            folder.mkdir(parents=True)
            for frame in range(21):
                picture = Image.fromarray(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)).resize((128, 128))
                picture.save(folder / f"C_{session:02d}_{thing:02d}_{frame:03d}.png")
    import torchvision

    torch.save(torchvision.models.resnet18(weights=None).state_dict(), root / "resnet18-f37072fd.pth")
    return {"test": "core50-class-instance", "dataset": "remind:core50", "metrics": "accuracy"}


def imagenet(root: Path) -> dict[str, Any]:
    """``train/<wnid>/<wnid>_<n>.JPEG``, ``val/<wnid>/ILSVRC2012_val_<n>.JPEG``."""
    rng = np.random.default_rng(0)
    number = 0
    for wnid in ("n01440764", "n01443537", "n01484850", "n01491361"):
        for side, count in (("train", 4), ("val", 2)):
            (root / "imagenet" / side / wnid).mkdir(parents=True)
            for k in range(count):
                number += 1
                name = f"{wnid}_{k}.JPEG" if side == "train" else f"ILSVRC2012_val_{number:08d}.JPEG"
                picture = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)).resize((500, 375))
                picture.save(root / "imagenet" / side / wnid / name, "JPEG")
    sizes = {"dataset.base_classes": 2, "dataset.increment": 2, "learner.base_batch": 8, "metrics": "accuracy"}
    return {"test": "imagenet-cls-iid", "dataset": "remind:imagenet", **sizes}


@pytest.mark.slow
@pytest.mark.parametrize("make", [core50, imagenet])
def test_a_published_tree_runs_its_paper_profile_and_resumes(make: Any, tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    settings = make(root)
    test, dataset = settings.pop("test"), settings.pop("dataset")
    registry = discover(only=["remind"])
    record = next(offer.record for offer in registry.all("dataset") if offer.name == dataset)
    assert all(registry.locate(asset, (root,)) for asset in record.assets)

    def run(folder: Path, **more: Any) -> dict[str, Any]:
        overrides = (("test", {**SHORT, **settings, **more}),)
        request = Request(test=test, plugin="remind", data_roots=(str(root),), profile="paper", overrides=overrides)
        return dict(run_plan(registry, plan(registry, request), folder, comparisons=False).results)

    whole = run(tmp_path / "whole")
    assert whole["finished"] and len(whole["metrics"]["accuracy"]["seen"]) == 2
    with pytest.raises(Interrupted):
        run(tmp_path / "stopped", **{"run.stop_at_step": 4})
    run_plan(
        registry, plan(registry, request_of(tmp_path / "stopped")), tmp_path / "stopped", resume=True, comparisons=False
    )
    again = json.loads((tmp_path / "stopped" / "metrics.json").read_text())
    assert (again["digest"], again["state_digest"]) == (whole["digest"], whole["state_digest"])
