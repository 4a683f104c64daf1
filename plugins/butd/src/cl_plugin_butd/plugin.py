"""What the plugin offers: records only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cl_kernel import Asset, Command, Dataset, Experiment, Learner, Metric, Plugin, hookimpl
from cl_plugin_butd import settings
from cl_plugin_butd.experiments import BASELINES, EXPERIMENTS

Values = Mapping[str, Any]
INSTRUCTION = "image + instruction -> class"
SCORES = ("accuracy", "butd:occurrence")
FOUR_DIRECTIONS = ["right", "left", "right2", "left2"]
DIGITS_GRID: Values = {
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
    "directions": FOUR_DIRECTIONS,
}
FASHION_GRID: Values = {
    "source": "fashion",
    "rows": 3,
    "columns": 3,
    "scale": [1.2, 1.5],
    "n_train": 25_000,
    "per_picture": 4,
    "directions": ["right", "left", "up", "down"],
}
COLOUR_GRID: Values = {"rows": 3, "columns": 3, "cell": 32, "scale": [1.0, 1.0], "shift": 0.0}
OMNIGLOT_ROWS: Values = {
    "source": "omniglot",
    "rows": 1,
    "columns": 6,
    "scale": [1.2, 1.5],
    "directions": ["right", "left"],
}


def _torchvision(name: str, folder: str) -> Asset:
    return Asset(
        name=folder,
        summary=f"torchvision's {name}",
        files=(folder,),
        origin=f"torchvision.datasets.{name}(ROOT, download=True)",
    )


EMNIST = _torchvision("EMNIST", "EMNIST")
CIFAR100 = _torchvision("CIFAR100", "cifar-100-python")
OMNIGLOT = _torchvision("Omniglot", "omniglot-py")
PEOPLE = Asset(
    name="persons",
    summary="raw people: avatars_6_raw.npz, or .pkl converted by `clk butd import-legacy persons`",
    files=("avatars_6_raw.npz",),
    origin="the authors' avatars_6_raw.pkl (see the paper's repository)",
)
CLEVR = Asset(
    name="clevr",
    summary="CLEVR's scenes and pictures",
    files=("scenes.json", "images"),
    origin="https://cs.stanford.edu/people/jcjohns/clevr/",
)


@hookimpl
def clk_plugin() -> Plugin:
    """BU-TD."""
    return Plugin(
        name="butd",
        summary="BU-TD counter-stream networks and zero-forgetting continual learning",
        paper="doi 10.1073/pnas.2211179120; arXiv 2311.15276",
    )


def _grid(name: str, summary: str, asset: Asset | None, values: Values, **more: Any) -> Dataset:
    """A stream of directions over characters of one source."""
    record = {
        "build": "cl_plugin_butd.data.streams:build_grid",
        "settings": settings.GridStream,
        "task": INSTRUCTION,
        "prepare": "cl_plugin_butd.data.grid_sets:prepare_grid",
        "assets": (asset,) if asset else (),
        "profiles": {"*": values} if values else {},
    }
    return Dataset(name=name, summary=summary, **{**record, **more})


def _spatial(name: str, summary: str, **more: Any) -> Dataset:
    """Strings of characters in cells, right of and left of."""
    return Dataset(
        name=name,
        summary=summary,
        build="cl_plugin_butd.data.streams:build_spatial",
        settings=settings.Spatial,
        task=INSTRUCTION,
        prepare="cl_plugin_butd.data.sets:prepare_spatial",
        argument="variant",
        **more,
    )


def _toy() -> list[Dataset]:
    """Random patterns: nothing to bring."""
    return [
        Dataset(
            name="patterns",
            summary="rows of three digits or random patterns, a direction a stage; toy data",
            task=INSTRUCTION,
            build="cl_plugin_butd.data.toy:build",
            settings=settings.Patterns,
            profiles={"tiny": {"source": "digits", "directions": FOUR_DIRECTIONS, "n_train": 3000, "n_test": 400}},
        ),
        Dataset(
            name="held-out",
            summary="rows of three random patterns, some pairs never seen in training; toy data",
            task=INSTRUCTION,
            build="cl_plugin_butd.data.toy:build_held_out",
            settings=settings.HeldOut,
        ),
    ]


def _published() -> list[Dataset]:
    """The first paper's sets, and the same of scikit-learn's digits."""
    return [
        _spatial(
            "digits",
            "six handwritten digits of scikit-learn in a row, one string held out",
            requires=("sklearn",),
            profiles={"*": {"source": "digits", "variant": "custom", "cell": 14, "canvas": [2, 8]}},
        ),
        _spatial("emnist", "EMNIST characters in cells, right of and left of", assets=(EMNIST,)),
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
            assets=(PEOPLE,),
        ),
    ]


def _grids() -> list[Dataset]:
    """Streams of directions and, for Omniglot, of languages."""
    return [
        _grid(
            "digits-grid",
            "scikit-learn's digits in a row of three, a direction a stage",
            None,
            DIGITS_GRID,
            requires=("sklearn",),
        ),
        _grid("emnist-grid", "EMNIST characters 4 x 4, a direction a stage", EMNIST, {}),
        _grid(
            "fashion",
            "Fashion-MNIST 3 x 3, a direction a stage",
            _torchvision("FashionMNIST", "FashionMNIST"),
            FASHION_GRID,
        ),
        _grid(
            "kmnist",
            "KMNIST 3 x 3, a direction a stage",
            _torchvision("KMNIST", "KMNIST"),
            {"source": "kmnist", "rows": 3, "columns": 3},
        ),
        _grid(
            "cifar10",
            "CIFAR-10 3 x 3 of 32 pixels, a direction a stage",
            _torchvision("CIFAR10", "cifar-10-batches-py"),
            {"source": "cifar10", **COLOUR_GRID},
        ),
        _grid(
            "cifar100",
            "CIFAR-100 3 x 3 of 32 pixels, a direction a stage",
            CIFAR100,
            {"source": "cifar100", **COLOUR_GRID},
        ),
        _grid(
            "omniglot",
            "Omniglot rows of six, a language a stage",
            OMNIGLOT,
            OMNIGLOT_ROWS,
            build="cl_plugin_butd.data.streams:build_omniglot",
        ),
    ]


def _scenes_and_classes() -> list[Dataset]:
    """CLEVR's relations, and classes for carrying a pretrained net on."""
    return [
        Dataset(
            name="clevr",
            summary="CLEVR scenes and relations; bring scenes.json",
            task=INSTRUCTION,
            build="cl_plugin_butd.data.clevr:build",
            settings=settings.Scenes,
            prepare="cl_plugin_butd.data.clevr:prepare",
            assets=(CLEVR,),
        ),
        Dataset(
            name="cifar100-classes",
            summary="CIFAR-100 in ten stages of ten classes, for transfer",
            task="image -> class",
            build="cl_plugin_butd.data.streams:build_cifar_classes",
            assets=(CIFAR100,),
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
def clk_datasets() -> Sequence[Dataset]:
    """Toy data, the papers' spatial and persons sets, grids of other sources."""
    return [*_toy(), *_published(), *_grids(), *_scenes_and_classes()]


def _learner(name: str, summary: str, build: str, schema: type | str, **more: Any) -> Learner:
    """A learner of instructions."""
    record = {"takes": (INSTRUCTION,), "framework": "torch", "requires": ("torch",)}
    return Learner(
        name=name, summary=summary, build=f"cl_plugin_butd.method.{build}", settings=schema, **{**record, **more}
    )


def _continual(name: str, summary: str, profiles: dict[str, Values]) -> Learner:
    """A learner of a stream of instructions on the continual network."""
    return _learner(
        name,
        summary,
        "continual:build",
        settings.Continual,
        metrics=SCORES,
        profiles=profiles,
        looks_back="earlier directions ask about the same pictures, which stay on the device, and are asked again to "
        "show that their answers have not changed",
    )


def _baseline(name: str) -> Learner:
    """One of :data:`BASELINES`."""
    summary, published, small = BASELINES[name]
    tiny = {**settings.TINY_CONTINUAL, "method": name, **published, **small}
    return _continual(name, summary, {"*": {"method": name, **published}, "tiny": tiny})


@hookimpl
def clk_locate(asset: Asset, roots: Sequence[Path]) -> Path | None:
    """EMNIST as NIST ships it, parts of Omniglot, CLEVR as unzipped."""
    if asset not in (EMNIST, OMNIGLOT, CLEVR):
        return None
    from cl_plugin_butd.data.clevr import scenes_below
    from cl_plugin_butd.data.sources import lies_in

    if asset == CLEVR:
        return next((root for root in roots if scenes_below(root) is not None), None)
    return next((root for root in roots if lies_in(root, "emnist" if asset == EMNIST else "omniglot")), None)


@hookimpl
def clk_learners() -> Sequence[Learner]:
    """The counter-stream network alone, the continual learner and its baselines, transfer, transformers."""
    return [
        _learner(
            "counter-stream",
            "train the whole network on what a stage asks",
            "single:build",
            settings.Training,
            metrics=SCORES,
            presets="cl_plugin_butd.method.hyper:presets",
            profiles={"tiny": settings.TINY_TRAINING},
        ),
        _continual(
            "zero-forgetting",
            "a modulation, a head and statistics a task; the rest frozen",
            {"tiny": settings.TINY_CONTINUAL},
        ),
        *map(_baseline, BASELINES),
        _learner(
            "transfer",
            "carry a pretrained net to further data sets",
            "transfer:build",
            settings.Transfer,
            takes=("image -> class",),
            requires=("torch", "torchvision"),
            profiles={"tiny": settings.TINY_TRANSFER},
        ),
        _learner(
            "isolate",
            "any network: a modulation, a head and norms a task; the rest frozen",
            "isolate:build",
            "cl_plugin_butd.method.isolate:Isolate",
            takes=("image -> class", "vector -> class", "map -> class"),
            accepts=("model",),
            defaults={"model": "clk:convnet"},
        ),
        _learner(
            "vit",
            "transformers that answer instructions",
            "vit:build",
            settings.Vit,
            profiles={"tiny": settings.TINY_VIT},
        ),
    ]


@hookimpl
def clk_metrics() -> Sequence[Metric]:
    """Which characters are there."""
    return [
        Metric(
            name="occurrence",
            summary="share of characters whose presence is told rightly",
            build="cl_plugin_butd.evaluate.metrics:build",
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
            build="cl_plugin_butd.commands.import_legacy:import_legacy",
        ),
        Command(
            name="compose",
            summary="follow a chain of directions with a finished run",
            build="cl_plugin_butd.commands.compose:compose",
        ),
        Command(
            name="export-task",
            summary="write single tasks of a finished run as files",
            build="cl_plugin_butd.commands.tasks:export_task",
        ),
        Command(
            name="import-task",
            summary="add tasks that another run learnt to a finished run",
            build="cl_plugin_butd.commands.tasks:import_task",
        ),
        Command(
            name="figure",
            summary="draw finished runs of a stream: what was learnt, what is left of it",
            build="cl_plugin_butd.commands.figure:figure",
        ),
    ]
