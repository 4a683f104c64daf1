"""The kernel's conformance kit on this plugin."""

from __future__ import annotations

import pytest

from cl_kernel.testing import PluginContract


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


class TestContract(PluginContract):
    """Everything the kit checks; the base network is trained shorter, the clips are fewer."""

    plugin = "crumb"
    settings = {  # noqa: RUF012
        "model.base_epochs": 1,
        "model.base_images": 20,
        "dataset.n_objects": 2,
        "learner.first_epochs": 2,
        "learner.pretrain_epochs": 1,
    }
