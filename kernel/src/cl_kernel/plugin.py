"""The kernel's own pieces, offered through the same hooks as everybody's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cl_kernel.commands import COMMANDS
from cl_kernel.contract.events import Event
from cl_kernel.contract.hooks import hookimpl
from cl_kernel.contract.interfaces import Companions
from cl_kernel.contract.offers import Command, Dataset, Executor, Learner, Metric, Model, Plugin, Replay, Tracker
from cl_kernel.library import settings, torch_settings
from cl_kernel.library.backbones.settings import Backbone, OwnNetwork
from cl_kernel.library.datasets import folder_settings
from cl_kernel.methods import catalogue as methods


@hookimpl
def clk_plugin() -> Plugin:
    """The kernel itself."""
    return Plugin(name="clk", summary="data sets, memories, metrics and learners of the kernel")


@hookimpl
def clk_datasets() -> Sequence[Dataset]:
    """Streams that need no download, and images of one's own."""
    return [
        Dataset(
            name="blobs",
            summary="Gaussian classes in a plane of many axes, new classes each stage",
            task="vector -> class",
            build="cl_kernel.library.datasets.blobs:build",
            settings=settings.Blobs,
        ),
        Dataset(
            name="digits",
            summary="scikit-learn's 1,797 handwritten digits, 8x8, new classes each stage",
            task="image -> class",
            build="cl_kernel.library.datasets.digits:build",
            settings=settings.Digits,
            requires=("sklearn",),
        ),
        Dataset(
            name="folder",
            summary="images in one folder a class (torchvision's ImageFolder), new classes each stage: folder:PATH",
            task="image -> class",
            build="cl_kernel.library.datasets.folders:build_folder",
            settings=folder_settings.Folder,
            argument="path",
            own=True,
            example="cl_kernel.library.datasets.examples:write_folder",
            revision=2,
            requires=("PIL",),
        ),
        *(
            Dataset(
                name=name,
                summary=f"{what} of one's own in a file of numpy.savez with x and y: {name}:FILE.npz",
                task=f"{kind} -> class",
                build=f"cl_kernel.library.datasets.arrays:build_{kind}s",
                settings=folder_settings.Arrays,
                argument="path",
                own=True,
                example=f"cl_kernel.library.datasets.examples:write_{kind}s",
            )
            for name, what, kind in (("arrays", "images", "image"), ("vectors", "vectors", "vector"))
        ),
        *(
            Dataset(
                name=name,
                summary=f"{kind}s that a callable of one's own gives: {name}:FILE.py:CALLABLE",
                task=f"{kind} -> class",
                build=f"cl_kernel.library.datasets.own:build_{kind}s",
                settings=folder_settings.Own,
                argument="path",
                own=True,
                example=f"cl_kernel.library.datasets.examples:{example}",
                requires=("PIL",) if kind == "image" else (),
            )
            for name, kind, example in (
                ("module", "image", "write_callable"),
                ("module-vectors", "vector", "write_vector_callable"),
            )
        ),
        Dataset(
            name="hf",
            summary="a data set of Hugging Face's library datasets, new classes each stage: hf:NAME",
            task="image -> class",
            build="cl_kernel.library.datasets.folders:build_hugging_face",
            settings=folder_settings.HuggingFace,
            argument="path",
            own=True,
            requires=("datasets", "PIL"),
        ),
    ]


@hookimpl
def clk_models() -> Sequence[Model]:
    """Networks of the generic torch learners."""
    return [
        Model(
            name="mlp",
            summary="multi-layer perceptron",
            framework="torch",
            build="cl_kernel.library.networks:build_mlp",
            takes="*",
            settings=torch_settings.Mlp,
            requires=("torch",),
        ),
        Model(
            name="convnet",
            summary="three convolutions and a linear layer, for small images",
            framework="torch",
            build="cl_kernel.library.networks:build_convnet",
            settings=torch_settings.Convnet,
            requires=("torch",),
        ),
        Model(
            name="resnet18",
            summary="ResNet-18 of torchvision, cut at any block",
            framework="torch",
            build="cl_kernel.library.networks:build_resnet18",
            settings=torch_settings.Resnet18,
            requires=("torch", "torchvision"),
        ),
        *_backbones(),
    ]


def _backbones() -> list[Model]:
    rows = (
        (
            "efficientnet-lite0",
            "EfficientNet-Lite0 with ImageNet weights from an installed package",
            "build_efficientnet_lite0",
            (),
        ),
        ("torchvision", "any classifier of torchvision: torchvision:NAME", "build_torchvision", ("torchvision",)),
        ("timm", "any model of timm: timm:NAME", "build_timm", ("timm",)),
        ("hf", "an image model of transformers: hf:DIRECTORY", "build_transformers", ("transformers",)),
        ("module", "a network of one's own: module:FILE.py:CALLABLE", "build_module", ()),
    )
    return [
        Model(
            name=name,
            summary=summary,
            framework="torch",
            build=f"cl_kernel.library.backbones.build:{build}",
            settings=OwnNetwork if name == "module" else Backbone,
            argument="" if name == "efficientnet-lite0" else "name",
            requires=("torch", *requires),
        )
        for name, summary, build, requires in rows
    ]


