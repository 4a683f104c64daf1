"""Networks: parameter counts, variants, routing, modulations, what stays the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cl_plugin_butd.network.backbones import Carried, backbone
from cl_plugin_butd.network.blocks import Norm
from cl_plugin_butd.network.continual import ContinualCounterStream, ModulationSpec, TaskSpec
from cl_plugin_butd.network.counter_stream import CounterStream
from cl_plugin_butd.network.streams import Topology

PERSONS = {
    "filters": [64, 64, 128, 256, 512],
    "strides": [2] * 5,
    "blocks": [0, 2, 2, 2, 2],
    "in_shape": [3, 224, 448],
    "instruction": 13,
    "n_occurrence": 6,
    "outputs": [8],
}
EMNIST = {
    "filters": [64, 96, 128, 256],
    "strides": [2, 2, 1, 2],
    "blocks": [0, 1, 1, 1],
    "in_shape": [3, 112, 224],
    "instruction": 49,
    "n_occurrence": 47,
    "outputs": [49],
}


@pytest.mark.parametrize(
    ("placement", "image", "persons", "emnist"),
    [
        ("TD", False, 3_472_929, 592_691),
        ("TD", True, 3_473_697, 593_459),
        ("BU1", False, 3_390_610, 786_340),
        ("BU2", False, 3_472_929, 592_691),
        ("NOFLAG", False, 2_938_913, 447_539),
        ("BU1_SIMPLE", False, 4_715_986, 940_580),
        ("BU1_NOLAT", False, 3_345_362, 774_884),
    ],
)
def test_parameter_counts_are_the_published_ones(placement: str, image: bool, persons: int, emnist: int) -> None:
    for shape, expected in ((PERSONS, persons), (EMNIST, emnist)):
        net = CounterStream(Topology(**shape, placement=placement, td_image=image))
        assert sum(p.numel() for p in net.parameters()) == expected


def small(**changes: object) -> Topology:
    values = {
        "filters": [4, 6, 8],
        "strides": [2, 2, 2],
        "blocks": [0, 1, 2],
        "in_shape": [3, 16, 24],
        "instruction": 5,
        "n_occurrence": 3,
        "outputs": [4],
        **changes,
    }
    return Topology(**values)


@pytest.mark.parametrize("variant", ["shared", "separate", "duplicate"])
@pytest.mark.parametrize("norm", ["batch", "batch-no-stats", "instance", "group", "none"])
def test_every_variant_and_norm_trains(variant: str, norm: str) -> None:
    net = CounterStream(small(variant=variant, norm=norm))
    out = net(torch.randn(4, 3, 16, 24), torch.eye(5)[:4])
    assert out.task.shape == (4, 4, 1) and out.occurrence.shape == (4, 3)
    (out.task.square().mean() + out.occurrence.square().mean()).backward()
    moved = [p for p in net.parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert len(moved) > len(list(net.parameters())) // 3


def test_strides_need_not_divide_the_image() -> None:
    net = CounterStream(small(in_shape=[3, 17, 23], td_image=True)).eval()
    out = net(torch.randn(2, 3, 17, 23), torch.eye(5)[:2])
    assert out.td_image.shape == (2, 3, 17, 23)


def test_the_duplicate_variant_cannot_take_the_instruction_in_its_second_pass() -> None:
    with pytest.raises(ValueError, match="duplicate"):
        CounterStream(small(variant="duplicate", placement="BU2"))


def continual(kind: str = "weight-mul", **options: object) -> ContinualCounterStream:
    torch.manual_seed(0)
    return ContinualCounterStream(
        small(separable=False),
        [TaskSpec(n_classes=4)] * 3,
        [5],
        ModulationSpec(kind=kind, factor=(2, 2, 1, 1)),
        **options,
    )


@pytest.mark.parametrize("kind", ["act", "weight-mul", "weight-1m", "interp", "mask"])
def test_later_tasks_leave_earlier_logits_bit_identical(kind: str) -> None:
    net = continual(kind)
    image, argument = torch.randn(6, 3, 16, 24), torch.arange(6) % 5

    def learn(task: int) -> None:
        owned = net.owned(task)
        optimizer = torch.optim.Adam([*owned, *(net.shared().values() if task == 0 else ())], 1e-2)
        net.train()
        for _ in range(3):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net.answer(image, argument, task)["task"], argument % 4).backward()
            optimizer.step()
        net.store_statistics(task)
        net.eval()

    kept = {}
    for task in range(3):
        learn(task)
        for earlier in range(task + 1):
            with torch.no_grad():
                now = net.answer(image, argument, earlier)["task"]
            if earlier in kept:
                assert torch.equal(now, kept[earlier])
            kept[earlier] = now
    assert not torch.equal(kept[0], kept[1])


def test_a_batch_that_mixes_tasks_is_routed_sample_by_sample() -> None:
    net = continual().eval()
    for task in range(3):
        with torch.no_grad():
            for head in net.heads[task].parameters():
                head.add_(task)
        net.store_statistics(task)
    image, argument = torch.randn(6, 3, 16, 24), torch.arange(6) % 5
    task = torch.tensor([2, 0, 1, 0, 2, 1])
    with torch.no_grad():
        mixed = net(image, task, argument)["task"]
        for i in range(6):
            alone = net.answer(image[i : i + 1], argument[i : i + 1], int(task[i]))["task"]
            torch.testing.assert_close(mixed[i : i + 1], alone, rtol=1e-4, atol=1e-5)


def test_a_layer_kept_per_task_refuses_a_mixed_batch() -> None:
    net = continual(top="per-task")
    bits = torch.cat([torch.eye(3)[[0, 1]], torch.eye(5)[:2]], 1)
    with pytest.raises(ValueError, match="split it by task"):
        net.net.td.top(torch.randn(2, 8), bits)


def test_stored_statistics_survive_a_state_dict_and_further_training() -> None:
    norm = Norm(3, n_tasks=2)
    norm(torch.randn(8, 3, 2, 2) + 4)
    norm.store(0)
    kept = norm.task_mean[0].clone()
    norm(torch.randn(8, 3, 2, 2) - 9)
    assert torch.equal(norm.task_mean[0], kept)
    other = Norm(3, n_tasks=2)
    other.load_state_dict(norm.state_dict())
    assert torch.equal(other.task_mean[0], kept)


def test_bytes_of_a_further_task_are_what_theory_says() -> None:
    net = continual()
    spec = net.bytes_per_task()
    modulated = sum(
        p.numel()
        for stage in net.net.filters.stages
        for block in stage
        for p in (
            block.conv1.weight,
            block.conv2.weight,
            *([block.project.weight] if block.project is not None else []),
        )
    )
    assert spec["modulation"] == 4 * modulated // 4
    assert spec["head"] == 4 * (8 * 4 + 4)


@pytest.mark.parametrize("name", ["small", "resnet32", "resnet18", "mobilenet_v2"])
def test_pretrained_nets_are_carried_without_touching_them(name: str) -> None:
    torch.manual_seed(0)
    net, width = backbone(name, pretrained=False)
    net.eval()
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = net(image).flatten(1)
        carried = Carried(net, width, [3, 3], kind="interp", factor=(4, 4)).eval()
        np.testing.assert_allclose(carried.backbone(image).flatten(1), before, rtol=1e-4, atol=1e-5)
    assert carried(image, 1).shape == (2, 3)
