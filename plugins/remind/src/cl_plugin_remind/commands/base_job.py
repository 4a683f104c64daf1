"""Training of the base network as a job of its own: ``clk remind train-base``, alone or under ``torchrun``.

Checkpoints have the authors' form: ``epoch``, ``arch``, ``state_dict`` (names ``model.*``), ``best_acc1``,
``optimizer``; the best one is kept under ``best_<name>``; the last one holds weights and optimiser only.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cl_kernel import BadInput, BadSetting, Samples, Stream
from cl_kernel.torch import distributed, evaluate, state
from cl_kernel.torch.device import resolve
from cl_kernel.torch.features import extract
from cl_kernel.torch.loaders import to_input
from cl_kernel.torch.state import read_file
from cl_plugin_remind.data.folders import ImageFiles
from cl_plugin_remind.method.base import BaseTrainer
from cl_plugin_remind.method.parts import set_tf32
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

    :param resume: a checkpoint of this job to go on from, or to score; a finished one can be scored only.
    :return: ``best_acc1``, ``acc1`` in percent and the path of the best checkpoint.
    :raises BadSetting: when there is nothing to evaluate. :raises BadInput: for a checkpoint of another network.
    """
    if only_evaluate and not resume:
        raise BadSetting("there is no checkpoint to evaluate", where="--evaluate", fix="--resume CHECKPOINT --evaluate")
    with distributed.started(device) as where:
        state.seed_torch(generator(seed, "weights"))
        base = _network(network, stream.spec["image"].shape[0] or 0, stream.n_classes).to(where)
        if where.type == "cuda":
            set_tf32(settings.tf32)
            base = base.to(memory_format=torch.channels_last)
        if only_evaluate:
            load_base(base.model, resume)
            return {"acc1": 100 * evaluate.accuracy(base, _validation(stream), where)}
        trainer = BaseTrainer(settings, base, where, lambda *names: generator(seed, *names))
        best = _resume(trainer, base, resume) if resume else 0.0
        trainer.wrapped = distributed.wrap(base, where)
        output.mkdir(parents=True, exist_ok=True)
        path = output / (name or f"{network.base_arch}_{len(stream.stages[0].classes)}.pth")
        return _train(trainer, base, stream, path, network.base_arch, best, n_workers, say)


def layer_outputs(
    files: ImageFiles,
    network: Network,
    checkpoint: str,
    names: Sequence[str],
    path: Path,
    *,
    limit: int = 0,
    batch_size: int = 128,
    device: str = "auto",
) -> dict[str, list[int]]:
    """Write the outputs of named layers of a base network to an ``.npz`` file, with the images' classes.

    :param names: as ``layer4.0``; what lies above the last one is not computed.
    :return: layer -> shape, the images first.
    :raises UnknownName: for a layer the network has not. :raises BadInput: for a checkpoint that does not fit.
    """
    where = resolve(device)
    base = _network(network, files.spec["image"].shape[0] or 0, len(files.classes)).to(where)
    load_base(base.model, checkpoint)
    rows = np.arange(min(limit or len(files), len(files)))
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for at in range(0, len(rows), batch_size):
        images = to_input(files.take(rows[at : at + batch_size], ["image"])["image"], files.spec["image"], where)
        for name, output in extract(base.model, base.normalise(images), names).items():
            parts[name].append(output.cpu().numpy())
    arrays = {name: np.concatenate(found) for name, found in parts.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays, classes=files.labels[rows])  # type: ignore[arg-type]
    return {name: list(array.shape) for name, array in arrays.items()}


def _network(network: Network, side: int, n_classes: int) -> Base:
    """The whole network for images of a side and a number of classes, with random weights."""
    blocks = list(network.blocks)
    if BASES[network.base_arch] == "layer4.0":
        blocks[3] = 1
    small = network.stem_kind == "small" or (network.stem_kind == "auto" and side < 96)
    return Base(
        ResNet(n_classes, stem=network.stem, small=small, widths=network.widths, blocks=blocks, strides=network.strides)
    )


def _train(
    trainer: BaseTrainer,
    base: Base,
    stream: Stream,
    path: Path,
    arch: str,
    best: float,
    n_workers: int,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Epochs from wherever the trainer stands, a checkpoint after each; the first process writes."""
    best_path, validation, where = path.with_name(f"best_{path.name}"), _validation(stream), trainer.device
    accuracy = None
    for epoch in trainer.epochs(stream.stages[0].train, lambda **_: None, _refuse, n_workers):
        accuracy = 100 * evaluate.accuracy(base, validation, where)
        if distributed.rank() == 0:
            say(f"epoch {epoch}/{trainer.settings.base_epochs}: top-1 {accuracy:.2f}")
            content = {
                "epoch": epoch,
                "arch": arch,
                "state_dict": base.state_dict(),
                "best_acc1": max(best, accuracy),
                "optimizer": trainer.optimizer.state_dict(),
            }
            _save(path, content)
            if accuracy > best or not best_path.exists():
                shutil.copyfile(path, best_path)
        best = max(best, accuracy)
        distributed.barrier()
    if accuracy is None:  # the checkpoint was of the last epoch
        accuracy = 100 * evaluate.accuracy(base, validation, where)
        best = max(best, accuracy)
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
            fix="score it with --evaluate, or resume from best_*.pth or the file of an unfinished job",
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
