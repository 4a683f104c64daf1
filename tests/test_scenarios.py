"""Scenarios as settings of the stream, on data of one's own and on the digits; no learning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cl_kernel.contract.errors import ClkError
from cl_kernel.contract.stream import Stream
from cl_kernel.data.scenarios import arrange
from cl_kernel.data.stream_options import StreamOptions
from cl_kernel.data.transforms import blurred, rotated, transforms
from cl_kernel.registry import discover
from cl_kernel.running.build import build
from cl_kernel.running.plan import make_request, plan
from cl_kernel.running.resources import Resources
from cl_kernel.running.session import make_resources


def given(n_stages: int = 5) -> Stream:
    from cl_kernel.library.datasets.blobs import build as blobs
    from cl_kernel.library.settings import Blobs

    return blobs(Blobs(n_stages=n_stages), Resources(seed=0))


def made(seed: int = 0, **options: Any) -> Stream:
    stream = arrange(given(), StreamOptions(**options), Resources(seed=seed).rng, 5)
    stream.check()
    return stream


def labels(stream: Stream) -> list[np.ndarray]:
    return [stage.train.take(np.arange(len(stage.train)))["class"] for stage in stream.stages]


def of_tests(stream: Stream) -> list[np.ndarray]:
    return [stream.test.take(rows)["class"] for rows in stream.test_sets.values()]


def vectors(samples: Any) -> np.ndarray:
    return samples.take(np.arange(len(samples)))["vector"]


def everything(stream: Stream) -> set[bytes]:
    return {row.tobytes() for stage in stream.stages for row in vectors(stage.train)}


def test_nothing_asked_for_leaves_the_stream_as_it_is() -> None:
    stream = given()
    assert arrange(stream, StreamOptions(online=10), Resources().rng) is stream


def test_stages_of_unequal_sizes_in_any_order_of_classes() -> None:
    stream = made(scenario="class", sizes=(5, 3, 2), order=(9, 8, 7, 6, 5, 4, 3, 2, 1, 0))
    assert [stage.classes for stage in stream.stages] == [(9, 8, 7, 6, 5), (4, 3, 2), (1, 0)]
    for stage, mine, theirs in zip(stream.stages, labels(stream), of_tests(stream), strict=True):
        assert set(mine.tolist()) == set(theirs.tolist()) == set(stage.classes)
    assert everything(stream) == everything(given())
    drawn = [made(seed, order="random").stages[0].classes for seed in range(3)]
    assert len(set(drawn)) > 1
    assert drawn[0] == made(0, order="random").stages[0].classes


def test_a_task_stream_names_the_task() -> None:
    assert [stage.info["task"] for stage in made(scenario="task").stages] == [0, 1, 2, 3, 4]


def test_instances_are_dealt_once_with_every_class_in_every_stage() -> None:
    stream = made(scenario="instance", shares=(3.0, 2.0, 1.0))
    assert [len(mine) for mine in labels(stream)] == [300, 200, 100]
    assert all(set(mine.tolist()) == set(range(10)) for mine in [*labels(stream), *of_tests(stream)])
    assert everything(stream) == everything(given())
    assert sum(len(rows) for rows in stream.test_sets.values()) == len(given().test)


def test_a_random_mix_deals_each_class_by_shares_of_its_own() -> None:
    stream = made(scenario="mixed", mix=0.3)
    assert everything(stream) == everything(given())
    counts = np.array([np.bincount(mine, minlength=10) for mine in labels(stream)])
    assert (counts.sum(0) == 60).all() and counts.std(0).min() > 2
    for stage, mine in zip(stream.stages, labels(stream), strict=True):
        assert stage.classes == tuple(np.unique(mine))


def test_blurry_boundaries_move_a_share_elsewhere_and_keep_the_sizes() -> None:
    plain, stream = given(), made(blurry=0.25)
    for before, after, mine in zip(plain.stages, stream.stages, labels(stream), strict=True):
        own = np.isin(mine, before.classes)
        assert len(mine) == len(before.train) and np.count_nonzero(~own) == round(0.25 * len(mine))
        assert after.info["task_classes"] == before.classes
    assert everything(stream) == everything(plain)


def test_a_long_tail_falls_by_equal_factors_and_leaves_the_test_sets() -> None:
    counts = np.bincount(np.concatenate(labels(made(long_tail=20.0))))
    assert counts.tolist() == [round(60 * 20 ** (-k / 9)) for k in range(10)]
    shuffled = np.bincount(np.concatenate(labels(made(long_tail=20.0, tail="random"))))
    assert sorted(shuffled) == sorted(counts) and shuffled.tolist() != counts.tolist()
    assert [len(mine) for mine in of_tests(made(long_tail=20.0))] == [80] * 5


def test_few_shot_sessions_follow_a_full_first_stage() -> None:
    counts = [np.bincount(mine, minlength=10) for mine in labels(made(sizes=(6, 2, 2), shots=5))]
    assert counts[0][:6].tolist() == [60] * 6
    assert counts[1][6:8].tolist() == [5, 5] and counts[2][8:].tolist() == [5, 5]


@pytest.mark.parametrize("options", [{}, {"scenario": "class", "order": "random"}, {"scenario": "instance"}])
def test_validation_samples_are_kept_apart_class_by_class(options: dict[str, Any]) -> None:
    trained, kept = made(validation=0.1, **options), made(validation=0.1, scored="validation", **options)
    assert everything(trained) == everything(kept)
    apart = [vectors(kept.test)[rows] for rows in kept.test_sets.values()]
    held = {row.tobytes() for rows in apart for row in rows}
    assert not held & everything(kept) and held | everything(kept) == everything(given())
    assert np.bincount(np.concatenate(of_tests(kept))).tolist() == [6] * 10


def test_domains_hold_all_samples_transformed_and_the_first_as_they_are() -> None:
    stream = made(scenario="domain", transform="permutation", stages=3)
    first, *others = [np.sort(vectors(stage.train), 1) for stage in stream.stages]
    for other in others:
        assert {row.tobytes() for row in other} == {row.tobytes() for row in first}
    assert everything(given()) == {row.tobytes() for row in vectors(stream.stages[0].train)}
    assert not np.array_equal(vectors(stream.test)[:80], vectors(stream.test)[400:480])
    assert len(stream.test) == 3 * len(given().test)


def test_validation_samples_of_a_domain_are_the_same_in_every_domain() -> None:
    stream = made(scenario="domain", transform="permutation", validation=0.2, scored="validation", stages=2)
    held = [np.sort(vectors(stream.test)[rows], 1) for rows in stream.test_sets.values()]
    assert {row.tobytes() for row in held[0]} == {row.tobytes() for row in held[1]}
    learnt = {np.sort(row).tobytes() for stage in stream.stages for row in vectors(stage.train)}
    assert not learnt & {row.tobytes() for row in held[0]}


# ---- transforms -------------------------------------------------------------------------------------


def test_a_quarter_turn_is_numpys_and_a_small_one_interpolates() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 7, 7, 2), np.uint8)
    assert np.array_equal(rotated(images, 90.0), np.rot90(images, 1, (1, 2)))
    assert np.array_equal(rotated(images, 180.0), np.rot90(images, 2, (1, 2)))
    flat = rotated(np.full((1, 9, 9, 1), 7.0, np.float32), 10.0)
    assert flat[0, 4, 4, 0] == pytest.approx(7.0) and flat.dtype == np.float32


def test_blur_is_the_weighted_mean_of_the_neighbours() -> None:
    image = np.random.default_rng(0).random((1, 5, 6, 1))
    sigma, reach = 0.8, 3
    out = blurred(image, sigma)
    weights = [np.exp(-0.5 * (d / sigma) ** 2) for d in range(-reach, reach + 1)]
    for y in range(5):
        for x in range(6):
            total = 0.0
            for dy in range(-reach, reach + 1):
                for dx in range(-reach, reach + 1):
                    value = image[0, min(max(y + dy, 0), 4), min(max(x + dx, 0), 5), 0]
                    total += weights[dy + reach] * weights[dx + reach] * value / sum(weights) ** 2
            assert out[0, y, x, 0] == pytest.approx(total)


def test_a_tint_only_darkens() -> None:
    from cl_kernel.contract.stream import Field

    images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), np.uint8)
    first, *others = transforms("colour", 0.0, 3, Field(shape=(4, 4, 3), dtype="uint8", kind="image"), _rng())
    assert np.array_equal(first(images), images)
    for other in others:
        assert (other(images) <= images).all() and other(images).dtype == np.uint8 and (other(images) < images).any()


def _rng() -> np.random.Generator:
    return np.random.default_rng(3)


# ---- what a data set cannot give --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scenario": "class", "stages": 3}, "10 classes do not divide into 3 equal stages"),
        ({"scenario": "class", "sizes": (5, 4)}, "adding up to 10 classes"),
        ({"order": (0, 1, 1)}, "class order is no permutation"),
        ({"shots": 61}, "class blob2 has 60 training samples in stage 1, fewer than 61 shots"),
        ({"scenario": "instance", "stages": 50}, "class blob0 has 40 test samples for 50 stages"),
        ({"scenario": "domain"}, "a domain needs a transform"),
        ({"scenario": "domain", "transform": "rotatoin"}, "no transform 'rotatoin'"),
        ({"scenario": "domain", "transform": "rotation"}, "rotation is for images"),
        ({"scenario": "domain", "transform": "nowhere.py:f"}, "no file nowhere.py"),
        ({"scenario": "domain", "transform": "os.path:nothing"}, "unknown callable 'nothing'"),
        ({"long_tail": 1000.0}, "leaves none of the 60 samples"),
        ({"scenario": "class", "stages": 1, "blurry": 0.1}, "one stage has no boundary"),
        (
            {"shots": 1, "validation": 0.5, "scored": "validation", "scenario": "mixed", "mix": 0.01, "stages": 20},
            "left",
        ),
    ],
)
def test_what_a_data_set_cannot_give_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ClkError, match=message.replace("(", r"\(")):
        made(**options)


def test_data_without_a_class_a_sample_are_refused() -> None:
    from cl_kernel.contract.stream import Field, Stage
    from cl_kernel.data.samples import ArraySamples

    spec = {"mask": Field(shape=(2, 2), dtype="uint8", kind="mask")}
    samples = ArraySamples(spec, {"mask": np.zeros((4, 2, 2), np.uint8)})
    stages = [Stage(index=0, name="a", train=samples)]
    stream = Stream(name="masks", task="image -> mask", stages=stages, test=samples, test_sets={"a": np.arange(4)})
    with pytest.raises(ClkError, match="one class a sample; masks has mask"):
        arrange(stream, StreamOptions(scenario="instance"), Resources().rng)


def test_stages_that_share_samples_are_not_dealt_twice() -> None:
    from attrs import evolve

    stream = given()
    twice = evolve(stream, stages=[*stream.stages[:1], evolve(stream.stages[0], index=1, name="again")])
    with pytest.raises(ClkError, match="stages share samples"):
        arrange(twice, StreamOptions(scenario="instance"), Resources().rng)


def test_a_file_of_ones_own_that_cannot_be_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("open('nowhere.json')\n\ndef f(x, stage):\n    return x\n")
    with pytest.raises(ClkError, match=r"cannot be run: FileNotFoundError"):
        made(scenario="domain", transform=f"{tmp_path}/mine.py:f")


@pytest.mark.parametrize("options", [{"stages": 2}, {"sizes": (5, 5)}, {"order": "random"}])
def test_stages_that_share_classes_are_not_dealt_by_class_unasked(options: dict[str, Any]) -> None:
    domains = made(scenario="instance", stages=5)
    with pytest.raises(ClkError, match="share classes"):
        arrange(domains, StreamOptions(**options), Resources().rng)
    assert len(arrange(domains, StreamOptions(scenario="class", stages=2), Resources().rng).stages) == 2


@pytest.mark.parametrize(("body", "message"), [("return x[:, :2]", "keeps shape and type"), ("return 1 / 0", "Zero")])
def test_a_function_of_ones_own_that_does_not_do_is_named(tmp_path: Path, body: str, message: str) -> None:
    (tmp_path / "mine.py").write_text(f"def f(x, stage):\n    {body}\n")
    with pytest.raises(ClkError, match=message):
        made(scenario="domain", transform=f"{tmp_path}/mine.py:f")


@pytest.mark.parametrize(
    "options", [{"scored": "validation"}, {"long_tail": 0.5}, {"shares": (1.0, 0.0)}, {"order": "backwards"}]
)
def test_values_that_mean_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        StreamOptions(**options)


# ---- from the command line --------------------------------------------------------------------------


def built(dataset: str, **settings: Any) -> Stream:
    registry = discover(only=())
    named = {key.replace("__", "."): value for key, value in settings.items()}
    planned = plan(registry, make_request(dataset=dataset, learner="clk:linear", settings=named))
    return build(planned, make_resources(registry, planned, None, lambda event: None)).stream


def test_a_folder_whose_classes_do_not_divide_takes_sizes_of_the_stream(tmp_path: Path) -> None:
    from PIL import Image

    for name in "abc":
        (tmp_path / name).mkdir()
        for k in range(6):
            Image.new("RGB", (8, 8), (40 * k, 10, 10)).save(tmp_path / name / f"{k}.png")
    stream = built(f"folder:{tmp_path}", stream__sizes=[2, 1], dataset__size=8)
    assert [stage.classes for stage in stream.stages] == [(0, 1), (2,)]
    tint = built(f"folder:{tmp_path}", stream__scenario="domain", stream__transform="colour", stream__stages=2)
    assert [len(stage.train) for stage in tint.stages] == [15, 15]
    assert len({stage.identity.key for stage in tint.stages}) == 2


def test_arrays_and_vectors_of_ones_own_take_every_scenario(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(4), 10)
    np.savez(tmp_path / "images.npz", x=rng.integers(0, 255, (40, 6, 6), np.uint8), y=y)
    np.savez(tmp_path / "vectors.npz", x=rng.random((40, 5)), y=y, stage=np.tile([0, 1], 20))
    images, points = f"arrays:{tmp_path}/images.npz", f"vectors:{tmp_path}/vectors.npz"
    assert len(built(images, stream__scenario="domain", stream__transform="blur", stream__stages=2).stages) == 2
    assert len(built(images, stream__scenario="instance", stream__stages=2).stages) == 2
    assert [s.name for s in built(points, stream__validation=0.2).stages] == ["stage 0", "stage 1"]
    assert [s.classes for s in built(points, stream__scenario="class", stream__stages=2).stages] == [(0, 1), (2, 3)]


def test_names_that_a_piece_has_stay_the_pieces() -> None:
    assert len(built("clk:blobs", n_stages=2).stages) == 2
    assert built("clk:blobs", order=list(range(9, -1, -1))).stages[0].classes == (9, 8)
    assert built("clk:blobs", dataset__order=list(range(9, -1, -1)), stream__stages=2).stages[0].classes == (
        9,
        8,
        7,
        6,
        5,
    )


def test_online_means_one_pass_in_small_batches() -> None:
    registry = discover(only=())

    def planned(**settings: Any) -> Any:
        named = {key.replace("__", "."): value for key, value in settings.items()}
        return plan(registry, make_request(dataset="clk:blobs", learner="clk:linear", settings=named))

    flat = planned(stream__online=10).resolved.flat()
    assert (flat["learner.n_epochs"], flat["learner.batch_size"]) == (1, 10)
    with pytest.raises(ClkError, match=r"learner.n_epochs = 3 \(--set\) and stream.online = 10"):
        planned(stream__online=10, learner__n_epochs=3)


def test_train_is_said_once_for_every_learner_and_stands_back_behind_its_own_names() -> None:
    registry = discover(only=())

    def planned(**settings: Any) -> Any:
        named = {key.replace("__", "."): value for key, value in settings.items()}
        return plan(registry, make_request(dataset="clk:blobs", learner="clk:linear", settings=named))

    both = planned(train__lr=0.3, train__epochs=2, train__momentum=0.9)
    flat = both.resolved.flat()
    assert (flat["learner.lr"], flat["learner.n_epochs"]) == (0.3, 2)
    assert both.resolved.origins["learner.lr"] == "train"
    assert both.ignored == {"train.momentum": "clk:linear has no setting momentum"}
    assert planned(train__lr=0.3, lr=0.2).resolved.flat()["learner.lr"] == 0.2
    with pytest.raises(ClkError, match=r"learner\.lr = 'fast' is not a number"):
        planned(train__lr="fast")
