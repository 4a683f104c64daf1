"""Networks by name: cut anywhere, weights laid over, what does not fit said before the run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from attrs import evolve
from torch import Tensor, nn
from torchvision import models

from cl_kernel import BadInput, BadSetting, ClkError, Field, Mismatch, MissingAsset, Resources, UnknownName
from cl_kernel.library.backbones import build, efficientnet_lite, sources
from cl_kernel.library.backbones.cutting import cut_at, head_name, layer_shapes, maps_name
from cl_kernel.library.backbones.settings import Backbone
from cl_kernel.torch.split import Split

SIDE = 32
RANDOM = Backbone(name="resnet18", weights="none")


def fields(side: int = SIDE, channels: int = 3) -> dict[str, Field]:
    return {
        "image": Field(shape=(side, side, channels), dtype="uint8", kind="image"),
        "class": Field(shape=(), dtype="int64", kind="class", n=5),
    }


def torchvision(settings: Backbone, n: int = 5, **shape: int) -> Split:
    return build.build_torchvision(settings, fields(**shape), n, Resources())


NETWORKS = {
    "lite0": (lambda: efficientnet_lite.initialised(5), ("_blocks.5", "_conv_head", "_fc", "_blocks.2._expand_conv")),
    "resnet18": (lambda: models.resnet18(num_classes=5), ("layer2.1", "layer4", "fc")),
    "vit": (lambda: models.vit_b_16(image_size=SIDE, num_classes=5), ("encoder.layers.encoder_layer_6", "heads")),
    "mobilenet": (lambda: models.mobilenet_v3_small(num_classes=5), ("features.5", "classifier.3")),
    "timm vit": (
        lambda: timm.create_model("vit_tiny_patch16_224", img_size=SIDE, num_classes=5),
        ("blocks.6", "norm", "head"),
    ),
    "timm convnext": (lambda: timm.create_model("convnext_atto", num_classes=5), ("stages.2", "head.fc")),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_both_parts_of_a_cut_network_do_what_the_whole_does(name: str) -> None:
    make, layers = NETWORKS[name]
    torch.manual_seed(0)
    whole = make().eval()
    images = torch.rand(2, 3, SIDE, SIDE)
    for layer in layers:
        lower, upper = cut_at(whole, layer)
        with torch.no_grad():
            assert torch.equal(upper(lower(images)), whole(images)), layer
        assert {*lower.state_dict(), *upper.state_dict()} == {*whole.state_dict()}


def test_the_upper_part_keeps_its_dropout_and_the_lower_one_its_statistics() -> None:
    torch.manual_seed(0)
    network = efficientnet_lite.initialised(5)
    split = Split(*cut_at(network, "_blocks.10")).train()
    images = torch.rand(2, 3, SIDE, SIDE)
    before = {name: value.clone() for name, value in split.lower.state_dict().items()}
    assert not torch.equal(split(images), split(images))  # dropout, and norms that move
    split(images).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in split.lower.state_dict().items())
    assert all(p.grad is None for p in split.lower.parameters())


def test_a_cut_inside_a_block_is_refused_with_the_blocks_that_work() -> None:
    with pytest.raises(BadSetting, match=r"2 values cross.*layer3\.1\.conv2") as caught:
        cut_at(models.resnet18(), "layer3.1.conv2")
    assert "layer3.1, layer3" in str(caught.value)


def test_an_unknown_layer_is_named_with_the_nearest_or_the_outer_ones() -> None:
    with pytest.raises(UnknownName, match=r"'layer9'; did you mean layer[1-4]"):
        cut_at(models.resnet18(), "layer9")
    with pytest.raises(UnknownName, match=r"known: avgpool, bn1, conv1, fc, layer1, layer2, layer3, layer4, maxpool"):
        cut_at(models.resnet18(), "something else")


def test_a_cut_behind_the_head_is_refused_with_the_heads_name(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from torch import nn\n\ndef make(n_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(3072, n_classes), nn.Softmax(1))\n"
    )
    chosen = Backbone(name=f"{tmp_path / 'own.py'}:make", cut="2", new_head=False)
    with pytest.raises(BadSetting, match=r"nothing learns from layer '2' on.*\n.*\n.*model\.cut=1"):
        build.build_module(chosen, fields(), 5, Resources())


def test_grey_pictures_into_a_network_of_colour_weights_are_refused_with_the_way_out() -> None:
    with pytest.raises(Mismatch, match=r"images of 3 channels, the data set gives 1 \(grey\)") as caught:
        build.build_efficientnet_lite0(Backbone(), fields(channels=1), 5, Resources())
    assert "numpy.repeat" in str(caught.value)


@pytest.mark.parametrize(
    ("side", "expected"),
    [
        (64, [-3.12008, 1.72686, -1.10439, 0.20395, -8.58325, -4.73751, -0.65162, -3.96474]),
        (96, [1.36737, 0.07235, -1.42417, 0.85645, -3.16196, -2.89637, -0.20598, -3.28542]),
    ],
)
def test_lite0_gives_the_numbers_of_the_published_network(side: int, expected: list[float]) -> None:
    """Every 125th score of ``efficientnet_lite_pytorch`` 0.1.0 with the packaged weights, on a drawn picture."""
    network = efficientnet_lite.EfficientNetLite0().eval()
    network.load_state_dict(torch.load(efficientnet_lite.weight_file(), weights_only=True))
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    picture = torch.from_numpy(np.stack([np.sin(7 * x + 3 * y), np.cos(5 * x * y), x - y])[None].astype(np.float32))
    with torch.no_grad():
        scores = network(picture)[0]
    assert scores[::125].tolist() == pytest.approx(expected, abs=2e-4)
    assert int(scores.argmax()) == 641


def test_lite0_reads_pixels_as_its_weights_want_them() -> None:
    made = build.build_efficientnet_lite0(Backbone(new_head=False), fields(), 1000, Resources())
    front = made.lower[0]
    pixels = torch.tensor([0.0, 127.0, 255.0]).reshape(3, 1, 1, 1).expand(3, 3, SIDE, SIDE) / 255
    assert front(pixels)[:, 0, 0, 0].tolist() == pytest.approx([-127 / 128, 0.0, 1.0], abs=1e-6)


def test_a_person_sets_mean_size_and_cut(tmp_path: Path) -> None:
    made = torchvision(evolve(RANDOM, mean=(0.1, 0.2, 0.3), std=(1, 1, 2), size=64, cut="layer3"))
    shown = made.lower[0](torch.ones(1, 3, SIDE, SIDE))
    assert shown.shape == (1, 3, 64, 64)
    assert shown[0, :, 5, 5].tolist() == pytest.approx([0.9, 0.8, 0.35])
    assert made.features(torch.rand(2, 3, SIDE, SIDE)).shape == (2, 128, 8, 8)


@pytest.mark.parametrize("cut", ["", "head"])
def test_an_empty_cut_learns_everything_and_the_heads_cut_the_head_alone(cut: str) -> None:
    made = torchvision(evolve(RANDOM, cut=cut))
    learns = sum(p.numel() for p in made.parameters() if p.requires_grad)
    assert learns == (512 * 5 + 5 if cut else sum(p.numel() for p in made.parameters()))
    assert torchvision(evolve(RANDOM, frozen=False)).is_cut is False


def test_weights_of_a_file_are_laid_over_whatever_wraps_them(tmp_path: Path) -> None:
    torch.manual_seed(1)
    other = models.resnet18(num_classes=7)
    forms = {
        "bare": other.state_dict(),
        "wrapped": {"state_dict": {f"module.{k}": v for k, v in other.state_dict().items()}, "epoch": 3},
        "prefixed": {f"encoder_q.{k}": v for k, v in other.state_dict().items()},
    }
    for name, content in forms.items():
        torch.save(content, tmp_path / f"{name}.pth")
        made = torchvision(evolve(RANDOM, weights=str(tmp_path / f"{name}.pth"), cut="layer4"))
        assert torch.equal(made.lower[1].conv1.weight, other.conv1.weight), name


def test_weights_of_another_architecture_are_refused_naming_tensors(tmp_path: Path) -> None:
    torch.save(models.resnet34().state_dict(), tmp_path / "other.pth")
    with pytest.raises(BadInput, match=r"unexpected: layer1\.2\.conv1"):
        torchvision(evolve(RANDOM, weights=str(tmp_path / "other.pth")))
    torch.save(models.mobilenet_v3_small().state_dict(), tmp_path / "mobile.pth")
    with pytest.raises(BadInput, match=r"missing: conv1\.weight, bn1\.weight, bn1\.bias and \d+ more\n") as caught:
        torchvision(evolve(RANDOM, weights=str(tmp_path / "mobile.pth")))
    unexpected = str(caught.value).partition("unexpected: ")[2].splitlines()[0]
    assert unexpected.startswith("features.0.0.weight, features.0.1.weight, features.0.1.bias and ")


def test_tensors_too_many_are_dropped_only_when_listed(tmp_path: Path) -> None:
    torch.save({**models.resnet18().state_dict(), "aux.weight": torch.ones(2)}, tmp_path / "more.pth")
    chosen = evolve(RANDOM, weights=str(tmp_path / "more.pth"))
    with pytest.raises(BadInput, match=r"aux\.weight"):
        torchvision(chosen)
    torchvision(evolve(chosen, drop=("aux.",)))


def test_position_embeddings_are_interpolated_for_another_size(tmp_path: Path) -> None:
    torch.save(models.vit_b_16(image_size=64).state_dict(), tmp_path / "vit.pth")
    made = torchvision(Backbone(name="vit_b_16", weights=str(tmp_path / "vit.pth"), size=48))
    assert made(torch.rand(2, 3, SIDE, SIDE)).shape == (2, 5)


def test_published_weights_that_are_not_here_are_refused_with_three_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(MissingAsset, match="not on this machine") as caught:
        torchvision(Backbone(name="resnet18"))
    assert all(way in str(caught.value) for way in ("weights=hub", "weights=FILE", "weights=none"))


@pytest.mark.parametrize(
    ("change", "shape", "words"),
    [
        ({"name": "resnet81"}, {}, "resnet"),
        ({"std": (1, 0, 1)}, {}, "positive"),
        ({"mean": (0.5,)}, {}, "1 values for images of 3 channels"),
        ({"mean": (0.5,) * 3, "std": (1,) * 3}, {"channels": 1}, "3 values for images of 1 channels"),
        ({"weights": "none"}, {"channels": 1}, "colour"),
        ({"new_head": False}, {}, "1000 outputs"),
        ({"weights": "nowhere.pth"}, {}, "nowhere.pth"),
    ],
)
def test_what_does_not_fit_is_said_before_the_run(change: dict[str, object], shape: dict[str, int], words: str) -> None:
    with pytest.raises(ClkError, match=words):
        torchvision(evolve(RANDOM, **change), **shape)


OWN = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.score = nn.Linear(4, num_classes)

    def forward(self, x):
        return self.score(self.body(x))


def number():
    return 3


def endless():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
"""


