"""Base training as a job: resume equals no interruption, two processes see the data of one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cl_kernel import BadInput, BadSetting, Resources
from cl_plugin_remind.commands import base_job as job
from cl_plugin_remind.data.folders import imagenet
from cl_plugin_remind.settings import BaseTraining, ImageNet, Network

NETWORK = Network(stem=4, stem_kind="small", widths=(4, 4, 8, 8), blocks=(1, 1, 1, 2))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for side, count in (("train", 8), ("val", 2)):
        for level, name in enumerate("abc"):
            (tmp_path / side / name).mkdir(parents=True)
            for k in range(count):
                Image.fromarray((rng.integers(0, 80, (16, 16, 3)) + 80 * level).astype(np.uint8)).save(
                    tmp_path / side / name / f"{k}.png"
                )
    return tmp_path


def stream(images: Path):
    return imagenet(
        ImageNet(images=str(images), base_classes=2, increment=1, max_class=0, resize=16, side=16), Resources()
    )


def test_a_resumed_job_ends_like_an_uninterrupted_one(images: Path) -> None:
    whole = BaseTraining(base_epochs=3, base_batch=4, base_lr_step=1)
    job.run(whole, NETWORK, stream(images), images / "whole", name="b.pth", device="cpu")

    class Stop(Exception):
        pass

    def after_the_second(text: str) -> None:
        if text.startswith("epoch 3"):
            raise Stop

    with pytest.raises(Stop):
        job.run(whole, NETWORK, stream(images), images / "cut", name="b.pth", device="cpu", say=after_the_second)
    job.run(
        whole, NETWORK, stream(images), images / "cut", name="b.pth", device="cpu", resume=str(images / "cut" / "b.pth")
    )
    ours, theirs = (torch.load(images / where / "b.pth", weights_only=True)["state_dict"] for where in ("cut", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_checkpoints_have_the_authors_form_and_can_be_scored(images: Path) -> None:
    training = BaseTraining(base_epochs=1, base_batch=4)
    found = job.run(training, NETWORK, stream(images), images / "out", device="cpu")
    best = torch.load(found["best"], weights_only=True)
    assert set(best) == {"epoch", "arch", "state_dict", "best_acc1", "optimizer"}
    assert "model.layer4.1.conv1.weight" in best["state_dict"]
    last = torch.load(images / "out" / "ResNet18ClassifyAfterLayer4_1_2.pth", weights_only=True)
    assert set(last) == {"state_dict", "optimizer"}
    scored = job.run(
        training, NETWORK, stream(images), images / "out", device="cpu", resume=found["best"], only_evaluate=True
    )
    assert scored["acc1"] == pytest.approx(best["best_acc1"])
    with pytest.raises(BadInput, match="finished one"):
        job.run(
            training,
            NETWORK,
            stream(images),
            images / "out",
            device="cpu",
            resume=str(images / "out" / "ResNet18ClassifyAfterLayer4_1_2.pth"),
        )


def test_evaluation_needs_a_checkpoint_and_takes_a_finished_one(images: Path) -> None:
    training = BaseTraining(base_epochs=1, base_batch=4)
    with pytest.raises(BadSetting, match="no checkpoint to evaluate"):
        job.run(training, NETWORK, stream(images), images / "out", device="cpu", only_evaluate=True)
    trained = job.run(training, NETWORK, stream(images), images / "out", name="b.pth", device="cpu")
    scored = job.run(
        training,
        NETWORK,
        stream(images),
        images / "out",
        device="cpu",
        resume=str(images / "out" / "b.pth"),
        only_evaluate=True,
    )
    assert scored["acc1"] == pytest.approx(trained["acc1"])


def test_a_checkpoint_of_the_last_epoch_is_scored_and_finished(images: Path) -> None:
    training = BaseTraining(base_epochs=1, base_batch=4)
    found = job.run(training, NETWORK, stream(images), images / "out", name="b.pth", device="cpu")
    again = job.run(
        training, NETWORK, stream(images), images / "again", name="b.pth", device="cpu", resume=found["best"]
    )
    assert again["acc1"] == pytest.approx(found["best_acc1"])
    assert (images / "again" / "b.pth").is_file()


def torchrun(images: Path, output: str, port: int, *more: str) -> None:
    settings = {"base_batch": 8, "stem": 4, "stem_kind": "small", "widths": "[4,4,8,8]", "blocks": "[1,1,1,2]"}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    command += ["-m", "cl_kernel.cli.main", "remind", "train-base", "--images", str(images), "--classes", "2"]
    command += ["--output", str(images / output), "--device", "cpu", "--side", "16", "--resize", "16"]
    command += ["--workers", "1", "--name", "b.pth", *more]
    for name, value in settings.items():
        command += ["--set", f"{name}={value}"]
    subprocess.run(command, check=True, timeout=300, capture_output=True)


@pytest.mark.slow
def test_two_processes_train_one_network_and_go_on_from_a_checkpoint(images: Path) -> None:
    torchrun(images, "whole", 29571, "--set", "base_epochs=2")
    torchrun(images, "first", 29572, "--set", "base_epochs=1")
    best = str(images / "first" / "best_b.pth")
    torchrun(images, "second", 29573, "--set", "base_epochs=2", "--resume", best)
    whole, second = (
        torch.load(images / name / "b.pth", weights_only=True)["state_dict"] for name in ("whole", "second")
    )
    assert all(torch.isfinite(tensor).all() for tensor in whole.values())
    trainable = [name for name in whole if "running" not in name and "num_batches" not in name]
    assert all(torch.equal(whole[name], second[name]) for name in trainable)
    torchrun(images, "scored", 29574, "--resume", str(images / "whole" / "b.pth"), "--evaluate")
