"""What is promised of earlier tasks, and what decides whether a network is shared."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from butd_cases.short_runs import content, run
from PIL import Image

from cl_kernel import BadCheckpoint, BadInput, BadSetting, Cache, ClkError, Interrupted, Resources
from cl_kernel.registry import discover
from cl_kernel.running import session
from cl_kernel.running.plan import make_request, plan
from cl_kernel.running.session import run_plan
from cl_kernel.torch import state
from cl_plugin_butd import settings
from cl_plugin_butd.data import clevr, grid_sets, streams
from cl_plugin_butd.method import growing
from cl_plugin_butd.network.continual import ContinualCounterStream, ModulationSpec, TaskSpec
from cl_plugin_butd.network.streams import Topology


def promise(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = content(folder, "reports/zero-forgetting.json")
    return found


@pytest.mark.parametrize("top", ["argument", "split", "per-task"])
def test_earlier_logits_stay_to_the_bit_with_every_embedding(top: str, tmp_path: Path) -> None:
    chosen = {"learner.top": top, "learner.train_argument": True, "dataset.directions": ["right", "left", "right2"]}
    assert promise(run("CL_DIRECTIONS", tmp_path / "run", **chosen))["bit_equal"]


def test_naive_fine_tuning_is_not_called_bit_equal(tmp_path: Path) -> None:
    found = promise(run("CL_BASELINE_NAIVE", tmp_path / "run", **{"dataset.directions": ["right", "left"]}))
    assert not found["bit_equal"]
    assert found["largest_difference"]["right"] > 0


def continual(top: str, languages: tuple[int, ...]) -> ContinualCounterStream:
    topology = Topology(
        filters=(4, 6), strides=(2, 2), blocks=(0, 1), in_shape=(3, 8, 8), n_occurrence=3, separable=False
    )
    tasks = [TaskSpec(n_classes=3, language=language) for language in languages]
    return ContinualCounterStream(topology, tasks, [3] * (max(languages) + 1), ModulationSpec(factor=(2, 2)), top=top)


def test_a_task_owns_the_embedding_of_a_new_language_only() -> None:
    net = continual("argument", (0, 0, 1))
    sizes = [sum(p.numel() for p in net.owned(t, train_argument=True)) for t in range(3)]
    plain = [sum(p.numel() for p in net.owned(t)) for t in range(3)]
    assert sizes[1] == plain[1]
    assert sizes[2] == plain[2] + 6 * 3 + 6


def test_a_task_owns_its_own_embedding() -> None:
    net = continual("per-task", (0, 0))
    mine = {id(p) for p in net.owned(1)}
    assert {id(p) for p in net.net.td.top.task[1].parameters()} <= mine
    assert not {id(p) for p in net.net.td.top.task[0].parameters()} & mine


def test_a_mask_costs_a_bit_a_weight() -> None:
    topology = Topology(filters=(4, 6), strides=(2, 2), blocks=(0, 1), in_shape=(3, 8, 8), separable=False)
    net = ContinualCounterStream(topology, [TaskSpec(n_classes=3)], [3], ModulationSpec(kind="mask"))
    part = net.price()["modulation"]
    assert part["parameters"] == 6 * 4 * 9 + 6 * 6 * 9 + 6 * 4
    assert part["bytes"] == 27 + 41 + 3  # whole bytes a layer


def test_other_pictures_do_not_share_the_first_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLK_CACHE", str(tmp_path / "cache"))
    for n, shift in enumerate((0.0, 2.0, 2.0)):
        chosen = {"dataset.shift": shift, "dataset.directions": ["right", "left"], "dataset": "butd:digits-grid"}
        run("CL_DIRECTIONS", tmp_path / f"{n}", **chosen)
    assert len(list((tmp_path / "cache" / "butd-base").glob("*/base.pth"))) == 2


def test_a_longer_stream_shares_the_first_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLK_CACHE", str(tmp_path / "cache"))
    for directions in (["right", "left"], ["right", "left", "right2"]):
        run("CL_DIRECTIONS", tmp_path / str(len(directions)), **{"dataset.directions": directions})
    assert len(list((tmp_path / "cache" / "butd-base").glob("*/base.pth"))) == 1


@pytest.mark.parametrize("words", [["right", "up"], ["left2", "left2"]])
def test_a_chain_that_leads_nowhere_is_refused_before_training(words: list[str], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no direction"):
        run("COMPOSE", tmp_path / "run", **{"learner.compose": words})
    assert not list((tmp_path / "run").glob("checkpoints/*.ckpt"))


def test_what_a_person_gave_wins_over_a_row_of_the_grid() -> None:
    values = {"learner.hyper": 12, "learner.lr": 0.5}
    chosen = plan(discover(), make_request("HELD_OUT_PAIRS", plugin="butd", settings=values, seed=0)).resolved
    learner = chosen.sections["learner"]
    assert (learner.lr, learner.batch_size, learner.weight_decay) == (0.5, 10, 1e-4)


def test_a_pretrained_model_is_refused_where_it_would_be_ignored(tmp_path: Path) -> None:
    registry = discover()
    request = make_request("TASKSELECT_BUTD", plugin="butd", settings={"learner.hub": "anything"}, seed=0)
    with pytest.raises(BadSetting, match="no pretrained model"):
        run_plan(registry, plan(registry, request), tmp_path / "run", comparisons=False)


def omniglot(root: Path, alphabets: dict[str, int]) -> None:
    rng = np.random.default_rng(0)
    (root / "omniglot-py" / "images_evaluation").mkdir(parents=True)
    for name, characters in alphabets.items():
        for c in range(characters):
            folder = root / "omniglot-py" / "images_background" / name / f"character{c:02d}"
            folder.mkdir(parents=True)
            for i in range(2):
                Image.fromarray(rng.integers(0, 255, (20, 20)).astype(np.uint8)).save(folder / f"{i}.png")


def test_omniglot_asks_every_language_in_every_direction(tmp_path: Path) -> None:
    omniglot(tmp_path, {"Small": 6, "Middle": 7, "Large": 9})
    chosen = settings.GridStream(
        source="omniglot", rows=1, columns=6, scale=(0.9, 1.0), directions=("right", "left"), n_train=4, n_test=3
    )
    stream = streams.build_omniglot(chosen, Resources(cache=Cache(tmp_path / "cache"), roots=(tmp_path,)))
    assert [stage.name for stage in stream.stages] == ["initial right", "initial left", "Small right", "Small left"]
    assert stream.info["n_answers"] == [17, 17, 7, 7]
    assert stream.info["languages"] == [0, 0, 1, 1]
    right, left = (stage.train.tables for stage in stream.stages[2:])
    assert (right["class"] <= 6).all()
    assert not np.array_equal(right["class"], left["class"])


def test_one_alphabet_is_refused(tmp_path: Path) -> None:
    omniglot(tmp_path, {"Only": 7})
    with pytest.raises(BadInput, match="alphabet"):
        grid_sets.prepare_grid(
            settings.GridStream(source="omniglot", rows=1, columns=6, directions=("right",)),
            Resources(cache=Cache(tmp_path / "cache"), roots=(tmp_path,)),
        )


def test_clevr_is_read_as_unzipped_and_again_when_pictures_were_added(tmp_path: Path) -> None:
    things = [
        {"size": "large", "color": "red", "material": "metal", "shape": "cube", "pixel_coords": [100, 150, 9]},
        {"size": "small", "color": "blue", "material": "rubber", "shape": "sphere", "pixel_coords": [300, 160, 9]},
    ]
    scene = {"objects": things, "relationships": {"right": [[1], []], "left": [[], [0]], "front": [[1], [0]]}}
    names = [f"CLEVR_train_{i:06d}.png" for i in range(10)]
    (tmp_path / "scenes").mkdir()
    (tmp_path / "images" / "train").mkdir(parents=True)
    content = {"scenes": [{**scene, "image_filename": name} for name in names]}
    (tmp_path / "scenes" / "CLEVR_train_scenes.json").write_text(json.dumps(content), encoding="utf-8")
    for name in names[:6]:
        Image.fromarray(np.full((320, 480, 3), 90, np.uint8)).save(tmp_path / "images" / "train" / name)
    resources = Resources(cache=Cache(tmp_path / "cache"), roots=(tmp_path,), on_bad_sample="skip")
    short = clevr.prepare(settings.Scenes(), resources)
    assert len(np.load(short / "image.npy")) == 6
    for name in names[6:]:
        Image.fromarray(np.full((320, 480, 3), 90, np.uint8)).save(tmp_path / "images" / "train" / name)
    whole = clevr.prepare(settings.Scenes(), resources)
    assert len(np.load(whole / "image.npy")) == 10
    boxes = clevr.build(settings.Scenes(), resources).test.tables["box"]
    assert boxes[0].tolist() == [150 * 80 // 320 - 7, 100 * 120 // 480 - 7, 14, 14]


def test_a_state_goes_on_in_a_network_with_room_for_more_tasks() -> None:
    short, longer = continual("argument", (0, 0)), continual("argument", (0, 0, 0, 0))
    short.store_statistics(0)
    tree = growing.grown(state.pack(short), state.pack(longer))
    state.restore(longer, tree)
    image, argument = torch.rand(5, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1])
    for net in (short, longer):
        net.eval()
    with torch.no_grad():
        for task in (0, 1):
            assert torch.equal(
                short.answer(image, argument, task)["task"], longer.answer(image, argument, task)["task"]
            )
    with pytest.raises(BadCheckpoint, match="lacks"):
        growing.grown(state.pack(longer), state.pack(short))
    other = ContinualCounterStream(
        Topology(filters=(4, 8), strides=(2, 2), blocks=(0, 1), in_shape=(3, 8, 8), n_occurrence=3, separable=False),
        [TaskSpec(n_classes=3)] * 3,
        [3],
        ModulationSpec(factor=(2, 2)),
    )
    with pytest.raises(BadCheckpoint, match="another network"):
        growing.grown(state.pack(short), state.pack(other))


def test_a_finished_run_takes_two_more_directions_and_keeps_every_earlier_bit(tmp_path: Path) -> None:
    registry, folder = discover(), run("CL_DIRECTIONS", tmp_path / "run", **{"dataset.directions": ["right", "left"]})
    first = content(folder, "metrics.json")
    for directions, said in (
        (["right", "left", "right"], "'right' is in the stream already"),
        (["right", "left"], "no stage beyond"),
        (["left", "right", "right2"], "keep the stages already learnt"),
    ):
        with pytest.raises(ClkError, match=said):
            session.extend(registry, folder, {"dataset.directions": directions})

    def stop(event: Any) -> None:
        if type(event).__name__ == "StageEnded":
            signal.raise_signal(signal.SIGINT)

    longer = {"dataset.directions": ["right", "left", "right2", "left2"]}
    with pytest.raises(Interrupted):
        session.extend(registry, folder, longer, listen=[stop])
    session.resume(registry, folder)
    now = content(folder, "metrics.json")
    assert now["stages"] == ["right", "left", "right2", "left2"]
    kept = [row[:2] for row in now["metrics"]["accuracy"]["matrix"]]
    assert kept[:2] == first["metrics"]["accuracy"]["matrix"]
    assert kept[2] == kept[3] == kept[1]
    assert promise(folder)["bit_equal"]
    assert sorted(promise(folder)["largest_difference"]) == ["left", "left2", "right", "right2"]
    _, changed = session.reproduce(registry, folder, tmp_path / "again")
    assert not changed
