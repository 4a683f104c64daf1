"""Named runs as data: the main runs, every arm of the ablation, and the baselines with each data set's values.

Profile ``tiny`` runs each on the toy clips; ``paper`` has the publication's values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cl_kernel import Experiment

Values = Mapping[str, Any]

# ---- what the toy data need -----------------------------------------------------------------

TINY_BLOCKS = {"n_blocks": 64, "length": 8, "sigma": 0.9, "sparsity": 0.5}
TINY_STEPS = {"batch_size": 16, "first_epochs": 5, "lr": 2e-3}
TINY_CRUMB = {**TINY_STEPS, "pretrain_lr": 0.01, "pretrain_epochs": 4, "pretrain_batch": 32, "base": "main"}
TINY_MEMORY = "96"
TINY = {"dataset": "crumb:ministream", "model": "crumb:tiny", "run.memory": TINY_MEMORY}

TINY_BASELINES: dict[str, dict[str, Any]] = {
    "ewc": {**TINY_STEPS, "strength": 100.0},
    "ewc-online": {**TINY_STEPS, "strength": 100.0},
    "l2": {**TINY_STEPS, "strength": 0.1},
    "si": {**TINY_STEPS, "strength": 1.0},
    "mas": {**TINY_STEPS, "strength": 1.0},
    "lwf": {**TINY_STEPS, "lr": 0.02},
    # Momentum would carry the steps on along directions that the projection has just taken out of the gradient.
    "agem": {**TINY_STEPS, "momentum": 0.0},
    "cope": {**TINY_STEPS, "lr": 0.01, "temperature": 0.1},
    "gss": {**TINY_STEPS, "strength": 3, "first_epochs": 3},
    "rainbow": {**TINY_STEPS, "lr": 0.01, "epochs": 3},
    "bic": {**TINY_STEPS, "epochs": 3},
    "stable-sgd": {**TINY_STEPS, "lr": 0.01, "gamma": 0.6, "epochs": 1},
    "aan": {**TINY_STEPS, "epochs": 3},
}

# ---- learners --------------------------------------------------------------------------------

_METHODS = "cl_kernel.methods"
_VALUES = "cl_plugin_crumb.method.baselines"
BASELINES: tuple[tuple[str, str, str, str, str, str], ...] = (
    (
        "fine-tuning",
        "plain steps in the stream's order: the lower bound",
        f"{_METHODS}.fine_tuning:build",
        f"{_VALUES}:FineTuning",
        "",
        "",
    ),
    ("l2", "penalty for leaving the last task's weights", f"{_METHODS}.l2:build", f"{_VALUES}:L2", "", ""),
    ("ewc", "elastic weight consolidation, one penalty a task", f"{_METHODS}.ewc:build", f"{_VALUES}:Ewc", "", ""),
    (
        "ewc-online",
        "elastic weight consolidation, one penalty in all",
        f"{_METHODS}.online_ewc:build",
        f"{_VALUES}:OnlineEwc",
        "",
        "",
    ),
    ("si", "synaptic intelligence", f"{_METHODS}.si:build", f"{_VALUES}:Si", "", ""),
    ("mas", "memory-aware synapses", f"{_METHODS}.mas:build", f"{_VALUES}:Mas", "", ""),
    (
        "lwf",
        "learning without forgetting: old scores as targets, nothing stored",
        f"{_METHODS}.lwf:build",
        f"{_VALUES}:Lwf",
        "",
        "",
    ),
    (
        "naive-rehearsal",
        "a replay step after every new one",
        f"{_METHODS}.rehearsal:build",
        f"{_VALUES}:Rehearsing",
        "clk:class-balanced+clk:raw",
        "1200",
    ),
    (
        "gem",
        "gradients that hurt no earlier task's memory",
        f"{_METHODS}.gem:build",
        f"{_VALUES}:Gem",
        "clk:class-balanced+clk:raw",
        "15",
    ),
    (
        "gem-shipped",
        "GEM as released, which is fine-tuning",
        f"{_METHODS}.fine_tuning:build",
        f"{_VALUES}:FineTuning",
        "",
        "",
    ),
    (
        "agem",
        "gradients that do not hurt the memory as a whole",
        f"{_METHODS}.agem:build",
        f"{_VALUES}:Agem",
        "clk:class-balanced+clk:raw",
        "1200",
    ),
    (
        "icarl",
        "herded exemplars, distillation, nearest mean",
        f"{_METHODS}.icarl:build",
        f"{_VALUES}:Icarl",
        "crumb:chosen+clk:raw",
        "15",
    ),
    (
        "icarl-shipped",
        "iCaRL as released: copies of one image a class",
        f"{_METHODS}.icarl:build",
        f"{_VALUES}:IcarlShipped",
        "crumb:chosen+clk:raw",
        "15",
    ),
    (
        "cope",
        "continual prototype evolution",
        f"{_METHODS}.cope:build",
        f"{_VALUES}:Cope",
        "clk:class-balanced+clk:raw",
        "1000",
    ),
    (
        "gss",
        "gradient-based sample selection, greedy",
        f"{_METHODS}.gss:build",
        f"{_VALUES}:Gss",
        "crumb:chosen+clk:raw",
        "1000",
    ),
    (
        "rainbow",
        "Rainbow Memory: a spread over uncertainty",
        f"{_METHODS}.rainbow:build",
        f"{_VALUES}:Rainbow",
        "crumb:chosen+clk:raw",
        "400",
    ),
    (
        "bic",
        "exemplars, distillation and a bias layer",
        f"{_METHODS}.bic:build",
        f"{_VALUES}:Bic",
        "crumb:chosen+clk:raw",
        "20",
    ),
    ("stable-sgd", "dropout and a falling rate", f"{_METHODS}.stable_sgd:build", f"{_VALUES}:StableSgd", "", ""),
    (
        "aan",
        "adaptive aggregation networks on iCaRL",
        f"{_METHODS}.aan:build",
        f"{_VALUES}:Aan",
        "crumb:chosen+clk:raw",
        "240",
    ),
)

# ---- data sets -------------------------------------------------------------------------------

DATASETS = ("core50", "toybox", "ilab2mlight", "cifar100", "imagenet", "icubworldtransf", "combined")
_CAPACITY = {"cifar100": "2782", "imagenet": "278342", "icubworldtransf": "834", "combined": "834"}
_ARM_CAPACITY = {"cifar100": "2000", "imagenet": "139171", "icubworldtransf": "400", "combined": "400"}
_BIG_BATCH = {"cifar100": 128, "imagenet": 128}


def _paper(dataset: str = "core50", *, capacity: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {
        "dataset": f"crumb:{dataset}",
        "model": "crumb:squeezenet",
        "run.memory": capacity or _CAPACITY.get(dataset, "417"),
    }
    if dataset in _BIG_BATCH:
        values["learner.batch_size"] = _BIG_BATCH[dataset]
    if dataset in ("cifar100", "imagenet"):
        values["learner.top_k"] = [1, 5]
    return values


def _doubled(dataset: str) -> dict[str, Any]:
    """Blocks of length 32 take half the bytes: twice the examples."""
    values = _paper(dataset)
    return {**values, "run.memory": str(2 * int(values["run.memory"])), "codec.length": 32}


def _joint(epochs: int = 5) -> dict[str, Any]:
    return {
        "learner": "clk:joint",
        "learner.lr": 3e-3,
        "learner.momentum": 0.9,
        "learner.weight_decay": 1e-4,
        "learner.epochs": epochs,
        "learner.batch_size": 16,
    }


COMPARED: dict[str, dict[str, Any]] = {
    "fine-tuning": {"learner": "crumb:fine-tuning"},
    "no replay": {"learner.replay_times": 0},
    "joint": _joint(),
}
"""Beside the default run. "No replay" still has the codebook and its loss; joint trains anew on everything so far."""


def _main() -> list[Experiment]:
    runs = [
        Experiment(
            name="ministream",
            summary="CRUMB on the toy clips, beside fine-tuning, no replay and joint",
            default=True,
            settings={"learner": "crumb:crumb"},
            profiles={"tiny": TINY},
            comparisons=COMPARED,
        )
    ]
    runs.append(
        Experiment(
            name="images",
            summary="CRUMB on a folder of images (--dataset crumb:folder:PATH), 2 classes a task",
            settings={"learner": "crumb:crumb", "dataset": "crumb:folder", "dataset.classes_per_task": 2},
            profiles={
                "tiny": {"model": "crumb:tiny", "run.memory": "500"},
                "paper": {"model": "crumb:squeezenet", "run.memory": "417"},
            },
        )
    )
    for dataset in DATASETS:
        for scenario in ("class_instance", "class_iid"):
            if scenario == "class_instance" and dataset in ("cifar100", "imagenet"):
                continue
            runs.append(
                Experiment(
                    name=f"stream-{dataset}"
                    + ("" if scenario == "class_instance" or dataset in ("cifar100", "imagenet") else "-iid"),
                    summary=f"CRUMB on {dataset}, {scenario}: the main table",
                    settings={"learner": "crumb:crumb", "dataset.scenario": scenario},
                    profiles={"tiny": TINY, "paper": _paper(dataset)},
                )
            )
    return runs


ONE_STAGE: dict[str, Any] = {
    "dataset.scenario": "iid",
    "dataset.offline": True,
    "dataset.images_per_task": 10**9,
    "learner.replay_times": 0,
    "learner.w_direct": 1.0,
    "learner.start": "none",
}
"""Everything in one task, shuffled: pretraining."""


def _presets() -> list[Experiment]:
    """The released scripts beside the main one; profiles ``paper-DATASET`` have the values of another data set."""
    both = {"learner": "crumb:crumb"}
    return [
        Experiment(
            name="pretrain-imagenet",
            summary="pretraining of head and codebook on ImageNet, 10 epochs",
            settings={**both, **ONE_STAGE},
            profiles={
                "tiny": TINY,
                "paper": {**_paper("imagenet"), "learner.batch_size": 128, "learner.first_epochs": 10},
            },
        ),
        Experiment(
            name="pretrain-cifar100",
            summary="pretraining of head and codebook on CIFAR-100, 4 epochs",
            settings={**both, **ONE_STAGE},
            profiles={
                "tiny": TINY,
                "paper": {**_paper("cifar100"), "learner.batch_size": 128, "learner.first_epochs": 4},
            },
        ),
        Experiment(
            name="shipped-flags",
            summary="the losses that the released scripts really use",
            settings={**both, "learner.pretrain_w_direct": 0.0},
            profiles={"tiny": TINY, **_of_paper(_paper)},
        ),
        Experiment(
            name="stream-1run-per-pretraining",
            summary="own pretraining a run, top-5, best first-task epoch",
            settings={**both, "dataset.scenario": "class_iid", "learner.keep_best": "first", "learner.top_k": [1, 5]},
            profiles={"tiny": TINY, **_of_paper(_paper)},
        ),
        Experiment(
            name="stream-32",
            summary="blocks of length 32 and twice the examples",
            settings=both,
            profiles={"tiny": {**TINY, "codec.length": 16, "run.memory": "192"}, **_of_paper(_doubled)},
        ),
        Experiment(
            name="stream-sample-first-batch",
            summary="codebook from the first batch instead of a file",
            settings={**both, "codec.init": "sample_first_batch", "learner.start": "weights"},
            profiles={"tiny": TINY, **_of_paper(_paper)},
        ),
        Experiment(
            name="stream-unlimited-memory",
            summary="everything is kept",
            settings=both,
            profiles={"tiny": {**TINY, "run.memory": "all"}, **_of_paper(lambda name: _paper(name, capacity="all"))},
        ),
        Experiment(
            name="stream-imagenet-1run",
            summary="one ImageNet run with 50,000 examples",
            settings=both,
            profiles={"tiny": TINY, "paper": _paper("imagenet", capacity="50000")},
        ),
    ]


# ---- ablation --------------------------------------------------------------------------------

Arm = tuple[str, str, Values, Values, Values]
"""Name, what differs, settings for all profiles, for tiny, for paper."""

RAW = {"replay": "crumb:balanced+clk:raw"}


def _arms() -> list[Arm]:
    arms: list[Arm] = [
        ("unablated", "CRUMB with blocks of length 8", {}, {}, {}),
        (
            "image-replay",
            "images replayed, no pretraining of the head",
            {**RAW, "learner.storage": "image", "learner.start": "none"},
            {},
            {},
        ),
        (
            "pretrained-image-replay",
            "images replayed with CRUMB's pretrained head",
            {**RAW, "learner.storage": "image", "learner.start": "weights"},
            {},
            {},
        ),
        ("early-feature-replay", "cut at layer 3", {}, {}, {"model.cut": 3}),
        (
            "merec",
            "moments of maps instead of examples",
            {"learner.storage": "merec", "learner.start": "none", "replay": "none"},
            {},
            {},
        ),
        ("raw-feature-replay", "maps kept as they are", {**RAW, "learner.storage": "raw_feature"}, {}, {}),
        (
            "enhanced-raw-feature-replay",
            "maps weighted by their gradients",
            {**RAW, "learner.storage": "enhanced_raw_feature"},
            {"learner.lr": 1e-3},  # the paper's: at the toy profile's 2e-3 such large maps silence every class
            {},
        ),
        ("half-capacity", "half the examples", {}, {"run.memory": "48"}, {"run.memory": "100"}),
        ("quarter-capacity", "a quarter of the examples", {}, {"run.memory": "24"}, {"run.memory": "50"}),
        ("no-replay", "no replay", {"learner.replay_times": 0, "learner.replay_coef": 0.0}, {}, {}),
        ("vanilla-pretrain", "no pretraining of head and codebook", {"learner.start": "none"}, {}, {}),
        ("pretrain-weights", "pretrained head, fresh codebook", {"learner.start": "weights"}, {}, {}),
        ("pretrain-memory-blocks", "pretrained codebook, fresh head", {"learner.start": "codebook"}, {}, {}),
        (
            "small-base-pretrain",
            "pretraining on a small base set (CIFAR-100, 256 epochs)",
            {},
            {"learner.base": "small"},
            {},
        ),
        ("freeze-memory", "the codebook does not learn in the stream", {"learner.freeze_codebook": True}, {}, {}),
        ("normal-init", "codebook starts as standard normal", {"codec.init": "random_standard_normal"}, {}, {}),
        ("uniform-init", "codebook starts uniform", {"codec.init": "random_uniform"}, {}, {}),
        ("dense-init", "codebook starts dense, matched", {"codec.init": "random_distmatch_dense"}, {}, {}),
        ("minus-direct-loss", "pretraining through the codebook only", {"learner.pretrain_w_direct": 0.0}, {}, {}),
        ("plus-direct-loss", "direct loss in the stream too", {"learner.w_direct": 1.0}, {}, {}),
        (
            "direct-loss-only",
            "direct loss alone in the stream",
            {"learner.w_out": 0.0, "learner.w_direct": 1.0},
            {},
            {},
        ),
        (
            "mobilenet",
            "MobileNetV2 cut at 8",
            {"codec.init": "normal_MobileNet"},
            {},
            {"model": "crumb:mobilenet", "run.memory": "1430"},
        ),
    ]
    arms += [
        (f"blocks-{k}", f"{k} memory blocks", {"codec.n_blocks": k}, {}, {}) for k in (1, 2, 4, 8, 16, 32, 64, 128, 512)
    ]
    arms += [(f"length-{n}", f"blocks of length {n}", {"codec.length": n}, {}, {}) for n in (4, 16, 32)]
    # Byte-matched: twice or four times the examples of half or a quarter of the bytes.
    arms += [
        (
            f"length-{n}-matched",
            f"blocks of length {n}, as many bytes",
            {"codec.length": n},
            {"run.memory": str(96 * n // 8)},
            {"run.memory": str(200 * n // 8)},
        )
        for n in (16, 32)
    ]
    arms += [
        (f"capacity-{n}", f"{n} examples", {}, {"run.memory": str(max(8, n * 96 // 200))}, {"run.memory": str(n)})
        for n in (400, 800, 1600, 3200, 6400)
    ]
    return arms


ARMS = tuple(arm[0] for arm in _arms())


PRETRAINED_APART = {
    "early-feature-replay": "cut-3",
    "small-base-pretrain": "cifar100-ablation",
    "normal-init": "normal-init",
    "uniform-init": "uniform-init",
    "dense-init": "dense-init",
    "minus-direct-loss": "minus-direct-loss",
    "mobilenet": "mobilenet",
    **{f"blocks-{k}": f"blocks-{k}" for k in (1, 2, 4, 8, 16, 32, 64, 128, 512)},
    **{f"length-{n}": f"length-{n}" for n in (4, 16, 32)},
    **{f"length-{n}-matched": f"length-{n}" for n in (16, 32)},
}
"""Arm -> the pretraining it needs; all others need the unablated one, or none. With that one, these would be the same
run as ``arm-unablated``."""


def _of_paper(values: Callable[[str], Values]) -> dict[str, Values]:
    """Profiles ``paper`` (CORe50) and ``paper-DATASET``."""
    named = {f"paper-{dataset}": values(dataset) for dataset in DATASETS}
    return {"paper": named["paper-core50"], **named}


def _share(capacity: str, share: float) -> str:
    return str(int(int(capacity) * share))


def _ablation() -> list[Experiment]:
    runs = []
    for name, summary, shared, tiny, paper in _arms():

        def values(dataset: str, shared: Values = shared, paper: Values = paper) -> Values:
            capacity = _ARM_CAPACITY.get(dataset, "200")
            plain = {**_paper(dataset, capacity=capacity), "codec.length": 8}
            if dataset == "imagenet":
                plain["learner.first_epochs"] = 15
            if shared.get("replay"):
                plain.pop("codec.length")
            own = dict(paper)
            if "run.memory" in own and dataset != "core50" and own.get("model") != "crumb:mobilenet":
                own["run.memory"] = _share(capacity, int(own["run.memory"]) / 200)
            if own.get("model") == "crumb:mobilenet" and dataset == "cifar100":
                own["run.memory"] = "2000"
            return {**plain, **shared, **own}

        needs = {"learner.pretraining": PRETRAINED_APART[name]} if name in PRETRAINED_APART else {}
        runs.append(
            Experiment(
                name=f"arm-{name}",
                summary=summary,
                settings={"learner": "crumb:crumb", "learner.arm": name, **needs, **shared},
                profiles={"tiny": {**TINY, **tiny}, **_of_paper(values)},
            )
        )
    return runs


def _pretrainings() -> list[Experiment]:
    """The pretraining of each arm that needs one of its own, and the unablated one of the ablation (blocks of 8)."""
    needed: dict[str, tuple[Values, Values]] = {"unablated": ({}, {})}
    for name, _, shared, _, paper in _arms():
        if name in PRETRAINED_APART:
            kept = {k: v for k, v in {**shared, **paper}.items() if k.startswith(("codec.", "model"))}
            needed[PRETRAINED_APART[name]] = (kept, shared)
    runs = []
    for name, (kept, shared) in needed.items():
        weight = shared.get("learner.pretrain_w_direct", 1.0)
        dataset, epochs = ("cifar100", 256) if name == "cifar100-ablation" else ("imagenet", 10)
        paper = {
            **_paper(dataset),
            "codec.length": 8,
            "learner.batch_size": 128,
            "learner.first_epochs": epochs,
            **kept,
        }
        runs.append(
            Experiment(
                name=f"pretrain-{name}",
                summary=f"pretraining {name!r} of the ablation: {dataset}, {epochs} epochs",
                settings={
                    "learner": "crumb:crumb",
                    **ONE_STAGE,
                    "learner.w_direct": weight,
                    "learner.pretraining": name,
                },
                profiles={"tiny": TINY, "paper": paper},
            )
        )
    return runs


# ---- baselines -------------------------------------------------------------------------------

_GROUPS = {
    "core50": "core50",
    "icubworldtransf": "core50",
    "combined": "core50",
    "toybox": "toybox",
    "ilab2mlight": "toybox",
    "cifar100": "cifar100",
    "imagenet": "imagenet",
}
"""Data set -> column of the table of baselines."""

_TABLE: dict[str, dict[str, Values]] = {
    "fine-tuning": {
        "core50": {"lr": 1e-4, "first_epochs": 10},
        "toybox": {"lr": 1e-4, "first_epochs": 1},
        "cifar100": {"lr": 1e-4, "first_epochs": 10},
        "imagenet": {"lr": 1e-3, "first_epochs": 20},
    },
    "l2": {
        "core50": {"strength": 100.0, "first_epochs": 10},
        "toybox": {"strength": 100.0, "first_epochs": 1},
        "cifar100": {"strength": 100.0, "first_epochs": 10},
        "imagenet": {"lr": 1e-3, "strength": 100.0, "first_epochs": 20},
    },
    "ewc": {
        "core50": {"strength": 100.0, "first_epochs": 10},
        "toybox": {"strength": 100.0, "first_epochs": 1},
        "cifar100": {"strength": 100.0, "first_epochs": 10},
        "imagenet": {"lr": 1e-3, "strength": 100.0, "first_epochs": 20},
    },
    "si": {
        "core50": {"strength": 0.01, "first_epochs": 10},
        "toybox": {"strength": 0.01, "first_epochs": 1},
        "cifar100": {"strength": 0.01, "first_epochs": 10},
        "imagenet": {"lr": 1e-3, "strength": 100.0, "first_epochs": 20},
    },
    "mas": {
        "core50": {"lr": 1e-3, "strength": 1.0, "first_epochs": 10},
        "toybox": {"strength": 1.0, "first_epochs": 1},
        "cifar100": {"strength": 1.0, "first_epochs": 10},
        "imagenet": {"lr": 1e-3, "strength": 100.0, "first_epochs": 20},
    },
    "gem": {
        "core50": {"first_epochs": 10, "memory": "15"},
        "toybox": {"first_epochs": 1, "memory": "15"},
        "cifar100": {"first_epochs": 10, "memory": "100"},
        "imagenet": {"lr": 1e-3, "first_epochs": 20, "memory": "10000"},
    },
    "icarl": {
        "core50": {"first_epochs": 10, "memory": "15"},
        "toybox": {"first_epochs": 1, "memory": "15"},
        "cifar100": {"first_epochs": 10, "memory": "100"},
        "imagenet": {"lr": 1e-4, "first_epochs": 10, "memory": "10000"},
    },
    "naive-rehearsal": {
        "core50": {"first_epochs": 10, "memory": "1200"},
        "toybox": {"first_epochs": 1, "memory": "1200"},
        "cifar100": {"first_epochs": 10, "memory": "100"},
        "imagenet": {"lr": 1e-3, "first_epochs": 20, "memory": "10000"},
    },
    "agem": {"cifar100": {"first_epochs": 10, "memory": "1200"}},
    "upper-bound": {
        "core50": {"lr": 1e-4, "first_epochs": 5, "epochs": 5, "batch_size": 128},
        "toybox": {"lr": 1e-4, "first_epochs": 5, "epochs": 5, "batch_size": 100},
        "cifar100": {"lr": 1e-4, "first_epochs": 10, "epochs": 10, "batch_size": 100},
        "imagenet": {"lr": 1e-3, "first_epochs": 15, "epochs": 15, "batch_size": 128},
    },
    "ewc-online": {"core50": {"strength": 100.0, "first_epochs": 10}},
    "lwf": {"core50": {"lr": 0.2, "first_epochs": 10}, "toybox": {"lr": 0.02, "first_epochs": 10}},
    "cope": {"core50": {"memory": "1000"}},
    "gss": {
        "core50": {"lr": 1e-3, "first_epochs": 10, "epochs": 10, "n_iter": 10, "memory": "1000"},
        "toybox": {"lr": 1e-4, "batch_size": 100, "first_epochs": 15, "epochs": 15, "strength": 100, "memory": "1000"},
    },
    "rainbow": {
        "core50": {"lr": 0.004, "memory": "400"},
        "toybox": {"lr": 0.008, "memory": "400"},
        "cifar100": {"lr": 0.008, "batch_size": 16, "memory": "400"},
    },
    "bic": {"core50": {"memory": "20"}, "toybox": {"lr": 1e-4, "memory": "20"}},
    "stable-sgd": {
        "cifar100": {},
        "toybox": {"lr": 0.015, "gamma": 0.85, "batch_size": 128, "dropout": 0.1, "first_epochs": 15, "epochs": 15},
    },
    "aan": {"core50": {"memory": "200"}, "cifar100": {"memory": "2000"}},
    "icarl-shipped": {"core50": {"first_epochs": 10, "memory": "15"}},
    "gem-shipped": {"core50": {"lr": 1e-4, "first_epochs": 10}},
}

_DOUBLED = {"15": "30"}
_MODEL: dict[str, dict[str, Any]] = {"lwf": {"model.rectified": False}}
"""What a learner needs of the network: LwF's targets are sigmoids below a half, which no rectified score reaches."""
_HAS_MEMORY = {row[0] for row in BASELINES if row[4]}


