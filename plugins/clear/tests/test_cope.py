"""CoPE: the loss that it takes against the definition item by item, its prototypes, and a stream that it learns."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch

from cl_kernel.cli.main import main
from cl_kernel.methods.cope import ppp_loss
from cl_plugin_clear.method.baselines import Past
from cl_plugin_clear.settings import Buckets

T = 0.1


def by_definition(x: np.ndarray, labels: list[int], prototypes: np.ndarray) -> float:
    """The loss as the paper writes it, one pair after the other."""

    def chance(item: int, stand_in: np.ndarray, c: int) -> float:
        others = sum(math.exp(x[item] @ p / T) for k, p in enumerate(prototypes) if k != c)
        mine = math.exp(x[item] @ stand_in / T)
        return mine / (mine + others)

    total, n = 0.0, len(labels)
    for i, c in enumerate(labels):
        stand_ins = [prototypes[c]] + [x[j] for j in range(n) if labels[j] == c and j != i]
        total += math.log(np.mean([chance(i, p, c) for p in stand_ins]))
        for j in range(n):
            if labels[j] != c:
                total += math.log(1 - np.mean([chance(j, p, c) for p in (prototypes[c], x[i])]))
    return -total / n


def test_the_loss_is_its_definition() -> None:
    rng = np.random.default_rng(0)
    for n, n_classes in ((6, 3), (9, 4), (3, 2)):
        x, prototypes = (
            v / np.linalg.norm(v, axis=1, keepdims=True)
            for v in (rng.normal(size=(n, 5)), rng.normal(size=(n_classes, 5)))
        )
        labels = rng.integers(0, n_classes, n).tolist()
        ours = ppp_loss(torch.tensor(x), torch.tensor(labels), torch.tensor(prototypes), T)
        assert math.isclose(float(ours), by_definition(x, labels, prototypes), rel_tol=1e-6)


def test_prototypes_follow_slowly_and_stay_on_the_sphere() -> None:
    past = Past(Buckets(method="cope", cope_momentum=0.9, cope_temperature=T), n_stages=2)
    x = torch.eye(3)
    loss = past._to_prototypes(x[[0, 2]].requires_grad_(), torch.tensor([0, 2]))
    assert past.prototypes is not None
    assert past.prototypes.tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 1]]  # a class never seen has none
    expected = by_definition(x[[0, 2]].double().numpy(), [0, 1], np.eye(3)[[0, 2]])
    assert math.isclose(float(loss.detach()), expected, rel_tol=1e-3)
    past._to_prototypes(x[[1]], torch.tensor([0]))
    torch.testing.assert_close(past.prototypes[0], torch.nn.functional.normalize(torch.tensor([0.9, 0.1, 0.0]), dim=0))


def test_it_learns_and_goes_on_after_a_stop(tmp_path: Path) -> None:
    small = "--set dataset.n_buckets=3 --set dataset.n_test=40 --set learner.epochs=4"
    words = f"run --plugin clear --test baselines/cope {small}"
    assert main([*words.split(), "--output", str(tmp_path / "whole")]) == 0
    figures = json.loads((tmp_path / "whole" / "clear" / "metrics.json").read_text())
    assert figures["in_domain"] > 0.5  # chance is 1/6
    stopped = main([*words.split(), "--set", "run.stop_at_step=30", "--output", str(tmp_path / "parts")])
    assert stopped
    assert main(["resume", str(tmp_path / "parts")]) == 0
    digests = [json.loads((tmp_path / name / "metrics.json").read_text())["digest"] for name in ("whole", "parts")]
    assert digests[0] == digests[1]
