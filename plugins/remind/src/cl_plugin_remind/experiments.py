"""Named runs as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cl_kernel import Experiment

TINY_NETWORK = {"stem": 16, "stem_kind": "small", "widths": (32, 64, 64, 64), "blocks": (1, 1, 0, 2), "strides": (2, 2, 1, 2)}
TINY_BASE = {"base_epochs": 25, "base_batch": 32, "base_lr": 0.1, "base_nesterov": True, "base_schedule": "one-cycle",
             "base_augment": "shift"}
TINY_STREAMING = {**TINY_BASE, "crops": False, "mixup": False, "start_lr": 0.05, "end_lr": 0.005, "lr_step": 10,
                  "lr_samples": 160}
TINY_OFFLINE = {**TINY_BASE, "epochs": 12, "lr": 0.05, "batch_size": 32}

OFFLINE: Mapping[str, Any] = {"learner": "remind:remind-offline", "run.memory": "all"}
FINE_TUNING: Mapping[str, Any] = {"replay": "none", "run.memory": "", "learner.replay_samples": 0, "learner.norm": "eval",
                                  "learner.start_lr": 0.01, "learner.lr_mode": "constant"}


def all_experiments() -> Sequence[Experiment]:
    """Every row of section 5 of the paper's experiments."""
    return [
        Experiment(
            name="imagenet-cls-iid",
            summary="ImageNet, class after class: base 100, nine increments of 100",
            aliases=("imagenet",),
            settings={"learner": "remind:remind", "run.memory": "959665"},
            profiles={"tiny": {"dataset": "remind:tinyshapes", "run.memory": "all"}},
            beside={"fine-tuning": FINE_TUNING, "offline": OFFLINE},
            default=True,
        ),
    ]
