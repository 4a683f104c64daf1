"""Runs of the stand-in: reuse, resume, baselines, commands."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cl_kernel import BadInput, BadSetting, Mismatch, MissingAsset, UnknownName, run
from cl_plugin_recall.experiments import TINY

from .conftest import SHORT

TEST = "ADD_FIVE_TWO_TIMES"
CLK = [sys.executable, "-m", "cl_kernel.cli.main"]


def go(output: Path, test: str = TEST, **options: Any) -> Any:
    listen = options.pop("listen", [])
    settings = SHORT | {"source.per_class": 2} | options.pop("settings", {})
    if options.get("replay") == "none":
        settings.pop("source.per_class")
    return run(test, plugin="recall", output=output, comparisons=False, listen=listen, settings=settings, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One finished run that several tests look at."""
    return go(tmp_path_factory.mktemp("whole") / "run")


def test_a_run_leaves_its_report_weights_and_pictures(whole: Any) -> None:
    folder = whole.folder
    assert (folder / "outputs" / "TINY (T2_P3.1.0.0_gan).txt").read_text().count("STEP") == 3
    assert "None\n" not in (folder / "outputs" / "TINY (T2_P3.1.0.0_gan).txt").read_text()
    assert len((folder / "outputs" / "steps.jsonl").read_text().splitlines()) == 3
    assert (folder / "overlays" / "photo-truth-prediction.png").is_file()
    assert {p.name for p in (folder / "weights").glob("*.index")} == {
        "encoder.index",
        "decoder-00.index",
        "decoder-01.index",
        "decoder-02.index",
        "helper-11-12-13-14-15.index",
    }


def test_the_operative_gin_file_is_read_back_as_the_same_settings(whole: Any) -> None:
    from cl_plugin_recall.gin_bindings import as_settings, read_bindings

    dotted = as_settings(read_bindings(files=[whole.folder / "outputs" / "operative.gin"]))
    assert dotted["learner.batch_size"] == 4
    assert dotted["dataset.protocol"] == "overlapped"


def test_the_same_seed_gives_the_same_weights_whether_reused_or_trained(whole: Any, tmp_path: Path) -> None:
    heard: list[str] = []
    again = go(tmp_path / "again", listen=[lambda event: heard.append(getattr(event, "kind", ""))])
    fresh = go(tmp_path / "fresh", settings={"learner.reuse": False}, n_workers=1)
    assert {"recall-first", "recall-helper", "recall-labels", "recall-inpainted"} <= set(heard)
    assert whole.results["state_digest"] == again.results["state_digest"] == fresh.results["state_digest"]
    assert whole.results["digest"] == again.results["digest"] == fresh.results["digest"]


@pytest.mark.parametrize("stop", [4, 18, 40])
def test_a_run_stopped_in_any_phase_ends_the_same(whole: Any, tmp_path: Path, stop: int) -> None:
    """10 steps of step 0, then 15 incremental ones and 15 of the helper, then 15 incremental ones."""
    from cl_kernel import Interrupted, discover, make_request, plan, run_plan

    settings = {"source.per_class": 2, "learner.reuse": False, "run.stop_at_step": stop}
    with pytest.raises(Interrupted):
        go(tmp_path / "run", settings=settings)
    registry = discover()
    planned = plan(registry, make_request(TEST, plugin="recall", settings=SHORT | settings))
    outcome = run_plan(registry, planned, tmp_path / "run", resume=True, comparisons=False)
    for key in ("digest", "state_digest"):
        assert outcome.results[key] == whole.results[key]


def test_fine_tuning_needs_no_source_and_no_helper(tmp_path: Path) -> None:
    outcome = go(
        tmp_path / "run", replay="none", settings={"learner.interleave_ratio_old": 0, "learner.mix_labels": False}
    )
    assert not list((outcome.folder / "weights").glob("helper-*"))


OTHER_WAYS = {
    "learner.helper_decoders_one_class": True,
    "learner.helper_ignore_void": True,
    "learner.inpaint_void": False,
    "learner.legacy_batching": True,
    "learner.legacy_replay_preproc": True,
    "learner.legacy_jpeg": True,
    "learner.lr_floor": "legacy",
    "learner.optimiser": "momentum",
    "learner.training_steps_per_class_helper": 1,
}
"""Every choice that departs from the default at once."""


