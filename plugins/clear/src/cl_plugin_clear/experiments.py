"""Named runs of CLEAR as data: protocols x methods, the pre-training ablation, pipelines, the toy data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cl_kernel import Experiment
from cl_plugin_clear import settings

FIXED = (0.25, 0.5, 1.0, 2.0, 5.0)
DYNAMIC = (0.25, 0.5, 0.75, 1.0)
TWO_FIXED = (0.5, 1.0, 2.0, 5.0)
TWO_DYNAMIC = (0.0, 0.2, 0.5, 0.8, 1.0)

# what the authors trained: epochs, step, batch, lr, weight decay
TRAINING: Mapping[str, tuple[str, int, int, int, float, float]] = {
    "linear": ("linear", 100, 60, 256, 0.1, 0.0),
    "linear_tuned": ("linear", 100, 60, 256, 1.0, 0.0),
    "linear_tuned_2": ("linear", 100, 45, 256, 0.5, 0.0),
    "mlp": ("mlp", 100, 60, 256, 0.1, 0.0),
    "mlp_tuned": ("mlp", 100, 60, 256, 0.5, 0.0),
    "cnn": ("cnn", 100, 60, 64, 0.1, 1e-5),
    "cnn_lower_lr": ("cnn", 100, 30, 64, 0.01, 1e-5),
}
FEATURES = {"clip": "clip", "imgnet": "imagenet", "moco_imgnet": "moco_imagenet", "byol_imgnet": "byol_imagenet",
            "moco_b0": "moco_b0", "raw_feature": "random"}  # fmt: skip
NETWORKS = ("scratch", "imgnet", "moco", "byol", "moco_b0")

DRIFT = {"dataset": "clear:toy-drift", "learner.epochs": 30, "learner.lr_step": 1000, "learner.batch_size": 64,
         "learner.lr": 0.1, "learner.keep_best": False, "run.memory": "360"}  # fmt: skip
"""The toy data's training: the tiny profile of everything on feature vectors."""

CLEAR10_BUCKET = {"iid": "2310", "streaming": "3300"}
"""Training items of the first bucket of CLEAR-10: the capacity k of every memory."""


def training(mode: str) -> dict[str, Any]:
    """Dotted settings of one of :data:`TRAINING`."""
    model, epochs, step, batch, lr, decay = TRAINING[mode]
    return {
        "model": f"clear:{model}",
        "learner.epochs": epochs,
        "learner.lr_step": step,
        "learner.batch_size": batch,
        "learner.lr": lr,
        "learner.weight_decay": decay,
    }


def methods() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(name, summary, dotted settings) of every method of the authors' tables."""
    for start in ("retrain", "finetune"):
        yield f"cumulative_{start}", "all buckets so far", {"learner.keep": "cumulative", "learner.start": start}
        yield f"single_{start}", "the present bucket only", {"learner.keep": "single", "learner.start": start}
        for kind, alphas in (("fixed", FIXED), ("dynamic", DYNAMIC)):
            for alpha in alphas:
                yield (
                    f"singlememory_{kind}_{alpha:g}_{start}",
                    f"biased reservoir, {kind} alpha {alpha:g}",
                    {
                        "learner.keep": "memory",
                        "learner.start": start,
                        "replay": "clk:biased-reservoir+clk:raw",
                        "policy.alpha": alpha,
                        "policy.dynamic": kind == "dynamic",
                        "policy.by_bucket": True,
                    },
                )
        for kind, alphas in (("fixed", TWO_FIXED), ("dynamic", TWO_DYNAMIC)):
            for alpha in alphas:
                yield (
                    f"two_buffer_{kind}_{alpha:g}_{start}",
                    f"present bucket and a memory, {kind} alpha {alpha:g}",
                    {
                        "learner.keep": "two_buffer",
                        "learner.start": start,
                        "replay": "clear:two-buffer+clk:raw",
                        "policy.alpha": alpha,
                        "policy.dynamic": kind == "dynamic",
                        "policy.by_bucket": True,
                    },
                )
    yield "all", "everything at once, the upper bound", {"learner.keep": "all"}
    yield "nap", "trained on the first bucket, then asleep: the lower bound", {"learner.keep": "nap"}


