"""The conformance kit on RECALL: three steps with a helper, cut down to seconds."""

from __future__ import annotations

from cl_kernel.testing import PluginContract

SHORT = {
    "dataset.per_class_first": 3,
    "dataset.per_class_later": 3,
    "dataset.n_val": 40,
    "source.per_class": 2,
    "learner.batch_size": 4,
    "learner.interleave_ratio_old": 4,
    "learner.interleave_ratio_new": 4,
    "learner.training_steps_per_class": 2,
    "learner.training_steps_per_class_helper": 1,
    "learner.training_steps_per_class_incremental": 1,
    "learner.overlays": 2,
    "learner.reuse": False,
}


class TestContract(PluginContract):
    plugin = "recall"
    test = "ADD_FIVE_TWO_TIMES"
    settings = SHORT
