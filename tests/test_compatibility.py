"""Names of contract 1 and of earlier releases still do what they did."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path

import attrs
import pytest

import cl_kernel
from cl_kernel import Asset, Cache, Dataset, Experiment, Learner, Plugin, Request, Resources, Setup
from cl_kernel.cli.main import main
from cl_kernel.running.plan import read_request
from cl_kernel.sweeps.sweep import read_spec
from cl_kernel.sweeps.tasks import outcome_of

BUILD = "package.module:build"


def test_records_take_and_show_the_fields_of_contract_1() -> None:
    asset = Asset(name="photos", summary="some")
    dataset = Dataset(name="d", summary="", task="a -> b", build=BUILD, needs=(asset,))  # type: ignore[call-arg]
    learner = Learner(name="l", summary="", takes=(), build=BUILD, rooms=("memory",))  # type: ignore[call-arg]
    experiment = Experiment(name="e", summary="", beside={"b": {}})  # type: ignore[call-arg]
    assert dataset.assets == getattr(dataset, "needs") == (asset,)  # noqa: B009
    assert learner.accepts == getattr(learner, "rooms") == ("memory",)  # noqa: B009
    assert experiment.comparisons == getattr(experiment, "beside") == {"b": {}}  # noqa: B009
    assert attrs.evolve(experiment, beside={}).comparisons == {}  # type: ignore[call-arg]
    with pytest.raises(ValueError, match=r"accepts=.*cupboard"):
        Learner(name="l", summary="", takes=(), build=BUILD, rooms=("cupboard",))  # type: ignore[call-arg]


def test_names_of_contract_1_are_silent_and_others_say_what_they_are_called_now() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert getattr(cl_kernel, "Site") is Resources  # noqa: B009
        assert getattr(cl_kernel, "Parts") is Setup  # noqa: B009
        assert Setup(stream=None, site=Resources(seed=3)).site.seed == 3  # type: ignore[call-arg, arg-type, attr-defined]
    for old, new in (("launch", "run"), ("execute", "run_plan"), ("ask", "make_request")):
        with pytest.warns(DeprecationWarning, match=f"cl_kernel.{old} is now cl_kernel.{new}"):
            assert callable(getattr(cl_kernel, old))
    with pytest.raises(AttributeError, match="no attribute 'lounge'"):
        getattr(cl_kernel, "lounge")  # noqa: B009


def test_old_modules_hold_their_old_names() -> None:
    with pytest.warns(DeprecationWarning, match=r"cl_kernel.site is now cl_kernel.running.resources"):
        from cl_kernel.site import Site  # type: ignore[import-not-found]
    assert Site is Resources


def test_the_old_function_takes_its_old_arguments(tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning, match="run_plan"):
        from cl_kernel import execute  # type: ignore[attr-defined]
    request = Request(overrides=(("test", {"dataset": "blobs", "learner": "linear", "run.plots": False}),))
    planned = cl_kernel.plan(cl_kernel.discover([]), request)
    outcome = execute(cl_kernel.discover([]), planned, tmp_path / "run", beside=False, n_beside=0)
    assert outcome.results["finished"]
    assert outcome.beside == outcome.comparisons == {}


def test_an_old_flag_works_and_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pieces = ["--dataset", "blobs", "--learner", "linear", "--set", "run.plots=false"]
    assert main(["run", *pieces, "--no-beside", "--output", str(tmp_path / "run")]) == 0
    assert "--no-beside is now --no-comparisons" in capsys.readouterr().err


def test_an_old_key_of_a_sweep_file_works_and_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "s.yaml").write_text("base: {learner: linear}\ngrid: {seed: [0]}\nbeside: true\n")
    with caplog.at_level(logging.WARNING):
        assert read_spec(tmp_path / "s.yaml").comparisons
    assert "beside is now called comparisons" in caplog.text


def test_run_folders_of_the_release_before_are_read(tmp_path: Path) -> None:
    raw = {
        "test": "t",
        "plugin": "",
        "profile": "",
        "data_roots": [],
        "overrides": [],
        "trackers": [],
        "beside": "joint",
    }
    assert read_request(raw).comparison == "joint"
    (tmp_path / "run.json").write_text(json.dumps({"status": "finished", "beside": ["joint"]}))
    assert outcome_of(tmp_path)["left"] == ["joint"]


def test_a_plain_dict_is_still_the_key_of_an_artefact(tmp_path: Path) -> None:
    made = Cache(tmp_path).make("kind", {"version": 1}, lambda folder: (folder / "a").touch() or None)
    assert (made / "a").exists()


def test_a_plugin_of_contract_1_needs_no_new_name() -> None:
    assert Plugin(name="p", summary="", spec=1).spec < cl_kernel.SPEC_VERSION
