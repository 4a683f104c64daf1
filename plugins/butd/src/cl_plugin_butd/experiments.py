"""Named runs as data: the papers' experiments, each with its toy data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import evolve

from cl_kernel import Experiment

Values = Mapping[str, Any]

BASELINES: dict[str, tuple[str, Values, Values]] = {
    "masks": (
        "a binary mask of the frozen weights and a head a task",
        {"later_lr": 1e-4, "weight_decay": 1e-5},
        {"later_lr": 1e-2, "weight_decay": 0.0},
    ),
    "classifier": ("a head a task, nothing else learns", {"later_lr": 1e-4}, {"later_lr": 1e-2}),
    "naive": ("everything learns, nothing is kept", {}, {}),
    "joint": ("every task so far at once: the upper bound", {}, {}),
    "ewc": ("elastic weight consolidation", {"strength": 0.985}, {}),
    "lwf": ("learning without forgetting", {"strength": 0.985}, {}),
    "lfl": ("less-forgetting learning", {"strength": 0.5}, {}),
    "mas": ("memory-aware synapses", {"strength": 0.001}, {}),
    "si": ("synaptic intelligence", {"strength": 0.005}, {}),
    "imm-mean": ("incremental moment matching, means", {"strength": 0.01}, {}),
    "imm-mode": ("incremental moment matching, modes", {"strength": 0.7}, {}),
    "rwalk": ("Riemannian walk", {"strength": 0.5, "alpha": 0.9}, {}),
    "ewc-online": ("EWC with a running Fisher (EWC++)", {"strength": 0.985, "alpha": 0.9}, {}),
    "pi": ("path integral, online", {"strength": 0.5}, {}),
}
"""Name -> what it does, the published settings, what the toy data change."""

EMNIST_NET = {
    "learner.filters": (64, 96, 128, 256),
    "learner.strides": (2, 2, 1, 2),
    "learner.blocks": (0, 1, 1, 1),
    "learner.augment": (0.1, 0.05, 2.0, 51),
}
SMALL_DIGITS = {
    "learner.filters": (16, 32, 64),
    "learner.strides": (2, 2, 2),
    "learner.blocks": (0, 1, 1),
    "learner.lr": 3e-3,
    "learner.batch_size": 25,
    "learner.schedule": "cosine",
    "learner.normalise": "centred",
}
"""A top as coarse as the characters: the neighbour is one step of a 3 x 3 filter away."""
DIGITS_NET = {
    **SMALL_DIGITS,
    "dataset.cell": 10,
    "dataset.canvas": (1, 7),
    "dataset.scale": (0.8, 1.0),
    "dataset.n_test": 1000,
    "dataset.n_val": 1000,
    "learner.separable": False,
    "learner.weight_decay": 1e-4,
    "learner.epochs": 20,
    "learner.augment": (0.02, 0.05, 2.0, 30),
}
DIGITS_STREAM = {
    **SMALL_DIGITS,
    "dataset": "butd:digits-grid",
    "dataset.n_train": 8000,
    "learner.factor": (2, 2, 1, 1),
    "learner.init_one": True,
    "learner.later_lr": 2e-2,
    "learner.epochs": 11,
    "learner.later_epochs": 3,
    "learner.augment": (0.03, 0.05, 2.0, 30),
}
PERSONS_NET = {
    "learner.filters": (64, 64, 128, 256, 512),
    "learner.strides": (2, 2, 2, 2, 2),
    "learner.blocks": (0, 2, 2, 2, 2),
    "learner.augment": (0.1, 0.1, 10.0, 51),
}
TINY_HELD_OUT = {"dataset": "butd:held-out"}


TINY_SPATIAL: Mapping[str, Mapping[str, Any]] = {
    "6-sufficient": {},
    "6-extended": {"dataset.n_train": 6000},
    "24-sufficient": {"dataset.columns": 4},
    "24-extended": {"dataset.columns": 4, "dataset.n_train": 6000},
}
"""What the toy data change: longer rows for more characters, more pictures for the extended sets."""


def _spatial(name: str, variant: str, **training: Any) -> Experiment:
    return Experiment(
        name=name,
        summary=f"EMNIST spatial, {variant.replace('-', ' characters, ')}; held-out combinations are the test",
        settings={"learner": "butd:counter-stream"},
        profiles={
            "tiny": {**TINY_HELD_OUT, **TINY_SPATIAL[variant]},
            "paper": {
                "dataset": f"butd:emnist:{variant}",
                **EMNIST_NET,
                **{f"learner.{k}": v for k, v in training.items()},
            },
        },
    )


def _persons(name: str, variant: str) -> Experiment:
    return Experiment(
        name=name,
        summary=f"persons, {variant}; held-out person-feature pairs are the test",
        settings={"learner": "butd:counter-stream", "dataset": f"butd:persons:{variant}"},
        profiles={
            "tiny": {
                "dataset.stand_in": True,
                "learner.filters": (8, 12, 16, 24),
                "learner.batch_size": 20,
                "learner.strides": (4, 2, 2, 2),
                "learner.blocks": (0, 1, 1, 1),
                "learner.epochs": 2,
            },
            "paper": {
                **PERSONS_NET,
                "learner.lr": 5e-4,
                "learner.batch_size": 10,
                "learner.weight_decay": 1e-4,
                "learner.epochs": 300,
            },
        },
    )


def _ablation(name: str, summary: str, **changes: Any) -> Experiment:
    changed = {f"learner.{k}": v for k, v in changes.items()}
    return Experiment(
        name=name,
        summary=summary,
        settings={"learner": "butd:counter-stream", **changed},
        profiles={
            "tiny": {**TINY_HELD_OUT, "learner.epochs": 6},
            "paper": {"dataset": "butd:emnist:6-sufficient", **EMNIST_NET},
        },
    )


def _baseline(name: str) -> Experiment:
    summary, _, small = BASELINES[name]
    return Experiment(
        name=f"CL_BASELINE_{name.upper().replace('-', '_')}",
        summary=f"four directions with {summary}",
        settings={"learner": f"butd:{name}"},
        profiles={
            "tiny": {"dataset": "butd:patterns"},
            "small": {**DIGITS_STREAM, **{f"learner.{k}": v for k, v in small.items()}},
            "paper": {
                "dataset": "butd:emnist-grid",
                "learner.batch_size": 10,
                "learner.epochs": 40,
                "learner.later_epochs": 40,
                "learner.augment": (0.05, 0.1, 15.0, 51),
            },
        },
    )


def _stream(name: str, dataset: str, summary: str, **later: Any) -> Experiment:
    return Experiment(
        name=name,
        summary=summary,
        settings={"learner": "butd:zero-forgetting"},
        profiles={
            "tiny": {"dataset": "butd:patterns"},
            "paper": {
                "dataset": f"butd:{dataset}",
                "learner.augment": (0.05, 0.1, 15.0, 51),
                **{f"learner.{k}": v for k, v in later.items()},
            },
        },
    )


def _transfer(name: str, **changes: Any) -> Experiment:
    return Experiment(
        name=f"TRANSFER_{name.upper()}",
        summary=f"a net carried to further classes: {name}",
        settings={"learner": "butd:transfer", "learner.method": name},
        profiles={
            "tiny": {"dataset": "butd:digit-classes"},
            "paper": {"dataset": "butd:cifar100-classes", **{f"learner.{k}": v for k, v in changes.items()}},
        },
    )


def _vit(name: str, kind: str, **paper: Any) -> Experiment:
    return Experiment(
        name=name,
        summary=f"transformer, {kind}",
        settings={
            "learner": "butd:vit",
            "learner.kind": kind,
            **({"metrics": ["butd:occurrence"]} if kind == "multi-label" else {}),
        },
        requires=("torch", "transformers")
        if kind in ("multi-label", "right-of-all", "guided", "vanilla")
        else ("torch",),
        profiles={
            "tiny": {"dataset": "butd:held-out", "dataset.n_train": 2000},
            "paper": {"dataset": "butd:emnist:6-extended", **{f"learner.{k}": v for k, v in paper.items()}},
        },
    )


TASK_SELECT = {"image": 224, "patch": 16, "lr": 3e-4, "cyclic": False, "batch_size": 256, "epochs": 100}

ALIASES = {
    "EMNIST_6_SUFFICIENT": ("emnist",),
    "PERSONS_SUFFICIENT": ("persons",),
    "CL_EMNIST": ("emnist-grid",),
    "CL_FASHION": ("fashion",),
    "CL_OMNIGLOT": ("omniglot",),
    "HELD_OUT_PAIRS": ("digits",),
}
"""A data set's name alone chooses its training profile: ``--test persons``."""

