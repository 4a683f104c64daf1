"""The table of all methods, from run folders."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cl_kernel import MissingAsset
from cl_kernel.cli.main import main
from cl_plugin_crumb.commands import results


class Quiet:
    """A console that keeps what it is told."""

    def __init__(self) -> None:
        self.titles: list[str] = []
        self.content: Any = None

    def table(self, title: str, columns: object, rows: object) -> None:
        self.titles.append(title)

    def print(self, text: str = "") -> None:
        pass

    def json(self, content: Any) -> None:
        self.content = content


def table(*words: str) -> Quiet:
    parser, console = argparse.ArgumentParser(), Quiet()
    assert results.table(parser)(parser.parse_args(list(words)), console) == 0
    return console


def folder(root: Path, learner: str, seed: int, final: float, seconds: float, *, times: int | None = 1) -> None:
    place = root / f"{learner}-{seed}-{times}"
    place.mkdir()
    run = {"status": "finished", "label": "", "seed": seed, "pieces": {"learner": f"crumb:{learner}"}}
    settings = {"dataset": {"scenario": "class_iid"}, "learner": {} if times is None else {"replay_times": times}}
    cost = {"memory_bytes": 50, "memory_examples": times or 0, "seconds": seconds}
    scores = {"seen": [{"accuracy": 1.0}, {"accuracy": final}], "matrix": [[1.0, 0.0], [0.25, 2 * final - 0.25]]}
    metrics = {"data": {"name": "photos"}, "cost": cost, "metrics": {"accuracy": scores}}
    (place / "run.json").write_text(json.dumps(run))
    (place / "metrics.json").write_text(json.dumps(metrics))
    (place / "settings.yaml").write_text(yaml.safe_dump(settings))


def test_a_method_is_one_row_over_its_seeds_and_no_replay_is_another(tmp_path: Path) -> None:
    for seed, (final, seconds) in enumerate([(0.5, 1.0), (0.6, 2.0), (0.7, 90.0)]):
        folder(tmp_path, "crumb", seed, final, seconds)
    folder(tmp_path, "crumb", 0, 0.25, 1.0, times=0)
    folder(tmp_path, "si", 0, 0.75, 1.0, times=None)
    console = table(str(tmp_path), "--plot", str(tmp_path / "methods.png"))
    assert console.titles == ["photos class_iid"]
    assert [row["method"] for row in console.content] == ["si", "crumb", "no replay"]
    crumb = console.content[1]
    assert crumb["final"] == pytest.approx((50, 60, 70))
    assert crumb["first"] == pytest.approx((25, 25, 25))
    assert (crumb["n_bytes"], crumb["seconds"]) == (50, 2.0)
    assert console.content[2]["n_bytes"] == 0
    assert (tmp_path / "methods.png").stat().st_size > 1000


def test_a_folder_without_finished_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingAsset, match="no finished run"):
        table(str(tmp_path))


def test_a_run_folder_of_any_name_is_merged(tmp_path: Path) -> None:
    for run in (0, 1):
        place = tmp_path / "runs-0" / f"run{run}" / "crumb" / "class_iid" / "Crumb_Network" / f"runs-{run}"
        place.mkdir(parents=True)
        (place / "top1_test_all_direct_all_runs.csv").write_text(f"{run}.5\n")
    assert main(["crumb", "merge", str(tmp_path / "runs-0"), "--output", str(tmp_path / "all")]) == 0
    assert (tmp_path / "all" / "top1_test_all_direct_all_runs.csv").read_text() == "0.5\n1.5\n"
    (tmp_path / "runs-7").mkdir()
    assert main(["crumb", "merge", str(tmp_path / "runs-7"), "--output", str(tmp_path / "none")]) == 2
