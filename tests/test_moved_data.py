"""Data that lie elsewhere than when a run began: named in one message, and found again with ``--data-root``."""

from __future__ import annotations

import json

import numpy as np

PLUGIN = """
from pathlib import Path
import numpy as np
from cl_kernel import ArraySamples, Asset, Dataset, Field, Plugin, class_incremental, hookimpl

ROWS = Asset(name="rows", summary="rows", files=("rows.npz",), origin="nowhere")

@hookimpl
def clk_plugin():
    return Plugin(name="mine", summary="s", spec=2)

@hookimpl
def clk_datasets():
    return [Dataset(name="rows", summary="s", build="plugin_mine_1_0:build", task="vector -> class", assets=(ROWS,))]

def build(settings, resources):
    content = np.load(resources.locate(ROWS) / "rows.npz")
    spec = {"vector": Field(shape=(4,), dtype="float32", kind="vector"),
            "class": Field(shape=(), dtype="int64", kind="class", n=4)}
    samples = ArraySamples(spec, {"vector": content["x"], "class": content["y"]})
    return class_incremental("rows", samples, samples, list("abcd"), n_stages=2, task="vector -> class",
                             shuffle=resources.rng("order"))
"""
RUN = ("run", "--dataset", "mine:rows", "--learner", "linear", "--set", "run.plots=false")


def digests(place):
    content = json.loads((place / "metrics.json").read_text())
    return content["digest"], content["state_digest"]


def test_a_run_whose_data_moved_is_resumed_and_reproduced_from_where_they_are_now(clk, tmp_path):
    clk.add_plugin("mine", PLUGIN)
    here, there = tmp_path / "here", tmp_path / "there" / "deep"
    here.mkdir()
    y = np.repeat(np.arange(4), 30)
    x = np.random.default_rng(0).normal(0, 1, (120, 4)) + y[:, None]
    np.savez(here / "rows.npz", x=x.astype("float32"), y=y)
    clk(*RUN, "--data-root", here, "--output", "whole")
    clk(*RUN, "--data-root", here, "--output", "cut", "--set", "run.stop_at_step=3", code=130)
    there.parent.mkdir()
    here.rename(there)
    for command in ("resume", "reproduce"):
        said = clk(command, "cut" if command == "resume" else "whole", code=2).stderr
        assert f"data root {here} is no folder" in said and "--data-root" in said and "Traceback" not in said
    clk("resume", "cut", "--data-root", there)
    assert digests(tmp_path / "cut") == digests(tmp_path / "whole")
    assert "equal" in clk("reproduce", "whole", "--data-root", there).stdout
    np.savez(there / "rows.npz", x=(x + 1e-3).astype("float32"), y=y)
    said = clk("reproduce", "whole", "--data-root", there, code=3)
    assert "data: stages.a+b.train" in said.stdout + said.stderr