@hookimpl
def clk_replays() -> Sequence[Replay]:
    """Policies, and the codec that keeps examples as they are."""
    policies = (
        ("reservoir", "every example seen so far is kept with the same probability", "build_reservoir", None),
        ("ring", "the newest examples", "build_ring", None),
        ("class-balanced", "a reservoir within each class, the largest class gives way", "build_class_balanced", None),
        ("gdumb", "greedy balance: the largest class gives way, a newcomer of it stays out", "build_gdumb", None),
        (
            "largest-class",
            "everything is kept until full, then a random example of the largest class gives way",
            "build_largest_class",
            settings.LargestClass,
        ),
        (
            "biased-reservoir",
            "a reservoir that favours recent examples (CLEAR)",
            "build_biased_reservoir",
            settings.BiasedReservoir,
        ),
    )
    return [
        *(
            Replay(
                name=name,
                kind="policy",
                summary=summary,
                build=f"cl_kernel.library.memories.policies:{build}",
                settings=choice,
            )
            for name, summary, build, choice in policies
        ),
        Replay(
            name="chosen",
            kind="policy",
            summary="what its learner chooses (icarl, bic, rainbow, gss, aan)",
            build="cl_kernel.library.memories.chosen:build",
        ),
        Replay(name="raw", kind="codec", summary="examples as they are", build="cl_kernel.library.memories.raw:build"),
    ]


@hookimpl
def clk_metrics() -> Sequence[Metric]:
    """Scores of classification, segmentation and question answering."""
    return [
        Metric(
            name="accuracy",
            summary="share of right classes",
            build="cl_kernel.library.metrics.classification:build_accuracy",
        ),
        Metric(
            name="top5",
            summary="share with the right class among the five likeliest",
            build="cl_kernel.library.metrics.classification:build_top5",
        ),
        Metric(
            name="confusion",
            summary="confusion matrix and recall of each class",
            build="cl_kernel.library.metrics.classification:build_confusion",
        ),
        Metric(
            name="calibration",
            summary="expected calibration error: how far confidence is from being right",
            build="cl_kernel.library.metrics.calibration:build",
            higher_is_better=False,
            judges=False,
        ),
        Metric(
            name="miou",
            summary="mean intersection over union: old, new and all classes",
            build="cl_kernel.library.metrics.segmentation:build",
            output="mask",
            target="mask",
        ),
        Metric(
            name="answers",
            summary="answer accuracy, overall and mean over question types",
            build="cl_kernel.library.metrics.answers:build",
            target="answer",
        ),
    ]


@hookimpl
def clk_learners() -> Sequence[Learner]:
    """A learner in numpy, and the methods of the library."""
    return [
        Learner(
            name="linear",
            summary="softmax regression in numpy, with replay if given a memory",
            build="cl_kernel.library.linear:build",
            takes=("vector -> class", "image -> class"),
            accepts=("memory",),
            settings=settings.Linear,
        ),
        *methods.offers(),
    ]


@hookimpl
def clk_trackers() -> Sequence[Tracker]:
    """Where progress and scores go."""
    return [
        Tracker(
            name="jsonl",
            summary="events.jsonl in the run folder, always on",
            build="cl_kernel.library.trackers:build_jsonl",
            default=True,
        ),
        Tracker(
            name="plots",
            summary="accuracy matrix and curves in plots/ when a run ends, unless run.plots is false",
            build="cl_kernel.reports.figures:build_plots",
            default=True,
            requires=("matplotlib",),
        ),
        Tracker(
            name="tensorboard",
            summary="TensorBoard files in the run folder",
            build="cl_kernel.library.trackers:build_tensorboard",
            requires=("tensorboardX",),
        ),
    ]


@hookimpl
def clk_executors() -> Sequence[Executor]:
    """Where sweeps run."""
    return [
        Executor(name="local", summary="processes on this machine", build="cl_kernel.sweeps.executors:build_local"),
        Executor(
            name="ray",
            summary="a Ray cluster, or a local one",
            build="cl_kernel.sweeps.executors:build_ray",
            requires=("ray",),
        ),
        Executor(
            name="slurm",
            summary="SLURM jobs through submitit",
            build="cl_kernel.sweeps.slurm:build_slurm",
            requires=("submitit",),
        ),
    ]


@hookimpl
def clk_commands() -> Sequence[Command]:
    """``clk NAME``."""
    return [Command(name=name, summary=summary, build=build) for name, (summary, build) in COMMANDS.items()]


@hookimpl
def clk_companions(
    runs: Mapping[str, tuple[Path, Mapping[str, Any]]], n: int, listen: Sequence[Callable[[Event], None]]
) -> Companions:
    """Comparison runs in processes of their own."""
    from cl_kernel.sweeps.comparisons import Comparisons

    return Comparisons(runs, n, listen)
