"""Seeds trained side by side get what each gets alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attrs import evolve

from cl_kernel import Resources
from cl_plugin_clear.data.toy import build_drift
from cl_plugin_clear.evaluate import drift
from cl_plugin_clear.method import seeds as side_by_side
from cl_plugin_clear.settings import Buckets, ToyDrift

SMALL = ToyDrift(n_classes=4, n_features=8, n_buckets=4, n_train=15, n_test=20)


def learners_of(method: dict[str, Any], training: Buckets) -> tuple[list[Any], list[Any], list[Any]]:
    resources = [evolve(Resources(device="cpu"), seed=seed) for seed in range(3)]
    streams = [build_drift(SMALL, own) for own in resources]
    settings = evolve(training, keep=method["keep"], start=method.get("start", "retrain"))
    learners = [
        drift._learner(s, method, settings, own, seed, 0)
        for seed, (s, own) in enumerate(zip(streams, resources, strict=True))
    ]
    contexts = [
        drift.Quiet(own, s.stages, lambda **_: None, seed)
        for seed, (s, own) in enumerate(zip(streams, resources, strict=True))
    ]
    return learners, streams, contexts


@pytest.mark.parametrize("keep_best", [True, False])
@pytest.mark.parametrize(
    "method",
    [
        {"keep": "memory", "alpha": 2.0},
        {"keep": "memory", "alpha": 0.75, "dynamic": True, "start": "finetune"},
        {"keep": "two_buffer", "alpha": 1.0},
        {"keep": "cumulative"},
        {"keep": "nap"},
    ],
    ids=lambda method: method["keep"],
)
def test_weights_side_by_side_are_those_of_each_seed_alone(method: dict[str, Any], keep_best: bool) -> None:
    training = Buckets(epochs=6, batch_size=16, lr=0.3, lr_step=4, weight_decay=1e-3, keep_best=keep_best)
    alone, streams, contexts = learners_of(method, training)
    together, _, others = learners_of(method, training)
    for at in range(len(streams[0].stages)):
        for learner, stream, ctx in zip(alone, streams, contexts, strict=True):
            learner.learn(stream.stages[at], ctx)
        side_by_side.learn_together(together, [stream.stages[at] for stream in streams], others)
        for one, other in zip(alone, together, strict=True):
            for name, value in one.network.state_dict().items():
                np.testing.assert_allclose(other.network.state_dict()[name], value, rtol=2e-4, atol=2e-5, err_msg=name)
    differ = [learner.network.weight.detach().numpy() for learner in together]
    assert not np.allclose(differ[0], differ[1], atol=0.01)


def test_the_grid_has_a_command_and_leaves_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    from cl_kernel.cli.main import main

    monkeypatch.chdir(tmp_path)
    options = ["--set", "experiment.epochs=2", "--set", "experiment.n_seeds=2"]
    assert main(["run", "--plugin", "clear", "--test", "alpha-grid", "--output", str(tmp_path / "run"), *options]) == 0
    table = json.loads((tmp_path / "run" / "clear" / "table.json").read_text())
    assert len(table["matrices"]) == 18
    assert np.array(table["matrices"]["fixed 5 retrain"]).shape == (2, 10, 10)
    assert (
        main(
            [
                "run",
                "--plugin",
                "clear",
                "--test",
                "alpha-grid",
                "--set",
                "experiment.path=nowhere",
                "--output",
                str(tmp_path / "no"),
            ]
        )
        == 2
    )
