"""What CRUMB offers to clk; light: no torch, no pandas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import evolve

from cl_kernel import Asset, Command, Dataset, Experiment, Learner, Model, Plugin, Replay, hookimpl
from cl_plugin_crumb import experiments, settings
from cl_plugin_crumb.commands.index import COMMANDS

TORCH: dict[str, Any] = {"framework": "torch", "requires": ("torch",)}
PREPARED = {"core50": "core50", "toybox": "toybox_", "ilab": "ilab_", "icubworld": "icubworld"}
PREPARED |= {"cifar100": "cifar100", "imagenet": "imagenet", "combined": "combined"}
LABELS = ("image -> class", "vector -> class", "map -> class")


@hookimpl
def clk_plugin() -> Plugin:
    """CRUMB."""
    return Plugin(
        name="crumb",
        summary="compositional replay with memory blocks, its baselines, data sets and ablations",
        paper="Talbot, Zawar, Badkundri, Zhang, Kreiman: Tuned Compositional Feature Replays for Efficient "
        "Stream Learning. IEEE TNNLS 36(2), 2025. arXiv 2104.02206",
    )


@hookimpl
def clk_datasets() -> Sequence[Dataset]:
    """The toy stream, a folder of images, and the paper's seven."""
    files = {
        "core50": ("core50", "CORe50: 10 classes of objects in clips"),
        "toybox": ("toybox", "Toybox: 12 classes of toys in clips"),
        "ilab2mlight": ("ilab", "iLab-2M-Light: 14 classes of toy vehicles on a turntable"),
        "icubworldtransf": ("icubworld", "iCubWorld Transformations: 20 classes of household objects"),
        "cifar100": ("cifar100", "CIFAR-100 as images, 5 classes a task"),
        "imagenet": ("imagenet", "ImageNet-1k, 100 classes a task"),
        "ilab2mlight+core50": ("combined", "iLab-2M-Light, then CORe50: a shift of domain"),
    }
    return [
        Dataset(
            name="ministream",
            summary="toy clips of turning shapes, 8 classes, 2 a task",
            task="image -> class",
            build="cl_plugin_crumb.data.stream:build_toy",
            settings=settings.Ministream,
            argument="scenario",
            requires=("pandas",),
        ),
        Dataset(
            name="folder",
            summary="your images as train/CLASS/ and val/CLASS/, some classes a task",
            task="image -> class",
            build="cl_plugin_crumb.data.folder:build_folder",
            settings=settings.Folder,
            profiles={"tiny": {"size": 32, "in_memory": True}},
            argument="path",
            own=True,
            revision=2,
            requires=("pandas", "PIL"),
        ),
        *(
            Dataset(
                name="combined" if "+" in name else name,
                summary=summary,
                task="image -> class",
                build=f"cl_plugin_crumb.data.stream:build_{builder}",
                settings=settings.Dirmap,
                argument="scenario",
                prepare=f"cl_plugin_crumb.data.prepare:{PREPARED[builder]}",
                assets=tuple(_with_weights(settings.ASSETS[part]) for part in name.split("+")),
                requires=("pandas", "PIL"),
            )
            for name, (builder, summary) in files.items()
        ),
    ]


def _with_weights(asset: Asset) -> Asset:
    """The same, with the address of the network's weights beside that of the pictures."""
    return evolve(asset, origin=f"{asset.origin}; profile paper begins with {settings.WEIGHTS['squeezenet'].origin}")


@hookimpl
def clk_models() -> Sequence[Model]:
    """Networks cut at one layer."""
    return [
        Model(
            name="squeezenet",
            summary="SqueezeNet 1.0 with a 3x3 class layer, cut late (12) or early (3)",
            framework="torch",
            build="cl_plugin_crumb.weights.providers:build_squeezenet",
            settings=settings.Squeezenet,
            profiles={"tiny": {"weights": "none"}},
            argument="weights",
            requires=("torch", "torchvision"),
        ),
        Model(
            name="mobilenet",
            summary="MobileNetV2, cut at 8",
            framework="torch",
            build="cl_plugin_crumb.weights.providers:build_mobilenet",
            settings=settings.Mobilenet,
            profiles={"tiny": {"weights": "none"}},
            argument="weights",
            requires=("torch", "torchvision"),
        ),
        Model(
            name="tiny",
            summary="small residual network for 32x32 images, pretrained on the toy base set",
            framework="torch",
            build="cl_plugin_crumb.weights.providers:build_tiny",
            settings=settings.Tiny,
            argument="weights",
            requires=("torch", "torchvision"),
        ),
    ]


@hookimpl
def clk_replays() -> Sequence[Replay]:
    """Memory blocks, the quota of the paper, and a policy that obeys its learner."""
    return [
        Replay(
            name="blocks",
            kind="codec",
            summary="maps as numbers of trainable memory blocks, one byte a slice",
            build="cl_plugin_crumb.method.codec:build",
            framework="torch",
            stores="map",
            settings=settings.Blocks,
            profiles={"tiny": experiments.TINY_BLOCKS},
            requires=("torch",),
        ),
        Replay(
            name="balanced",
            kind="policy",
            summary="every class seen keeps floor(capacity / classes) examples",
            build="cl_plugin_crumb.method.policies:build_balanced",
        ),
        Replay(
            name="chosen",
            kind="policy",
            summary="keeps what its learner chooses",
            build="cl_plugin_crumb.method.policies:build_chosen",
        ),
    ]


@hookimpl
def clk_learners() -> Sequence[Learner]:
    """CRUMB and the methods it is compared with."""
    crumb = Learner(
        name="crumb",
        summary="compositional replay with memory blocks",
        build="cl_plugin_crumb.method.learner:build",
        takes=("image -> class", "map -> class"),
        accepts=("model", "memory"),
        defaults={"model": "crumb:squeezenet", "replay": "crumb:balanced+crumb:blocks", "memory": "417"},
        settings=settings.Crumb,
        profiles={"tiny": experiments.TINY_CRUMB},
        **TORCH,
    )
    return [crumb, *(_baseline(*row) for row in experiments.BASELINES)]


def _baseline(name: str, summary: str, build: str, choices: str, replay: str, memory: str) -> Learner:
    defaults = {"model": "crumb:squeezenet"}
    if replay:
        defaults |= {"replay": replay, "memory": memory}
    return Learner(
        name=name,
        summary=summary,
        build=build,
        takes=LABELS,
        accepts=("model", "memory") if replay else ("model",),
        defaults=defaults,
        settings=choices,
        profiles={"tiny": experiments.TINY_BASELINES.get(name, experiments.TINY_STEPS)},
        **TORCH,
    )


@hookimpl
def clk_experiments() -> Sequence[Experiment]:
    """Main runs, baselines and every arm of the ablation."""
    return list(experiments.EXPERIMENTS)


@hookimpl
def clk_commands() -> Sequence[Command]:
    """Data preparation, statistics, figures."""
    return [
        Command(name=name, summary=summary, build=f"cl_plugin_crumb.commands.{target}", requires=requires)
        for name, summary, target, requires in COMMANDS
    ]
