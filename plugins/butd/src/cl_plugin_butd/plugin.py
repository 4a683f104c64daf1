"""What the plugin offers: records only."""

from __future__ import annotations

from collections.abc import Sequence

from cl_kernel import Asset, Command, Dataset, Experiment, Learner, Metric, Plugin, hookimpl
from cl_plugin_butd import settings
from cl_plugin_butd.experiments import BASELINES, EXPERIMENTS

INSTRUCTION = "image + instruction -> class"


def _torchvision(name: str, folder: str) -> Asset:
    return Asset(
        name=folder,
        summary=f"torchvision's {name}",
        files=(folder,),
        origin=f"torchvision.datasets.{name}(ROOT, download=True)",
    )


@hookimpl
def clk_plugin() -> Plugin:
    """BU-TD."""
    return Plugin(
        name="butd",
        summary="BU-TD counter-stream networks and zero-forgetting continual learning",
        paper="doi 10.1073/pnas.2211179120; arXiv 2311.15276",
    )


@hookimpl
def clk_datasets() -> Sequence[Dataset]:
    """Stand-ins, the papers' spatial and persons sets, grids of other sources."""
    spatial = {
        "build": "cl_plugin_butd.data.streams:build_spatial",
        "settings": settings.Spatial,
        "task": INSTRUCTION,
        "prepare": "cl_plugin_butd.data.sets:prepare_spatial",
        "argument": "variant",
    }
    grids = {
        "build": "cl_plugin_butd.data.streams:build_grid",
        "settings": settings.GridStream,
        "task": INSTRUCTION,
        "prepare": "cl_plugin_butd.data.sets:prepare_grid",
    }
    return [
        Dataset(
            name="patterns",
            summary="rows of three random patterns, a direction a stage; embedded",
            task=INSTRUCTION,
            build="cl_plugin_butd.standin:build",
            settings=settings.Patterns,
            profiles={"tiny": {"directions": ["right", "left", "right2", "left2"], "n_train": 3000, "n_test": 400}},
        ),
        Dataset(
            name="held-out",
            summary="rows of three random patterns, some pairs never seen in training; embedded",
            task=INSTRUCTION,
            build="cl_plugin_butd.standin:build_held_out",
            settings=settings.HeldOut,
        ),
        Dataset(
            name="digits",
            summary="six handwritten digits of scikit-learn in a row, one string held out",
            requires=("sklearn",),
            profiles={"*": {"source": "digits", "variant": "custom", "cell": 14, "canvas": [2, 8]}},
            **spatial,
        ),
        Dataset(
            name="emnist",
            summary="EMNIST characters in cells, right of and left of",
            assets=(_torchvision("EMNIST", "EMNIST"),),
            **spatial,
        ),
        Dataset(
            name="persons",
            summary="two people in a picture and questions about their features",
            task=INSTRUCTION,
            build="cl_plugin_butd.data.streams:build_persons",
            settings=settings.PersonsData,
            prepare="cl_plugin_butd.data.sets:prepare_persons",
            argument="variant",
            requires=("skimage",),
            profiles={"tiny": {"stand_in": True, "n_configurations": 100, "n_test": 30, "size": 56}},
            assets=(
                Asset(
                    name="persons",
                    summary="raw people: avatars_6_raw.npz, or .pkl converted by `clk butd import-legacy persons`",
                    files=("avatars_6_raw.npz",),
                    origin="the authors' avatars_6_raw.pkl (see the paper's repository)",
                ),
            ),
        ),
        Dataset(
            name="digits-grid",
            summary="scikit-learn's digits in a row of three, a direction a stage",
            requires=("sklearn",),
            profiles={
                "*": {
                    "source": "digits",
                    "rows": 1,
                    "columns": 3,
                    "cell": 10,
                    "scale": [0.0, 0.0],
                    "shift": 2.0,
                    "margin": [0, 0],
                    "ink": [0.8, 1.0],
                    "border": False,
                    "n_train": 4000,
                    "n_test": 500,
                    "per_picture": 1,
                    "directions": ["right", "left", "right2", "left2"],
                }
            },
            **grids,
        ),
        Dataset(
            name="emnist-grid",
            summary="EMNIST characters 4 x 4, a direction a stage",
            assets=(_torchvision("EMNIST", "EMNIST"),),
            **grids,
        ),
        Dataset(
            name="fashion",
            summary="Fashion-MNIST 3 x 3, a direction a stage",
            assets=(_torchvision("FashionMNIST", "FashionMNIST"),),
            **grids,
            profiles={
                "*": {
                    "source": "fashion",
                    "rows": 3,
                    "columns": 3,
                    "scale": [1.2, 1.5],
                    "n_train": 25_000,
                    "per_picture": 4,
                    "directions": ["right", "left", "up", "down"],
                }
            },
        ),
        Dataset(
            name="kmnist",
            summary="KMNIST 3 x 3, a direction a stage",
            assets=(_torchvision("KMNIST", "KMNIST"),),
            **grids,
            profiles={"*": {"source": "kmnist", "rows": 3, "columns": 3}},
        ),
        Dataset(
            name="cifar10",
            summary="CIFAR-10 3 x 3 of 32 pixels, a direction a stage",
            assets=(_torchvision("CIFAR10", "cifar-10-batches-py"),),
            **grids,
            profiles={
                "*": {"source": "cifar10", "rows": 3, "columns": 3, "cell": 32, "scale": [1.0, 1.0], "shift": 0.0}
            },
        ),
        Dataset(
            name="cifar100",
            summary="CIFAR-100 3 x 3 of 32 pixels, a direction a stage",
            assets=(_torchvision("CIFAR100", "cifar-100-python"),),
            **grids,
            profiles={
                "*": {"source": "cifar100", "rows": 3, "columns": 3, "cell": 32, "scale": [1.0, 1.0], "shift": 0.0}
            },
        ),
        Dataset(
            name="omniglot",
            summary="Omniglot rows of six, a language a stage",
            assets=(_torchvision("Omniglot", "omniglot-py"),),
            **{**grids, "build": "cl_plugin_butd.data.streams:build_omniglot"},
            profiles={
                "*": {
                    "source": "omniglot",
                    "rows": 1,
                    "columns": 6,
                    "scale": [1.2, 1.5],
                    "directions": ["right", "left"],
                }
            },
        ),
        Dataset(
            name="clevr",
            summary="CLEVR scenes and relations; bring scenes.json",
            task=INSTRUCTION,
            build="cl_plugin_butd.data.clevr:build",
            settings=settings.Scenes,
            prepare="cl_plugin_butd.data.clevr:prepare",
            assets=(
                Asset(
                    name="clevr",
                    summary="CLEVR's scenes and pictures",
                    files=("scenes.json", "images"),
                    origin="https://cs.stanford.edu/people/jcjohns/clevr/",
                ),
            ),
        ),
        Dataset(
            name="cifar100-classes",
            summary="CIFAR-100 in ten stages of ten classes, for transfer",
            task="image -> class",
            build="cl_plugin_butd.data.streams:build_cifar_classes",
            assets=(_torchvision("CIFAR100", "cifar-100-python"),),
        ),
        Dataset(
            name="digit-classes",
            summary="scikit-learn's digits in three stages of classes, for transfer",
            task="image -> class",
            build="cl_plugin_butd.data.streams:build_digit_classes",
            requires=("sklearn",),
        ),
    ]


