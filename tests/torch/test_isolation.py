"""Methods that give each task parameters of its own: their arithmetic restated, and what they promise."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cl_kernel import ArraySamples, Field, Mismatch, Stage, Stream
from cl_kernel.methods import hat, packnet, piggyback, supsup
from cl_kernel.registry import resolve
from cl_kernel.running.resources import Resources, Setup
from cl_kernel.torch.split import Split

NAMES = ["packnet", "piggyback", "hat", "supsup"]
SPEC = {
    "image": Field(shape=(8, 8, 3), dtype="float32", kind="image"),
    "class": Field(shape=(), dtype="int64", kind="class", n=6),
}


class Ctx:
    """What a learner asks of a run."""

    def __init__(self, stages: list[Stage]) -> None:
        self.stages, self.resources = stages, Resources(seed=0)

    def rng(self, *names: Any) -> np.random.Generator:
        return self.resources.rng(*names)

    def phase(self, name: str, n_steps: int = 0) -> None: ...

    def step(self, **values: Any) -> None: ...

    def note(self, text: str, **values: Any) -> None: ...

    def bad_sample(self, what: str, error: Exception) -> None:
        raise error


def images(classes: list[int], n: int = 12) -> ArraySamples:
    """Noise around a picture of each class."""
    centres = np.random.default_rng(9).random((6, 8, 8, 3)).astype(np.float32)
    centres = centres + np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0], [1, 1, 0], [0, 1, 1], [1, 0, 1]])[:, None, None]
    labels = np.repeat(np.array(classes, np.int64), n)
    noise = np.random.default_rng(classes[0]).standard_normal((len(labels), 8, 8, 3))
    return ArraySamples(SPEC, {"image": (centres[labels] + 0.1 * noise).astype(np.float32), "class": labels})


def stream(stages: list[list[int]]) -> Stream:
    made = [Stage(index=i, name=str(i), train=images(c), classes=tuple(c)) for i, c in enumerate(stages)]
    every = images(sorted({c for classes in stages for c in classes}))
    sets = {str(i): np.flatnonzero(np.isin(every.arrays["class"], c)) for i, c in enumerate(stages)}
    return Stream(
        name="pictures", task="image -> class", stages=made, test=every, test_sets=sets, class_names=tuple("abcdef")
    )


class Residual(nn.Module):
    """Two convolutions around a sum, with batch norm and a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.inner, self.out = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.stem(x)))
        return self.fc((x + self.out(torch.relu(self.inner(x)))).mean((2, 3)))


def chain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 10),
        nn.ReLU(),
        nn.Linear(10, 6),
    )


def learner(name: str, given: Stream, network: Any = Residual, **choices: Any) -> Any:
    settings = resolve(f"cl_kernel.methods.{name}:Settings")(batch_size=8, **choices)
    setup = Setup(
        stream=given,
        resources=Resources(seed=0, device="cpu"),
        model=lambda fields, n: Split(None, network()),
        memory=None,
    )
    return resolve(f"cl_kernel.methods.{name}:build")(settings, setup)


def logits(made: Any, samples: ArraySamples) -> np.ndarray:
    return np.concatenate([out["scores"] for out in made.predict(samples)])


# ---- what is promised ------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [Residual, chain])
@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("packnet", {"optimizer": "adam", "lr": 0.01, "weight_decay": 0.01}),
        ("packnet", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
        ("piggyback", {"optimizer": "adam", "lr": 0.01, "norms": "own", "mask_lr": 0.01}),
        ("piggyback", {"optimizer": "adam", "lr": 0.01, "base": "given"}),
        ("supsup", {"optimizer": "adam", "lr": 0.01}),
    ],
)
def test_no_bit_of_an_earlier_task_moves(name: str, choices: dict[str, Any], network: Any) -> None:
    given = stream([[0, 1], [2, 3], [4, 5]])
    made, ctx = learner(name, given, network, epochs=12, **choices), Ctx(list(given.stages))
    first: dict[int, np.ndarray] = {}
    for stage in given.stages:
        made.learn(stage, ctx)
        first[stage.index] = logits(made, stage.train)
        for task in range(stage.index + 1):
            assert logits(made, given.stages[task].train).tobytes() == first[task].tobytes()
    found = np.concatenate([out["class"] for out in made.predict(given.test)])
    assert (found == given.test.arrays["class"]).mean() > 0.7


@pytest.mark.parametrize("network", [Residual, chain])
def test_hat_protects_what_earlier_tasks_use(network: Any) -> None:
    given = stream([[0, 1], [2, 3], [4, 5]])
    made = learner("hat", given, network, epochs=6, lr=0.1, momentum=0.9, weight_decay=0.001)
    ctx, first = Ctx(list(given.stages)), {}
    for stage in given.stages:
        made.learn(stage, ctx)
        first[stage.index] = logits(made, stage.train)
    assert made.follows == ({"5"} if network is chain else {"inner", "out"})
    for task, before in first.items():
        now = logits(made, given.stages[task].train)
        seen = np.isfinite(before)
        assert np.abs(now[seen] - before[seen]).max() < 0.05 * np.abs(before[seen]).max()