def baselines() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The fork's continual-learning baselines."""
    memory = {"learner.keep": "memory", "replay": "clk:gdumb+clk:raw"}
    yield "naive", "fine-tuning", {"learner.keep": "single", "learner.start": "finetune"}
    for method, summary in (("lwf", "learning without forgetting"), ("ewc", "online elastic weight consolidation"),
                            ("si", "synaptic intelligence"), ("gem", "gradient episodic memory"),
                            ("agem", "averaged GEM"), ("cwr", "CWR*, copy weights with re-initialisation")):  # fmt: skip  # noqa: E501
        yield method, summary, {"learner.keep": "single", "learner.start": "finetune", "learner.method": method}
    cope = {"learner.keep": "single", "learner.start": "finetune", "learner.method": "cope", "learner.keep_best": False}
    yield "cope", "continual prototype evolution", {**cope, "replay": "clk:gdumb+clk:raw"}
    yield "gdumb", "greedy balanced memory, retrained", {**memory, "learner.start": "retrain"}
    yield "gdumb_finetune", "greedy balanced memory, not reset", {**memory, "learner.start": "finetune"}
    yield (
        "reservoir",
        "plain reservoir, not reset",
        {"learner.keep": "memory", "learner.start": "finetune", "replay": "clk:reservoir+clk:raw"},
    )
    for name, kind, alpha, start in (
        ("bias_reservoir_fixed_reset_0.2", False, 0.2, "retrain"),
        ("bias_reservoir_dynamic_1.0", True, 1.0, "finetune"),
    ):
        yield (
            name,
            "biased reservoir of the fork, with the paper's rule",
            {
                "learner.keep": "memory",
                "learner.start": start,
                "replay": "clk:biased-reservoir+clk:raw",
                "policy.alpha": alpha,
                "policy.dynamic": kind,
                "policy.by_bucket": True,
            },
        )
    yield "cumulative", "all buckets so far, not reset", {"learner.keep": "cumulative", "learner.start": "finetune"}
    yield "cumulative_reset", "all buckets so far, reset", {"learner.keep": "cumulative", "learner.start": "retrain"}


def _stream(
    name: str,
    summary: str,
    shared: Mapping[str, Any],
    paper: Mapping[str, Any],
    protocol: str = "iid",
    tiny: Mapping[str, Any] | None = None,
    **options: Any,
) -> Experiment:
    common = {"learner": "clear:buckets", "model": "clear:linear", "dataset.protocol": protocol, "run.evaluate": "all"}
    toy = {**DRIFT, **({"run.memory": "360"} if protocol == "iid" else {}), **(tiny or {})}
    return Experiment(
        name=name,
        aliases=(f"clear/{name}",),
        summary=summary,
        settings={**common, **shared},
        profiles={"tiny": toy, "paper": paper},
        **options,
    )


def experiments() -> list[Experiment]:
    """All of them."""
    return [*_pipelines(), *_protocols(), *_ablation(), *_networks(), *_baselines(), *_avalanche()]


def _pipelines() -> Iterator[Experiment]:
    """What is no stream: whole pipelines, the table of methods, pre-training, building, the challenge."""
    yield Experiment(
        name="toy",
        aliases=("clear/toy", "toy-yfcc"),
        run="cl_plugin_clear.curation.pipeline:run",
        options=settings.Pipeline,
        summary="the whole pipeline on toy-yfcc: metadata to accuracy matrix",
        profiles={"tiny": {}, "paper": {}},
        default=True,
    )
    yield Experiment(
        name="toy-drift",
        aliases=("clear/toy-drift",),
        run="cl_plugin_clear.evaluate.drift:run_drift",
        options=settings.DriftTable,
        summary="the table of methods on drifting feature vectors, over seeds",
        profiles={"tiny": {}, "paper": {}},
    )
    drift = {"epochs": 30, "lr_step": 1000, "batch_size": 64, "lr": 0.1, "n_seeds": 3}
    yield Experiment(
        name="alpha-grid",
        aliases=("clear/alpha-grid",),
        run="cl_plugin_clear.evaluate.drift:run_grid",
        options=settings.AlphaGrid,
        summary="nine alphas of the biased reservoir, retrained and fine-tuned, over seeds, on feature vectors",
        profiles={"tiny": {f"experiment.{name}": value for name, value in drift.items()}, "paper": {}},
    )
    small = {"arch": "tiny", "epochs": 2, "batch_size": 32, "queue": 256, "image_size": 32, "dim": 32}
    yield Experiment(
        name="moco-b0",
        aliases=("clear/moco-b0",),
        run="cl_plugin_clear.method.moco:run",
        options=settings.Moco,
        summary="MoCo v2 on bucket 0, the unlabelled one",
        profiles={"tiny": {f"experiment.{name}": value for name, value in small.items()}, "paper": {}},
    )
    for number in (10, 50, 100):
        yield Experiment(
            name=f"build-{number}",
            aliases=(f"clear/build-{number}",),
            run="cl_plugin_clear.curation.pipeline:run_build",
            options=settings.Build,
            summary=f"retrieve and build the labelled folder of CLEAR-{number}'s concept group",
            settings={"experiment.published": f"clear{number}" if number != 50 else ""},
            profiles={"tiny": {"experiment.published": ""}, "paper": {}},
        )
    for name in ("clear10", "clear100"):
        yield Experiment(
            name=f"{name}-challenge",
            run="cl_plugin_clear.evaluate.challenge:run",
            options=settings.Challenge,
            summary=f"challenge-style evaluation of ten saved models on {name}'s hold-out set",
            profiles={"tiny": {}, "paper": {}},
        )


