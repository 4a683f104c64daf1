"""What RECALL offers to the kernel. Light: heavy code is named by string."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cl_kernel import Asset, Command, Dataset, Experiment, Learner, Metric, Model, Plugin, Replay, hookimpl
from cl_plugin_recall import experiments
from cl_plugin_recall.data.places import find
from cl_plugin_recall.settings import (
    Ade20k,
    Cityscapes,
    Deeplab,
    FlickrReplay,
    Folder,
    FolderReplay,
    GanReplay,
    Ilt,
    Lwf,
    Mib,
    Plop,
    Recall,
    RecallMib,
    Shapes,
    Small,
    Voc,
)

TENSORFLOW = ("tensorflow", "gin")


@hookimpl
def clk_plugin() -> Plugin:
    """Who offers."""
    return Plugin(
        name="recall",
        summary="replay-based continual semantic segmentation: old classes are redrawn or looked up, never stored",
        paper="Maracani, Michieli, Toldo, Zanuttigh: RECALL, ICCV 2021, arXiv 2108.03673",
        everything=experiments.EVERYTHING,
    )


@hookimpl
def clk_datasets() -> Sequence[Dataset]:
    """Pascal VOC and anything in its layout; the toy data."""
    voc = Asset(
        name="VOC2012",
        summary="Pascal VOC 2012 segmentation, or any folder in its layout",
        files=("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"),
        origin="host.robots.ox.ac.uk/pascal/VOC/voc2012, with the SBD labels for the 10,582 training images",
    )
    return [
        Dataset(
            name="voc",
            summary="Pascal VOC 2012 + SBD in steps of classes, or any folder in VOC's layout",
            task="image -> mask",
            build="cl_plugin_recall.data.streams:build",
            settings=Voc,
            assets=(voc,),
            argument="folder",
            prepare="cl_plugin_recall.data.prepare:prepare",
        ),
        Dataset(
            name="folder",
            summary="any images with label pictures, index values or colours, and classes.txt",
            task="image -> mask",
            build="cl_plugin_recall.data.streams:build_folder",
            settings=Folder,
            argument="folder",
            own=True,
        ),
        Dataset(
            name="ade20k",
            summary="ADE20K's 150 classes in steps: 100-50, 100-10, 50-50",
            task="image -> mask",
            build="cl_plugin_recall.data.streams:build_ade20k",
            settings=Ade20k,
            assets=(
                Asset(
                    name="ADEChallengeData2016",
                    summary="ADE20K, scene parsing benchmark",
                    files=("images/training", "images/validation", "annotations/training", "annotations/validation"),
                    origin="data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
                ),
            ),
            argument="folder",
        ),
        Dataset(
            name="cityscapes",
            summary="Cityscapes' 19 classes in steps, or its 21 cities",
            task="image -> mask",
            build="cl_plugin_recall.data.streams:build_cityscapes",
            settings=Cityscapes,
            assets=(
                Asset(
                    name="cityscapes",
                    summary="Cityscapes, finely annotated images",
                    files=("leftImg8bit/train", "gtFine/train"),
                    origin="cityscapes-dataset.com: leftImg8bit_trainvaltest.zip, gtFine_trainvaltest.zip",
                ),
            ),
            argument="folder",
        ),
        Dataset(
            name="shapes",
            summary="toy data: 20 classes of striped shapes, 64x64",
            task="image -> mask",
            build="cl_plugin_recall.data.toy:build",
            settings=Shapes,
            argument="structure",
        ),
    ]


@hookimpl
def clk_models() -> Sequence[Model]:
    """The paper's network and a small one."""
    return [
        Model(
            name="deeplab",
            summary="DeepLab-v2 with a ResNet-101 at output stride 8",
            framework="tensorflow",
            build="cl_plugin_recall.network.build:build_deeplab",
            settings=Deeplab,
            argument="pretrained",
            requires=TENSORFLOW,
        ),
        Model(
            name="small",
            summary="six convolutions at output stride 4 or 8, trained from random weights",
            framework="tensorflow",
            build="cl_plugin_recall.network.build:build_small",
            settings=Small,
            profiles={"small": experiments.SMALL_MODEL},
            requires=TENSORFLOW,
        ),
    ]