@pytest.mark.parametrize("name", NAMES)
def test_a_class_that_comes_again_is_refused(name: str) -> None:
    given = stream([[0, 1], [1, 2]])
    made, ctx = learner(name, given), Ctx(list(given.stages))
    made.learn(given.stages[0], ctx)
    with pytest.raises(Mismatch, match="brings classes again"):
        made.learn(given.stages[1], ctx)


class Stubborn(nn.BatchNorm2d):
    """A norm of one's own that is always in training mode."""

    def train(self, mode: bool = True) -> nn.Module:
        return super().train(True)


class Counting(nn.Module):
    """Statistics that no norm of torch keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        self.mean.mul_(0.9).add_(0.1 * x.detach().mean((0, 2, 3)).view(3, 1, 1))
        return x - self.mean


def with_first(first: Any, *rest: Any) -> nn.Module:
    return nn.Sequential(first(), nn.Conv2d(3, 8, 3), *[r() for r in rest], nn.Flatten(), nn.Linear(288, 6))


def test_a_norm_in_training_mode_is_refused_for_a_frozen_task() -> None:
    given = stream([[0, 1], [2, 3]])
    for network, said in (
        (lambda: with_first(Counting), "0.mean moves"),
        (lambda: with_first(nn.Identity, lambda: Stubborn(8)), "2.running_mean moves"),
    ):
        made, ctx = learner("packnet", given, network), Ctx(list(given.stages))
        made.learn(given.stages[0], ctx)
        kept = {n: b.clone() for n, b in made.upper.named_buffers()}
        with pytest.raises(Mismatch, match=said):
            made.learn(given.stages[1], ctx)
        assert all(torch.equal(kept[n], b) for n, b in made.upper.named_buffers())
    with pytest.raises(Mismatch, match="keeps no statistics"):
        learner("packnet", given, lambda: with_first(nn.Identity, lambda: nn.BatchNorm2d(8, track_running_stats=False)))
    with pytest.raises(Mismatch, match="1 convolutions and linear layers"):
        learner("packnet", given, lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 6)))


@pytest.mark.parametrize("name", NAMES)
def test_a_run_over_more_stages_takes_up_the_state_of_fewer(name: str) -> None:
    short, longer = stream([[0, 1], [2, 3]]), stream([[0, 1], [2, 3], [4, 5]])
    first = learner(name, short, epochs=2)
    for stage in short.stages:
        first.learn(stage, Ctx(list(short.stages)))
    second = learner(name, longer, epochs=2)
    second.load(second.grow(copy.deepcopy(first.state())))
    seen = longer.stages[1].train
    assert logits(first, seen).tobytes() == logits(second, seen).tobytes()
    second.learn(longer.stages[2], Ctx(list(longer.stages)))
    assert second.cost()["bytes_per_task"] == sum(
        n for part, n in second.cost().items() if part.startswith("bytes_per_task_")
    )


# ---- the arithmetic restated -------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.1, 0.5, 0.77])
def test_packnet_frees_the_smallest_weights_of_the_task(share: float) -> None:
    torch.manual_seed(0)
    weight, mine = torch.randn(7, 5), torch.rand(7, 5) < 0.6
    values = sorted(abs(v) for v, m in zip(weight.flatten().tolist(), mine.flatten().tolist(), strict=True) if m)
    cutoff = values[round(share * len(values)) - 1]
    expected = [[m and abs(w) <= cutoff for w, m in zip(*row, strict=True)] for row in zip(weight, mine, strict=True)]
    assert packnet.pruned(weight, mine, share).tolist() == [[bool(v) for v in row] for row in expected]


def test_packnets_later_task_sees_earlier_weights_and_they_do_not_see_its() -> None:
    given = stream([[0, 1], [2, 3]])
    made = learner("packnet", given, epochs=2, optimizer="adam", lr=0.01)
    for stage in given.stages:
        made.learn(stage, Ctx(list(given.stages)))
    owner = made.owner["inner.weight"]
    n = owner.numel()
    assert (owner == 1).sum() == n - round(0.5 * n)
    assert (owner == 2).sum() == round(0.5 * n) - round(0.5 * round(0.5 * n))
    values = dict(made.upper.named_parameters())["inner.weight"].flatten().tolist()
    for task in (0, 1):
        by_hand = torch.tensor(
            [w if 0 < o <= task + 1 else 0.0 for w, o in zip(values, owner.flatten().tolist(), strict=True)]
        )
        assert torch.equal(made.tensors(task)["inner.weight"].flatten(), by_hand)


def test_piggybacks_gradient_is_the_binary_masks() -> None:
    torch.manual_seed(0)
    weight, x, real = torch.randn(4, 3), torch.randn(5, 3), (0.02 * torch.rand(4, 3) - 0.005).requires_grad_()
    mask = torch.tensor([[1.0 if r > 0.005 else 0.0 for r in row] for row in real.tolist()], requires_grad=True)
    for leaf, seen in ((real, piggyback.masked(weight, real, 0.005)), (mask, weight * mask)):
        torch.tanh(x @ seen.T).pow(2).sum().backward()
        assert leaf.grad is not None
    assert torch.equal(piggyback.masked(weight, real, 0.005), weight * mask)
    torch.testing.assert_close(real.grad, mask.grad)


@pytest.mark.parametrize("s", [0.01, 1.0, 20.0])
def test_hats_compensated_gradient_is_that_of_an_unscaled_gate_times_s_max(s: float) -> None:
    e = torch.linspace(-0.9, 0.9, 9, dtype=torch.float64, requires_grad=True)
    torch.sigmoid(s * e).sum().backward()
    with torch.no_grad():
        wanted = 400 * torch.sigmoid(e) * (1 - torch.sigmoid(e))
    torch.testing.assert_close(e.grad * hat.compensation(e.detach(), s, 400.0), wanted)


def test_hats_gates_rise_from_flat_to_steep() -> None:
    assert hat.steepness(0, 11, 400.0) == 1 / 400
    assert hat.steepness(10, 11, 400.0) == pytest.approx(400)
    assert hat.steepness(5, 11, 400.0) == pytest.approx(0.5 * (400 + 1 / 400))


@pytest.mark.parametrize(
    ("layer", "n_units"),
    [
        (nn.Linear(6, 4), 6),
        (nn.Linear(12, 4), 3),
        (nn.Conv2d(6, 4, 3), 6),
        (nn.Conv2d(6, 6, 3, groups=6), 6),
        (nn.Conv2d(6, 4, 1, groups=2), 6),
    ],
)
def test_hats_weights_are_protected_by_both_their_units(layer: Any, n_units: int) -> None:
    gates = torch.rand(n_units)
    found = hat.fan_in_gates(gates, layer.weight.shape, getattr(layer, "groups", 1))
    groups = getattr(layer, "groups", 1)
    n_out, n_in = layer.weight.shape[:2]
    for o in range(n_out):
        for i in range(n_in):
            read = (o // (n_out // groups)) * n_in + i  # place among all that the layer reads
            assert found[o, i].item() == gates[read // (n_in * groups // n_units)]


def test_hats_penalty_counts_new_units_only() -> None:
    gates, used = [torch.tensor([0.5, 1.0]), torch.tensor([0.25])], [torch.tensor([1.0, 0.0]), torch.tensor([0.5])]
    by_hand = (0.5 * 0 + 1.0 * 1 + 0.25 * 0.5) / (0 + 1 + 0.5)
    assert hat.attention_penalty(gates, used).item() == pytest.approx(by_hand)


@pytest.mark.parametrize("density", [0.03, 0.5, 1.0])
def test_a_supermask_keeps_the_largest_scores(density: float) -> None:
    scores = torch.randn(9, 11, generator=torch.Generator().manual_seed(2))
    flat = np.abs(scores.numpy().ravel())
    kept = set(np.argsort(-flat)[: flat.size - int((1 - density) * flat.size)].tolist())
    assert set(supsup.supermask(scores, density).flatten().nonzero().flatten().tolist()) == kept


def test_signed_constants_have_the_deviation_of_kaimings_initialisation() -> None:
    weight = torch.randn(4, 3, 3, 3)
    made = supsup.signed_constants(weight)
    assert made.abs().flatten().tolist() == pytest.approx([math.sqrt(2 / 27)] * 108)
    assert torch.equal(made > 0, weight >= 0)


def test_the_inferred_task_is_the_one_whose_mask_lowers_the_entropy_most() -> None:
    given = stream([[0, 1], [2, 3], [4, 5]])
    made = learner("supsup", given, epochs=20, optimizer="adam", lr=0.02, task="inferred")
    for stage in given.stages:
        made.learn(stage, Ctx(list(given.stages)))
    inputs = torch.from_numpy(given.test.arrays["image"]).permute(0, 3, 1, 2).contiguous()
    made.network.eval()
    found = made.infer(inputs)
    masks = [made.tensors(task) for task in range(3)]
    net = copy.deepcopy(made.upper).eval()
    with torch.no_grad():
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(net.bn, name).copy_(torch.stack([own[f"bn.{name}"] for own in made.own]).mean(0))
    for at in range(0, len(inputs), 7):
        alphas = torch.full((3,), 1 / 3, requires_grad=True)
        changed = {n: sum(a * m[n].detach() for a, m in zip(alphas, masks, strict=True)) for n in masks[0]}
        p = torch.func.functional_call(net, changed, (inputs[at : at + 1],)).softmax(1)
        (-(p * p.log()).sum()).backward()
        assert alphas.grad is not None
        assert found[at] == alphas.grad.argmin()