def own(tmp_path: Path, name: str) -> Split:
    (tmp_path / "own.py").write_text(OWN)
    chosen = Backbone(name=f"{tmp_path / 'own.py'}:{name}", cut="score")
    return build.build_module(chosen, fields(), 5, Resources())


def test_a_network_of_ones_own_needs_no_package(tmp_path: Path) -> None:
    assert own(tmp_path, "Net")(torch.rand(2, 3, SIDE, SIDE)).shape == (2, 5)


@pytest.mark.parametrize(("name", "words"), [("number", "made a int"), ("endless", "no linear layer"), ("no", "no")])
def test_a_callable_that_makes_no_classifier_is_refused(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(ClkError, match=words):
        own(tmp_path, name)


def test_a_directory_of_transformers_is_cut_at_its_blocks_norms_kept(tmp_path: Path) -> None:
    from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTModel

    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8, "image_size": 64}
    for config, cls in ((ViTConfig(**size, intermediate_size=32), ViTModel), (Dinov2Config(**size), Dinov2Model)):
        torch.manual_seed(0)
        model = cls(config).eval()
        model.save_pretrained(tmp_path / cls.__name__)
        chosen = Backbone(name=str(tmp_path / cls.__name__), cut="backbone.blocks.1", size=32)
        made = build.build_transformers(chosen, fields(), 5, Resources()).eval()
        images: Tensor = torch.rand(2, 3, 32, 32)
        with torch.no_grad():
            published = model(images, interpolate_pos_encoding=True) if cls is ViTModel else model(images)
            ours = made.upper.backbone.layernorm(made.upper.get_submodule("backbone.blocks.1")(made.features(images)))
        assert torch.allclose(ours, published.last_hidden_state, atol=1e-5)