def test_the_other_ways_run_and_are_kept_apart_from_the_usual_ones(whole: Any, tmp_path: Path) -> None:
    outcome = go(tmp_path / "run", settings=OTHER_WAYS)
    helpers = {p.stem for p in (outcome.folder / "weights").glob("helper-*.index")}
    assert helpers == {f"helper-{c}" for c in range(11, 16)}
    assert outcome.results["state_digest"] != whole.results["state_digest"]
    assert np.isfinite(outcome.results["metrics"]["segmentation"]["seen"][-1]["all"])


def test_the_ablation_compares_methods_and_joint_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from cl_kernel.cli.main import main

    flags = [f"--set={key}={value}" for key, value in SHORT.items() if key != "learner.interleave_ratio_old"]
    methods = ["--variants", "fine-tuning,joint", "--seeds", "0", "--test", "15-5"]
    assert main(["recall", "ablate", *methods, "--output", str(tmp_path), "--json", *flags]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["method"] for row in rows] == ["fine-tuning", "joint"]
    kept = json.loads((tmp_path / "ablation.json").read_text())
    seen = json.loads((tmp_path / "joint-s0" / "metrics.json").read_text())["metrics"]["segmentation"]["seen"][-1]
    iou = [value for name, value in seen.items() if name.startswith("iou/")]
    assert kept[1]["runs"][0]["old"] == pytest.approx(np.mean(iou[1:16]))
    assert kept[1]["runs"][0]["new"] == pytest.approx(np.mean(iou[16:]))
    table = (tmp_path / "ablation.md").read_text().splitlines()
    assert len(table) == 4
    assert f"{100 * np.mean(iou[1:16]):.1f} / {100 * np.mean(iou[16:]):.1f}" in table[3]


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--variants", "recal"], "unknown variant 'recal'"),
        (["--seeds", "0,one"], "'one' is no seed"),
        (["--sources", ","], "--sources"),
    ],
)
def test_an_ablation_that_cannot_run_is_refused(flags: list[str], words: str, tmp_path: Path, capsys: Any) -> None:
    from cl_kernel.cli.main import main

    assert main(["recall", "ablate", "--output", str(tmp_path), *flags]) == 2
    assert words in capsys.readouterr().err


def test_a_configuration_says_how_the_data_is_cut(tmp_path: Path) -> None:
    own = {"learner.lr_initial_value_incremental": 3e-4, "learner.interleave_ratio_old": 0}
    outcome = go(tmp_path / "run", config="FINE_TUNING", replay="none", settings=own)
    text = (outcome.folder / "outputs" / "operative.gin").read_text()
    assert "dataset_type_incremental = 'sequential'" in text
    assert "lr_initial_value_incremental = 0.0003" in text  # --set wins over the configuration


def test_settings_and_own_gin_win_over_a_configuration_and_the_profile_keeps_its_schedule(tmp_path: Path) -> None:
    from cl_kernel import discover, make_request, plan

    own = tmp_path / "own.gin"
    own.write_text("TrainManager.l2_decay = 7e-4\n")
    request = make_request(
        TEST,
        plugin="recall",
        config="FINE_TUNING",
        gin_files=[own],
        gin_params=["decay_power = 2"],
        settings={"learner.mix_labels": True, "learner.l2_decay": 1e-5},
    )
    flat = plan(discover(), request).resolved.flat()
    assert flat["learner.interleave_ratio_old"] == 0 and flat["dataset.protocol"] == "sequential"
    assert flat["learner.mix_labels"] is True  # equal to the default, and still what was asked
    assert flat["learner.l2_decay"] == 7e-4 and flat["learner.decay_power"] == 2
    assert flat["learner.training_steps_per_class"] == TINY["training_steps_per_class"]


def test_replay_without_a_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Mismatch, match="source"):
        go(tmp_path / "run", replay="none")


