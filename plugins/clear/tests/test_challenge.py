"""Saved models scored bucket by bucket: our own, and the files of the challenge's starter kit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from cl_kernel.contract.errors import BadInput, BadSetting, MissingAsset
from cl_plugin_clear.evaluate import challenge
from cl_plugin_clear.settings import Challenge

COLOURS = {"blue": (20, 20, 220), "green": (20, 220, 20), "red": (220, 20, 20)}

SETUP = """
import torch
from beside import Brightest
from pathlib import Path
from torchvision import transforms

def load_models(models_path{argument}):
    files = sorted(Path(models_path).glob("*.pth"))
    return [Brightest(torch.load(path, weights_only=True)) for path in files]

def data_transform():
    return transforms.Compose([transforms.Resize(24), transforms.FiveCrop(16),
                               transforms.Lambda(lambda crops: torch.stack([transforms.ToTensor()(c) for c in crops]))])
"""
BESIDE = """
import torch

class Brightest(torch.nn.Module):
    \"\"\"Says the colour channel that is brightest over five crops, turned by what was saved.\"\"\"

    def __init__(self, saved):
        super().__init__()
        self.turn = int(saved["turn"])

    def forward(self, crops):  # [N, 5, 3, H, W]
        return torch.roll(crops.mean((1, 3, 4)).flip(1), self.turn, 1)
"""


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    """``labeled_images``, models and an own module as a participant has them."""
    rng = np.random.default_rng(0)
    for bucket in (1, 2, 10):
        for name, colour in COLOURS.items():
            folder = tmp_path / "labeled_images" / str(bucket) / name
            folder.mkdir(parents=True)
            for i in range(4):
                pixels = np.clip(np.array(colour) + rng.integers(-20, 20, (40, 36, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{100 * bucket + i}.jpg")
    (tmp_path / "models").mkdir()
    for i, turn in enumerate((0, 1, 0), start=1):
        torch.save({"turn": torch.tensor(turn)}, tmp_path / "models" / f"model{i:02d}.pth")
    (tmp_path / "evaluation_setup.py").write_text(SETUP.replace("{argument}", ""))
    (tmp_path / "beside.py").write_text(BESIDE)
    return tmp_path


def of(kit: Path, **changes: object) -> Challenge:
    known = {
        "models": str(kit / "models"),
        "data": str(kit / "labeled_images"),
        "setup": str(kit / "evaluation_setup.py"),
    }
    return Challenge(**{**known, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("argument", ["", ", num_classes=100"])
def test_the_kits_own_form_gives_the_matrix(kit: Path, argument: str) -> None:
    (kit / "evaluation_setup.py").write_text(SETUP.replace("{argument}", argument))
    scores = challenge.evaluate_models(of(kit), kit / "out", device="cpu")
    assert scores["matrix"] == [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]
    assert json.loads((kit / "out" / "matrix.json").read_text())["buckets"] == ["1", "2", "10"]
    four = [scores[key] for key in ("in_domain", "next_domain", "backward_transfer", "forward_transfer")]
    assert scores["weighted_score"] == pytest.approx(float(np.mean(four)))


def test_load_models_falls_back_on_its_own_number_of_classes(kit: Path) -> None:
    body = SETUP.replace("{argument}", ", num_classes=100")
    strict = '    if num_classes != 100:\n        raise RuntimeError("size mismatch for fc.weight")\n    files = '
    (kit / "evaluation_setup.py").write_text(body.replace("    files = ", strict))
    scores = challenge.evaluate_models(of(kit), kit / "out", device="cpu")
    assert scores["matrix"][0] == [1.0, 1.0, 1.0]
    (kit / "evaluation_setup.py").write_text(body.replace("    files = ", strict.replace("!= 100", "!= 7")))
    with pytest.raises(BadInput, match=r"load_models fails: RuntimeError: size mismatch for fc\.weight"):
        challenge.evaluate_models(of(kit), kit / "out", device="cpu")


def test_heads_of_a_thousand_outputs_are_scored_on_the_first(kit: Path) -> None:
    for path in (kit / "models").iterdir():
        torch.manual_seed(int(path.stem[5:]))
        torch.save(torchvision.models.resnet18(num_classes=1000).state_dict(), path)
    scores = challenge.evaluate_models(of(kit, setup="", image_size=32), kit / "out", device="cpu")
    assert np.array(scores["matrix"]).shape == (3, 3)


def test_what_cannot_be_scored_is_named(kit: Path) -> None:
    with pytest.raises(MissingAsset, match="no such file"):
        challenge.evaluate_models(of(kit, setup=str(kit / "none.py")), kit / "out", device="cpu")
    (kit / "evaluation_setup.py").write_text("import nothing_of_that_name\n")
    with pytest.raises(BadInput, match="nothing_of_that_name"):
        challenge.evaluate_models(of(kit), kit / "out", device="cpu")
    (kit / "evaluation_setup.py").write_text("x = 1\n")
    with pytest.raises(BadInput, match="load_models"):
        challenge.evaluate_models(of(kit), kit / "out", device="cpu")
    with pytest.raises(BadInput, match=r"fc\.weight"):
        challenge.evaluate_models(of(kit, setup=""), kit / "out", device="cpu")
    with pytest.raises(BadSetting, match="folder of the models"):
        challenge.evaluate_models(Challenge(setup="x.py"), kit / "out", device="cpu")
    for picture in (kit / "labeled_images" / "2" / "red").iterdir():
        picture.unlink()
    with pytest.raises(BadInput, match="bucket 2 has no picture of red"):
        challenge.evaluate_models(of(kit, setup=""), kit / "out", device="cpu")


def test_models_of_one_time_or_a_missing_time_are_refused(kit: Path) -> None:
    (kit / "models" / "model02.pth").rename(kit / "models" / "model04.pth")
    with pytest.raises(BadInput, match="one is missing"):
        challenge.model_files(kit / "models")
    (kit / "models" / "t01.pth").touch()
    with pytest.raises(BadInput, match="of one time"):
        challenge.model_files(kit / "models")
