"""Settings: layers, types, origins, and errors that name the key."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import pytest
from attrs import field, frozen, validators

from cl_kernel.contract.errors import BadSetting
from cl_kernel.running import settings as config
from cl_kernel.running.settings import Layer, RunOptions, resolve_settings


@frozen(kw_only=True)
class Learner:
    lr: float = field(default=0.1, validator=validators.gt(0))
    epochs: int = 1
    augment: bool = True
    mode: Literal["fast", "slow"] = "fast"
    widths: tuple[int, ...] = (16, 32)
    pair: tuple[int, float] = (1, 2.0)
    weights: Path | None = None
    table: Mapping[str, float] = field(factory=dict)
    text: str = ""


@frozen(kw_only=True)
class Dataset:
    epochs: int = 3
    n: int = 10


def resolve(*layers: Layer):
    return resolve_settings({"run": RunOptions, "learner": Learner, "dataset": Dataset}, layers)


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("learner.lr=1e-4", "lr", 1e-4),
        ("lr=3", "lr", 3.0),
        ("learner.epochs=4", "epochs", 4),
        ("augment=false", "augment", False),
        ("mode=slow", "mode", "slow"),
        ("widths=[4, 8, 16]", "widths", (4, 8, 16)),
        ("widths=4,8", "widths", (4, 8)),
        ("widths=7", "widths", (7,)),
        ("pair=[2, 0.5]", "pair", (2, 0.5)),
        ("weights=a/b.pt", "weights", Path("a/b.pt")),
        ("weights=null", "weights", None),
        ("table={a: 1}", "table", {"a": 1.0}),
        ("text=15-1", "text", "15-1"),
        ("text=", "text", ""),
    ],
)
def test_a_value_is_read_as_its_type(text, name, expected):
    value = getattr(resolve(config.parse_assignments([text])).sections["learner"], name)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learner.lr=fast", r"learner\.lr = 'fast' is not a number"),
        ("learner.lr=-1", "'lr' must be > 0"),
        ("learner.epochs=1.5", "not a whole number"),
        ("learner.epochs=true", "not a whole number"),
        ("augment=1", "not true or false"),
        ("mode=medium", "none of fast, slow"),
        ("widths=[a]", r"widths\[0\]"),
        ("pair=[1]", "pair"),
        ("learner.lrr=1", r"unknown setting 'learner\.lrr'; did you mean learner\.lr"),
        ("epochs=2", "ambiguous"),
        ("lr", "does not read key=value"),
        ("=3", "does not read key=value"),
        ("lr=[", "no readable value"),
        ("run.n_workers=-1", "n_workers"),
    ],
)
def test_a_bad_value_is_refused_with_its_key_and_origin(text, message):
    with pytest.raises(BadSetting, match=message) as caught:
        resolve(config.parse_assignments([text]))
    assert "--set" in caught.value.where


def test_later_layers_win_and_origins_are_kept():
    resolved = resolve(
        Layer("test X", {"learner.lr": 0.2, "learner.epochs": 5}),
        Layer("profile tiny", {"learner.lr": 0.3}),
        config.parse_assignments(["learner.lr=0.4"]),
    )
    assert (resolved.sections["learner"].lr, resolved.sections["learner"].epochs) == (0.4, 5)
    assert resolved.origins["learner.lr"] == "--set"
    assert resolved.origins["learner.epochs"] == "test X"
    assert resolved.origins["learner.mode"] == "default"


def test_settings_round_trip_through_yaml(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("learner:\n  lr: 0.5\n  table: {a: 2}\nrun.seed: 4\n")
    resolved = resolve(config.read_yaml(path))
    assert resolved.sections["learner"].table == {"a": 2.0}
    assert resolved.sections["run"].seed == 4
    assert resolved.origins["run.seed"] == str(path)


@pytest.mark.parametrize(
    ("content", "message"), [("learner: [", "cannot be read"), ("- 1\n- 2\n", "not sections"), (None, "does not exist")]
)
def test_a_settings_file_that_cannot_be_read_is_named(content, message, tmp_path):
    path = tmp_path / "x.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(BadSetting, match=message):
        config.read_yaml(path)
