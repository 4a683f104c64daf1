"""Every golden case, by kind: the published code's arrays against ours.

``--golden-dir`` points the test at another folder of the same form.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from butd_cases.continual import check_continual
from butd_cases.counter_stream import check_counter_stream
from butd_cases.data import check_adjacency, check_directions, check_emnist, check_persons
from butd_cases.parts import PARTS
from butd_cases.reading import DESCRIPTIVE, Parameters
from butd_cases.transformers import TRANSFORMERS

PLUGIN = "butd"
HERE = Path(__file__).parent / "golden"

KINDS = {
    "counter_stream": check_counter_stream,
    "cl_zero_forgetting": check_continual,
    "emnist_generator": check_emnist,
    "persons_generator": check_persons,
    "adjacency": check_adjacency,
    "direction_index": check_directions,
    **PARTS,
    **TRANSFORMERS,
}


def folder(config: pytest.Config) -> Path:
    given = config.getoption("--golden-dir")
    if given is None:
        return HERE
    return given / PLUGIN if (given / PLUGIN / "manifest.json").exists() else given


@cache
def manifest(path: Path) -> dict[str, Any]:
    return json.loads((path / "manifest.json").read_text(encoding="utf-8"))


def cases(path: Path) -> list[dict[str, Any]]:
    listed = manifest(path)["cases"]
    return list(listed.values()) if isinstance(listed, dict) else listed


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" not in metafunc.fixturenames:
        return
    path = folder(metafunc.config)
    if not (path / "manifest.json").exists():
        metafunc.parametrize("case", [{"kind": "no manifest", "where": str(path)}], ids=["missing"])
    elif manifest(path).get("plugin") != PLUGIN:
        metafunc.parametrize(
            "case", [{"kind": "other plugin", "plugin": manifest(path).get("plugin")}], ids=["no cases for this plugin"]
        )
    else:
        found = cases(path)
        metafunc.parametrize("case", found, ids=[case["case"] for case in found])


def test_case_agrees_with_the_published_code(case: dict[str, Any], request: pytest.FixtureRequest) -> None:
    if case["kind"] == "other plugin":
        assert case["plugin"], "the manifest names no plugin"
        return
    assert case["kind"] in KINDS, f"unknown kind {case['kind']!r}: {case}"
    torch.set_num_threads(1)
    with np.load(folder(request.config) / case["file"]) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    for name, (shape, dtype) in case["arrays"].items():
        assert (list(found[name].shape), str(found[name].dtype)) == (shape, dtype), name
    parameters = Parameters(case, ignored=DESCRIPTIVE)
    KINDS[case["kind"]](parameters, found)
    assert not parameters.unread(), f"the check heeds no {', '.join(parameters.unread())}"


def test_every_array_file_of_the_folder_belongs_to_a_case(request: pytest.FixtureRequest) -> None:
    path = folder(request.config)
    if manifest(path).get("plugin") != PLUGIN:
        return
    assert {case["file"] for case in cases(path)} == {file.name for file in path.glob("*.npz")}