def test_the_layers_of_a_network_are_listed_with_what_a_stored_map_takes() -> None:
    rows = {row["layer"]: row for row in layer_shapes(models.resnet18(), torch.zeros(1, 3, 64, 64))}
    assert rows["layer3"]["input"] == (128, 8, 8)
    assert rows["layer3"]["bytes"] == 4 * 128 * 8 * 8
    assert head_name(models.resnet18()) == "fc"


def test_a_source_says_what_it_wants() -> None:
    made = sources.timm(Backbone(name="vit_tiny_patch16_224", weights="none"), 5, 32)
    assert made.network.pos_embed.shape[1] == 5
    with pytest.raises(UnknownName, match="vit_tinny"):
        sources.timm(Backbone(name="vit_tinny_patch16_224"), 5, 32)
    with pytest.raises(Mismatch, match="images"):
        vector = {"vector": Field(shape=(3,), dtype="float32", kind="vector")}
        build.build_torchvision(RANDOM, vector, 5, Resources())
    assert isinstance(made.network, nn.Module)


def test_a_hub_out_of_reach_is_said_at_once_with_the_ways_out() -> None:
    with pytest.raises(MissingAsset, match="cannot be fetched from localhost") as caught:
        sources._reach("https://localhost:1/weights.pth", "resnet18")
    assert "model.weights=FILE" in str(caught.value) and "efficientnet-lite0" in str(caught.value)