def _protocols() -> Iterator[Experiment]:
    """Every method of the authors' tables under both protocols."""
    for protocol in ("iid", "streaming"):
        paper = {
            "dataset": "clear:clear10_neurips2021-features",
            "dataset.features": "moco_b0",
            "run.memory": CLEAR10_BUCKET[protocol],
            **training("linear_tuned"),
        }
        for name, summary, values in methods():
            yield _stream(f"{protocol}/{name}", f"{protocol} protocol: {summary}", values, paper, protocol)


CUMULATIVE = {"learner.keep": "cumulative", "learner.start": "retrain"}


def _ablation() -> Iterator[Experiment]:
    """Pre-trained features under a light classifier."""
    for feature, folder in FEATURES.items():
        for mode in ("linear", "linear_tuned", "mlp", "mlp_tuned"):
            paper = {"dataset": "clear:clear10_neurips2021-features", "dataset.features": folder, **training(mode)}
            tiny = {"model": f"clear:{TRAINING[mode][0]}"} | ({"model.hidden": 32} if "mlp" in mode else {})
            name, summary = f"pretraining/{feature}_{mode}", f"ablation: {folder} features, {mode}"
            yield _stream(name, summary, CUMULATIVE, paper, tiny=tiny)


TINY_PICTURES = {"dataset": "clear:toy-pictures", "model": "clear:cnn", "model.arch": "tiny", "learner.epochs": 2}


def _networks() -> Iterator[Experiment]:
    """Whole networks, from scratch or from pre-trained weights."""
    for network in NETWORKS:
        for mode in ("cnn", "cnn_lower_lr"):
            paper = {"dataset": "clear:clear10_neurips2021", **training(mode)}
            name = f"pretraining/cnn_{network}" + mode.removeprefix("cnn")
            tiny = {**TINY_PICTURES, "learner.lr_step": 60}
            yield _stream(name, f"ablation: whole ResNet-50 from {network}", CUMULATIVE, paper, tiny=tiny)


def _baselines() -> Iterator[Experiment]:
    """The fork's baselines with its training."""
    paper = {
        "dataset": "clear:clear10-features",
        "dataset.features": "moco_b0",
        "run.memory": "2310",
        "learner.epochs": 1,
        "learner.batch_size": 1024,
        "learner.lr": 1.0,
        "learner.lr_step": 60,
    }
    for name, summary, values in baselines():
        yield _stream(f"baselines/{name}", f"baseline of the fork: {summary}", values, paper)


def _avalanche() -> Iterator[Experiment]:
    """Avalanche's two examples."""
    image = {
        "dataset": "clear:clear10",
        "model": "clear:cnn",
        "model.arch": "resnet18",
        "learner.epochs": 100,
        "learner.batch_size": 256,
        "learner.lr": 0.01,
        "learner.lr_step": 30,
        "learner.weight_decay": 1e-5,
        "learner.augment": "crop",
    }
    linear = {
        "dataset": "clear:clear10-features",
        "dataset.features": "moco_b0",
        "learner.epochs": 1,
        "learner.batch_size": 512,
        "learner.lr": 1.0,
    }
    shared = {"learner.keep": "single", "learner.start": "finetune", "learner.keep_best": False}
    yield _stream("clear10-avalanche-image", "Avalanche's example, image", shared, image, tiny=TINY_PICTURES)
    yield _stream("clear10-avalanche-linear", "Avalanche's example, linear", shared, linear, tiny={})
