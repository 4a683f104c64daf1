"""Checkpoints in the authors' naming load; others are refused by name."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from cl_kernel import BadInput, BadSetting, MissingAsset
from cl_plugin_remind.method.step import make_optimizer
from cl_plugin_remind.network.resnet import UPPER, Base, Divided, ResNet, split
from cl_plugin_remind.settings import Streaming
from cl_plugin_remind.weights import buffers, checkpoints

SMALL = {"stem": 4, "widths": (4, 4, 8, 8)}


def checkpoint(path: Path, network: ResNet, prefix: str = "module.model.", key: str = "state_dict") -> Path:
    torch.save({key: {prefix + name: tensor for name, tensor in network.state_dict().items()}, "epoch": 3}, path)
    return path


@pytest.mark.parametrize("prefix", ["module.model.", "model.", ""])
@pytest.mark.parametrize("key", ["state_dict", "model_state"])
def test_a_base_checkpoint_in_the_authors_naming_loads(prefix: str, key: str, tmp_path: Path) -> None:
    theirs, ours = ResNet(6, **SMALL), ResNet(6, **SMALL)
    checkpoints.load_base(ours, checkpoint(tmp_path / "base.pth", theirs, prefix, key))
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(theirs.eval()(images), ours.eval()(images))


def test_a_missing_or_renamed_block_is_refused(tmp_path: Path) -> None:
    theirs = ResNet(6, **SMALL).state_dict()
    renamed = {name.replace("layer4.1.", "layer4.2."): tensor for name, tensor in theirs.items()}
    torch.save({"state_dict": renamed}, tmp_path / "renamed.pth")
    with pytest.raises(BadInput, match=r"missing: layer4\.1\.conv1\.weight(?s:.*)unexpected: layer4\.2\.conv1\.weight"):
        checkpoints.load_base(ResNet(6, **SMALL), tmp_path / "renamed.pth")
    torch.save({"state_dict": {n: t for n, t in theirs.items() if "layer4.1" not in n}}, tmp_path / "missing.pth")
    with pytest.raises(BadInput, match="missing"):
        checkpoints.load_base(ResNet(6, **SMALL), tmp_path / "missing.pth")


def test_a_classifier_of_another_size_is_an_error_or_an_explicit_option(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "base.pth", ResNet(6, **SMALL))
    with pytest.raises(BadInput, match="classifies 6 classes, the network 9"):
        checkpoints.load_base(ResNet(9, **SMALL), path)
    network = ResNet(9, **SMALL)
    before = network.fc.weight.clone()
    checkpoints.load_base(network, path, new_head=True)
    assert torch.equal(before, network.fc.weight)


def test_the_upper_part_has_the_authors_tensor_names_and_sizes() -> None:
    upper = split(ResNet(1000), "ResNet18_StartAt_Layer4_1").upper
    parameters = dict(upper.named_parameters())
    assert sum(p.numel() for p in parameters.values()) == 5_233_640
    assert set(parameters) == {
        f"model.layer4.1.{n}"
        for n in ("conv1.weight", "bn1.weight", "bn1.bias", "conv2.weight", "bn2.weight", "bn2.bias")
    } | {"model.fc.weight", "model.fc.bias"}


@pytest.mark.parametrize("name", sorted(UPPER))
def test_every_split_computes_what_the_whole_network_does(name: str) -> None:
    torch.manual_seed(0)
    whole = ResNet(5, **SMALL).eval()
    parts = split(whole, name)
    images = torch.rand(2, 3, 64, 64)
    lower = parts.lower.eval()(images)
    assert torch.allclose(whole(images), parts.upper.eval()(lower), atol=1e-6)


def test_an_unknown_cut_names_the_known_ones() -> None:
    with pytest.raises(BadSetting, match=r"layer4\.1"):
        split(ResNet(5, **SMALL), "layer5.0")


def test_parts_share_their_tensors_with_the_whole() -> None:
    divided = Divided(Base(ResNet(5, **SMALL)), "layer4.1")
    divided.upper.state_dict()["model.fc.bias"].fill_(7)
    assert (divided.whole.model.fc.bias == 7).all()
    assert len(divided.state_dict()) == len(divided.whole.state_dict())


@pytest.mark.parametrize("grouped", [True, False])
def test_momentum_loads_from_one_group_or_one_a_tensor(grouped: bool, tmp_path: Path) -> None:
    upper = split(ResNet(5, **SMALL), "layer4.1").upper
    theirs = torch.optim.SGD(
        upper.parameters() if grouped else [{"params": [p]} for p in upper.parameters()], 0.1, momentum=0.9
    )
    upper(torch.rand(3, 8, 2, 2)).sum().backward()
    theirs.step()
    torch.save(
        {"model_state_dict": upper.state_dict(), "optimizer_state_dict": theirs.state_dict()}, tmp_path / "f.pth"
    )
    other = split(ResNet(5, **SMALL), "layer4.1").upper
    saved = checkpoints.load_upper(other, tmp_path / "f.pth")
    ours = make_optimizer(other, Streaming())
    checkpoints.adopt_momentum(ours, saved, "f.pth")
    for mine, their in zip(other.parameters(), upper.parameters(), strict=True):
        assert torch.equal(ours.state[mine]["momentum_buffer"], theirs.state[their]["momentum_buffer"])


def test_a_buffer_file_goes_out_and_comes_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    codes, labels, items = (
        rng.integers(0, 256, (6, 2, 2, 4), np.uint8),
        np.array([1, 1, 2, 0, 2, 2]),
        np.array([9, 3, 4, 1, 0, 7]),
    )
    centroids = rng.random((4, 256, 2)).astype(np.float32)
    buffers.save_buffer(tmp_path / "b.pkl", codes, labels, items, centroids)
    content = pickle.loads((tmp_path / "b.pkl").read_bytes())
    assert content["class_id_to_item_ix_dict"] == {1: [9, 3], 2: [4, 0, 7], 0: [1]}
    content["latent_dict"] = {
        np.int64(item): [code, np.array([label])] for item, (code, label) in content["latent_dict"].items()
    }
    (tmp_path / "old.pkl").write_bytes(pickle.dumps(content, protocol=2))
    for name in ("b.pkl", "old.pkl"):
        for found, expected in zip(
            buffers.read_buffer(tmp_path / name), (codes, labels, items, centroids), strict=True
        ):
            assert np.array_equal(found, expected)


def test_a_buffer_file_that_would_run_something_is_refused(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return Path(tmp_path / "sprung").touch, ()

    (tmp_path / "trap.pkl").write_bytes(pickle.dumps({"rehearsal_ixs": Trap()}))
    with pytest.raises(BadInput, match="no part of a buffer"):
        buffers.read_buffer(tmp_path / "trap.pkl")
    assert not (tmp_path / "sprung").exists()
    (tmp_path / "cut.pkl").write_bytes(pickle.dumps({"a": np.zeros(1000)})[:100])
    with pytest.raises(BadInput):
        buffers.read_buffer(tmp_path / "cut.pkl")
    with pytest.raises(MissingAsset, match="import-legacy"):
        buffers.read_start(tmp_path)
