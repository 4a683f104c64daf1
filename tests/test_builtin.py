"""The kernel's own streams and learner, through the public run."""

from __future__ import annotations

import numpy as np
import pytest

from cl_kernel.contract.errors import BadInput, Mismatch
from cl_kernel.contract.stream import Field, Stage, Stream
from cl_kernel.data.samples import ArraySamples
from cl_kernel.library import linear
from cl_kernel.library.datasets import blobs
from cl_kernel.library.memories.policies import ClassBalanced
from cl_kernel.library.memories.raw import RawCodec
from cl_kernel.library.settings import Blobs, Digits, Linear
from cl_kernel.memory import Memory
from cl_kernel.running.resources import Resources, Setup
from cl_kernel.storage.digests import Files


class Steps:
    """A context that counts steps and stops the learner after some."""

    def __init__(self, stop_after: int = -1) -> None:
        self.n, self.stop_after, self.losses = 0, stop_after, []

    def phase(self, name: str, n_steps: int = 0) -> None:
        pass

    def step(self, loss: float) -> None:
        self.n += 1
        self.losses.append(loss)
        if self.n == self.stop_after:
            raise InterruptedError


def learner_on(stream: Stream, resources: Resources, capacity: int) -> linear.LinearLearner:
    def memory(fields: dict) -> Memory:
        return Memory(ClassBalanced(capacity), RawCodec(fields), capacity, resources.rng("memory"))

    return linear.build(Linear(), Setup(stream=stream, resources=resources, memory=memory if capacity else None))


def accuracy(learner: linear.LinearLearner, stream: Stream) -> float:
    predicted = np.concatenate([o["scores"].argmax(1) for o in learner.predict(stream.test)])
    return float((predicted == stream.test.take(np.arange(len(stream.test)))["class"]).mean())


@pytest.mark.parametrize("seed", range(3))
def test_replay_beats_naive_training_by_thirty_points_on_blobs(seed: int) -> None:
    resources = Resources(seed=seed)
    stream = blobs.build(Blobs(), resources)
    scores = {}
    for capacity in (0, 100):
        learner = learner_on(stream, resources, capacity)
        for stage in stream.stages:
            learner.learn(stage, Steps())
        scores[capacity] = accuracy(learner, stream)
    assert scores[100] > scores[0] + 0.3


@pytest.mark.parametrize("stop_after", [1, 7, 8, 9, 40])
def test_a_learner_loaded_inside_a_stage_goes_on_exactly(stop_after: int) -> None:
    resources = Resources(seed=1)
    stream = blobs.build(Blobs(n_classes=4, n_stages=2), resources)
    straight, cut, resumed = (learner_on(stream, resources, 20) for _ in range(3))
    with pytest.raises(InterruptedError):
        cut.learn(stream.stages[0], Steps(stop_after))
    resumed.load(cut.state())
    for stage in stream.stages:
        straight.learn(stage, Steps())
        resumed.learn(stage, Steps())
    assert np.array_equal(straight.weights_DK, resumed.weights_DK)
    assert np.array_equal(straight.memory.state()["slots"]["vector"], resumed.memory.state()["slots"]["vector"])


def test_blobs_depend_on_the_seed_and_divide_evenly_or_not_at_all() -> None:
    one, again, other = (blobs.build(Blobs(), Resources(seed=s)) for s in (0, 0, 1))
    assert one.test.identify(Files()) == again.test.identify(Files()) != other.test.identify(Files())
    assert [s.classes for s in one.stages] == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]
    one.check()
    with pytest.raises(BadInput, match="10 classes do not divide into 3"):
        blobs.build(Blobs(n_stages=3), Resources())
    assert blobs.build(Blobs(n_classes=3, n_stages=3, order=(2, 0, 1)), Resources()).stages[0].classes == (2,)


def test_digits_have_one_split_and_leave_no_image_out() -> None:
    pytest.importorskip("sklearn", reason="digits come with scikit-learn")
    from cl_kernel.library.datasets import digits

    stream, other = digits.build(Digits(), Resources(seed=0)), digits.build(Digits(), Resources(seed=1))
    stream.check()
    assert sum(len(s.train) for s in stream.stages) + len(stream.test) == 1797
    assert np.array_equal(stream.test.rows, other.test.rows)
    images = stream.stages[0].train.take(np.arange(5))["image"]
    assert images.shape == (5, 8, 8, 1)
    assert images.dtype == np.float32
    assert 0 <= images.min() < images.max() <= 1


def test_linear_refuses_images_of_varying_size() -> None:
    spec = {"image": Field(shape=(None, None, 3), dtype="uint8", kind="image")}
    samples = ArraySamples(spec, {"image": np.empty(1, object)})
    stream = Stream(
        name="photos",
        task="image -> class",
        stages=[Stage(index=0, name="a", train=samples)],
        test=samples,
        test_sets={"a": np.zeros(1, int)},
        class_names=("a",),
    )
    with pytest.raises(Mismatch, match="'photos' has"):
        linear.build(Linear(), Setup(stream=stream, resources=Resources()))
