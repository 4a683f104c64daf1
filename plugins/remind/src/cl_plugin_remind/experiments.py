"""Named runs as data: every row of the paper's experiments, with profiles ``tiny`` (toy data) and ``paper``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cl_kernel import Expected, Experiment

Values = Mapping[str, Any]

# ---- profile tiny: what the toy data need ------------------------------------------------------------
TINY_NETWORK = {
    "stem": 16,
    "stem_kind": "small",
    "widths": (32, 64, 64, 64),
    "blocks": (1, 1, 0, 2),
    "strides": (2, 2, 1, 2),
}
TINY_BASE = {
    "base_epochs": 10,
    "base_batch": 32,
    "base_lr": 0.1,
    "base_nesterov": True,
    "base_schedule": "one-cycle",
    "base_augment": "shift",
}
TINY_STREAMING = {
    **TINY_BASE,
    "crops": False,
    "mixup": False,
    "start_lr": 0.05,
    "end_lr": 0.005,
    "lr_step": 10,
    "lr_samples": 160,
}
TINY_OFFLINE = {**TINY_BASE, "epochs": 12, "lr": 0.05, "batch_size": 64}
TINY_VQA_NETWORK = {
    "network": "smac",
    "word_dim": 16,
    "lstm": 24,
    "hidden": 48,
    "attention": 48,
    "dim": 32,
    "n_steps": 3,
    "conv": 32,
    "mlp": 48,
    "gru": 24,
}
TINY_VQA = {"lr": 5e-3, "epochs": 12, "batch_size": 32, "test_interval": 0, "replay_samples": 30, "freeze_words": False}

# ---- profile small: the 6,000 photographs of cifar10_small, or any folder of 32x32 images --------------
SMALL: Values = {
    "dataset": "remind:imagenet",
    "dataset.resize": 32,
    "dataset.side": 32,
    "dataset.base_classes": 5,
    "dataset.increment": 1,
    "run.memory": "all",
}
SMALL_NETWORK = {
    "stem": 16,
    "stem_kind": "small",
    "widths": (32, 64, 96, 96),
    "blocks": (1, 1, 0, 2),
    "strides": (2, 2, 1, 2),
}
SMALL_BASE = {
    "base_epochs": 15,
    "base_batch": 64,
    "base_lr": 0.1,
    "base_nesterov": True,
    "base_schedule": "one-cycle",
    "base_augment": "shift",
    "base_weight_decay": 5e-4,
}
SMALL_STREAMING = {
    **SMALL_BASE,
    "start_lr": 0.05,
    "end_lr": 0.005,
    "lr_samples": 500,
    "lr_step": 50,
    "crops": False,
    "mixup": False,
}
SMALL_OFFLINE = {**SMALL_BASE, "epochs": 6, "lr": 0.05, "batch_size": 64}

# ---- comparison runs ----------------------------------------------------------------------------------
OFFLINE: Values = {"learner": "remind:remind-offline", "replay": "clk:largest-class+remind:pq", "run.memory": "all"}
OFFLINE_WHOLE: Values = {
    "learner": "remind:remind-offline",
    "learner.scope": "whole",
    "replay": "none",
    "run.memory": "",
}
FINE_TUNING: Values = {
    "learner.buffer": False,
    "learner.replay_samples": 0,
    "learner.norm": "eval",
    "learner.start_lr": 0.005,
    "learner.lr_mode": "constant",
    "learner.crops": False,
    "learner.mixup": False,
}

IMAGENET_PAPER: Values = {"dataset": "remind:imagenet", "run.memory": "959665", "run.evaluate": "seen"}
IMAGENET_TINY: Values = {"dataset": "remind:tinyshapes", "run.memory": "all"}
REMIND: Values = {"learner": "remind:remind", "replay": "clk:largest-class+remind:pq"}
AUGMENTED: Values = {"learner.crops": True, "learner.mixup": True}

ORDERS = ("iid", "class_iid", "instance", "class_instance")
CORE50_BASE: Values = {
    "learner.base": "resnet18-f37072fd.pth",  # torchvision's ImageNet weights, a new head above them
    "learner.new_head": True,
    "learner.base_lr": 0.01,
}
CORE50_PAPER: Values = {
    **CORE50_BASE,
    "dataset": "remind:core50",
    "run.memory": "417",
    "learner.start_lr": 0.001,
    "learner.lr_mode": "constant",
    "learner.batch_size": 21,
}

ABLATIONS: Mapping[str, tuple[str, Values]] = {
    "no-crop": ("no feature crops", {"learner.crops": False, "learner.mixup": True}),
    "no-mixup": ("no mixup", {"learner.crops": True, "learner.mixup": False}),
    "no-augmentation": ("neither crops nor mixup", {"learner.crops": False, "learner.mixup": False}),
    "no-quantisation": ("features stored as floats", {"replay": "clk:largest-class+clk:raw"}),
    **{f"codebooks-{m}": (f"{m} codebooks", {"codec.codebooks": m}) for m in (4, 8, 16, 32, 64)},
    **{f"replay-{r}": (f"{r} replayed examples a step", {"learner.replay_samples": r}) for r in (5, 10, 20, 50, 100)},
    **{
        f"split-{name.replace('.', '_')}": (f"upper part begins at {name}", {"model.cut": name})
        for name in ("layer3.1", "layer4.0", "layer4.1", "fc")
    },
}
TINY_ARMS: Mapping[str, Values] = {"split-layer3_1": {"model.cut": "layer2.0"}}  # the toy network has no layer3
BUFFERS: Mapping[str, tuple[str, str]] = {
    "quarter": ("239916", "240"),
    "half": ("479832", "480"),
    "full": ("959665", "960"),
}


def all_experiments() -> Sequence[Experiment]:
    """What ``--test`` runs."""
    return [*_imagenet(), *_core50(), *_ablations(), *_vqa()]


def _imagenet() -> list[Experiment]:
    profiles = {"tiny": IMAGENET_TINY, "small": SMALL, "paper": IMAGENET_PAPER}
    return [
        Experiment(
            name="imagenet-cls-iid",
            summary="ImageNet, class after class: base initialisation, then increments, one example at a time",
            aliases=("imagenet", "cls-iid"),
            settings=REMIND,
            profiles=profiles,
            comparisons={"fine-tuning": FINE_TUNING, "offline": OFFLINE},
            expected=(Expected(metric="top5", value=0.7068, where="text of the repository's pull request 6"),),
            default=True,
        ),
        Experiment(
            name="imagenet-custom-order",
            summary="the same with your own class order (--set dataset.class_order=FILE) and base network trained here",
            aliases=("custom-order",),
            settings=REMIND,
            profiles={**profiles, "tiny": {**IMAGENET_TINY, "dataset.diagonal": False}},
            comparisons={"fine-tuning": FINE_TUNING, "offline": OFFLINE},
        ),
        Experiment(
            name="fine-tune",
            summary="streaming without replay or buffer",
            settings={**REMIND, **FINE_TUNING},
            profiles={
                name: {k: v for k, v in values.items() if k not in FINE_TUNING and not k.startswith("codec.")}
                for name, values in profiles.items()
            },
        ),
        Experiment(
            name="offline-upper",
            summary="upper bound of Omega: the plastic part trained on all codes at each stage",
            aliases=("offline-f",),
            settings=OFFLINE,
            profiles={name: _offline(values) for name, values in profiles.items()},
        ),
        Experiment(
            name="offline",
            summary="upper bound: the whole network trained on all images at each stage",
            settings=OFFLINE_WHOLE,
            profiles={
                name: _offline({k: v for k, v in values.items() if k != "run.memory" and not k.startswith("codec.")})
                for name, values in profiles.items()
            },
        ),
    ]


def _offline(values: Values) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != "run.memory"}


def _core50() -> list[Experiment]:
    offline = [
        Experiment(
            name=f"core50-{order.replace('_', '-')}-offline",
            summary="its upper bound, for Omega",
            settings={**OFFLINE, "dataset.order": order, "metrics": "accuracy"},
            profiles={
                "tiny": {"dataset": "remind:tinycore", "learner.base_batch": 16},
                "paper": {"dataset": "remind:core50", **CORE50_BASE},
            },
        )
        for order in ORDERS
    ]
    return offline + [
        Experiment(
            name=f"core50-{order.replace('_', '-')}",
            summary=f"CORe50 in the order {order.replace('_', ' ')}",
            aliases=(f"core50-{order}",) if "_" in order else (),
            settings={**REMIND, "dataset.order": order, "metrics": "accuracy"},  # of ten classes, or four
            profiles={
                "tiny": {
                    "dataset": "remind:tinycore",
                    "run.memory": "all",
                    "learner.base_batch": 16,
                    "learner.lr_samples": 75,
                },
                "paper": CORE50_PAPER,
            },
            comparisons={"fine-tuning": FINE_TUNING},
        )
        for order in ORDERS
    ]


def _ablations() -> list[Experiment]:
    tiny = {**IMAGENET_TINY, **AUGMENTED}
    arms = [
        Experiment(
            name=f"ablation-{name}",
            summary=f"imagenet-cls-iid with {text}",
            settings=REMIND,
            profiles={"tiny": {**tiny, **change, **TINY_ARMS.get(name, {})}, "paper": {**IMAGENET_PAPER, **change}},
        )
        for name, (text, change) in ABLATIONS.items()
    ]
    arms += [
        Experiment(
            name=f"ablation-buffer-{name}",
            summary=f"imagenet-cls-iid with a {name} buffer",
            settings=REMIND,
            profiles={"tiny": {**tiny, "run.memory": small}, "paper": {**IMAGENET_PAPER, "run.memory": large}},
        )
        for name, (large, small) in BUFFERS.items()
    ]
    return arms


def _vqa() -> list[Experiment]:
    found = []
    networks: Mapping[str, Values] = {
        "clevr": {"model.network": "smac"},
        "tdiuc": {"model.network": "updown", "model.dropout_word": 0.5, "learner.lr": 2e-3, "learner.batch_size": 512},
    }
    small: Mapping[str, Values] = {
        "clevr": {},
        "tdiuc": {
            "learner.lr": 5e-3,
            "learner.batch_size": 32,
            "model.dropout_word": 0.0,
            "model.dropout_attention": 0.0,
            "model.dropout_classifier": 0.0,
        },
    }
    for name, network in networks.items():
        for order in ("iid", "qtype"):
            base: Values = {"learner": "remind:remind-vqa", "model": "remind:vqa", "dataset.order": order, **network}
            profiles: Mapping[str, Values] = {
                "tiny": {"dataset": f"remind:tiny{name}", **small[name]},
                "paper": {"dataset": f"remind:{name}"},
            }
            memory: Values = {"replay": "clk:largest-class+clk:raw", "run.memory": "all"}
            none: Values = {"replay": "none", "run.memory": ""}
            title = f"{name.upper()} by {'question type' if order == 'qtype' else 'shuffled questions'}"
            found.append(
                Experiment(
                    name=f"{name}-{order}",
                    summary=f"{title}: streaming VQA with replay",
                    settings={**base, **memory},
                    profiles=profiles,
                    comparisons={"stream": {"learner.mode": "stream"}},
                )
            )
            for mode, text in (
                ("stream", "fine-tuning"),
                ("full", "offline at each boundary"),
                ("offline", "offline once"),
            ):
                found.append(
                    Experiment(
                        name=f"{name}-{order}-{mode}",
                        summary=f"{title}: {text}",
                        settings={**base, **none, "learner.mode": mode},
                        profiles=profiles,
                    )
                )
            found.append(
                Experiment(
                    name=f"{name}-{order}-question-only",
                    summary=f"{title}: replay, without looking",
                    settings={**base, **memory, "model.network": "q_only"},
                    profiles=profiles,
                )
            )
            for strategy, policy in (("random", "clk:largest-class"), ("queue", "clk:ring")):
                extra: Values = {"policy.newcomer_may_leave": False} if strategy == "random" else {}
                found.append(
                    Experiment(
                        name=f"{name}-{order}-limited-{strategy}",
                        summary=f"{title}: limited buffer, strategy {strategy}",
                        settings={**base, "replay": f"{policy}+clk:raw", **extra},
                        profiles={
                            "tiny": {**profiles["tiny"], "run.memory": "300"},
                            "paper": {**profiles["paper"], "run.memory": "50000"},
                        },
                    )
                )
    return found
