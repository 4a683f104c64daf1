"""Options and fixtures shared by the tests of the kernel and of all plugins."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Tests share few cores: one thread each, and the same sums on every machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden-dir",
        type=Path,
        default=None,
        help="folder of reference cases: one with a manifest.json, or one that holds <plugin>/manifest.json",
    )


@pytest.fixture(scope="session")
def golden_dir(request: pytest.FixtureRequest) -> Path | None:
    """Folder given with ``--golden-dir``, or None for each plugin's own."""
    return request.config.getoption("--golden-dir")