MAPS = {
    "lite0": (lambda: efficientnet_lite.initialised(5), "_pool"),
    "resnet18": (lambda: models.resnet18(num_classes=5), "avgpool"),
    "mobilenet": (lambda: models.mobilenet_v2(num_classes=5), "features.18.2"),  # pooled outside of any layer
    "timm lite0": (lambda: timm.create_model("tf_efficientnet_lite0", num_classes=5), "global_pool.pool"),
    "timm convnext": (lambda: timm.create_model("convnext_atto", num_classes=5), "head.global_pool.pool"),
}


@pytest.mark.parametrize("name", MAPS)
def test_any_networks_last_maps_are_found(name: str) -> None:
    make, layer = MAPS[name]
    network, images = make().eval(), torch.rand(2, 3, 64, 64)
    assert maps_name(network, images) == layer
    lower, upper = cut_at(network, layer)
    with torch.no_grad():
        assert lower(images).ndim == 4
        assert torch.equal(upper(lower(images)), network(images))


def test_a_network_without_maps_is_refused_with_the_way_out() -> None:
    network = timm.create_model("vit_tiny_patch16_224", img_size=SIDE, num_classes=5)
    with pytest.raises(BadSetting, match=r"(?s)makes no maps of 32x32 pictures.*model\.cut=head"):
        maps_name(network, torch.rand(2, 3, SIDE, SIDE))
