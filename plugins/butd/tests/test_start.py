"""Networks start from the authors' published files, or from files under their own names."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from butd_cases.counter_stream import topology, unpack

from cl_kernel import ClkError, ended, make_resources, plan
from cl_kernel.registry import discover
from cl_kernel.running.plan import make_request
from cl_kernel.running.session import run_plan
from cl_plugin_butd.network.counter_stream import CounterStream
from cl_plugin_butd.weights.start import continual, first_generation, numbered, start_from

GOLDEN = Path(__file__).parent / "golden"
SHORT: dict[str, Any] = {
    "run.plots": False,
    "learner.epochs": 1,
    "learner.pictures": 0,
    "learner.filters": [8, 12, 16],
    "dataset.n_train": 110,
    "dataset.n_test": 40,
}


def test_a_published_file_of_the_first_generation_is_read(tmp_path: Path) -> None:
    cases = json.loads((GOLDEN / "manifest.json").read_text(encoding="utf-8"))["cases"]
    case = next(case for case in cases if case["case"] == "cs_td_sgd")
    with np.load(GOLDEN / case["file"]) as arrays:
        published = {name: torch.from_numpy(v.copy()) for name, v in unpack(case, arrays, "w0").items()}
    torch.save({"model_state_dict": published}, tmp_path / "best.pt")
    net = CounterStream(topology(case["config"]))
    start_from(net, str(tmp_path / "best.pt"), partial(first_generation, variant="shared", head_layers=1))
    name = "bumodel1.conv1.0.depthwise.weight"
    assert torch.equal(net.filters.stem.depthwise.weight, published[name])
    del published[name]
    torch.save(published, tmp_path / "lacks.pt")
    with pytest.raises(ClkError, match=r"missing: filters\.stem\.depthwise\.weight"):
        start_from(net, str(tmp_path / "lacks.pt"), partial(first_generation, variant="shared", head_layers=1))


def test_directions_that_share_a_published_number_are_refused() -> None:
    assert numbered([[1, 0], [-1, 0]], [0, 0]) == {(0, 5): 0, (0, 1): 1}
    with pytest.raises(ClkError, match="share a number"):
        numbered([[0, 2], [2, -1], [1, 2]], [0, 0, 0])


def test_parts_of_directions_that_nobody_asks_are_left_out() -> None:
    heads = numbered([[1, 0]], [0])
    name = "Head.taskhead.0.{}.layers.0.layers.0.bias"
    tensors = {name.format(number): torch.zeros(3) for number in (1, 5)}
    assert list(continual(tensors, heads)) == ["heads.0.outputs.0.0.bias"]


@pytest.mark.parametrize("test", ["HELD_OUT_PAIRS", "CL_DIRECTIONS", "TASKSELECT_ENCODER"])
def test_a_run_starts_from_a_file(test: str, tmp_path: Path) -> None:
    registry = discover()

    def run(folder: Path, **values: Any) -> dict[str, torch.Tensor]:
        chosen = {**SHORT, **values}
        if test == "TASKSELECT_ENCODER":
            chosen = {key: value for key, value in chosen.items() if key not in ("learner.filters", "learner.pictures")}
        if test == "CL_DIRECTIONS":
            chosen |= {"learner.later_epochs": 1, "dataset.directions": ["right", "left"]}
        planned = plan(registry, make_request(test, plugin="butd", settings=chosen, seed=0))
        run_plan(registry, planned, folder, comparisons=False)
        built = ended(planned, make_resources(registry, planned, None, lambda event: None), folder)
        return dict(built.learner.net.state_dict())

    learnt = run(tmp_path / "first")
    torch.save(learnt, tmp_path / "learnt.pt")
    rate = {"learner.lr": 1e-12, "learner.weights": str(tmp_path / "learnt.pt")}
    again = run(tmp_path / "second", **rate, **({"learner.later_lr": 1e-12} if test == "CL_DIRECTIONS" else {}))
    for name, value in learnt.items():
        if value.is_floating_point() and "running" not in name and "task_" not in name:
            torch.testing.assert_close(again[name], value, atol=1e-6, rtol=1e-6)
    torch.save({"nobody": torch.zeros(2)}, tmp_path / "foreign.pt")
    with pytest.raises(ClkError, match="nobody"):
        run(tmp_path / "third", **{"learner.weights": str(tmp_path / "foreign.pt")})