@pytest.mark.parametrize(
    "options, error",
    [
        ({"config": "OVERLAPED"}, UnknownName),
        ({"gin_params": ["l2_decai = 1"]}, BadSetting),
        ({"gin_files": ["nowhere.gin"]}, BadSetting),
        ({"settings": {"learner.l2_decai": 1}}, BadSetting),
        ({"settings": {"learner.optimiser": "sgd"}}, BadSetting),
        ({"settings": {"dataset.structure": "15-4"}}, BadSetting),
        ({"settings": {"learner.batch_size": 0}}, BadSetting),
        ({"settings": {"learner.interleave_ratio_old": 0, "learner.interleave_ratio_new": 0}}, BadSetting),
        ({"test": "ADD_ONE_FIVE_TIME"}, UnknownName),
        ({"replay": "folder:nowhere"}, MissingAsset),
        ({"profile": "paper"}, MissingAsset),
    ],
)
def test_what_cannot_run_is_refused_before_training(
    tmp_path: Path, options: dict[str, Any], error: type[Exception]
) -> None:
    if options.get("replay"):
        options = options | {"settings": {"source.per_class": 0}}
    if options.get("profile"):
        with pytest.raises(error):
            run(TEST, plugin="recall", output=tmp_path / "run", **options)
        return
    with pytest.raises(error):
        go(tmp_path / "run", **options)


def test_a_replay_folder_that_lacks_a_class_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photos" / "01").mkdir(parents=True)
    (tmp_path / "photos" / "01" / "0.jpg").write_bytes(b"x")
    with pytest.raises((BadInput, MissingAsset), match="class 2"):
        go(tmp_path / "run", replay=f"folder:{tmp_path / 'photos'}", settings={"source.per_class": 0})


def test_validate_dump_export_and_summary_read_a_run(whole: Any, tmp_path: Path) -> None:
    from cl_kernel.cli.main import main

    assert main(["recall", "validate", str(whole.folder)]) == 0
    assert (whole.folder / "outputs" / "validation.txt").read_text().count("LOSS") == 3
    assert main(["recall", "dump", str(whole.folder), "--rows", "0-2", "--output", str(tmp_path / "dump")]) == 0
    assert len(list((tmp_path / "dump" / "prediction").glob("*.png"))) == 3
    assert main(["recall", "export-checkpoints", str(whole.folder), "--output", str(tmp_path / "tree")]) == 0
    assert (tmp_path / "tree/checkpoints/helper_decoders/P3.1.0_E10_C11-15.index").is_file()
    assert (tmp_path / "tree/checkpoints/decoders/P3.1.0.0_T2_S2_gan.index").is_file()
    assert main(["recall", "summary", str(whole.folder), "--format", "latex", "--output", str(tmp_path / "t.tex")]) == 0
    assert "tabular" in (tmp_path / "t.tex").read_text()


def test_the_report_and_re_validation_give_the_scores_of_the_run(whole: Any) -> None:
    from cl_plugin_recall.commands.reopening import reopen
    from cl_plugin_recall.evaluate.validation import load_decoders, validate

    learner, _ = reopen(whole.folder, None)
    again = validate(learner, load_decoders(learner, whole.folder))
    lines = [json.loads(line) for line in (whole.folder / "outputs" / "steps.jsonl").read_text().splitlines()]
    assert list(again) == [0, 1, 2]
    for seen, line, found in zip(whole.results["metrics"]["segmentation"]["seen"], lines, again.values(), strict=True):
        assert line["loss"] == found.loss and line["miou"] == found.scores["miou"]
        assert 0 < line["loss"] < 100 and line["miou"] == pytest.approx(seen["all"], abs=1e-3)
        assert line["pixel_accuracy"] == pytest.approx(seen["run/pixel_accuracy"], abs=1e-3)


def test_all_shares_artefacts_and_goes_on_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from cl_kernel.cli.main import main

    flags = [f"--set={key}={value}" for key, value in SHORT.items()]
    which = ["--all", "--test", "1,2", "--config", "OVERLAPPED", "--replay", "gan"]
    command = ["run", "--plugin", "recall", *which, "--output", str(tmp_path), *flags]
    assert main(command) == 0
    assert "reused recall-first" in capsys.readouterr().err
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/metrics.json")}
    assert len(before) == 2 and main(command) == 0
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/metrics.json")}


