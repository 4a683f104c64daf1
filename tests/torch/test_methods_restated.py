"""Each method's arithmetic beside an independent restatement: loops over samples, closed forms, orders by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.nn import functional as F

from cl_kernel.methods import agem, bic, cwr, er_ace, ewc, exemplar_sets, fecam, gdumb, gem, lwf, mas, mir, rainbow
from cl_kernel.methods.ewc import Ewc
from cl_kernel.methods.gradients import per_sample_gradients
from cl_kernel.methods.l2 import L2
from cl_kernel.methods.online_ewc import OnlineEwc
from cl_kernel.methods.penalty import trainable
from cl_kernel.methods.si import PathIntegral, Si


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 5))


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(7, 4, generator=generator), torch.randint(0, 3, (7,), generator=generator)


def looped(net: nn.Module, x: Tensor, loss) -> list[dict[str, Tensor]]:
    """Gradients sample by sample, by backward."""
    net.eval()
    out = []
    for at in range(len(x)):
        net.zero_grad()
        loss(net(x[at : at + 1]), at).backward()
        out.append({name: p.grad.clone() for name, p in net.named_parameters()})
    net.train()
    return out


def test_gradients_of_single_samples_are_those_of_a_loop(net, data, monkeypatch) -> None:
    x, y = data
    monkeypatch.setattr("cl_kernel.methods.gradients.PER_SAMPLE_BYTES", 4 * 90 * 3)  # three samples at a time
    net.eval()
    found = list(per_sample_gradients(net, x, y, lambda scores, c: F.cross_entropy(scores[None], c[None])))
    assert len(found) > 1
    expected = looped(net, x, lambda scores, at: F.cross_entropy(scores, y[at : at + 1]))
    for name in trainable(net):
        torch.testing.assert_close(
            torch.cat([part[name] for part in found]), torch.stack([one[name] for one in expected])
        )


@pytest.mark.parametrize("labels", ["given", "predicted"])
def test_the_fisher_information_is_the_mean_square_of_single_gradients(net, data, labels: str) -> None:
    x, y = data
    found = ewc.fisher(net, [(x[:4], y[:4]), (x[4:], y[4:])], 3, labels, np.random.default_rng(0))
    net.eval()
    chosen = y if labels == "given" else net(x)[:, :3].argmax(1)
    each = looped(net, x, lambda scores, at: F.cross_entropy(scores[:, :3], chosen[at : at + 1]))
    for name in trainable(net):
        torch.testing.assert_close(found[name], sum(one[name] ** 2 for one in each) / len(x))
    # A short last batch weighs by its samples, and squares of batch means are something else.
    batches = ewc.batch_fisher(net, [(x, y)], 3)
    assert not torch.allclose(found["3.weight"], batches["3.weight"], rtol=0.05)


def test_drawn_labels_give_the_fisher_information_in_expectation(net, data) -> None:
    x, y = data
    rng = np.random.default_rng(3)
    draws = [ewc.fisher(net, [(x, y)], 3, "sampled", rng)["3.bias"] for _ in range(600)]
    net.eval()
    p = net(x)[:, :3].softmax(1)
    exact = torch.zeros(5)
    exact[:3] = (p * (1 - p)).mean(0).detach()  # of a score's bias: E[(p - 1{y})^2] = p (1 - p)
    torch.testing.assert_close(torch.stack(draws).mean(0), exact, rtol=0.1, atol=0.01)


def test_labels_are_drawn_from_the_softmax() -> None:
    scores = torch.tensor([[0.0, math.log(3.0)]]).repeat(4000, 1)
    share = ewc.drawn_labels(scores, np.random.default_rng(0)).float().mean()
    assert abs(float(share) - 0.75) < 0.03


def test_ewc_keeps_an_anchor_a_stage_and_the_online_form_one_that_fades(net, data) -> None:
    x, y = data
    single, online = Ewc(3.0, "given"), OnlineEwc(3.0, "given", decay=0.5)
    first = ewc.fisher(net, [(x, y)], 3, "given", np.random.default_rng(0))
    start = {name: p.detach().clone() for name, p in trainable(net).items()}
    for keeper in (single, online):
        keeper.end(net, [(x, y)], 3)
    with torch.no_grad():
        net[3].weight += 0.1
    second = ewc.fisher(net, [(x, y)], 3, "given", np.random.default_rng(0))
    middle = {name: p.detach().clone() for name, p in trainable(net).items()}
    for keeper in (single, online):
        keeper.end(net, [(x, y)], 3)
    with torch.no_grad():
        net[0].weight -= 0.2
    by_hand = sum(
        float((f[name] * (p - at[name]) ** 2).sum())
        for f, at in ((first, start), (second, middle))
        for name, p in net.state_dict().items()
        if name in f
    )
    assert single.penalty(net).item() == pytest.approx(3 * by_hand, rel=1e-4)
    once = sum(
        float(((0.5 * first[n] + second[n]) * (p - middle[n]) ** 2).sum())
        for n, p in net.state_dict().items()
        if n in middle
    )
    assert online.penalty(net).item() == pytest.approx(3 * once, rel=1e-4)


def test_si_adds_up_the_path_and_pays_nothing_for_rising_losses() -> None:
    net = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(net.weight)
    keeper = Si(1.0, path=PathIntegral(0.1, signed=False))
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    keeper.begin(net)
    omega, weights = np.zeros(2), np.zeros(2)
    for gradient in ([1.0, -2.0], [0.5, 1.0]):
        keeper.step(net, optimizer, (net.weight * torch.tensor([gradient])).sum())
        omega -= np.array(gradient) * (-0.1 * np.array(gradient))
        weights -= 0.1 * np.array(gradient)
    np.testing.assert_allclose(keeper.path.omega["weight"][0], omega, rtol=1e-5)
    keeper.path.omega["weight"][0, 1] = -1.0
    keeper.end(net, [], 1)
    expected = np.maximum([omega[0], -1.0], 0) / (weights**2 + 0.1)
    np.testing.assert_allclose(keeper.anchors[0].importance["weight"][0], expected, rtol=1e-5)
    signed = PathIntegral(0.1, signed=True, omega=keeper.path.omega, start=keeper.path.start)
    assert float(signed.importance(net)["weight"][0, 1]) < 0


def test_mas_is_the_mean_magnitude_of_single_gradients(net, data) -> None:
    x, y = data
    found = mas.sensitivity(net, [(x[:4], y[:4]), (x[4:], y[4:])], 3)
    each = looped(net, x, lambda scores, at: (scores[:, :3] ** 2).sum())
    for name in trainable(net):
        torch.testing.assert_close(found[name], sum(one[name].abs() for one in each) / len(x))


def test_l2_is_the_squared_distance(net) -> None:
    keeper = L2(0.5)
    keeper.end(net, [], 3)
    with torch.no_grad():
        net[0].bias += 2
    assert keeper.penalty(net).item() == pytest.approx(0.5 * 4 * 6)


def test_lwf_distils_softened_answers() -> None:
    scores, old = torch.tensor([[1.0, 2.0, 0.5]]), torch.tensor([[0.0, 2.0]])
    p = np.exp(np.array([0.0, 2.0]) / 2)
    q = np.exp(np.array([1.0, 2.0]) / 2)
    expected = -(p / p.sum() * np.log(q / q.sum())).sum()
    assert float(lwf.distillation(scores, old, 2.0)) == pytest.approx(expected, rel=1e-5)


def test_herding_by_hand() -> None:
    # On the unit circle at 0, 50, 80 and 350 degrees; the mean points to about 29 degrees.
    angles = np.deg2rad([0, 50, 80, 350])
    features = torch.from_numpy(np.stack([np.cos(angles), np.sin(angles)], 1))
    mean = features.mean(0) / features.mean(0).norm()
    order: list[int] = []
    for _ in range(3):
        best = min(
            (at for at in range(4) if at not in order),
            key=lambda at: float((F.normalize(features[[*order, at]].mean(0), dim=0) - mean).norm()),
        )
        order.append(best)
    assert exemplar_sets.herding(features, 3).tolist() == order == [1, 0, 2]


def test_the_fitted_bias_is_the_least_cross_entropy() -> None:
    generator = torch.Generator().manual_seed(0)
    columns = torch.arange(4).repeat(50)
    scores = 2 * F.one_hot(columns, 4) + 1.5 * torch.randn(200, 4, generator=generator)
    scores[:, 2:] = 1.7 * scores[:, 2:] + 1.2  # the newest two are favoured
    scale, shift = bic.fit_bias(scores, columns, 2, n_epochs=800, lr=0.05)

    def cross_entropy(pair: np.ndarray) -> float:
        corrected = scores.clone()
        corrected[:, 2:] = corrected[:, 2:] * pair[0] + pair[1]
        return float(F.cross_entropy(corrected.double(), columns))

    best = minimize(cross_entropy, [1.0, 0.0], method="Nelder-Mead").x
    np.testing.assert_allclose([scale, shift], best, atol=0.02)
    assert scale < 0.8 and shift < 0


def test_a_projected_gradient_is_the_nearest_that_hurts_no_stage() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        stages, gradient = rng.standard_normal((2, 6)), rng.standard_normal(6)
        if (stages @ gradient >= 0).all():
            gradient = -gradient
        found = gem.project(torch.from_numpy(gradient), torch.from_numpy(stages)).numpy()
        best = minimize(
            lambda z, g=gradient: ((z - g) ** 2).sum(),
            gradient,
            jac=lambda z, g=gradient: 2 * (z - g),
            constraints=[{"type": "ineq", "fun": lambda z, s=stages: s @ z}],
        ).x
        np.testing.assert_allclose(found, best, atol=1e-5)
    # The margin adds the stages' gradients on top of that solution.
    more = gem.project(torch.from_numpy(gradient), torch.from_numpy(stages), 0.5).numpy()
    np.testing.assert_allclose(more, found + 0.5 * stages.sum(0), atol=1e-9)


def test_agem_takes_one_direction_out() -> None:
    gradient, reference = torch.tensor([1.0, -2.0]), torch.tensor([0.0, 1.0])
    assert agem.agem(gradient, reference).tolist() == [1.0, 0.0]
    assert agem.agem(-gradient, reference).tolist() == [-1.0, 2.0]


def test_uncertainty_counts_the_most_frequent_answer() -> None:
    answers = np.array([[0, 1, 2], [0, 2, 2], [0, 1, 1], [0, 0, 0]])
    np.testing.assert_allclose(rainbow.disagreement(answers, 3), [0, 0.5, 0.5])
    found = rainbow.spread(np.array([0.9, 0.1, 0.5, 0.3, 0.7]), 2)
    assert found.tolist() == [1, 2]  # sorted .1 .3 .5 .7 .9: places 0 and 5/2
    assert rainbow.spread(np.array([0.9, 0.1]), 5).tolist() == [1, 0]
    assert rainbow.spread(np.array([0.9, 0.1]), 0).tolist() == []


def test_only_classes_of_the_batch_compete() -> None:
    scores, columns = torch.tensor([[1.0, 5.0, 2.0], [0.0, 9.0, 1.0]]), torch.tensor([0, 2])
    expected = np.mean([np.log(1 + np.exp(2.0 - 1.0)), np.log(1 + np.exp(0.0 - 1.0))])
    assert float(er_ace.present_cross_entropy(scores, columns)) == pytest.approx(expected)


def test_interference_is_the_rise_of_the_loss_after_a_step(data) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5))
    x, y = data
    found = mir.interference(net, (x[:3], y[:3]), (x[3:], y[3:]), 3, 0.7)
    before = F.cross_entropy(net(x[3:])[:, :3], y[3:], reduction="none")
    optimizer = torch.optim.SGD(net.parameters(), 0.7)
    F.cross_entropy(net(x[:3])[:, :3], y[:3]).backward()
    optimizer.step()
    after = F.cross_entropy(net(x[3:])[:, :3], y[3:], reduction="none")
    torch.testing.assert_close(found, (after - before).detach())


def test_rates_of_gdumb_restart_after_1_2_4_passes() -> None:
    rates = [gdumb.cosine_rate(epoch, 1.0, 0.0) for epoch in range(7)]
    np.testing.assert_allclose(rates, [1, 1, 0.5, 1, 0.5 + 0.5 / math.sqrt(2), 0.5, 0.5 - 0.5 / math.sqrt(2)])


def test_cwr_averages_by_how_often_a_class_was_seen() -> None:
    kept = torch.tensor([[2.0, 0.0], [4.0, 4.0], [7.0, 7.0]])
    trained = torch.tensor([[1.0, 3.0], [5.0, 7.0], [9.0, 9.0]])
    found = cwr.consolidated(kept, trained, torch.tensor([8.0, 0.0, 3.0]), torch.tensor([2.0, 5.0, 0.0]))
    mean = (1 + 3 + 5 + 7) / 4
    expected = [[(2 * 2 + 1 - mean) / 3, (0 * 2 + 3 - mean) / 3], [5 - mean, 7 - mean], [7, 7]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_shrunk_correlation_by_loops() -> None:
    c = np.array([[2.0, 0.5, -0.2], [0.5, 1.0, 0.3], [-0.2, 0.3, 3.0]])
    v1, v2 = 2.0, (0.5 - 0.2 + 0.3) / 3
    shrunk = np.array([[c[i, j] + (0.7 * v1 if i == j else 0.4 * v2) for j in range(3)] for i in range(3)])
    expected = [[shrunk[i, j] / math.sqrt(shrunk[i, i] * shrunk[j, j]) for j in range(3)] for i in range(3)]
    np.testing.assert_allclose(fecam.shrunk_correlation(torch.from_numpy(c), 0.7, 0.4), expected)
