"""The kit finds a learner that changes what lies below the cut of its network."""

from __future__ import annotations

from typing import Any

import pytest

THAWING = """
from cl_kernel import Learner, Plugin, hookimpl
from cl_kernel.methods.fine_tuning import FineTuning, Settings


@hookimpl
def clk_plugin():
    return Plugin(name="thawing", summary="norms below the cut follow the data")


@hookimpl
def clk_learners():
    return [
        Learner(
            name="thawing",
            summary="fine-tuning that moves a statistic",
            build="plugin_thawing_1_0:build",
            takes=("image -> class",),
            accepts=("model",),
            framework="torch",
            settings=Settings,
            defaults={"model": "convnet"},
        )
    ]


class Thawing(FineTuning):
    def learn(self, stage, ctx):
        super().learn(stage, ctx)
        if MOVES:
            self.network.lower.get_buffer("1.below.1.running_mean").add_(1e-6)


MOVES = True


def build(settings, setup):
    return Thawing(settings, setup)
"""


@pytest.mark.parametrize("moves", [True, False])
def test_a_statistic_below_the_cut_that_moves_is_found(moves: bool, clk: Any) -> None:
    clk.add_plugin("thawing", THAWING.replace("MOVES = True", f"MOVES = {moves}"))
    done = clk("check-plugin", "thawing", "--only", "nothing_below_the_cut_changes", code=int(moves))
    assert ("changes what lies below the cut: below.1.running_mean" in done.stdout) == moves