def phases_of(run: Path) -> list[str]:
    """Phases begun so far, as ``stage name``, over all attempts; a half-written last line is left out."""
    if not (run / "events.jsonl").is_file():
        return []
    lines = (run / "events.jsonl").read_text().split("\n")[:-1]
    events = [json.loads(line) for line in lines if '"PhaseStarted"' in line]
    return [f"{event['stage']} {event['name']}" for event in events]


@pytest.mark.slow
def test_a_run_killed_in_every_phase_ends_bit_for_bit_the_same(whole: Any, tmp_path: Path) -> None:
    """One run, killed with -9 in phase after phase and resumed each time."""
    run, delay = tmp_path / "run", random.Random(0)
    own = {"source.per_class": 2, "learner.reuse": False, "run.checkpoint_every_s": 0.2}
    flags = [f"--set={key}={value}" for key, value in (SHORT | own).items()]
    environment = os.environ | {"CLK_CACHE": str(tmp_path / "cache")}
    begin = [*CLK, "run", "--plugin", "recall", "--test", TEST, "--no-comparisons", "--output", str(run), *flags]
    for phase in ("0 first", "1 inpaint", "1 label", "1 increment", "1 helper", "2 label", "2 increment"):
        before = len(phases_of(run))
        command = [*CLK, "resume", str(run)] if (run / "run.json").is_file() else begin
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not any(begun.startswith(phase) for begun in phases_of(run)[before:]):
            assert process.poll() is None, f"the run ended without phase {phase}"
            time.sleep(0.05)
        time.sleep(delay.uniform(0.0, 1.0))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert subprocess.run([*CLK, "resume", str(run)], env=environment, capture_output=True, check=False).returncode == 0
    results = json.loads((run / "metrics.json").read_text())
    assert [results[key] for key in ("digest", "state_digest")] == [
        whole.results[key] for key in ("digest", "state_digest")
    ]
    matrices = sorted((run / "scores").glob("*.tree"))
    assert len(matrices) == 3
    for path in matrices:
        assert path.read_bytes() == (whole.folder / "scores" / path.name).read_bytes()


@pytest.mark.slow
def test_everything_goes_on_when_killed_and_trains_shared_artefacts_once(tmp_path: Path) -> None:
    """Three tests, two sources; step 0 of 15 and of 10 classes is trained once each, whatever is killed."""
    flags = [f"--set={key}={value}" for key, value in SHORT.items()]
    which = ["--all", "--test", "15-5,10-5-5,15-1", "--config", "OVERLAPPED", "--replay", "gan,flickr"]

    def command(place: str) -> list[str]:
        return [*CLK, "run", "--plugin", "recall", *which, "--output", str(tmp_path / place), *flags]

    def environment(place: str) -> dict[str, str]:
        return os.environ | {"CLK_CACHE": str(tmp_path / f"cache-{place}")}

    def digests(place: str) -> dict[str, str]:
        results = {path.parent.name: json.loads(path.read_text()) for path in (tmp_path / place).glob("*/metrics.json")}
        return {name: content["state_digest"] for name, content in results.items() if content["finished"]}

    def second() -> list[str]:
        return [phase for run in (tmp_path / "killed").glob("ADD_FIVE_TWO_TIMES-*-gan-*") for phase in phases_of(run)]

    killed = subprocess.Popen(command("killed"), env=environment("killed"), stderr=subprocess.DEVNULL)
    while "1 increment" not in second():
        assert killed.poll() is None, "it ended early"
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert len(digests("killed")) == 1
    for place in ("killed", "whole"):
        ended = subprocess.run(command(place), env=environment(place), capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr[-2000:]
        assert len(digests(place)) == 6
        assert len(list((tmp_path / f"cache-{place}" / "recall-first").iterdir())) == 2
    assert digests("killed") == digests("whole")
    assert "6/6" in ended.stderr and ended.stderr.count("recall-first") == 4
