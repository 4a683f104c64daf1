"""Runs of the stand-in: reuse, resume, baselines, commands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cl_kernel import BadInput, BadSetting, Mismatch, MissingAsset, UnknownName, launch

from cl_plugin_recall.experiments import TINY

from .conftest import SHORT

TEST = "ADD_FIVE_TWO_TIMES"
CLK = [sys.executable, "-m", "cl_kernel.cli"]


def go(output: Path, test: str = TEST, **options: Any) -> Any:
    listen = options.pop("listen", [])
    settings = SHORT | {"source.per_class": 2} | options.pop("settings", {})
    if options.get("replay") == "none":
        settings.pop("source.per_class")
    return launch(test, plugin="recall", output=output, beside=False, listen=listen, settings=settings, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One finished run that several tests look at."""
    return go(tmp_path_factory.mktemp("whole") / "run")


def test_a_run_leaves_its_report_weights_and_pictures(whole: Any) -> None:
    folder = whole.folder
    assert (folder / "outputs" / "TINY (T2_P3.1.0.0_gan).txt").read_text().count("STEP") == 3
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
    from cl_kernel import Interrupted, ask, discover, execute, plan

    settings = {"source.per_class": 2, "learner.reuse": False, "run.stop_at_step": stop}
    with pytest.raises(Interrupted):
        go(tmp_path / "run", settings=settings)
    registry = discover()
    planned = plan(registry, ask(TEST, plugin="recall", settings=SHORT | settings))
    outcome = execute(registry, planned, tmp_path / "run", resume=True, beside=False)
    for key in ("digest", "state_digest"):
        assert outcome.results[key] == whole.results[key]


def test_fine_tuning_needs_no_source_and_no_helper(tmp_path: Path) -> None:
    outcome = go(
        tmp_path / "run", replay="none", settings={"learner.interleave_ratio_old": 0, "learner.mix_labels": False}
    )
    assert not list((outcome.folder / "weights").glob("helper-*"))


def test_a_configuration_says_how_the_data_is_cut(tmp_path: Path) -> None:
    own = {"learner.lr_initial_value_incremental": 3e-4, "learner.interleave_ratio_old": 0}
    outcome = go(tmp_path / "run", config="FINE_TUNING", replay="none", settings=own)
    text = (outcome.folder / "outputs" / "operative.gin").read_text()
    assert "dataset_type_incremental = 'sequential'" in text
    assert "lr_initial_value_incremental = 0.0003" in text  # --set wins over the configuration


def test_settings_and_own_gin_win_over_a_configuration_and_the_profile_keeps_its_schedule(tmp_path: Path) -> None:
    from cl_kernel import ask, discover, plan

    own = tmp_path / "own.gin"
    own.write_text("TrainManager.l2_decay = 7e-4\n")
    request = ask(
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
            launch(TEST, plugin="recall", output=tmp_path / "run", **options)
        return
    with pytest.raises(error):
        go(tmp_path / "run", **options)


def test_a_replay_folder_that_lacks_a_class_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photos" / "01").mkdir(parents=True)
    (tmp_path / "photos" / "01" / "0.jpg").write_bytes(b"x")
    with pytest.raises((BadInput, MissingAsset), match="class 2"):
        go(tmp_path / "run", replay=f"folder:{tmp_path / 'photos'}", settings={"source.per_class": 0})


def test_validate_dump_export_and_summary_read_a_run(whole: Any, tmp_path: Path) -> None:
    from cl_kernel.cli import main

    assert main(["recall", "validate", str(whole.folder)]) == 0
    assert (whole.folder / "outputs" / "validation.txt").read_text().count("LOSS") == 3
    assert main(["recall", "dump", str(whole.folder), "--rows", "0-2", "--output", str(tmp_path / "dump")]) == 0
    assert len(list((tmp_path / "dump" / "prediction").glob("*.png"))) == 3
    assert main(["recall", "export-checkpoints", str(whole.folder), "--output", str(tmp_path / "tree")]) == 0
    assert (tmp_path / "tree/checkpoints/helper_decoders/P3.1.0_E10_C11-15.index").is_file()
    assert (tmp_path / "tree/checkpoints/decoders/P3.1.0.0_T2_S2_gan.index").is_file()
    assert main(["recall", "summary", str(whole.folder), "--format", "latex", "--output", str(tmp_path / "t.tex")]) == 0
    assert "tabular" in (tmp_path / "t.tex").read_text()


def test_re_validation_gives_the_scores_of_the_run(whole: Any) -> None:
    from cl_plugin_recall.commands.showing import rebuilt
    from cl_plugin_recall.evaluate.validation import validate_step

    learner, step = rebuilt(whole.folder, None)
    scores, loss, _, _ = validate_step(learner, step)
    seen = whole.results["metrics"]["segmentation"]["seen"][-1]
    assert loss is not None and scores["miou"] == pytest.approx(seen["all"], abs=2e-3)


def test_run_all_shares_artefacts_and_goes_on_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from cl_kernel.cli import main

    flags = [
        f"--set={key}={value}"
        for key, value in (SHORT | {"source.per_class": 2}).items()
        if not key.startswith("source")
    ]
    command = [
        "recall",
        "run-all",
        "--output",
        str(tmp_path),
        "--tests",
        "1,2",
        "--configs",
        "OVERLAPPED",
        "--sources",
        "gan",
        "--no-joint",
        *flags,
    ]
    assert main(command) == 0
    assert "reused" in capsys.readouterr().err
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/metrics.json")}
    assert len(before) == 2 and main(command) == 0
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/metrics.json")}


@pytest.mark.slow
def test_a_killed_run_resumes_bit_for_bit(whole: Any, tmp_path: Path) -> None:
    flags = [
        f"--set={key}={value}"
        for key, value in (
            SHORT | {"source.per_class": 2, "learner.reuse": False, "run.checkpoint_every_s": 0.5}
        ).items()
    ]
    environment = os.environ | {"CLK_CACHE": str(tmp_path / "cache")}
    command = [
        *CLK,
        "run",
        "--plugin",
        "recall",
        "--test",
        TEST,
        "--no-beside",
        "--output",
        str(tmp_path / "run"),
        *flags,
    ]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    while not list((tmp_path / "run" / "checkpoints").glob("*.ckpt")):
        time.sleep(0.2)
        assert process.poll() is None, "the run ended before its first checkpoint"
    time.sleep(1.0)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (
        subprocess.run(
            [*CLK, "resume", str(tmp_path / "run")], env=environment, stderr=subprocess.DEVNULL, check=False
        ).returncode
        == 0
    )
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["state_digest"] == whole.results["state_digest"]
