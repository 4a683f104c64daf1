"""MoCo under torchrun, resumed, adapted; linear evaluation on what it learnt."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from attrs import evolve
from PIL import Image

from cl_kernel import BadInput, BadSetting, MissingAsset
from cl_plugin_clear.data.toy import SHAPES, render
from cl_plugin_clear.method import moco
from cl_plugin_clear.method.linear import evaluate_linear
from cl_plugin_clear.network.backbones import TinyEncoder, backbone
from cl_plugin_clear.network.moco import MoCo
from cl_plugin_clear.settings import Moco
from cl_plugin_clear.weights import checkpoints as weights

SMALL = Moco(arch="tiny", epochs=3, batch_size=16, queue=64, dim=16, image_size=24, lr=0.05)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def pictures(folder: Path, n: int) -> Path:
    """An ImageNet-like folder of rendered shapes."""
    for i in range(n):
        shape = SHAPES[i % 3]
        (folder / shape).mkdir(parents=True, exist_ok=True)
        Image.fromarray(render(shape, 0.5, ("t", folder.name, i), 40, 40)).save(folder / shape / f"{i:03d}.png")
    return folder


def last_state(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(moco.checkpoints(folder)[-1], weights_only=True)["state_dict"]


def test_a_killed_run_goes_on_at_its_last_epoch_bit_for_bit(tmp_path: Path) -> None:
    data = moco.toy_pictures(40, 0, 32)
    whole = moco.pretrain(data, SMALL, tmp_path / "whole", device="cpu")
    moco.pretrain(data, SMALL, tmp_path / "parts", device="cpu", stop_after=1)
    moco.checkpoints(tmp_path / "parts")[-1].with_name("checkpoint_0001.pth.tar").write_bytes(b"half a file")
    parts = moco.pretrain(data, SMALL, tmp_path / "parts", device="cpu")
    assert [e.loss for e in parts] == [e.loss for e in whole]
    a, b = last_state(tmp_path / "whole"), last_state(tmp_path / "parts")
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_old_checkpoints_go_and_every_nth_stays(tmp_path: Path) -> None:
    moco.pretrain(
        moco.toy_pictures(16, 0, 24), evolve(SMALL, epochs=7, keep_last=1, keep_every=3), tmp_path, device="cpu"
    )
    assert [p.name[11:15] for p in moco.checkpoints(tmp_path)] == ["0002", "0005", "0006"]


def test_the_number_of_workers_changes_nothing(tmp_path: Path) -> None:
    losses = [[e.loss for e in moco.pretrain(moco.toy_pictures(32, 1, 24), evolve(SMALL, epochs=1), tmp_path / str(n), device="cpu", n_workers=n)]  # noqa: E501
              for n in (1, 3)]  # fmt: skip
    assert losses[0] == losses[1]


def test_queue_and_batch_must_fit(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="divide"):
        moco.pretrain(moco.toy_pictures(40, 0, 24), evolve(SMALL, queue=60), tmp_path, device="cpu")
    with pytest.raises(BadInput, match="less than one batch"):
        moco.pretrain(moco.toy_pictures(8, 0, 24), SMALL, tmp_path, device="cpu")
    with pytest.raises(MissingAsset, match="no pictures"):
        moco.find_pictures(str(tmp_path / "none"))


def test_two_processes_equal_one_with_the_doubled_batch(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "data", 48)
    flags = ["--data", str(folder), "--arch", "tiny-group", "--epochs", "2", "--batch-size", "16", "--queue", "64", "--dim", "16", "--lr", "0.05",  # noqa: E501
             "--image-size", "24", "--device", "cpu", "--workers", "1"]  # fmt: skip
    module = ["-m", "cl_plugin_clear.method.moco_main", *flags, "--to"]
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        *module,
        str(tmp_path / "two"),
    ]
    done = subprocess.run(launch, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    settings = evolve(SMALL, arch="tiny-group", epochs=2)
    one = moco.pretrain(moco.find_pictures(str(folder)), settings, tmp_path / "one", device="cpu")
    two = moco.read_log(tmp_path / "two")
    np.testing.assert_allclose([e.loss for e in two], [e.loss for e in one], rtol=0, atol=1e-4)
    a, b = last_state(tmp_path / "one"), last_state(tmp_path / "two")
    assert a.keys() == b.keys()
    for name in a:
        if name == "module.queue":  # the same keys, in the order of the processes
            first, second = (q[:, torch.argsort(q[0])] for q in (a[name], b[name]))
            np.testing.assert_allclose(second.numpy(), first.numpy(), rtol=0, atol=1e-3)
        else:
            np.testing.assert_allclose(b[name].numpy(), a[name].numpy(), rtol=0, atol=1e-4, err_msg=name)


def test_checkpoints_become_backbones_that_miss_only_the_head(tmp_path: Path) -> None:
    moco.pretrain(moco.toy_pictures(16, 0, 24), evolve(SMALL, epochs=1), tmp_path / "m", device="cpu")
    source = moco.checkpoints(tmp_path / "m")[-1]
    for name in ("b.safetensors", "b.pth.tar"):
        n = weights.convert(source, tmp_path / name)
        network, _ = backbone("tiny")
        assert n == len(network.state_dict())
        weights.load_backbone(network, str(tmp_path / name))
        trained = last_state(tmp_path / "m")
        assert all(
            torch.equal(value, trained[f"module.encoder_q.{key}"]) for key, value in network.state_dict().items()
        )
        missing, unexpected = TinyEncoder(5).load_state_dict(network.state_dict(), strict=False)
        assert (set(missing), unexpected) == ({"fc.weight", "fc.bias"}, [])
    network, _ = backbone("tiny")
    weights.load_backbone(network, str(source))
    torch.save({"state_dict": {"head.weight": torch.zeros(2)}}, tmp_path / "other.pth")
    with pytest.raises(BadInput, match="encoder_q"):
        weights.convert(tmp_path / "other.pth", tmp_path / "x.pth")


def test_detectron_names() -> None:
    assert weights.detectron_name("conv1.weight") == "stem.conv1.weight"
    assert weights.detectron_name("bn1.bias") == "stem.conv1.norm.bias"
    assert weights.detectron_name("layer3.0.downsample.1.running_mean") == "res4.0.shortcut.norm.running_mean"
    assert weights.detectron_name("layer1.2.bn3.weight") == "res2.2.conv3.norm.weight"


def test_a_linear_layer_reads_the_frozen_features(tmp_path: Path) -> None:
    pictures(tmp_path / "data" / "train", 60)
    pictures(tmp_path / "data" / "val", 30)
    moco.pretrain(
        moco.find_pictures(str(tmp_path / "data" / "train")), evolve(SMALL, epochs=4), tmp_path / "m", device="cpu"
    )
    source = str(moco.checkpoints(tmp_path / "m")[-1])
    options = {"arch": "tiny", "lr": 5.0, "steps": (20,), "batch_size": 20, "size": 24, "device": "cpu"}
    top1 = evaluate_linear(tmp_path / "data", source, tmp_path / "l", epochs=25, cached=True, **options)
    assert top1 > 0.55
    short = evaluate_linear(tmp_path / "data", source, tmp_path / "l2", epochs=10, cached=True, **options)
    again = evaluate_linear(tmp_path / "data", source, tmp_path / "l2", epochs=25, cached=True, **options)
    assert again == top1
    assert 0 <= short <= 1


def test_the_key_encoder_follows_and_gets_no_gradient() -> None:
    net = MoCo(TinyEncoder(8), TinyEncoder(8), dim=8, queue=8, momentum=0.5)
    before = [p.clone() for p in net.encoder_k.parameters()]
    with torch.no_grad():
        for p in net.encoder_q.parameters():
            p.add_(1.0)
    net.follow()
    for old, new in zip(before, net.encoder_k.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.5)
        assert not new.requires_grad