_TESTS = [
    Experiment(
        name="CL_DIRECTIONS",
        default=True,
        aliases=("zero-forgetting",),
        summary="four directions one after the other; nothing is forgotten",
        settings={"learner": "butd:zero-forgetting"},
        profiles={
            "tiny": {"dataset": "butd:patterns"},
            "small": DIGITS_STREAM,
            "paper": {"dataset": "butd:emnist-grid", "learner.augment": (0.05, 0.1, 15.0, 51)},
        },
        comparisons={"naive fine-tuning": {"learner": "butd:naive", "learner.later_epochs": 2, "learner.pictures": 0}},
    ),
    Experiment(
        name="SMOKE",
        summary="every part once, in seconds",
        settings={"learner": "butd:zero-forgetting", "dataset": "butd:patterns"},
        profiles={
            "tiny": {
                "dataset.n_train": 200,
                "dataset.n_test": 50,
                "dataset.directions": ("right", "left"),
                "learner.epochs": 1,
                "learner.later_epochs": 1,
            }
        },
    ),
    Experiment(
        name="HELD_OUT_PAIRS",
        summary="guided against unguided on pairs never seen side by side",
        settings={"learner": "butd:counter-stream"},
        profiles={
            "tiny": TINY_HELD_OUT,
            "small": {"dataset": "butd:digits", **DIGITS_NET},
            "paper": {"dataset": "butd:emnist:6-sufficient", **EMNIST_NET},
        },
        comparisons={
            "unguided": {"learner.placement": "NOFLAG"},
            "bottom-up only": {"learner.placement": "BU1_SIMPLE"},
        },
    ),
    _persons("PERSONS_SUFFICIENT", "sufficient"),
    _persons("PERSONS_EXTENDED", "extended"),
    _spatial("EMNIST_6_SUFFICIENT", "6-sufficient"),
    _spatial("EMNIST_6_EXTENDED", "6-extended"),
    _spatial("EMNIST_24_SUFFICIENT", "24-sufficient", optimizer="sgd", lr=0.05, batch_size=32, weight_decay=1e-4),
    _spatial("EMNIST_24_EXTENDED", "24-extended", lr=1e-4, weight_decay=1e-4),
    *(
        _ablation(f"FLAG_AT_{placement}", f"the instruction enters at {placement}", placement=placement)
        for placement in ("TD", "BU1", "BU2", "NOFLAG", "BU1_SIMPLE", "BU1_NOLAT")
    ),
    _ablation("NO_LATERAL_BUTD", "no laterals from bottom-up to top-down", bu_to_td=False),
    _ablation("NO_LATERAL_TDBU", "no laterals from top-down to bottom-up", td_to_bu=False),
    _stream("CL_EMNIST", "emnist-grid", "EMNIST characters, five directions"),
    _stream("CL_FASHION", "fashion", "Fashion-MNIST, four directions", later_epochs=15),
    _stream("CL_OMNIGLOT", "omniglot", "Omniglot, six languages", train_argument=True),
    *(_baseline(name) for name in ("naive", "ewc", "lwf", "lfl", "mas", "si", "imm-mean", "imm-mode", "rwalk")),
    _transfer("modulation"),
    _transfer("masks", lr=1e-4, weight_decay=1e-5),
    _transfer("classifier", lr=1e-4),
    _transfer("full", lr=1e-3),
    _transfer("lwf", lr=1e-4),
    _vit("VIT_MULTI_LABEL", "multi-label", image=32, heads=2, batch_size=10),
    _vit("VIT_RIGHT_OF_ALL", "right-of-all", heads=2),
    _vit("VIT_GUIDED", "guided", layers=2, heads=3, batch_size=32),
    _vit("VIT_VANILLA", "vanilla", heads=2, batch_size=10),
    _vit("TASKSELECT_BUTD", "two-stream", **{**TASK_SELECT, "hidden": 192, "ffn": 512, "layers": 3, "heads": 3}),
    _vit("TASKSELECT_ENCDEC", "encoder-decoder", **{**TASK_SELECT, "hidden": 240, "ffn": 768, "layers": 3, "heads": 3}),
    _vit("TASKSELECT_ENCODER", "encoder", **{**TASK_SELECT, "hidden": 240, "ffn": 768, "layers": 6, "heads": 3}),
    Experiment(
        name="GROWING_DATA",
        summary="the same test after ever more training pictures",
        settings={"learner": "butd:counter-stream"},
        profiles={
            "tiny": TINY_HELD_OUT,
            "small": {"dataset": "butd:digits", **DIGITS_NET},
            "paper": {"dataset": "butd:emnist:6-extended", **EMNIST_NET},
        },
        comparisons={f"{n} pictures": {"dataset.n_train": n} for n in (100, 200, 500, 1000, 2000)},
    ),
    Experiment(
        name="COMPOUND",
        summary="two directions asked about one character at once, a head each",
        settings={"learner": "butd:zero-forgetting", "learner.compound": ("right", "left")},
        profiles={
            "tiny": {"dataset": "butd:patterns"},
            "small": DIGITS_STREAM,
            "paper": {"dataset": "butd:emnist-grid", "dataset.directions": ("right", "left")},
        },
    ),
    Experiment(
        name="COMPOSE",
        summary="directions chained: the answer to one is the argument of the next",
        settings={"learner": "butd:zero-forgetting", "learner.compose": ("right", "right")},
        profiles={
            "tiny": {"dataset": "butd:patterns"},
            "paper": {"dataset": "butd:emnist-grid", "dataset.directions": ("right", "left", "right2")},
        },
    ),
]

EXPERIMENTS = [evolve(test, aliases=(*test.aliases, *ALIASES.get(test.name, ()))) for test in _TESTS]
