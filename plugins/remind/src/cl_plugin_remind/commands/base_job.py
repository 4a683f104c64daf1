"""Training of the base network as a job of its own: ``clk remind train-base``, alone or under ``torchrun``.

Checkpoints have the authors' form: ``epoch``, ``arch``, ``state_dict`` (names ``model.*``), ``best_acc1``,
``optimizer``; the best one is kept under ``best_<name>``; the last one holds weights and optimiser only.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cl_kernel import BadInput, Samples, Stream
from cl_kernel.torch import distributed, evaluate, state
from cl_kernel.torch.state import read_file
from cl_plugin_remind.method.base import BaseTrainer
from cl_plugin_remind.network.resnet import BASES, Base, ResNet
from cl_plugin_remind.settings import BaseTraining, Network
from cl_plugin_remind.weights.checkpoints import load_base


def run(
    settings: BaseTraining,
    network: Network,
    stream: Stream,
    output: Path,
    *,
    name: str = "",
    resume: str = "",
    only_evaluate: bool = False,
    device: str = "auto",
    seed: int = 0,
    n_workers: int = 2,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Train (or only evaluate) the base network on the first stage of a stream.

    :param resume: a checkpoint of this job to go on from.
    :return: ``best_acc1``, ``acc1`` in percent and the path of the best checkpoint.
    :raises BadInput: for a checkpoint of another network.
    """
    stage = stream.stages[0]
    validation = _validation(stream)
    with distributed.started(device) as where:
        state.seed_torch(generator(seed, "weights"))
        blocks = list(network.blocks)
        if BASES[network.base_arch] == "layer4.0":
            blocks[3] = 1
        image = stream.spec["image"].shape
        small = network.stem_kind == "small" or (network.stem_kind == "auto" and (image[0] or 0) < 96)
        base = Base(
            ResNet(
                stream.n_classes,
                stem=network.stem,
                small=small,
                widths=network.widths,
                blocks=blocks,
                strides=network.strides,
            )
        ).to(where)
        trainer = BaseTrainer(settings, base, where, lambda *names: generator(seed, *names))
        best = _resume(trainer, base, resume) if resume else 0.0
        if only_evaluate:
            return {"acc1": 100 * evaluate.accuracy(base, validation, where)}
        trainer.wrapped = distributed.wrap(base, where)
        output.mkdir(parents=True, exist_ok=True)
        path = output / (name or f"{network.base_arch}_{len(stage.classes)}.pth")
        best_path, accuracy = path.with_name(f"best_{path.name}"), 0.0
        for epoch in trainer.epochs(stage.train, lambda **_: None, _refuse, n_workers):
            accuracy = 100 * evaluate.accuracy(base, validation, where)
            if distributed.rank() == 0:
                say(f"epoch {epoch}/{settings.base_epochs}: top-1 {accuracy:.2f}")
                _save(
                    path,
                    {
                        "epoch": epoch,
                        "arch": network.base_arch,
                        "state_dict": base.state_dict(),
                        "best_acc1": max(best, accuracy),
                        "optimizer": trainer.optimizer.state_dict(),
                    },
                )
                if accuracy > best or not best_path.exists():
                    shutil.copyfile(path, best_path)
            best = max(best, accuracy)
            distributed.barrier()
        if distributed.rank() == 0:
            _save(path, {"state_dict": base.state_dict(), "optimizer": trainer.optimizer.state_dict()})
        return {"best_acc1": best, "acc1": accuracy, "best": str(best_path)}


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """A generator for each purpose, the same in every process."""
    digest = hashlib.sha256(repr(names).encode()).digest()[:16]
    return np.random.default_rng([seed, int.from_bytes(digest, "little")])


def _resume(trainer: BaseTrainer, base: Base, path: str) -> float:
    content = read_file(path)
    if not isinstance(content, dict) or "epoch" not in content:
        raise BadInput(
            "the checkpoint does not say its epoch: it is a finished one",
            where=path,
            fix="resume from the file of an unfinished job, or raise base_epochs and start anew",
        )
    load_base(base.model, path)
    trainer.optimizer.load_state_dict(content["optimizer"])
    trainer.epoch = int(content["epoch"])
    return float(content["best_acc1"])


def _validation(stream: Stream) -> Samples:
    from cl_kernel import subset

    return subset(stream.test, next(iter(stream.test_sets.values())))


def _save(path: Path, content: dict[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(content, temporary)
    temporary.replace(path)


def _refuse(what: str, error: Exception) -> None:
    raise BadInput(f"cannot use {what}: {error}", where=what)