@hookimpl
def clk_replays() -> Sequence[Replay]:
    """Sources that redraw or look up old classes instead of storing them."""
    return [
        Replay(
            name="gan",
            summary="images of old classes drawn from a class-conditional generator (TF-Hub)",
            kind="source",
            framework="tensorflow",
            build="cl_plugin_recall.method.sources:build_gan",
            settings=GanReplay,
            profiles={"tiny": {"stand_in": True, "per_class": 30, "batch": 30}},
            argument="module",
            requires=("tensorflow", "tensorflow_hub"),
        ),
        Replay(
            name="flickr",
            summary="images of old classes from a photo search, downloaded beforehand",
            kind="source",
            build="cl_plugin_recall.method.sources:build_flickr",
            settings=FlickrReplay,
            profiles={"tiny": {"stand_in": True, "per_class": 30}},
            argument="folder",
        ),
        Replay(
            name="folder",
            summary="any images sorted by class",
            kind="source",
            build="cl_plugin_recall.method.sources:build_folder",
            settings=FolderReplay,
            argument="path",
        ),
    ]


@hookimpl
def clk_metrics() -> Sequence[Metric]:
    """MIoU of old, new and all classes."""
    return [
        Metric(
            name="segmentation",
            summary="mIoU of all known classes, of step-0 classes (old) and of later ones (new)",
            build="cl_plugin_recall.evaluate.metric:build",
            output="mask",
            target="mask",
        )
    ]


DISTILLED = (
    ("lwf", "distillation of the logits (learning without forgetting)", Lwf),
    ("ilt", "distillation of logits and features (ILT)", Ilt),
    ("mib", "losses that model the background (MiB)", Mib),
    ("plop", "pooled distillation at several scales, pseudo-labels by entropy (PLOP)", Plop),
)
"""Methods that keep nothing but the network before: name, summary, settings."""


@hookimpl
def clk_learners() -> Sequence[Learner]:
    """The method, whose baselines are settings, and what it is compared with."""
    replaying = [
        Learner(
            name=name,
            summary=summary,
            build=f"cl_plugin_recall.method.{module}:build",
            takes=("image -> mask",),
            framework="tensorflow",
            accepts=("model", "source"),
            defaults={"model": "recall:deeplab", "replay": "recall:gan"},
            metrics=("recall:segmentation",),
            configurations="cl_plugin_recall.gin_bindings:configurations",
            settings=settings,
            profiles=experiments.LEARNER_PROFILES,
            requires=TENSORFLOW,
        )
        for name, module, summary, settings in (
            (
                "recall",
                "recall",
                "frozen encoder, decoder per step, replay with pseudo-labels, inpainted background",
                Recall,
            ),
            ("recall-mib", "recall_mib", "RECALL with MiB's losses on the decoder", RecallMib),
        )
    ]
    distilling = [
        Learner(
            name=name,
            summary=summary,
            build=f"cl_plugin_recall.method.{name}:build",
            takes=("image -> mask",),
            framework="tensorflow",
            accepts=("model",),
            defaults={"model": "recall:deeplab"},
            metrics=("recall:segmentation",),
            settings=settings,
            profiles=experiments.DISTILLED_PROFILES,
            requires=TENSORFLOW,
        )
        for name, summary, settings in DISTILLED
    ]
    return [*replaying, *distilling]


@hookimpl
def clk_experiments() -> Sequence[Experiment]:
    """The eight tests, and any other structure."""
    return experiments.records()


@hookimpl
def clk_locate(asset: Asset, roots: Sequence[Path]) -> Path | None:
    """VOC, ADE20K and Cityscapes in the places and forms in which they are unpacked."""
    return find(asset.name, roots)


@hookimpl
def clk_commands() -> Sequence[Command]:
    """Everything that is no run."""
    return [
        Command(name=name, summary=summary, build=f"cl_plugin_recall.commands.{target}", requires=requires)
        for name, summary, target, requires in experiments.COMMANDS
    ]
