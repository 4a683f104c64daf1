"""Runs side by side: grouping, columns, paired tests, formats, and what never meets in one table."""

from __future__ import annotations

import csv
import io
import json
import shutil
import statistics
from pathlib import Path

import numpy as np
import pytest
from attrs import evolve

from cl_kernel.contract.errors import RunConflict, UnknownName
from cl_kernel.contract.offers import Expected, Experiment
from cl_kernel.registry import Offer, discover
from cl_kernel.reports import compare


def groups_of(folder: Path) -> list[compare.Group]:
    return compare.group_runs(compare.find_runs([folder])[0])


def edit(folder: Path, name: str, **values: object) -> None:
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(content | values))


def test_seeds_of_one_setting_are_one_row_named_by_what_differs(finished_runs: Path) -> None:
    groups = groups_of(finished_runs)
    assert [(group.label, sorted(group.runs)) for group in groups] == [
        ("no memory", [0, 1, 2]),
        ("reservoir raw", [0, 1, 2]),
    ]


def test_mean_and_deviation_are_those_of_the_runs(finished_runs: Path) -> None:
    for group in groups_of(finished_runs):
        finals = [
            json.loads((run.folder / "metrics.json").read_text())["metrics"]["accuracy"]["seen"][-1]["accuracy"]
            for run in group.runs.values()
        ]
        row = compare.summary_rows([group], ["score"])[0]["score"]
        assert row["mean"] == pytest.approx(statistics.fmean(finals))
        assert row["std"] == pytest.approx(np.std(finals, ddof=1))


def test_accuracy_per_byte_divides_by_what_the_memory_really_takes(finished_runs: Path) -> None:
    group = groups_of(finished_runs)[1]
    run = group.runs[0]
    found = compare.numbers(run, "accuracy")
    assert found["memory bytes"] == run.results["cost"]["memory_bytes"] <= 1200
    assert found["score per kB"] == pytest.approx(found["score"] * 1000 / found["memory bytes"])


def test_the_same_seed_run_twice_counts_once_and_the_later_counts(finished_runs: Path, tmp_path: Path) -> None:
    for copy in ("a", "b"):
        shutil.copytree(finished_runs / "none-0", tmp_path / copy)
    edit(tmp_path / "b", "run.json", started="2099-01-01T00:00:00")
    (group,) = groups_of(tmp_path)
    assert {seed: run.folder.name for seed, run in group.runs.items()} == {0: "b"}


def test_runs_that_did_not_finish_are_named_and_left_out(finished_runs: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_runs / "none-0", tmp_path / "half")
    edit(tmp_path / "half", "run.json", status="interrupted", reason="signal 15")
    runs, unfinished = compare.find_runs([tmp_path])
    assert runs == []
    assert "half: interrupted signal 15" in unfinished[0]
    with pytest.raises(RunConflict, match="no run below"):
        compare.find_runs([tmp_path / "half" / "scores"])


def test_paired_tests_equal_those_of_scipy_on_the_same_numbers(finished_runs: Path) -> None:
    stats = pytest.importorskip("scipy.stats")
    without, kept = groups_of(finished_runs)
    (test,) = compare.paired_tests([without, kept], kept.label)
    a, b = (list(group.values("score").values()) for group in (without, kept))
    assert (test.label, test.against, test.n) == (without.label, kept.label, 3)
    assert test.difference == pytest.approx(np.mean(a) - np.mean(b))
    assert test.t_test == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert test.wilcoxon == pytest.approx(stats.wilcoxon(a, b).pvalue)
    assert "cannot go below 0.25" in test.note


def test_without_scipy_the_difference_stays_and_the_note_says_how_to_get_the_rest(
    finished_runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare.util, "find_spec", lambda name: None)
    (test,) = compare.paired_tests(groups_of(finished_runs), "reservoir raw")
    assert test.t_test is None
    assert "cl-kernel[stats]" in test.note


def test_groups_of_different_data_are_not_tested_against_each_other(finished_runs: Path) -> None:
    without, kept = groups_of(finished_runs)
    elsewhere = evolve(kept, identity={**kept.identity, "dataset.n_train": 31})
    assert compare.paired_tests([without, elsewhere], elsewhere.label) == []
    with pytest.raises(UnknownName, match="row"):
        compare.paired_tests([without, kept], against="nobody")


def test_equal_numbers_and_constant_differences_give_no_division_by_zero(finished_runs: Path) -> None:
    group = groups_of(finished_runs)[0]
    test = compare.paired(group, group)
    assert (test.t_test, test.wilcoxon, test.note) == (1.0, 1.0, "no spread")


def test_csv_is_exact_and_complete(finished_runs: Path) -> None:
    groups = groups_of(finished_runs)
    rows = list(csv.DictReader(io.StringIO(compare.as_csv(groups, compare.columns_of(groups)))))
    for row, group in zip(rows, groups, strict=True):
        assert float(row["score mean"]) == statistics.fmean(group.values("score").values())
        assert row["n"] == "3"
    assert [row["policy"] for row in rows] == ["", "clk:reservoir"]


