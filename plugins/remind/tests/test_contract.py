"""The kernel's conformance kit on this plugin; the base network is trained shorter, the stream is smaller."""

from __future__ import annotations

from cl_kernel.testing import PluginContract


class TestContract(PluginContract):
    plugin = "remind"
    settings = {  # noqa: RUF012
        "dataset.n_train": 24,
        "dataset.n_test": 6,
        "learner.base_epochs": 2,
        "learner.replay_samples": 6,
        "codec.codebook_size": 32,
    }
