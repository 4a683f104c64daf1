"""The life of a run: stage loop, run folder, resume after anything, digests."""

from __future__ import annotations

import json
import os
import signal
import time

import numpy as np
import pytest

from cl_kernel.contract.errors import RunConflict
from cl_kernel.storage.checkpoint import load_tree
from cl_kernel.storage.run_folder import RunFolder

SMALL = (
    "--learner",
    "linear",
    "--dataset",
    "blobs",
    "--replay",
    "reservoir",
    "--memory",
    "40",
    "--set",
    "run.plots=false",
)
LONG = (*SMALL, "--set", "dataset.n_train=400", "--set", "learner.n_epochs=40")


def wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.01)


def final(folder):
    metrics = json.loads((folder / "metrics.json").read_text())
    return metrics["digest"], metrics["state_digest"]


def test_a_run_leaves_everything_needed_to_understand_it(clk, tmp_path):
    clk("run", *SMALL, "--output", "out", "--set", "run.plots=true")
    out = tmp_path / "out"
    files = {"run.json", "settings.yaml", "environment.json", "events.jsonl", "metrics.json"}
    assert {p.name for p in out.iterdir()} >= files | {"scores", "checkpoints", "plots"}
    metrics = json.loads((out / "metrics.json").read_text())
    R = metrics["metrics"]["accuracy"]["matrix"]
    assert np.shape(R) == (5, 5)
    assert all(0 <= value <= 1 for row in R for value in row)
    assert metrics["cost"]["memory_examples"] == 40
    assert "learner.n_epochs" not in (out / "settings.yaml").read_text()
    assert "memory: '40'  # --memory" in (out / "settings.yaml").read_text()
    assert {p.suffix for p in (out / "plots").iterdir()} == {".png", ".svg"}
    assert len(list((out / "scores").iterdir())) == 5
    assert len(load_tree(out / "scores" / "stage-000.tree")["class"]) == len(
        load_tree(out / "scores" / "stage-000.tree")["rows"]
    )


def test_the_same_seed_gives_the_same_digest_in_another_process_and_another_seed_does_not(clk, tmp_path):
    for name, seed, workers in (("a", 3, 0), ("b", 3, 4), ("c", 4, 0)):
        clk("run", *SMALL, "--seed", seed, "--n-workers", workers, "--output", name)
    assert final(tmp_path / "a") == final(tmp_path / "b")
    assert final(tmp_path / "a") != final(tmp_path / "c")


@pytest.mark.parametrize("step", [1, 7, 30, 90])
def test_a_run_stopped_at_any_step_resumes_bit_for_bit(step, clk, tmp_path):
    clk("run", *SMALL, "--output", "whole")
    clk("run", *SMALL, "--output", "cut", "--set", f"run.stop_at_step={step}", code=130)
    assert json.loads((tmp_path / "cut" / "run.json").read_text())["status"] == "interrupted"
    clk("resume", "cut")
    assert final(tmp_path / "whole") == final(tmp_path / "cut")


def test_a_killed_run_resumes_bit_for_bit(clk, tmp_path):
    arguments = (*LONG, "--set", "run.checkpoint_every_s=0.05")
    clk("run", *arguments, "--output", "whole")
    process = clk.start("run", *arguments, "--output", "cut")
    wait_for(lambda: (tmp_path / "cut" / "scores" / "stage-001.tree").exists())
    time.sleep(0.1)
    process.kill()
    process.communicate()
    assert not json.loads((tmp_path / "cut" / "metrics.json").read_text())["finished"]
    assert {row["folder"]: row["status"] for row in clk.json("runs", ".")} == {"cut": "killed", "whole": "finished"}
    clk("resume", "cut")
    assert final(tmp_path / "whole") == final(tmp_path / "cut")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(number, code, clk, tmp_path):
    process = clk.start("run", *LONG, "--output", "cut")
    wait_for(lambda: (tmp_path / "cut" / "scores" / "stage-000.tree").exists())
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "clk resume cut" in err
    clk("resume", "cut")
    assert json.loads((tmp_path / "cut" / "metrics.json").read_text())["finished"]


