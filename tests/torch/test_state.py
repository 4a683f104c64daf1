"""Torch objects survive a checkpoint bit for bit, and weight files are read safely."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cl_kernel.contract.errors import BadCheckpoint, BadInput, BadSetting, MissingAsset
from cl_kernel.storage.checkpoint import load_tree, save_tree
from cl_kernel.torch import state
from cl_kernel.torch.device import resolve


def through_a_file(tree: object, folder: Path) -> object:
    save_tree(folder / "state.tree", tree)
    return load_tree(folder / "state.tree")


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Dropout(0.5), nn.Linear(7, 3))


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW", "Adamax", "RMSprop"])
def test_training_goes_on_bit_for_bit_after_a_checkpoint(kind: str, tmp_path: Path) -> None:
    def make() -> tuple[nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        torch.manual_seed(1)
        net = network()
        options = {"momentum": 0.9} if kind == "SGD" else {}
        optimizer = getattr(torch.optim, kind)(net.parameters(), lr=0.01, **options)
        return net, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 2)

    def step(net: nn.Module, optimizer: torch.optim.Optimizer, scheduler: object, k: int) -> None:
        x = torch.full((4, 5), float(k)) + torch.arange(5)
        loss = net(x + torch.rand(4, 5)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()

    straight = make()
    for k in range(6):
        step(*straight, k)
        if k == 2:
            tree = {"parts": [state.pack(part) for part in straight], "generators": state.pack_generators()}
    tree = through_a_file(tree, tmp_path)
    resumed = make()
    for part, saved in zip(resumed, tree["parts"], strict=True):
        state.restore(part, saved)
    state.restore_generators(tree["generators"])
    for k in range(3, 6):
        step(*resumed, k)
    for name, tensor in straight[0].state_dict().items():
        assert torch.equal(tensor, resumed[0].state_dict()[name]), name


@pytest.mark.parametrize(
    "dtype",
    [
        torch.bfloat16,
        torch.float16,
        torch.float64,
        torch.uint8,
        torch.bool,
        torch.int64,
        torch.float8_e4m3fn,
        torch.complex64,
    ],
)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3)])
def test_a_tensor_comes_back_with_its_bits(dtype: torch.dtype, shape: tuple[int, ...], tmp_path: Path) -> None:
    tensor = (torch.arange(6).reshape(2, 3) + 0.3).to(dtype).flatten()[: int(np.prod(shape))].reshape(shape)
    back = state.unpack(through_a_file({"t": state.pack(tensor)}, tmp_path)["t"])
    assert back.dtype == dtype and back.shape == tensor.shape
    if tensor.numel():
        bits, expected = (t.reshape(-1).contiguous().view(torch.uint8) for t in (back, tensor))
        assert torch.equal(bits, expected)


def test_generators_go_on_where_they_were(tmp_path: Path) -> None:
    numpy_rng, python_rng, torch_rng = (np.random.default_rng(3), random.Random(3), torch.Generator().manual_seed(3))
    numpy_rng.random(5), python_rng.gauss(0, 1), torch.rand(5, generator=torch_rng)
    tree = through_a_file([state.pack(g) for g in (numpy_rng, python_rng, torch_rng)], tmp_path)
    fresh = np.random.default_rng(), random.Random(), torch.Generator()
    for generator, saved in zip(fresh, tree, strict=True):
        state.restore(generator, saved)
    assert fresh[0].random() == numpy_rng.random()
    assert [fresh[1].gauss(0, 1) for _ in range(3)] == [python_rng.gauss(0, 1) for _ in range(3)]
    assert torch.equal(torch.rand(4, generator=fresh[2]), torch.rand(4, generator=torch_rng))


def test_a_packed_tree_shares_no_memory_with_the_module() -> None:
    net = nn.Linear(2, 2)
    tree = state.pack(net)
    before = tree["weight"].copy()
    with torch.no_grad():
        net.weight.add_(1)
    assert np.array_equal(tree["weight"], before)


def test_nested_containers_keep_keys_and_tuples(tmp_path: Path) -> None:
    value = {1: (torch.ones(2), None, "a"), "b": [{(1, 2): 2**70}]}
    back = state.unpack(through_a_file(state.pack(value), tmp_path))
    assert back[1][1:] == (None, "a") and back["b"] == [{(1, 2): 2**70}] and torch.equal(back[1][0], torch.ones(2))


def test_misfitting_weights_are_named(tmp_path: Path) -> None:
    net = network()
    tensors = dict(net.state_dict())
    tensors["3.weight"] = torch.zeros(4, 7)
    tensors["extra"] = tensors.pop("0.bias")
    with pytest.raises(BadInput, match=r"(?s)missing: 0.bias.*unexpected: extra.*3.weight is \[4, 7\], needs \[3, 7\]"):
        state.assign(net, tensors, where="w.pth")
    with pytest.raises(BadCheckpoint):
        state.restore(net, {"0.weight": np.zeros((7, 5), np.float32)})


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model_state"])
def test_weight_files_are_read_in_every_usual_wrapping(wrapper: str | None, tmp_path: Path) -> None:
    net = network()
    tensors = {f"module.{name}": tensor for name, tensor in net.state_dict().items()}
    torch.save(tensors if wrapper is None else {wrapper: tensors, "epoch": 3}, tmp_path / "w.pth")
    found = state.read_weights(tmp_path / "w.pth")
    assert found.keys() == net.state_dict().keys()


def test_a_weight_file_with_code_in_it_is_refused(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return Path(tmp_path / "sprung").touch, ()

    torch.save({"w": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(BadInput, match="read safely"):
        state.read_weights(tmp_path / "trap.pth")
    assert not (tmp_path / "sprung").exists()


def test_missing_cut_or_foreign_weight_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingAsset):
        state.read_weights(tmp_path / "none.pth")
    torch.save(network().state_dict(), tmp_path / "w.pth")
    content = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(BadInput):
        state.read_weights(tmp_path / "cut.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(BadInput):
        state.read_weights(tmp_path / "text.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(BadInput, match="no table"):
        state.read_weights(tmp_path / "list.pth")


def test_devices_that_are_not_there_are_refused() -> None:
    assert resolve("cpu").type == "cpu"
    assert resolve("auto").type in ("cpu", "cuda")
    with pytest.raises(BadSetting, match="none"):
        resolve("tpu:x")
    with pytest.raises(BadSetting, match="CUDA devices"):
        resolve("cuda:99")
