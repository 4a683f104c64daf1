"""Single tasks travel between runs as files of their bytes."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from butd_cases.short_runs import content, run

from cl_kernel import BadInput, ClkError
from cl_kernel.cli.console import Console
from cl_kernel.torch import state
from cl_plugin_butd.commands.tasks import export_task, import_task
from cl_plugin_butd.network.continual import ContinualCounterStream, ModulationSpec, TaskSpec
from cl_plugin_butd.network.one_task import check_network, check_shapes, put, read_task, shared_digest, take
from cl_plugin_butd.network.streams import Topology


def learnt(folder: Path, directions: list[str], **values: Any) -> Path:
    return run("CL_DIRECTIONS", folder, **{"dataset.directions": directions}, **values)


def command(build: Any, *arguments: object) -> int:
    parser = ArgumentParser()
    handle = build(parser)
    return handle(parser.parse_args([str(a) for a in arguments]), Console())


@pytest.mark.parametrize("more", [{}, {"learner": "butd:masks"}])
def test_a_task_learnt_elsewhere_answers_in_another_run_as_it_did_there(more: dict[str, Any], tmp_path: Path) -> None:
    there = learnt(tmp_path / "there", ["right", "left2", "left"], **more)
    here = learnt(tmp_path / "here", ["right", "right2"], **more)
    command(export_task, there, "left", "--output", tmp_path)
    one = read_task(tmp_path / "left.task")
    held = sum(value.nbytes for value in one.parts.values())
    assert held == content(there, "metrics.json", "cost", "bytes_per_task")
    assert (tmp_path / "left.task").stat().st_size < held + 3072
    command(import_task, here, tmp_path / "left.task")
    assert content(here, "metrics.json", "stages") == ["right", "right2", "left"]
    accuracies = [
        content(folder, "metrics.json", "metrics", "accuracy", "sets", -1, "left", "accuracy")
        for folder in (there, here)
    ]
    assert accuracies[0] == accuracies[1]
    assert content(here, "reports/zero-forgetting.json", "bit_equal")
    with pytest.raises(ClkError, match="'left' is in the stream already"):
        command(import_task, here, tmp_path / "left.task")


def test_tasks_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    there, here = learnt(tmp_path / "there", ["right", "left"]), learnt(tmp_path / "here", ["right"])
    command(export_task, there, "--output", tmp_path)
    stranger = learnt(tmp_path / "stranger", ["right"], seed=1)
    wider = learnt(tmp_path / "wider", ["right"], **{"learner.factor": [4, 4]})
    left = tmp_path / "left.task"
    for folder, files, said in (
        (stranger, [left], "belongs to another network"),
        (wider, [left], "modulation .* is \\[.*\\], the network takes \\["),
        (here, [left, left], "'left' is in the stream already"),
        (here, [tmp_path / "right.task"], "'right' is in the stream already"),
        (here, [tmp_path / "none.task"], "no file none.task"),
        (here, [next((there / "checkpoints").glob("*.ckpt"))], "holds no task"),
    ):
        with pytest.raises(ClkError, match=said):
            command(import_task, folder, *files)
        assert content(folder, "run.json", "status") == "finished"
    with pytest.raises(BadInput, match="no task 'up'; it has right, left"):
        command(export_task, there, "up", "--output", tmp_path)


def test_a_network_of_the_papers_size_takes_a_hundred_tasks_from_files(tmp_path: Path) -> None:
    topology = Topology(
        filters=(64, 64, 96, 96),
        strides=(2, 2, 1, 2),
        blocks=(0, 1, 1, 1),
        in_shape=(3, 128, 128),
        n_occurrence=47,
        separable=False,
    )
    tasks = [TaskSpec(n_classes=48)] * 101
    nets = [ContinualCounterStream(topology, tasks, [47], ModulationSpec(factor=(8, 8))).eval() for _ in range(2)]
    from_files = nets[1]
    state.restore(from_files, {**state.pack(from_files), **_shared(nets[0])})
    assert shared_digest(nets[0]) == shared_digest(from_files)
    for task in range(1, 101):
        take(nets[0], task, f"task {task}", (1, 0)).save(tmp_path / f"{task}.task")
    sizes = {path.stat().st_size for path in tmp_path.glob("*.task")}
    assert max(sizes) < 100_000
    for task in range(1, 101):
        one = read_task(tmp_path / f"{task}.task")
        check_network(from_files, one, "here")
        check_shapes(from_files, task, one, "here")
        put(from_files, task, one)
    image, argument = torch.rand(2, 3, 128, 128), torch.tensor([3, 5])
    with torch.no_grad():
        for task in (1, 50, 100):
            answers = []
            for net in nets:
                for norm in net.norms():
                    norm.task_stored[task] = True
                answers.append(net.answer(image, argument, task)["task"])
            assert torch.equal(*answers)


def _shared(net: ContinualCounterStream) -> dict[str, np.ndarray]:
    return {name: value for name, value in state.pack(net).items() if name.startswith("net.")}
