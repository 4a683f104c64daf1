"""What was asked is what runs: comparison runs, resuming, moved data, names."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from attrs import field, frozen

from cl_kernel import Dataset, Experiment, Learner, hookimpl
from cl_kernel.contract.errors import BadSetting, ClkError, DuplicateName, Interrupted, RunConflict
from cl_kernel.contract.events import StageEnded
from cl_kernel.registry import Registry, discover
from cl_kernel.running.plan import comparison_plans, make_request, plan
from cl_kernel.running.session import reproduce, resume, run_plan
from cl_kernel.storage.run_folder import plain_name

Image = pytest.importorskip("PIL.Image")
BASE: dict[str, Any] = {"dataset": "blobs", "learner": "linear", "dataset.n_stages": 2, "run.plots": False}


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    here = ModuleType("rows_of_rates")
    here.rows = rows  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, here.__name__, here)
    monkeypatch.setenv("CLK_PLUGINS", "")
    monkeypatch.setenv("CLK_CACHE", str(tmp_path / "cache"))


@frozen(kw_only=True)
class Rates:
    lr: float = 0.1
    momentum: float = 0.0
    row: int = 0
    only_mine: float = field(default=1.0)


def rows(settings: Rates) -> dict[str, dict[str, Any]]:
    return {"row": {"lr": 0.7, "momentum": 0.9}} if settings.row else {}


def returning(found: Any) -> Any:
    return lambda: found


def registry(**offers: Any) -> Registry:
    made = discover(only=())
    plugin = SimpleNamespace(**{name: hookimpl(returning(found)) for name, found in offers.items()})
    made.add("mine", lambda: plugin, "dist-mine", "1")
    return made


def learner(name: str = "mine", takes: str = "vector -> class", **values: Any) -> Learner:
    build = "cl_kernel.library.linear:build"
    return Learner(name=name, summary="s", build=build, takes=(takes,), settings=Rates, **values)


def test_a_setting_of_a_piece_that_a_comparison_run_replaces_does_not_reach_it():
    test = Experiment(
        name="t",
        summary="s",
        settings={**BASE, "learner": "mine:mine"},
        comparisons={"plain": {"learner": "clk:linear"}},
    )
    found = registry(clk_learners=[learner()], clk_experiments=[test])
    asked = make_request("t", settings={"learner.only_mine": 2.0, "learner.lr": 0.3})
    main = plan(found, asked)
    other = comparison_plans(found, main)["plain"]
    assert main.resolved.sections["learner"].only_mine == 2.0
    assert other.resolved.sections["learner"].lr == 0.3 and other.pieces["learner"][0].name == "clk:linear"


def test_a_comparison_run_keeps_the_piece_whose_settings_it_names():
    settings = {**BASE, "learner": "mine:mine"}
    test = Experiment(name="t", summary="s", settings=settings, comparisons={"plain": {"learner.only_mine": 3.0}})
    found = registry(clk_learners=[learner()], clk_experiments=[test])
    for asked in (make_request("t", learner="clk:linear"), make_request("t", settings={"learner": "clk:linear"})):
        main = plan(found, asked)
        other = comparison_plans(found, main)["plain"]
        assert main.pieces["learner"][0].name == "clk:linear" and other.pieces["learner"][0].name == "mine:mine"
        assert other.resolved.sections["learner"].only_mine == 3.0


def test_a_comparison_run_that_cannot_be_made_is_refused_before_anything_runs(tmp_path):
    test = Experiment(name="t", summary="s", settings=BASE, comparisons={"broken": {"learner": "nobody"}})
    found = registry(clk_experiments=[test])
    planned = plan(found, make_request("t"))
    with pytest.raises(ClkError, match=r"comparison run 'broken'.*nobody") as error:
        run_plan(found, planned, tmp_path / "run")
    assert not (tmp_path / "run").exists() and "--no-comparisons" in str(error.value)
    run_plan(found, planned, tmp_path / "run", comparisons=False)


def test_resume_makes_no_comparison_runs_when_the_run_was_asked_to_make_none(tmp_path):
    test = Experiment(name="t", summary="s", settings=BASE, comparisons={"other": {"learner.lr": 0.3}})
    found = registry(clk_experiments=[test])
    request = make_request("t", settings={"run.stop_at_step": 3})
    with pytest.raises(Interrupted):
        run_plan(found, plan(found, request), tmp_path / "run", comparisons=False)
    outcome = resume(found, tmp_path / "run")
    assert outcome.comparisons == {} and not (tmp_path / "run" / "beside").exists()


# ---- settings that stand for others --------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "lr", "momentum"),
    [({}, 0.1, 0.0), ({"learner.row": 1}, 0.7, 0.9), ({"learner.row": 1, "learner.lr": 0.5}, 0.5, 0.9)],
)
def test_what_a_person_gave_wins_over_what_a_row_stands_for(given, lr, momentum):
    found = registry(clk_learners=[learner(presets="rows_of_rates:rows")])
    made = plan(found, make_request(learner="mine:mine", dataset="blobs", settings=given)).resolved
    assert (made.sections["learner"].lr, made.sections["learner"].momentum) == (lr, momentum)
    assert made.origins["learner.momentum"] == ("learner.row" if given else "default")


def test_a_row_that_a_person_chose_wins_over_the_values_of_the_test():
    test = Experiment(name="t", summary="s", settings={**BASE, "learner": "mine:mine", "learner.lr": 0.2})
    found = registry(clk_learners=[learner(presets="rows_of_rates:rows")], clk_experiments=[test])
    assert plan(found, make_request("t", settings={"learner.row": 1})).resolved.sections["learner"].lr == 0.7
    assert plan(found, make_request("t")).resolved.sections["learner"].lr == 0.2


# ---- names ---------------------------------------------------------------------------------------


def test_a_short_name_means_the_candidate_that_fits_and_the_kernels_own_first():
    images = Dataset(name="blobs", summary="s", task="image -> class", build="a:b")
    found = registry(
        clk_learners=[learner("linear", "image -> class"), learner("twice"), learner("looks", "image -> class")],
        clk_datasets=[images],
    )

    def pieces(**names: str) -> tuple[str, str]:
        made = plan(found, make_request(**names)).pieces
        return made["learner"][0].name, made["dataset"][0].name

    assert pieces(learner="linear", dataset="blobs") == ("clk:linear", "clk:blobs")
    assert pieces(learner="twice", dataset="blobs") == ("mine:twice", "clk:blobs")
    assert pieces(learner="looks", dataset="blobs") == ("mine:looks", "mine:blobs")
    assert pieces(learner="mine:linear", dataset="blobs") == ("mine:linear", "mine:blobs")


def test_a_name_that_several_fitting_pieces_have_is_refused_naming_only_those():
    found = registry(clk_learners=[learner("same")])
    other = SimpleNamespace(clk_learners=hookimpl(lambda: [learner("same")]))
    third = SimpleNamespace(clk_learners=hookimpl(lambda: [learner("same", "image -> class")]))
    found.add("other", lambda: other, "dist-other", "1")
    found.add("third", lambda: third, "dist-third", "1")
    with pytest.raises(DuplicateName, match=r"mine:same \(dist-mine\) and other:same \(dist-other\)") as error:
        plan(found, make_request(learner="same", dataset="blobs"))
    assert "third" not in str(error.value)


@pytest.mark.parametrize("text", ["iid/nap", "a:b", "..", "x y", "ü", "CON?", "-"])
def test_folder_names_are_plain(text):
    name = plain_name(text)
    assert name and not set(name) & set("/:?* ") and not name.startswith((".", "-"))


# ---- data of one's own, and data that move --------------------------------------------------------


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for c in range(4):
        (tmp_path / "pictures" / f"c{c}").mkdir(parents=True)
        for i in range(6):
            pixels = rng.integers(0, 60, (8, 8, 3), np.uint8) + np.uint8(c * 40)
            Image.fromarray(pixels).save(tmp_path / "pictures" / f"c{c}" / f"{i} a.png")
    return tmp_path / "pictures"


def test_data_of_ones_own_are_called_neither_toy_nor_the_publications(clk, pictures):
    asked = ("--learner", "naive", "--dataset", f"folder:{pictures}", "--dry-run")
    said = clk("run", *asked).stderr + clk("run", *asked, "--profile", "paper").stderr
    assert said.count("data of your own") == 2 and "toy" not in said and "publication" not in said


@pytest.mark.parametrize("change", ["none", "moved", "byte"])
def test_a_run_goes_on_only_with_the_data_it_began_with(change, pictures, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    kernel = discover(only=())
    monkeypatch.chdir(tmp_path)
    request = make_request(
        learner="naive",
        dataset="folder:pictures",
        settings={"dataset.size": 8, "dataset.n_stages": 2, "run.plots": False, "run.stop_at_step": 2},
    )
    with pytest.raises(Interrupted):
        run_plan(kernel, plan(kernel, request), tmp_path / "run")
    if change == "moved":
        (tmp_path / "copy").mkdir()
        pictures.rename(tmp_path / "copy" / "pictures")
        monkeypatch.chdir(tmp_path / "copy")
    if change == "byte":
        path = pictures / "c3" / "1 a.png"
        with Image.open(path) as image:
            pixels = np.asarray(image).copy()
        pixels[0, 0, 0] ^= 1
        Image.fromarray(pixels).save(path)
        with pytest.raises(RunConflict, match=r"the data there were made from something else: .*stages\.|test"):
            resume(kernel, tmp_path / "run")
        return
    ended: list[Any] = []
    outcome = resume(kernel, tmp_path / "run", listen=[ended.append])
    assert outcome.results["finished"] and sum(isinstance(event, StageEnded) for event in ended) == 1


def test_reproduce_names_the_part_of_the_data_that_differs(tmp_path, pictures):
    pytest.importorskip("torch")
    kernel = discover(only=())
    request = make_request(
        learner="naive",
        dataset=f"folder:{pictures}",
        settings={"dataset.size": 8, "dataset.n_stages": 2, "run.plots": False},
    )
    run_plan(kernel, plan(kernel, request), tmp_path / "run")
    assert reproduce(kernel, tmp_path / "run", tmp_path / "again")[1] == []
    Image.new("RGB", (8, 8), "red").save(pictures / "c0" / "0 a.png")
    _, lines = reproduce(kernel, tmp_path / "run", tmp_path / "third")
    assert any(line.startswith("data: ") and "c0+c1" in line for line in lines) and "state_digest" in lines


def test_the_folder_of_a_run_says_what_it_saw(tmp_path):
    kernel = discover(only=())
    run_plan(kernel, plan(kernel, make_request(settings=BASE)), tmp_path / "run")
    content = json.loads((tmp_path / "run" / "metrics.json").read_text())
    kept = json.loads((tmp_path / "run" / "identity.json").read_text())
    assert content["identity"]["stream"] == kept and kept["piece"] == "clk:blobs"
    assert list(content["identity"]["stages"]) == content["stages"]


def test_a_dry_run_runs_nothing(clk, tmp_path):
    said = clk.json("run", "--learner", "linear", "--dataset", "blobs", "--dry-run")
    assert said["runs"][0]["dataset"] == "clk:blobs" and not (tmp_path / "runs").exists()
    with pytest.raises(BadSetting):
        plan(discover(only=()), make_request(settings={**BASE, "learner.nonsense": 1}))
