"""Zero forgetting in any network: torchvision's, timm's, transformers' and one's own, ViTs included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cl_kernel import ArraySamples, Field, Resources, Setup, Stage, Stream
from cl_kernel.registry import discover, resolve
from cl_kernel.running.build import build
from cl_kernel.running.plan import make_request, plan
from cl_kernel.running.session import make_resources
from cl_kernel.torch.split import Split
from cl_plugin_butd.method import isolate

SIDE = 32


class Ctx:
    """What a learner asks of a run."""

    def __init__(self, stages: Any) -> None:
        self.stages, self.resources = stages, Resources(seed=0)

    def rng(self, *names: Any) -> np.random.Generator:
        return self.resources.rng(*names)

    def phase(self, name: str, n_steps: int = 0) -> None: ...

    def step(self, **values: Any) -> None: ...

    def note(self, text: str, **values: Any) -> None: ...

    def bad_sample(self, what: str, error: Exception) -> None:
        raise error


def stream() -> Stream:
    """Three tasks of two colours each."""
    spec = {
        "image": Field(shape=(SIDE, SIDE, 3), dtype="float32", kind="image"),
        "class": Field(shape=(), dtype="int64", kind="class", n=6),
    }
    rng = np.random.default_rng(0)
    colours = rng.random((6, 1, 1, 3))

    def samples(classes: list[int]) -> ArraySamples:
        labels = np.repeat(np.array(classes, np.int64), 6)
        images = colours[labels] + 0.1 * rng.standard_normal((len(labels), SIDE, SIDE, 3))
        return ArraySamples(spec, {"image": images.astype(np.float32), "class": labels})

    stages = [
        Stage(index=i, name=str(i), train=samples([2 * i, 2 * i + 1]), classes=(2 * i, 2 * i + 1)) for i in range(3)
    ]
    test = samples(list(range(6)))
    sets = {str(i): np.arange(12 * i, 12 * i + 12) for i in range(3)}
    return Stream(
        name="colours", task="image -> class", stages=stages, test=test, test_sets=sets, class_names=tuple("abcdef")
    )


class Hub(nn.Module):
    """A classifier of transformers as a network that gives scores."""

    def __init__(self) -> None:
        super().__init__()
        transformers = pytest.importorskip("transformers")
        config = transformers.ViTConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=24,
            image_size=SIDE,
            patch_size=16,
            num_labels=6,
        )
        self.inner = transformers.ViTForImageClassification(config)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).logits


def torchvision_vit() -> nn.Module:
    vit = pytest.importorskip("torchvision").models.VisionTransformer
    return vit(image_size=SIDE, patch_size=16, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=24, num_classes=6)


NETWORKS = {
    "torchvision resnet": lambda: pytest.importorskip("torchvision").models.ResNet(
        pytest.importorskip("torchvision").models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=6
    ),
    "torchvision vit": torchvision_vit,
    "timm": lambda: pytest.importorskip("timm").create_model(
        "vit_tiny_patch16_224", img_size=SIDE, num_classes=6, depth=1, embed_dim=24, num_heads=2
    ),
    "transformers": Hub,
}


def taught(network: Any, kind: str) -> tuple[Any, list[np.ndarray]]:
    """A learner after three tasks, and its logits of each just after it was learnt."""
    torch.manual_seed(0)
    given = stream()
    settings = isolate.Isolate(kind=kind, batch_size=6, epochs=2, optimizer="adam", lr=0.01)
    setup = Setup(
        stream=given,
        resources=Resources(seed=0, device="cpu"),
        model=lambda fields, n: Split(None, network()),
        memory=None,
    )
    made, first = isolate.build(settings, setup), []
    for stage in given.stages:
        made.learn(stage, Ctx(given.stages))
        first.append(np.concatenate([out["scores"] for out in made.predict(stage.train)]))
    return made, first


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("kind", ["interp", "mask"])
def test_no_bit_of_an_earlier_task_moves_in_any_network(name: str, kind: str) -> None:
    made, first = taught(NETWORKS[name], kind)
    for stage, before in zip(stream().stages, first, strict=True):
        now = np.concatenate([out["scores"] for out in made.predict(stage.train)])
        assert now.tobytes() == before.tobytes()
    assert made.own[2].keys() > made.own[0].keys(), "later tasks have modulations"
    assert any("modulation:" in key for key in made.own[1])
    if "vit" in name:
        modulated = {key for key in made.own[1] if "modulation:" in key}
        assert any("in_proj_weight" in key or "qkv" in key for key in modulated), "attention is modulated, too"


OWN = """
from torch import nn

def small(n_outputs):
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, n_outputs),
    )
"""


def test_a_network_of_ones_own_is_taken_by_name(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    registry = discover()
    request = make_request(
        learner="butd:isolate",
        dataset="clk:digits",
        model=f"clk:module:{tmp_path / 'own.py'}:small",
        settings={"model.cut": "", "model.weights": "none"},
        seed=0,
    )
    planned = plan(registry, request)
    built = build(planned, make_resources(registry, planned, None, lambda event: None))
    assert type(built.learner).__name__ == "Isolator"
    assert list(built.learner.grow_of) == ["1.5.weight"], "the first filters are too small for a modulation"
    assert resolve(planned.pieces["learner"][0].record.build) is isolate.build
