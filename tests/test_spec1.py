"""Every hook of contract 1, as the frozen plugin uses them, still does what it did."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cl_kernel.cli.main import main

SPEC1 = Path(__file__).parent / "spec1"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder with the frozen plugin installed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLK_PLUGINS", "spec1")
    monkeypatch.setenv("CLK_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(SPEC1)
    importlib.invalidate_caches()
    yield tmp_path
    for module in [m for m in sys.modules if m.startswith("clk_spec1")]:
        del sys.modules[module]


def run(folder: Path, *arguments: str) -> dict[str, object]:
    assert main(["run", *arguments, "--set", "run.plots=false", "--output", str(folder)]) == 0
    content: dict[str, object] = json.loads((folder / "metrics.json").read_text())
    return content


def test_its_test_runs_by_name_alias_and_default_with_the_same_result(here: Path) -> None:
    results = [
        run(here / name, *how, "--no-beside")
        for name, how in (("a", ("--test", "means")), ("b", ("--test", "3x2")), ("c", ("--plugin", "spec1")))
    ]
    assert results[0]["digest"] == results[1]["digest"] == results[2]["digest"]
    assert list(results[0]["metrics"]) == ["hits", "misses"]
    assert results[0]["cost"]["memory_examples"] == 30


def test_its_comparison_run_is_made_beside_it(here: Path) -> None:
    own = run(here / "run", "--test", "MEANS")
    naive = json.loads((here / "run" / "beside" / "naive" / "metrics.json").read_text())
    assert (own["cost"]["memory_examples"], naive["cost"]["memory_examples"]) == (30, 0)
    assert own["digest"] != naive["digest"]


def test_its_events_settings_and_tracker_are_heard(here: Path) -> None:
    run(here / "run", "--test", "MEANS", "--no-beside", "--tracker", "lines", "--set", "learner.lr=0.3")
    from clk_spec1.plugin import HEARD

    assert 0.3 in HEARD
    assert {"RunStarted", "StageStarted", "Scored", "CheckpointSaved", "StageEnded", "RunEnded"} <= set(HEARD)
    lines = (here / "run" / "lines.txt").read_text().split()
    assert lines[0] == "RunStarted"
    assert lines[-1] == "RunEnded"


def test_its_data_set_takes_an_argument_and_its_pieces_combine_with_ours(here: Path) -> None:
    pieces = ("--dataset", "rings:4", "--learner", "clk:linear", "--replay", "newest+raw", "--metric", "accuracy")
    results = run(here / "run", *pieces, "--memory", "160B")
    assert len(results["stages"]) == 2
    assert results["cost"]["memory_capacity"] == 10


def test_its_experiment_with_an_own_run_gives_its_results(here: Path) -> None:
    assert run(here / "run", "--test", "COUNT", "--set", "upto=3")["counted"] == 3


def test_its_command_is_a_subcommand(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["spec1", "hello", "--name", "Ada"]) == 0
    assert "hello Ada" in capsys.readouterr().out


def test_its_asset_is_asked_for_found_and_prepared(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pieces = ["run", "--dataset", "rows", "--learner", "softmax"]
    assert main(pieces) == 2
    assert "https://example.org/rows" in capsys.readouterr().err
    (here / "data" / "deep").mkdir(parents=True)
    (here / "data" / "deep" / "rows.txt").write_text("1 2\n")
    assert main([*pieces, "--data-root", "data"]) == 2
    assert str(Path("data") / "deep") in capsys.readouterr().err
    assert main(["data", "prepare", "rows", "--data-root", "data"]) == 0


def test_its_executor_runs_a_sweep(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(SPEC1))
    (here / "sweep.yaml").write_text("name: two\nbase: {test: spec1:MEANS}\ngrid: {seed: [0, 1]}\nbeside: false\n")
    assert main(["sweep", "sweep.yaml", "--executor", "here", "--output", "swept"]) == 0
    assert len(list((here / "swept").rglob("metrics.json"))) >= 2
