"""A finished run goes on over further stages, as one run; what does not fit is refused before anything changes."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cl_kernel.contract.errors import ClkError, Interrupted
from cl_kernel.registry import discover
from cl_kernel.running import session
from cl_kernel.running.growing import grown
from cl_kernel.running.plan import make_request, plan
from cl_kernel.storage.files import write_json

LONGER = {"dataset.stage_sizes": [2, 2, 3]}
REGISTRY = discover(only=())


def write(path: Path, n_classes: int, shift: float = 0.0) -> None:
    """Gaussian classes, the same ones in every file."""
    x, y = [], []
    for label in range(n_classes):
        rng = np.random.default_rng(label)
        x.append(rng.normal(rng.normal(0, 3, 6), 0.4, (60, 6)) + (shift if label == 0 else 0))
        y += [label] * 60
    np.savez(path, x=np.concatenate(x).astype(np.float32), y=np.array(y))


def begin(folder: Path, learner: str, **settings: Any) -> Path:
    """A finished run of two stages of two classes."""
    data = folder.parent / "data.npz"
    write(data, 4)
    memory = settings.pop("memory", None)
    values = {"run.plots": False, "run.checkpoint_every_s": 1000.0, "dataset.stage_sizes": [2, 2], **settings}
    request = make_request(learner=learner, dataset=f"vectors:{data}", settings=values, seed=3, memory=memory)
    session.run_plan(REGISTRY, plan(REGISTRY, request), folder)
    return folder


def metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


LEARNERS: dict[str, dict[str, Any]] = {
    "linear": {},
    "fine-tuning": {"learner.momentum": 0.9},
    "ewc": {"learner.optimizer": "adam", "learner.lr": 0.01},
    "lwf": {},
    "si": {},
    "er": {"memory": "30"},
    "joint": {},
    "icarl": {"memory": "30"},
    "cwr": {},
    "ncm": {},
    "ranpac": {"learner.n_projected": 20},
    "fecam": {},
}


@pytest.mark.parametrize("learner", LEARNERS)
def test_a_finished_run_learns_further_stages_and_stays_one_run(learner: str, tmp_path: Path) -> None:
    folder = begin(tmp_path / "run", learner, **LEARNERS[learner])
    first = metrics(folder)
    write(tmp_path / "data.npz", 7)
    session.extend(REGISTRY, folder, LONGER)
    now = metrics(folder)
    assert now["finished"]
    assert now["stages"] == ["0+1", "2+3", "4+5+6"]
    matrix = now["metrics"]["accuracy"]["matrix"]
    assert [row[:2] for row in matrix[:2]] == first["metrics"]["accuracy"]["matrix"]
    assert [row[2] for row in matrix[:2]] == [None, None]
    assert matrix[2][2] > 0.5, "the new stage was learnt"
    assert now["metrics"]["accuracy"]["summary"]["forgetting"] is not None
    assert now["cost"]["steps"] > first["cost"]["steps"]
    stored = json.loads((folder / "run.json").read_text())
    assert stored["status"] == "finished"
    assert [(end["stages"], end["digest"]) for end in stored["extensions"]] == [(2, first["digest"])]


def test_an_extension_stopped_inside_is_resumed_to_the_same_bits(tmp_path: Path) -> None:
    digests = []
    for name in ("whole", "cut"):
        folder = begin(tmp_path / name, "ewc")
        write(tmp_path / "data.npz", 7)
        if name == "whole":
            session.extend(REGISTRY, folder, LONGER)
        else:

            def stop(event: Any) -> None:
                if type(event).__name__ == "PhaseStarted":
                    signal.raise_signal(signal.SIGINT)

            with pytest.raises(Interrupted):
                session.extend(REGISTRY, folder, LONGER, listen=[stop])
            info = json.loads((folder / "run.json").read_text())
            assert (info["status"], info["reason"]) == ("interrupted", "signal 2")
            session.resume(REGISTRY, folder)
        digests.append((metrics(folder)["digest"], metrics(folder)["state_digest"]))
    assert digests[0] == digests[1]


def unchanged(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name not in (".lock", "data.npz")}


def test_what_does_not_fit_is_refused_and_leaves_the_run_as_it_was(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run", "fine-tuning")
    before = unchanged(tmp_path)
    for settings, n_classes, shift, said in (
        ({}, 7, 0.0, "nothing says which stages"),
        ({"learner.lr": 1.0}, 7, 0.0, "learner.lr"),
        ({"dataset.stage_sizes": [2, 2]}, 4, 0.0, "no stage beyond"),
        ({"dataset.stage_sizes": [2, 3, 2]}, 7, 0.0, "keep the stages already learnt"),
        (LONGER, 7, 0.1, "stage '0\\+1' is another one now"),
        (LONGER, 6, 0.0, "stage sizes \\[2, 2, 3\\]"),
    ):
        write(tmp_path / "data.npz", n_classes, shift)
        with pytest.raises(ClkError, match=said):
            session.extend(REGISTRY, folder, settings)
        assert unchanged(tmp_path) == before


def test_a_run_that_is_not_finished_is_resumed_first(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        begin(tmp_path / "run", "linear", **{"run.stop_at_step": 3})
    with pytest.raises(ClkError, match=r"interrupted, not finished(.|\n)*clk resume"):
        session.extend(REGISTRY, tmp_path / "run", LONGER)


def test_a_learner_without_room_says_so(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run", "der", memory="30")
    write(tmp_path / "data.npz", 7)
    with pytest.raises(ClkError, match="clk:der cannot take further stages: the memory keeps 'scores'"):
        session.extend(REGISTRY, folder, LONGER)
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"


def test_a_learner_that_answers_otherwise_than_the_run_did_is_refused(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run", "linear")
    recorded = metrics(folder)
    recorded["metrics"]["accuracy"]["sets"][-1]["2+3"]["accuracy"] -= 0.02
    write_json(folder / "metrics.json", recorded)
    write(tmp_path / "data.npz", 7)
    with pytest.raises(ClkError, match="accuracy on 2\\+3 was"):
        session.extend(REGISTRY, folder, LONGER)


def test_an_array_grows_with_its_namesakes_and_others_stay() -> None:
    kept = {"network": {"upper.fc.weight": np.ones((2, 3))}, "old": {"fc.weight": np.full((2, 3), 2.0)}, "n": 4}
    fresh = {"network": {"upper.fc.weight": np.full((4, 3), 7.0)}, "old": None, "n": 0}
    made = grown(kept, fresh)
    assert made["network"]["upper.fc.weight"][:, 0].tolist() == [1, 1, 7, 7]
    assert made["old"]["fc.weight"][:, 0].tolist() == [2, 2, 0, 0]
    assert made["n"] == 4


def test_the_command_says_what_it_does_and_what_it_lacks(clk: Any, tmp_path: Path) -> None:
    begin(tmp_path / "run", "linear")
    assert "nothing says which stages" in clk("extend", "run", code=2).stderr
    write(tmp_path / "data.npz", 7)
    assert "4+5+6" in clk("extend", "run", "--set", "dataset.stage_sizes=[2,2,3]").stdout
    assert "4+5+6" in clk("show", "run").stdout