def test_a_truncated_newest_checkpoint_falls_back_to_the_one_before(clk, tmp_path):
    clk("run", *SMALL, "--output", "whole")
    arguments = (*LONG, "--set", "run.checkpoint_every_s=0.05")
    clk("run", *arguments, "--output", "long")
    process = clk.start("run", *arguments, "--output", "cut")
    folder = RunFolder(tmp_path / "cut")
    wait_for(lambda: len(folder.checkpoints()) == 2 and (tmp_path / "cut" / "scores").exists())
    process.kill()
    process.communicate()
    newest = folder.checkpoints()[-1]
    os.truncate(newest, newest.stat().st_size - 10)
    result = clk("resume", "cut")
    assert "damaged" in result.stderr
    assert newest.with_suffix(".damaged").exists()
    assert final(tmp_path / "long") == final(tmp_path / "cut")


def test_when_no_checkpoint_can_be_read_the_run_says_so(clk, tmp_path):
    clk("run", *SMALL, "--output", "cut", "--set", "run.stop_at_step=3", code=130)
    for path in RunFolder(tmp_path / "cut").checkpoints():
        path.write_bytes(b"x" * 200)
    assert "no checkpoint of this run can be read" in clk("resume", "cut", code=2).stderr


def test_a_second_process_on_a_run_folder_is_refused(clk, tmp_path):
    process = clk.start("run", *LONG, "--output", "cut")
    wait_for(lambda: (tmp_path / "cut" / "run.json").exists())
    assert f"in use by process {process.pid}" in clk("resume", "cut", code=2).stderr
    process.kill()
    process.communicate()


def test_a_folder_that_holds_a_run_is_not_overwritten(clk):
    clk("run", *SMALL, "--output", "out")
    assert "clk resume out" in clk("run", *SMALL, "--output", "out", code=2).stderr


def test_resuming_a_finished_run_changes_nothing(clk, tmp_path):
    clk("run", *SMALL, "--output", "out")
    before = final(tmp_path / "out")
    clk("resume", "out")
    assert final(tmp_path / "out") == before


def test_reproduce_tells_equal_from_different(clk, tmp_path):
    clk("run", *SMALL, "--output", "out")
    assert "equal" in clk("reproduce", "out", "--output", "again").stdout
    stored = json.loads((tmp_path / "out" / "metrics.json").read_text())
    (tmp_path / "out" / "metrics.json").write_text(json.dumps(stored | {"digest": "x"}))
    told = clk("reproduce", "out", "--output", "third", code=3).stdout
    assert "differs: out and third" in told
    assert "digest" in told


def test_a_full_disk_is_named_and_leaves_the_last_good_checkpoint(tmp_path):
    run = RunFolder(tmp_path)
    run.save_checkpoint(1, {"w": np.arange(3)})
    import errno

    from cl_kernel.storage.files import DiskFull, atomic

    with pytest.raises(DiskFull, match="the disk is full"), atomic(tmp_path / "checkpoints" / "0000000002.ckpt"):
        raise OSError(errno.ENOSPC, "No space left on device")
    found = run.load_checkpoint()
    assert found is not None
    assert found[1]["w"].tolist() == [0, 1, 2]
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["0000000001.ckpt"]


def test_a_folder_without_a_run_is_named(clk, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "is no run folder" in clk("resume", "empty", code=2).stderr
    with pytest.raises(RunConflict, match="no run folder"):
        _ = RunFolder(tmp_path / "empty").info


def test_no_more_than_two_checkpoints_are_kept(clk, tmp_path):
    clk("run", *LONG, "--output", "out", "--set", "run.checkpoint_every_s=0.02")
    assert len(RunFolder(tmp_path / "out").checkpoints()) == 2


def test_a_run_is_one_call_in_python(tmp_path, monkeypatch):
    from cl_kernel import BadSetting, run

    monkeypatch.setenv("CLK_PLUGINS", "")
    monkeypatch.setenv("CLK_CACHE", str(tmp_path / "cache"))
    heard = []
    outcome = run(
        learner="linear",
        dataset="blobs",
        replay="class-balanced",
        memory="20",
        settings={"run.plots": False},
        output=tmp_path / "out",
        listen=[heard.append],
    )
    assert outcome.results["finished"]
    assert outcome.results["cost"]["memory_examples"] == 20
    assert [type(event).__name__ for event in heard].count("StageEnded") == 5
    with pytest.raises(BadSetting, match="unknown speed"):
        run(learner="linear", dataset="blobs", speed=3)
