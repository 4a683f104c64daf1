"""Random views of training pictures: by name, the same for every learner, resumed bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cl_kernel import BadSetting, ClkError
from cl_kernel.cli.main import main
from cl_kernel.contract.stream import Field
from cl_kernel.data.samples import ArraySamples
from cl_kernel.torch.augment import make_view
from cl_kernel.torch.loaders import Batches

SHAPE = (3, 16, 16)
NETWORK = """
from torch import nn

def make(n_classes):
    body = nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    return nn.Sequential(*body, nn.Linear(16, n_classes))
"""


def test_each_image_of_a_batch_gets_a_view_of_its_own_drawn_from_torch() -> None:
    images = torch.arange(16.0).expand(40, *SHAPE) / 16
    view = make_view(["RandomHorizontalFlip"], SHAPE)
    torch.manual_seed(0)
    found = view(images)
    turned = (found[:, 0, 0, 0] > 0.5).sum()
    assert 5 < turned < 35
    torch.manual_seed(0)
    assert torch.equal(view(images), found) and not torch.equal(view(images), found)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["RandomHorizontalFlop"], "did you mean RandomHorizontalFlip"),
        (["RandomCrop(8)"], r"\(3, 8, 8\) of images \(3, 16, 16\)"),
        (["RandomCrop(16, padding='far')"], "padding"),
        (["RandomCrop"], "RandomCrop: .*size"),
        (["import os"], "reads like no NAME"),
        (["RandomCrop(__import__('os'))"], "reads like no NAME"),
    ],
)
def test_what_makes_no_view_is_one_message(names: list[str], words: str) -> None:
    with pytest.raises(ClkError, match=words):
        make_view(names, SHAPE)


def test_looking_for_mistakes_draws_nothing() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    make_view(["RandomCrop(16, padding=2)", "ColorJitter(brightness=0.5)"], SHAPE)
    assert torch.equal(before, torch.random.get_rng_state())


def test_views_are_made_in_front_of_the_frozen_part_and_left_out_of_passes_that_only_look() -> None:
    fields = {
        "image": Field(shape=(4, 4, 3), dtype="uint8", kind="image"),
        "class": Field(shape=(), dtype="int64", kind="class", n=2),
    }
    arrays = {"image": np.full((6, 4, 4, 3), 51, np.uint8), "class": np.arange(6) % 2}
    for limit in (1 << 30, 0):  # resident, and read batch by batch
        batches = Batches(
            ArraySamples(fields, arrays), torch.device("cpu"), lambda x: x * 10, lambda x: x + 1, limit=limit
        )
        seen = torch.cat([inputs for _, inputs, _ in batches(np.arange(6), 4)])
        looked = torch.cat([inputs for _, inputs, _ in batches.plain()(np.arange(6), 4)])
        given = torch.cat([inputs for _, inputs, _ in batches.of([np.arange(2)])])
        assert seen[0, 0, 0, 0] == given[0, 0, 0, 0] == pytest.approx(12) and looked[0, 0, 0, 0] == pytest.approx(2)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with pictures of four classes and a network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLK_CACHE", str(tmp_path / "cache"))
    torch.set_num_threads(1)
    y = np.repeat(np.arange(4), 15)
    x = np.random.default_rng(0).integers(0, 60, (60, 16, 16, 3)) + 60 * y[:, None, None, None]
    np.savez(tmp_path / "mine.npz", x=x.astype(np.uint8), y=y)
    (tmp_path / "own.py").write_text(NETWORK)
    return tmp_path


def run(*more: str) -> int:
    return main(
        ["run", "--dataset", "arrays:mine.npz", "--model", "module:own.py:make", "--set", "dataset.n_stages=2"]
        + [*more, "--set", "run.plots=false", "--set", "run.device=cpu"]
    )


VIEWS = ("--set", "stream.augment=[RandomHorizontalFlip, 'RandomCrop(16, padding=2)']")


@pytest.mark.parametrize(
    "learner",
    [
        ("fine-tuning",),
        ("er", "--memory", "12"),
        ("er-ace", "--memory", "12"),
        ("icarl", "--memory", "12"),
        ("der", "--memory", "12"),
        ("joint",),
        ("ncm",),
    ],
)
@pytest.mark.parametrize("cut", ["", "4"])
def test_views_change_what_a_learner_learns_and_the_run_stays_reproducible(
    learner: tuple[str, ...], cut: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digests = []
    for name, more in (("plain", ()), ("views", VIEWS), ("again", VIEWS)):
        assert (
            run("--learner", f"clk:{learner[0]}", *learner[1:], *more, "--set", f"model.cut={cut}", "--output", name)
            == 0
        )
        digests.append(json.loads((place / name / "metrics.json").read_text())["state_digest"])
    assert digests[0] != digests[1] == digests[2]
    assert ("stream.augment makes another picture" in capsys.readouterr().err) == bool(cut)


def test_a_learner_that_reads_pictures_its_own_way_refuses_views(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--learner", "clk:er", "--memory", "9", "--set", "stream.augment=RandomHorizontalFlop") == 2
    assert "did you mean RandomHorizontalFlip" in capsys.readouterr().err
    assert (
        main(["run", "--dataset", "arrays:mine.npz", "--set", "dataset.n_stages=2", "--learner", "linear", *VIEWS]) == 2
    )
    assert "reads its pictures in a way of its own" in capsys.readouterr().err
    with pytest.raises(BadSetting):
        make_view(["Resize(8)"], SHAPE)
