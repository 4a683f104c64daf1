"""``clk model NAME``: layers, what crosses, what it takes; the run says how pictures are prepared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cl_kernel import Field, Resources
from cl_kernel.cli.main import main
from cl_kernel.library.backbones import build
from cl_kernel.library.backbones.settings import Backbone

OWN = """
from torch import nn

def make(n_classes):
    body = nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*body, nn.Linear(4, n_classes))
"""


def rows(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["model", *arguments, "--json"]) == 0
    made: dict[str, Any] = json.loads(capsys.readouterr().out)
    return made


def test_each_layer_has_its_shape_parameters_and_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    made = rows(capsys, "torchvision:resnet18", "--size", "64", "--classes", "7")
    assert made["parameters"] == 11_176_512 + 7 * 513
    layers = {row["layer"]: row for row in made["layers"]}
    assert (layers["layer3"]["input"], layers["layer3"]["bytes"]) == ([128, 8, 8], 4 * 128 * 8 * 8)
    assert layers["fc"]["parameters"] == 7 * 513
    assert "layer3.1.conv2" not in layers
    assert any("not on this machine" in line for line in made["notes"])


def test_where_a_residual_crosses_no_cut_is_offered(capsys: pytest.CaptureFixture[str]) -> None:
    made = rows(capsys, "torchvision:resnet18", "--size", "64", "--depth", "3")
    layers = {row["layer"]: row["cut"] for row in made["layers"]}
    assert layers["layer3.1"] and not layers["layer3.1.conv2"]


def test_a_network_of_ones_own_is_listed_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "own.py").write_text(OWN)
    made = rows(capsys, f"module:{tmp_path / 'own.py'}:make", "--size", "16")
    assert [row["input"] for row in made["layers"]] == [[3, 16, 16], [4, 8, 8], [4, 8, 8], [4, 1, 1], [4]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("torchvision:resnett18",), "did you mean resnet18"),
        (("efficientnet-lite0:7",), "takes no argument"),
        (("torchvision:resnet18", "--size", "0"), "--size"),
        (("torchvision:resnet18", "--set", "model.weights=gone.pth"), "gone.pth"),
        (("torchvision:resnet18", "--set", "model.sice=3"), "model.size"),
    ],
)
def test_what_cannot_be_listed_is_one_message(
    arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["model", *arguments]) == 2
    assert words in capsys.readouterr().err


BRIGHTNESS = """
import torch
from torch import nn

class Brightness(nn.Module):
    def forward(self, images):
        centre = images.mean((1, 2, 3)) * 255
        return -(centre[:, None] - torch.arange(1000.0)).abs()

def make():
    return Brightness()
"""


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three grey pictures, white at the rim that an ImageNet crop leaves out."""
    (tmp_path / "net.py").write_text(BRIGHTNESS)
    (tmp_path / "some").mkdir()
    for level in (20, 90, 200):
        pixels = np.full((80, 128, 3), 255, np.uint8)
        pixels[2:78, 26:102] = level
        Image.fromarray(pixels).save(tmp_path / "some" / f"{level}.png")
    return tmp_path


def test_a_networks_own_classifier_names_pictures(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pictures / "labels.csv").write_text("file,index\n20.png,20\n200.png,202\n90.png,5\n")
    named = ("--pictures", str(pictures / "some"), "--labels", str(pictures / "labels.csv"), "--size", "56")
    made = rows(capsys, f"module:{pictures / 'net.py'}:make", *named)
    assert [(row["file"], row["class"]) for row in made["pictures"]] == [
        ("20.png", 20),
        ("200.png", 200),
        ("90.png", 90),
    ]
    assert (made["top1"], made["top5"]) == (1 / 3, 2 / 3)
    assert main(["model", f"module:{pictures / 'net.py'}:make", *named]) == 0
    assert "33.3% of 3 pictures named right, 66.7% among the five" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ("file,class\n20.png,20\n", "line 2 has no file and index"),
        ("file,index\n20.png,x\n", "line 2 has no file and index"),
        ("file,index\n20.png,2\n", "no line for 200.png; 2 pictures have none"),
    ],
)
def test_labels_that_do_not_do_are_named(
    labels: str, words: str, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "labels.csv").write_text(labels)
    asked = ["model", f"module:{pictures / 'net.py'}:make", "--pictures", str(pictures / "some")]
    assert main([*asked, "--labels", str(pictures / "labels.csv")]) == 2
    assert words in capsys.readouterr().err


def test_weights_that_are_not_here_name_no_pictures(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "torchvision:resnet18", "--pictures", str(pictures / "some")]) == 2
    assert "not on this machine" in capsys.readouterr().err
    assert main(["model", "torchvision:resnet18", "--pictures", str(pictures)]) == 2
    assert main(["model", "torchvision:resnet18", "--labels", "x.csv"]) == 2


def test_a_run_says_which_preprocessing_it_used() -> None:
    resources = Resources()
    chosen = Backbone(name="resnet18", weights="none", mean=(0.5,) * 3, std=(0.25,) * 3)
    fields = {
        "image": Field(shape=(32, 32, 3), dtype="uint8", kind="image"),
        "class": Field(shape=(), dtype="int64", kind="class", n=5),
    }
    build.build_torchvision(chosen, fields, 5, resources)
    assert resources.said == [
        "preprocessing: (pixels / 255 - [0.5, 0.5, 0.5]) / [0.25, 0.25, 0.25], edge 32 as the data set gives them "
        "(settings)"
    ]
