"""Lets the tests import the checks of the golden cases that lie beside them; a cache of its own for each test."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _alone(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setenv("CLK_CACHE", str(tmp_path_factory.mktemp("cache")))
