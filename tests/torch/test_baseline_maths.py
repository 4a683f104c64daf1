"""The arithmetic of the generic baselines: projections, herding, prototypes, penalties, and score columns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from cl_kernel.contract.stream import Field, Stage
from cl_kernel.data.samples import ArraySamples
from cl_kernel.methods import exemplar_sets, gradients, penalty
from cl_kernel.methods.agem import agem
from cl_kernel.methods.ewc import Ewc
from cl_kernel.methods.gem import gem
from cl_kernel.methods.l2 import L2
from cl_kernel.methods.mas import Mas
from cl_kernel.methods.online_ewc import OnlineEwc
from cl_kernel.methods.seen_classes import SeenClasses
from cl_kernel.methods.si import Si


def stage(index: int, labels: list[int], declared: tuple[int, ...] = ()) -> Stage:
    samples = ArraySamples({"class": Field(shape=(), dtype="int64", kind="class")}, {"class": np.array(labels)})
    return Stage(index=index, name=str(index), train=samples, classes=declared)


def test_classes_get_columns_in_order_of_appearance() -> None:
    seen = SeenClasses()
    seen.extend(stage(0, [5, 2, 5]), "class")
    seen.extend(stage(0, [5, 2, 5]), "class")  # again after a resume: nothing changes
    seen.extend(stage(1, [7], (7,)), "class")
    assert (seen.order, seen.by_stage) == ([5, 2, 7], [[5, 2], [7]])
    assert seen.columns_of(torch.tensor([7, 5, 2])).tolist() == [2, 0, 1]
    scores = torch.arange(9.0)[None]
    by_label = seen.by_label(scores)
    assert by_label[0, [5, 2, 7]].tolist() == [0, 1, 2]
    assert torch.isinf(by_label[0, [0, 1, 3, 4, 6, 8]]).all()
    again = SeenClasses()
    again.load(seen.state())
    assert again.order == seen.order


def test_a_projected_gradient_hurts_no_task() -> None:
    generator = torch.Generator().manual_seed(0)
    tasks, gradient = torch.randn(3, 20, generator=generator), torch.randn(20, generator=generator)
    turned = gem(gradient, tasks, margin=0.0)
    assert (tasks @ gradient < 0).any()
    assert (tasks @ turned > -1e-2).all()
    assert torch.equal(gem(gradient, tasks[tasks @ gradient >= 0]), gradient)
    reference = tasks[(tasks @ gradient).argmin()]
    assert abs(float(agem(gradient, reference) @ reference)) < 1e-4


def test_gradients_survive_flattening() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    net[0](torch.ones(1, 3)).sum().backward()  # the second layer has no gradient
    flat = gradients.flat_gradient(net.parameters())
    gradients.set_gradient(net.parameters(), 2 * flat)
    assert torch.equal(gradients.flat_gradient(net.parameters()), 2 * flat)


def test_herding_repeats_nothing_and_starts_near_the_mean() -> None:
    features = torch.randn(12, 4, generator=torch.Generator().manual_seed(1)).abs()
    order = exemplar_sets.herding(features, 20).tolist()
    assert sorted(order) == list(range(12))
    unit = torch.nn.functional.normalize(features, dim=1)
    mean = torch.nn.functional.normalize(unit.mean(0), dim=0)
    assert order[0] == int(((unit - mean) ** 2).sum(1).argmin())


def test_the_embedding_is_what_enters_the_score_layer() -> None:
    net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    x = torch.randn(4, 3)
    features, scores = exemplar_sets.embed(net, x)
    torch.testing.assert_close(features, net[:2](x))
    torch.testing.assert_close(scores, net(x))


@pytest.mark.parametrize("method", [L2, Ewc, OnlineEwc, Si, Mas])
def test_a_penalty_is_zero_at_the_anchor_and_grows_away_from_it(method: type[penalty.Consolidation]) -> None:
    torch.manual_seed(0)
    net = nn.Linear(4, 3)
    x, y = torch.randn(8, 4), torch.randint(0, 3, (8,))
    keeper = method(2.0)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    keeper.begin(net)
    for _ in range(3):
        keeper.step(net, optimizer, nn.functional.cross_entropy(net(x), y))
    keeper.end(net, [(x, y)], 3)
    assert keeper.penalty(net).item() == 0.0
    with torch.no_grad():
        net.weight += 1
    assert keeper.penalty(net).item() > 0
