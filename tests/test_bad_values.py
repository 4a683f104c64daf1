"""Every setting of every installed piece, given values that cannot be meant: a message that names it, or a piece."""

from __future__ import annotations

import contextlib
import math
import resource
import signal
from collections.abc import Iterator
from typing import Any

import attrs
import pytest

from cl_kernel.contract.errors import BadSetting, ClkError, Diverged
from cl_kernel.registry import Registry, discover
from cl_kernel.running.plan import Plan, make_request, plan
from cl_kernel.running.session import make_resources, run_plan
from cl_kernel.running.settings import Layer, RunOptions, resolve_settings

VALUES: tuple[Any, ...] = (0, -1, math.nan, math.inf, "", [], [1] * 37, 10**30)
KINDS = ("dataset", "model", "replay", "learner", "metric")


def classes(registry: Registry) -> dict[str, type]:
    """Section and class of the settings of every piece and test."""
    found: dict[str, type] = {"run": RunOptions}
    for kind in KINDS:
        for offer in registry.offers[kind]:
            if offer.record.settings is not None:
                found[f"{kind} {offer.name}"] = offer.record.settings
    for offer in registry.offers["test"]:
        if offer.record.options is not None:
            found[f"experiment {offer.name}"] = offer.record.options
    return found


CLASSES = classes(discover())


@pytest.mark.parametrize("piece", CLASSES)
def test_a_bad_value_is_refused_naming_the_setting_or_gives_settings(piece):
    cls, wrong = CLASSES[piece], []
    for attribute in attrs.fields(cls):
        for value in VALUES:
            try:
                resolve_settings({"s": cls}, [Layer("--set", {f"s.{attribute.name}": value})])
            except ClkError as error:
                if attribute.name not in str(error) or "--set" not in str(error):
                    wrong.append(f"{attribute.name}={value!r}: the message does not name it: {error}")
            except Exception as error:
                wrong.append(f"{attribute.name}={value!r}: {type(error).__name__}: {error}")
    assert wrong == []


def test_every_setting_of_every_piece_is_covered():
    unique = set(CLASSES.values())
    assert sum(len(attrs.fields(cls)) for cls in unique) > 60


# ---- building ------------------------------------------------------------------------------------


@contextlib.contextmanager
def limits(seconds: int, gigabytes: float) -> Iterator[None]:
    def late(signum: int, frame: object) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (int(gigabytes * 2**30), hard))
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def fields_of(names: list[str]) -> list[tuple[str, str, Any]]:
    registry, found = discover(only=()), []
    for name in names:
        planned = plan(registry, request(name))
        for section, cls in planned.resolved.sections.items():
            if section in ("dataset", "learner", "model", "policy", "codec") and cls is not None:
                found += [(name, f"{section}.{a.name}", v) for a in attrs.fields(type(cls)) for v in VALUES]
    return found


ASKED = {
    "linear": {"learner": "clk:linear", "dataset": "clk:blobs", "replay": "clk:largest-class+clk:raw"},
    "er": {"learner": "clk:er", "dataset": "clk:digits", "model": "clk:mlp", "replay": "clk:biased-reservoir+clk:raw"},
}


def request(name: str, **settings: Any) -> Any:
    return make_request(**ASKED[name], settings={"run.plots": False, "run.stop_at_step": 1, **settings})


def built(planned: Plan, registry: Registry) -> None:
    from cl_kernel.running import session

    session.build(planned, make_resources(registry, planned, None, lambda event: None))


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """What building imports takes longer than a piece may."""
    registry = discover(only=())
    for name in ASKED:
        built(plan(registry, request(name)), registry)


@pytest.mark.parametrize(("name", "key", "value"), fields_of(["linear", "er"]), ids=lambda v: str(v)[:20])
def test_a_bad_value_is_refused_before_training_or_the_pieces_are_built(name, key, value):
    registry = discover(only=())
    with limits(10, 3.0):
        try:
            built(plan(registry, request(name, **{key: value})), registry)
        except ClkError as error:
            assert key.split(".")[1] in str(error)


# ---- numbers that get lost -----------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_run_whose_loss_is_lost_stops_saved_with_the_step(tmp_path, monkeypatch):
    from cl_kernel.running import loop

    monkeypatch.setattr(loop, "REPORT_EVERY_S", 0.0)
    monkeypatch.setenv("CLK_CACHE", str(tmp_path / "cache"))
    registry = discover(only=())
    asked = make_request(learner="clk:linear", dataset="clk:blobs", settings={"learner.lr": 1e308, "run.plots": False})
    with pytest.raises(Diverged, match=r"no finite number at step \d+|scores after stage 0"):
        run_plan(registry, plan(registry, asked), tmp_path / "run")
    assert (tmp_path / "run" / "run.json").read_text().count('"failed"') == 1


def test_weights_that_are_lost_stop_the_run_saved_though_its_loss_is_finite(tmp_path, monkeypatch):
    """A learner whose weights turn to NaN while the loss that it reports stays a number."""
    import numpy as np

    from cl_kernel.library import linear
    from cl_kernel.running import loop

    class Losing(linear.LinearLearner):
        def state(self):
            tree = dict(super().state())
            broken = {
                name: np.full_like(a, np.nan) for name, a in tree.items() if getattr(a, "dtype", "") == np.float64
            }
            return tree | broken

    monkeypatch.setattr(loop, "REPORT_EVERY_S", 0.0)
    monkeypatch.setattr(linear, "LinearLearner", Losing)
    monkeypatch.setenv("CLK_CACHE", str(tmp_path / "cache"))
    registry = discover(only=())
    asked = make_request(learner="clk:linear", dataset="clk:blobs", settings={"run.plots": False})
    with pytest.raises(Diverged, match=r"no finite number at step \d+"):
        run_plan(registry, plan(registry, asked), tmp_path / "run")
    assert list((tmp_path / "run" / "checkpoints").glob("*.ckpt"))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**30, 2**63])
def test_numbers_that_nobody_can_mean_are_refused_for_any_setting(value):
    @attrs.frozen
    class Settings:
        rate: float = 0.1
        n: int = 1
        sizes: tuple[int, ...] = ()
        limit: float = math.inf

    for key in ("rate", "n"):
        if key == "rate" and isinstance(value, int):
            continue
        with pytest.raises(BadSetting, match=f"s.{key}"):
            resolve_settings({"s": Settings}, [Layer("--set", {f"s.{key}": value})])
    assert resolve_settings({"s": Settings}, [Layer("--set", {"s.limit": math.inf})]).sections["s"].limit == math.inf