@hookimpl
def clk_learners() -> Sequence[Learner]:
    """The counter-stream network alone, the continual learner and its baselines, transfer, transformers."""
    continual = {
        "build": "cl_plugin_butd.train.continual:build",
        "takes": (INSTRUCTION,),
        "framework": "torch",
        "settings": settings.Continual,
        "metrics": ("accuracy", "butd:occurrence"),
        "requires": ("torch",),
    }
    tiny = settings.TINY_CONTINUAL
    return [
        Learner(
            name="counter-stream",
            summary="train the whole network on what a stage asks",
            build="cl_plugin_butd.train.single:build",
            takes=(INSTRUCTION,),
            framework="torch",
            settings=settings.Training,
            metrics=("accuracy", "butd:occurrence"),
            requires=("torch",),
            profiles={"tiny": settings.TINY_TRAINING},
        ),
        Learner(
            name="zero-forgetting",
            summary="a modulation, a head and statistics a task; the rest frozen",
            profiles={"tiny": tiny},
            **continual,
        ),
        *(
            Learner(
                name=name,
                summary=summary,
                **continual,
                profiles={"*": {"method": name, **published}, "tiny": {**tiny, "method": name, **published, **small}},
            )
            for name, (summary, published, small) in BASELINES.items()
        ),
        Learner(
            name="transfer",
            summary="carry a pretrained net to further data sets",
            takes=("image -> class",),
            build="cl_plugin_butd.train.transfer:build",
            framework="torch",
            settings=settings.Transfer,
            requires=("torch", "torchvision"),
            profiles={
                "tiny": {
                    "net": "small",
                    "pretrained": False,
                    "factor": [2, 2],
                    "epochs": 8,
                    "step_every": 5,
                    "expansion": "repeat",
                }
            },
        ),
        Learner(
            name="vit",
            summary="transformers that answer instructions",
            takes=(INSTRUCTION,),
            framework="torch",
            build="cl_plugin_butd.train.vit:build",
            settings=settings.Vit,
            requires=("torch",),
            profiles={
                "tiny": {
                    "hidden": 48,
                    "ffn": 96,
                    "layers": 3,
                    "heads": 3,
                    "patch": 8,
                    "image": 24,
                    "decoder_hidden": 24,
                    "decoder_ffn": 48,
                    "decoder_layers": 3,
                    "lr": 1e-3,
                    "cyclic": False,
                    "batch_size": 50,
                    "epochs": 6,
                }
            },
        ),
    ]


@hookimpl
def clk_metrics() -> Sequence[Metric]:
    """Which characters are there."""
    return [
        Metric(
            name="occurrence",
            summary="share of characters whose presence is told rightly",
            build="cl_plugin_butd.metrics:build",
            output="occurrence",
            target="existence",
        )
    ]


@hookimpl
def clk_experiments() -> Sequence[Experiment]:
    """The papers' runs."""
    return EXPERIMENTS


@hookimpl
def clk_commands() -> Sequence[Command]:
    """Tools of this plugin."""
    return [
        Command(
            name="import-legacy",
            summary="convert the published layout of a data set, without executing anything",
            build="cl_plugin_butd.commands:import_legacy",
        ),
        Command(
            name="compose",
            summary="follow a chain of directions with a finished run",
            build="cl_plugin_butd.commands:compose",
        ),
        Command(
            name="figure",
            summary="draw finished runs of a stream: what was learnt, what is left of it",
            build="cl_plugin_butd.commands:figure",
        ),
    ]
