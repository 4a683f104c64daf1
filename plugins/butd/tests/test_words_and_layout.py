"""Questions in the words of their data set, and the layout of maps."""

from __future__ import annotations

import numpy as np
import torch

from cl_kernel import ArraySamples, Field, Stage, Stream
from cl_plugin_butd.evaluate.words import Words
from cl_plugin_butd.method.inputs import channels_last
from cl_plugin_butd.settings import Continual


def test_directions_are_said_as_people_say_them() -> None:
    samples = ArraySamples({"class": Field(shape=(), dtype="int64", kind="class")}, {"class": np.zeros(1, np.int64)})
    names = ("right", "right2", "up", "down", "Latin left2")
    stream = Stream(
        name="grid",
        task="image -> class",
        stages=[Stage(index=i, name=name, train=samples) for i, name in enumerate(names)],
        test=samples,
        test_sets={"all": np.zeros(1, np.int64)},
        class_names=("a", "7"),
    )
    said = [Words(stream).ask(task, 1) for task in range(5)]
    assert said == ["right of 7", "two right of 7", "above 7", "below 7", "Latin two left of 7"]


def test_narrow_stages_are_not_laid_out_channels_last_on_a_cpu() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    wide, narrow = Continual(filters=(16, 24, 32)), Continual(filters=(8, 12, 16))
    assert [channels_last(s, d) for s in (wide, narrow) for d in (cpu, cuda)] == [True, True, False, True]
    assert not channels_last(Continual(channels_last=False), cpu)
