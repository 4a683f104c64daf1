"""The worked example of a third-party plugin: Avalanche's benchmarks as streams.

Avalanche lives in an environment of its own; ``CLK_AVALANCHE_PYTHON`` names its interpreter, with cl-kernel[torch] and
``docs/avalanche-plugin`` installed. Without it the adapter is still held against objects of Avalanche's shape.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from cl_kernel.contract.errors import BadInput
from cl_kernel.registry import Registry

PLUGIN = Path(__file__).parent.parent / "docs" / "avalanche-plugin" / "cl_plugin_avalanche.py"
PYTHON = os.environ.get("CLK_AVALANCHE_PYTHON", "")


@pytest.fixture(scope="module")
def plugin() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cl_plugin_avalanche", PLUGIN)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Tensors:
    """A data set as Avalanche has them: (image [C, H, W], label, task), and ``targets``."""

    def __init__(self, labels: list[int]) -> None:
        self.targets, self.reads = labels, 0

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, row: int) -> tuple[np.ndarray, int, int]:
        self.reads += 1
        return np.full((1, 2, 3), self.targets[row], np.float32), self.targets[row], 0


def benchmark(train: list[list[int]], test: list[list[int]]) -> SimpleNamespace:
    sides = [
        [SimpleNamespace(dataset=Tensors(labels), classes_in_this_experience=sorted(set(labels))) for labels in side]
        for side in (train, test)
    ]
    return SimpleNamespace(train_stream=sides[0], test_stream=sides[1])


def test_it_registers_and_imports_nothing_heavy(plugin: ModuleType) -> None:
    registry = Registry()
    registry.add("avalanche", lambda: plugin)
    assert registry.quarantine == []
    assert [offer.name for offer in registry.all("dataset")] == ["avalanche:classic", "avalanche:digits"]
    assert "import avalanche" not in PLUGIN.read_text().split("def build_digits")[0]


def test_experiences_become_stages_and_their_tests_test_sets(plugin: ModuleType) -> None:
    stream = plugin.stream_of("x", benchmark([[0, 0, 1], [2, 3, 2, 3]], [[0, 1], [2, 3, 3]]))
    stream.check()
    assert [stage.classes for stage in stream.stages] == [(0, 1), (2, 3)]
    assert [len(stage.train) for stage in stream.stages] == [3, 4]
    rows = stream.test_sets["experience 1"]
    batch = stream.test.take(rows)
    assert batch["class"].tolist() == [2, 3, 3]
    assert batch["image"].shape == (3, 2, 3, 1)
    assert (batch["image"][:, 0, 0, 0] == batch["class"]).all()


def test_labels_alone_read_no_image(plugin: ModuleType) -> None:
    source = benchmark([[0, 1]], [[0, 1]])
    stream = plugin.stream_of("x", source)
    before = source.train_stream[0].dataset.reads
    assert stream.stages[0].train.take(np.arange(2), ["class"])["class"].tolist() == [0, 1]
    assert source.train_stream[0].dataset.reads == before


def test_streams_of_unequal_length_are_refused(plugin: ModuleType) -> None:
    with pytest.raises(BadInput, match="2 training and 1 test"):
        plugin.stream_of("x", benchmark([[0], [1]], [[0]]))


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON, reason="CLK_AVALANCHE_PYTHON names no interpreter with avalanche-lib")
def test_a_run_on_a_real_benchmark(tmp_path: Path) -> None:
    command = [PYTHON, "-m", "cl_kernel.cli.main", "run", "--dataset", "avalanche:digits", "--learner", "er", "--json"]
    done = subprocess.run([*command, "--output", str(tmp_path / "run")], capture_output=True, text=True, check=True)
    results = json.loads(done.stdout)["results"]
    assert results["stages"] == [f"experience {k}" for k in range(5)]
    assert results["classes"] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert results["metrics"]["accuracy"]["seen"][-1]["accuracy"] > 0.5