def test_markdown_and_latex_keep_every_cell_and_escape_what_is_special() -> None:
    header, rows = ["run_a", "score"], [["50 % | x_1", "0.5 ± 0.1"], ["a\\b", "1"]]
    markdown = compare.as_markdown(header, rows)
    assert "50 % \\| x_1" in markdown
    assert len({line.count(" |") for line in markdown.splitlines()}) == 1
    latex = compare.as_latex(header, rows)
    assert r"50 \% | x\_1 & 0.5 $\pm$ 0.1 \\" in latex
    assert r"a\textbackslash{}b & 1 \\" in latex


def test_profiles_never_share_a_table(finished_runs: Path, tmp_path: Path, clk) -> None:
    shutil.copytree(finished_runs / "none-0", tmp_path / "both" / "tiny")
    shutil.copytree(finished_runs / "none-0", tmp_path / "both" / "paper")
    edit(tmp_path / "both" / "paper", "run.json", profile="paper")
    assert len(groups_of(tmp_path / "both")) == 2
    out = clk("compare", tmp_path / "both", "--format", "markdown").stdout
    tables = out.strip().split("\n\n")
    assert [table.split("(profile ")[1].split(")")[0] for table in tables] == ["paper", "tiny"]
    assert all(len(table.splitlines()) == 3 for table in tables)


def test_published_figures_stand_only_beside_the_unchanged_experiment(finished_runs: Path, tmp_path: Path) -> None:
    registry = discover(only=())
    expected = (Expected(metric="score", value=0.9, where="table 1"),)
    registry.offers["test"].append(Offer(Experiment(name="T", summary="t", expected=expected), "clk"))
    shutil.copytree(finished_runs / "none-0", tmp_path / "run")
    same = {"profile": "paper", "test": "T", "plugin": "clk"}
    request = {"overrides": [["--seed", {"run.seed": 0}]]}

    def shown() -> list[float]:
        (group,) = groups_of(tmp_path)
        return [e.value for e in compare.published(group, registry)]

    edit(tmp_path / "run", "run.json", **same, request=request)
    assert shown() == [0.9]
    edit(tmp_path / "run", "run.json", request={"overrides": [["--set", {"learner.lr": 0.3}]]})
    assert shown() == []
    edit(tmp_path / "run", "run.json", request=request, profile="tiny")
    assert shown() == []


def test_the_command_prints_every_format_and_json(finished_runs: Path, clk) -> None:
    found = clk.json("compare", finished_runs)
    assert [row["run"] for row in found["rows"]] == ["no memory", "reservoir raw"]
    assert found["paired"] == [], "tests are against a row that the user names"
    tested = clk.json("compare", finished_runs, "--against", "no memory")["paired"]
    assert [(test["label"], test["against"], test["n"]) for test in tested] == [("reservoir raw", "no memory", 3)]
    done = clk("compare", finished_runs)
    assert "no memory" in done.stdout
    assert "--against ROW" in done.stderr
    assert "unknown column" in clk("compare", finished_runs, "--column", "scoer", code=2).stderr
    clk("compare", finished_runs, "--format", "latex", "--output", "table.tex")
    assert (clk.folder / "table.tex").read_text().startswith("\\begin{tabular}")


def test_an_upper_bound_is_never_the_best(finished_runs: Path) -> None:
    kept = groups_of(finished_runs)[1]
    assert not kept.is_upper_bound
    assert evolve(kept, identity={**kept.identity, "learner": "clk:joint"}).is_upper_bound
    assert evolve(kept, identity={**kept.identity, "label": "offline"}).is_upper_bound


def test_half_written_runs_and_those_of_another_version_are_named_and_left_out(
    finished_runs: Path, tmp_path: Path
) -> None:
    for name in ("whole", "half", "words", "old", "other"):
        shutil.copytree(finished_runs / "none-0", tmp_path / name)
    text = (tmp_path / "half" / "metrics.json").read_text()
    (tmp_path / "half" / "metrics.json").write_text(text[: len(text) // 2])
    (tmp_path / "words" / "settings.yaml").write_text("run: {seed: [0")
    info = json.loads((tmp_path / "old" / "run.json").read_text())
    (tmp_path / "old" / "run.json").write_text(json.dumps({key: info[key] for key in info if key != "pieces"}))
    results = json.loads((tmp_path / "other" / "metrics.json").read_text())
    del results["metrics"]["accuracy"]["seen"]
    (tmp_path / "other" / "metrics.json").write_text(json.dumps(results))
    runs, left_out = compare.find_runs([tmp_path])
    assert [run.folder.name for run in runs] == ["whole"]
    said = {line.partition(":")[0].rpartition("/")[2]: line for line in left_out}
    assert "metrics.json is damaged" in said["half"]
    assert "cannot be read" in said["words"]
    assert "of another version: run.json has no pieces" in said["old"]
    assert "accuracy in metrics.json has no seen" in said["other"]
