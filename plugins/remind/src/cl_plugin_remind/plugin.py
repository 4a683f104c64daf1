"""What REMIND offers; light, imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from cl_kernel import Dataset, Experiment, Learner, Model, Plugin, Replay, hookimpl
from cl_plugin_remind import experiments, settings

TORCH = ("torch", "torchvision")


@hookimpl
def clk_plugin() -> Plugin:
    """The paper."""
    return Plugin(name="remind", summary="streaming learning with product-quantised replay, classification and VQA",
                  paper="Hayes et al., REMIND Your Neural Network to Prevent Catastrophic Forgetting, ECCV 2020")


@hookimpl
def clk_datasets() -> Sequence[Dataset]:
    """Streams of images."""
    return [
        Dataset(name="tinyshapes", summary="embedded stand-in for ImageNet: 12 classes of coloured figures, 32x32",
                task="image -> class", build="cl_plugin_remind.standin:tinyshapes", settings=settings.TinyShapes),
    ]


@hookimpl
def clk_models() -> Sequence[Model]:
    """The split residual network."""
    return [
        Model(name="resnet18", summary="ResNet-18 cut at any block into a frozen lower and a plastic upper part",
              framework="torch", build="cl_plugin_remind.model.resnet:build", settings=settings.Network,
              profiles={"tiny": experiments.TINY_NETWORK}, requires=TORCH),
    ]


@hookimpl
def clk_replays() -> Sequence[Replay]:
    """The codec of the paper; its policy, largest-class, is the kernel's."""
    return [
        Replay(name="pq", kind="codec", summary="codes of a product quantiser: a byte a codebook and position",
               build="cl_plugin_remind.replay.codec:build", framework="torch", settings=settings.Pq,
               profiles={"tiny": {"codebooks": 16}}, requires=TORCH),
    ]


@hookimpl
def clk_learners() -> Sequence[Learner]:
    """Streaming, and its upper bounds."""
    common = {"takes": ("image -> class", "map -> class", "vector -> class"), "framework": "torch", "requires": TORCH}
    return [
        Learner(name="remind", summary="one example at a time with replayed codes, after base initialisation",
                build="cl_plugin_remind.train.stream:build", rooms=("model", "memory"),
                defaults={"model": "remind:resnet18", "replay": "clk:largest-class+remind:pq"},
                metrics=("accuracy", "top5"), settings=settings.Streaming,
                profiles={"tiny": experiments.TINY_STREAMING}, **common),
        Learner(name="remind-offline", summary="upper bound: trained on all data seen so far at every stage",
                build="cl_plugin_remind.train.offline:build", rooms=("model", "memory"),
                defaults={"model": "remind:resnet18", "replay": "clk:largest-class+remind:pq"},
                metrics=("accuracy", "top5"), settings=settings.Offline,
                profiles={"tiny": experiments.TINY_OFFLINE}, **common),
    ]


@hookimpl
def clk_experiments() -> Sequence[Experiment]:
    """Every row of the paper's tables."""
    return experiments.all_experiments()
