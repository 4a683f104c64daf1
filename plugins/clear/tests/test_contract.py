"""The kernel's conformance kit, applied to this plugin."""

from typing import Any, ClassVar

from cl_kernel.testing import PluginContract


class TestContract(PluginContract):
    plugin = "clear"
    test = "iid/singlememory_fixed_2_retrain"
    settings: ClassVar[dict[str, Any]] = {
        "learner.epochs": 4,
        "dataset.n_buckets": 4,
        "dataset.n_test": 20,
        "dataset.n_train": 30,
        "run.memory": "180",
    }
