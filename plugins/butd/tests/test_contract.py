"""The kernel's conformance kit."""

from __future__ import annotations

from typing import Any, ClassVar

from cl_kernel.testing import PluginContract


class TestContract(PluginContract):
    plugin = "butd"
    settings: ClassVar[dict[str, Any]] = {
        "dataset.n_train": 400,
        "dataset.n_test": 60,
        "dataset.directions": ["right", "left"],
        "learner.epochs": 4,
        "learner.later_epochs": 2,
        "learner.pictures": 0,
        "learner.filters": [8, 12, 16],
    }
