"""The published hyper-parameter grids, by row (``learner.hyper``). Values given by hand never lose to them."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

from cl_kernel import BadSetting

if TYPE_CHECKING:
    from cl_plugin_butd.settings import Training

_SGD = list(product((0.05, 0.1, 0.2), (32, 48), (1e-4, 2e-4)))
_ADAM = list(product((1e-4, 1e-3, 2e-3), (10, 32, 48), (1e-4, 2e-4)))
GRID: list[dict[str, Any]] = [
    *({"optimizer": "sgd", "lr": lr, "batch_size": bs, "weight_decay": wd} for lr, bs, wd in _SGD),
    *(
        {"optimizer": "adam", "lr": lr, "batch_size": bs, "weight_decay": wd}
        for lr, bs, wd in (_ADAM[i] for i in (0, 1, 2, 6, 7, 8, 9, 10))
    ),
]
"""Rows 0-11: SGD; 12-19: the eight published rows of the Adam grid."""


def presets(settings: Training) -> dict[str, dict[str, Any]]:
    """What a row of the grid stands for: ``hyper`` -> values, which the kernel fills in where nobody gave others.

    :raises BadSetting: for a row the grid does not have.
    """
    if settings.hyper < 0:
        return {}
    if settings.hyper >= len(GRID):
        raise BadSetting(
            f"hyper-parameter row {settings.hyper}: there are {len(GRID)}",
            where="learner.hyper",
            fix=f"use 0..{len(GRID) - 1}",
        )
    return {"hyper": GRID[settings.hyper]}
