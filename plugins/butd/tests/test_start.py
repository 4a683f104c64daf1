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
from butd_cases.short_runs import run

from cl_kernel import ClkError, discover, ended, make_resources, plan, request_of
from cl_plugin_butd.network.counter_stream import CounterStream
from cl_plugin_butd.weights.start import continual, first_generation, numbered, start_from

GOLDEN = Path(__file__).parent / "golden"


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


MORE: dict[str, dict[str, Any]] = {
    "HELD_OUT_PAIRS": {"learner.later_epochs": None},
    "CL_DIRECTIONS": {"dataset.directions": ["right", "left"]},
    "TASKSELECT_ENCODER": dict.fromkeys(("learner.filters", "learner.pictures", "learner.later_epochs")),
}


@pytest.mark.parametrize("test", MORE)
def test_a_run_starts_from_a_file(test: str, tmp_path: Path) -> None:
    def learnt(folder: Path, **values: Any) -> dict[str, torch.Tensor]:
        run(test, folder, **MORE[test], **values)
        registry = discover()
        planned = plan(registry, request_of(folder, []))
        built = ended(planned, make_resources(registry, planned, None, lambda event: None), folder)
        return dict(built.learner.net.state_dict())

    first = learnt(tmp_path / "first")
    torch.save(first, tmp_path / "learnt.pt")
    slow = {"learner.lr": 1e-12, **({"learner.later_lr": 1e-12} if test == "CL_DIRECTIONS" else {})}
    again = learnt(tmp_path / "second", **{"learner.weights": str(tmp_path / "learnt.pt")}, **slow)
    for name, value in first.items():
        if value.is_floating_point() and "running" not in name and "task_" not in name:
            torch.testing.assert_close(again[name], value, atol=1e-6, rtol=1e-6)
    torch.save({"nobody": torch.zeros(2)}, tmp_path / "foreign.pt")
    with pytest.raises(ClkError, match="nobody"):
        learnt(tmp_path / "third", **{"learner.weights": str(tmp_path / "foreign.pt")})