def _baseline(agent: str, dataset: str, values: Values, *, frozen: bool = False) -> Experiment:
    learner = "fine-tuning" if agent in ("upper-bound", "lower-bound-frozen") else agent
    chosen = {f"learner.{k}": v for k, v in values.items() if k != "memory"}
    if dataset == "imagenet":
        chosen.setdefault("learner.batch_size", 128)
    chosen |= _MODEL.get(learner, {})
    paper = {"dataset": f"crumb:{dataset}", "model": "crumb:squeezenet", "model.frozen": frozen, **chosen}
    memory = str(values.get("memory", ""))
    if memory:
        doubled = dataset in ("icubworldtransf", "combined")
        paper["run.memory"] = _DOUBLED.get(memory, memory) if doubled else memory
    tiny: dict[str, Any] = {"dataset": "crumb:ministream", "model": "crumb:tiny", **_MODEL.get(learner, {})}
    if learner in _HAS_MEMORY:
        tiny["run.memory"] = TINY_MEMORY
    shared: dict[str, Any] = {"learner": f"crumb:{learner}"}
    if agent == "upper-bound":
        shared["dataset.offline"] = True
    return Experiment(
        name=f"{dataset}-{agent}",
        summary=f"{agent} on {dataset}, tuned for it",
        settings=shared,
        profiles={"tiny": tiny, "paper": paper},
    )


def _baselines() -> list[Experiment]:
    runs = []
    for agent, columns in _TABLE.items():
        for dataset, column in _GROUPS.items():
            if column in columns:
                runs.append(_baseline(agent, dataset, columns[column]))
    runs += [
        _baseline("lower-bound-frozen", dataset, _TABLE["fine-tuning"]["core50"], frozen=True)
        for dataset in ("core50", "icubworldtransf", "combined")
    ]
    return runs


def _table() -> Experiment:
    """Every method on one stream, in one table."""
    comparisons: dict[str, dict[str, Any]] = {**COMPARED}
    for name, _, _, _, replay, _ in BASELINES:
        if name not in ("fine-tuning", "gem-shipped"):  # the same learner
            comparisons[name] = {
                "learner": f"crumb:{name}",
                **({"replay": replay} if replay else {}),
                **_MODEL.get(name, {}),
            }
    return Experiment(
        name="baselines",
        summary="CRUMB and every baseline on the toy clips, in one table",
        settings={"learner": "crumb:crumb"},
        profiles={"tiny": TINY},
        comparisons=comparisons,
    )


EXPERIMENTS: tuple[Experiment, ...] = (*_main(), *_presets(), *_ablation(), *_pretrainings(), _table(), *_baselines())
