"""MoCo v1 and v2 on a folder of pictures, in one process or under torchrun.

Shapes: N batch of this process, B batch of all processes.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from attrs import asdict, define
from PIL import Image
from torch import Tensor

from cl_kernel import (
    BadInput,
    BadSetting,
    MissingAsset,
    atomic,
    identify,
    open_picture,
    record,
    recorded,
    same_or_refuse,
    write_json,
)
from cl_kernel.torch import distributed
from cl_kernel.torch.loaders import ahead
from cl_plugin_clear.curation.pictures import Pictures as StorePictures
from cl_plugin_clear.curation.store import remove_stale
from cl_plugin_clear.network.augment import view
from cl_plugin_clear.network.backbones import encoder
from cl_plugin_clear.network.moco import MoCo, contrast

if TYPE_CHECKING:
    from cl_kernel import RunContext
    from cl_plugin_clear.settings import Moco

STEPS = (120, 160)


def learning_rate(epoch: int, lr: float, epochs: int, *, cosine: bool, steps: tuple[int, ...] = STEPS) -> float:
    """Learning rate of a 0-based epoch: half a cosine, or a tenth after each of ``steps``."""
    if cosine:
        return lr * 0.5 * (1.0 + math.cos(math.pi * epoch / epochs))
    for step in steps:
        lr *= 0.1 if epoch >= step else 1.0
    return lr


def step(
    network: torch.nn.Module,
    moco: MoCo,
    optimizer: torch.optim.Optimizer,
    x_q: Tensor,
    x_k: Tensor,
    shuffle: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One training step in the paper's order.

    :param network: ``moco`` itself, or its data-parallel wrapper.
    :return: (loss, logits [N, 1 + K]), both on the device.
    """
    logits, keys = network(x_q, x_k, shuffle)
    loss = contrast(logits)
    moco.enqueue(keys)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach(), logits.detach()


# ---- pre-training -----------------------------------------------------------------------------


class Pictures:
    """Pictures to pre-train on: files, or arrays in memory; nothing is decoded before it is asked for."""

    def __init__(
        self,
        files: Sequence[Path] = (),
        arrays: np.ndarray | None = None,
        labels: Sequence[int] = (),
        store: StorePictures | None = None,
    ) -> None:
        self.files, self.arrays, self.labels, self.store = list(files), arrays, list(labels), store

    def __len__(self) -> int:
        return len(self.files) if self.arrays is None else len(self.arrays)

    def __getitem__(self, row: int) -> Image.Image:
        if self.arrays is not None:
            return Image.fromarray(self.arrays[row])
        try:
            path = self.files[row]
            return open_picture(path if self.store is None else self.store.read(str(path)), name=str(path))
        except (OSError, BadInput) as error:
            raise BadInput(
                f"cannot read a picture: {error}",
                where=str(self.files[row]),
                fix="remove it from the folder, or run clk clear download --retry decode",
            ) from error


ENDINGS = {".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff"}


def find_pictures(data: str, root: str = "") -> Pictures:
    """``store:SPLIT/BUCKET`` of the photo store at ``root``, or a folder with one sub-folder a class.

    :raises MissingAsset: when there are no pictures.
    """
    if data.startswith("store:"):
        from cl_plugin_clear.curation.buckets import Split

        name, _, bucket = data.removeprefix("store:").rpartition("/")
        if not name or not bucket.isdigit() or not root:
            raise BadSetting(
                f"{data!r} does not read store:SPLIT/BUCKET, or no photo store is given",
                where="data",
                fix="--root STORE",
            )
        paths = Split.open(Path(root), name).rows(int(bucket), ["rel_path"])["rel_path"].to_pylist()
        if any(paths):
            return Pictures([Path(path) for path in paths if path], store=StorePictures(Path(root)))
        files: list[Path] = []
        labels: list[int] = []
    else:
        folder = Path(data)
        classes = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
        files = sorted(p for name in classes for p in (folder / name).rglob("*") if p.suffix.lower() in ENDINGS)
        index = {name: i for i, name in enumerate(classes)}
        labels = [index[path.relative_to(folder).parts[0]] for path in files]
    if not files:
        raise MissingAsset("no pictures", where=data, fix="a folder with a sub-folder a class, or store:SPLIT/BUCKET")
    return Pictures(files, labels=labels)


def toy_pictures(n: int, seed: int, size: int = 48) -> Pictures:
    """Rendered shapes of the first year."""
    from cl_plugin_clear.data.toy import SHAPES, render

    labels = [i % len(SHAPES) for i in range(n)]
    arrays = np.stack([render(SHAPES[label], 0.5, ("moco", seed, i), size, size) for i, label in enumerate(labels)])
    return Pictures(arrays=arrays, labels=labels)


def views(pictures: Pictures, rows: np.ndarray, settings: Moco, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
    """Two views of each picture, float32 [N, 3, S, S] each; what is drawn depends on seed, epoch and picture alone."""
    pair: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for row in rows.tolist():
        picture = pictures[row]
        for side in (0, 1):
            rng = np.random.default_rng([seed, epoch, row, side])
            pair[side].append(view(picture, settings.image_size, rng, plus=settings.aug_plus))
    return torch.from_numpy(np.stack(pair[0])), torch.from_numpy(np.stack(pair[1]))


@define
class Epoch:
    """What one epoch gave: mean loss, share of positives ranked first, pictures per second."""

    epoch: int
    loss: float
    top1: float
    rate: float


def pretrain(
    pictures: Pictures,
    settings: Moco,
    folder: Path,
    *,
    seed: int = 0,
    device: str = "auto",
    n_workers: int = 2,
    tick: Callable[..., None] = lambda **values: None,
    report: Callable[[Epoch], None] = lambda epoch: None,
    stop_after: int | None = None,
) -> list[Epoch]:
    """Train, writing ``checkpoint_%04d.pth.tar`` after every epoch; goes on from the newest one in ``folder``.

    Under ``torchrun`` every process takes its share of each batch. The last batch of an epoch is dropped when short.

    :param tick: called after every step with device scalars.
    :param stop_after: leave after so many epochs of this call (for tests).
    :raises BadSetting: when the batch does not divide among the processes or into the queue.
    """
    with distributed.started(device) as where:
        world = distributed.world()
        if settings.batch_size % world or settings.queue % settings.batch_size:
            raise BadSetting(
                f"batch {settings.batch_size}: must divide the queue {settings.queue} and be divided by {world} processes",  # noqa: E501
                where="experiment.batch_size",
                fix="choose another batch size or queue",
            )
        if len(pictures) < settings.batch_size:
            raise BadInput(
                f"{len(pictures)} pictures are less than one batch of {settings.batch_size}", where="pre-training data"
            )
        if distributed.rank() == 0:
            _check_made_from(folder, settings, seed, len(pictures))
        distributed.barrier()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            moco = MoCo(
                encoder(settings.arch, settings.dim),
                encoder(settings.arch, settings.dim),
                dim=settings.dim,
                queue=settings.queue,
                momentum=settings.key_momentum,
                temperature=settings.temperature,
                mlp=settings.mlp,
            )
        moco = moco.to(where)
        network = distributed.wrap(moco, where, broadcast_buffers=False)
        optimizer = torch.optim.SGD(
            [p for p in moco.parameters() if p.requires_grad],
            settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
        first = resume(folder, moco, optimizer, settings.arch)
        log = read_log(folder)[:first]
        distributed.barrier()
        if distributed.rank() == 0:
            remove_stale(folder, below=False)
        per_process = settings.batch_size // world
        n_steps = len(pictures) // settings.batch_size
        moco.train()
        for epoch in range(first, settings.epochs):
            if stop_after is not None and epoch - first >= stop_after:
                break
            started = time.monotonic()
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(
                    epoch, settings.lr, settings.epochs, cosine=settings.cosine, steps=settings.steps
                )
            order = np.random.default_rng([seed, epoch]).permutation(len(pictures))[: n_steps * settings.batch_size]
            mine = distributed.share(order)
            batches = [mine[at : at + per_process] for at in range(0, len(mine), per_process)]
            shuffles = np.random.default_rng([seed, epoch, 1])
            losses = torch.zeros((), device=where)
            hits = torch.zeros((), device=where)
            make = partial(views, pictures, settings=settings, seed=seed, epoch=epoch)
            for x_q, x_k in ahead(make, batches, n_workers):
                shuffle = torch.from_numpy(shuffles.permutation(settings.batch_size)).to(where) if world > 1 else None
                loss, logits = step(network, moco, optimizer, x_q.to(where), x_k.to(where), shuffle)
                losses += loss
                hits += (logits.argmax(1) == 0).float().mean()
                tick(loss=loss)
            done = Epoch(
                epoch,
                float(distributed.mean(losses)) / n_steps,
                float(distributed.mean(hits)) / n_steps,
                n_steps * settings.batch_size / (time.monotonic() - started),
            )
            log.append(done)
            if distributed.rank() == 0:
                save(folder, epoch + 1, moco, optimizer, settings, log)
                report(done)
            distributed.barrier()
        if distributed.rank() == 0:
            prune(folder, settings)  # a run killed after its last checkpoint has not done it
        return log


def _check_made_from(folder: Path, settings: Moco, seed: int, n_pictures: int) -> None:
    """A folder's training goes on only as it was begun; without cosine it may become longer.

    :raises RunConflict: naming what differs.
    """
    left_out = {"data", "root", "arch", "keep_last", "keep_every"} | (set() if settings.cosine else {"epochs"})
    counts = {name: value for name, value in asdict(settings).items() if name not in left_out}
    wanted = identify("clear-moco", settings=counts, seed=seed, pictures=n_pictures)
    known = recorded(folder)
    if known is not None and checkpoints(folder):
        fix = "the same settings, or another --to"
        same_or_refuse(known, wanted, what="the checkpoints", where=folder, fix=fix)
    elif known is None or not checkpoints(folder):
        folder.mkdir(parents=True, exist_ok=True)
        record(folder, wanted)


def save(
    folder: Path, epoch: int, moco: MoCo, optimizer: torch.optim.Optimizer, settings: Moco, log: Sequence[Epoch]
) -> None:
    """Checkpoint in the original's form."""
    state = {
        "epoch": epoch,
        "arch": settings.arch,
        "optimizer": optimizer.state_dict(),
        "state_dict": {f"module.{name}": value for name, value in moco.state_dict().items()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "log.json", [asdict(entry) for entry in log])  # first: a resumed run cuts what is too much
    with atomic(folder / f"checkpoint_{epoch - 1:04d}.pth.tar") as file:
        torch.save(state, file)
    prune(folder, settings)


def prune(folder: Path, settings: Moco) -> None:
    """Drop checkpoints beyond the newest ``keep_last`` and every ``keep_every``-th."""
    for old in checkpoints(folder)[: -settings.keep_last]:
        number = int(old.name[11:15]) + 1
        if not (settings.keep_every and number % settings.keep_every == 0):
            old.unlink()


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints, oldest first."""
    return sorted(folder.glob("checkpoint_[0-9][0-9][0-9][0-9].pth.tar"))


def resume(folder: Path, moco: MoCo, optimizer: torch.optim.Optimizer, arch: str) -> int:
    """Take over the newest checkpoint that can be read; :return: epochs done."""
    from cl_kernel.torch import state

    for path in reversed(checkpoints(folder)):
        try:
            content = state.read_file(path)
        except BadInput:
            logging.getLogger(__name__).warning("%s is damaged; the one before is used", path.name)
            continue
        if content.get("arch") != arch:
            raise BadSetting(
                f"the checkpoint is of {content.get('arch')}, asked for {arch}",
                where=str(path),
                fix="use another folder",
            )
        moco.load_state_dict({name.removeprefix("module."): value for name, value in content["state_dict"].items()})
        optimizer.load_state_dict(content["optimizer"])
        return int(content["epoch"])
    return 0


def read_log(folder: Path) -> list[Epoch]:
    """Epochs done so far."""
    path = folder / "log.json"
    return [Epoch(**entry) for entry in json.loads(path.read_text())] if path.exists() else []


def run(ctx: RunContext, settings: Moco) -> dict[str, Any]:
    """Experiment ``moco-b0``."""
    pictures = (
        find_pictures(settings.data, settings.root)
        if settings.data
        else toy_pictures(6 * settings.batch_size, ctx.seed)
    )
    ctx.phase("MoCo", settings.epochs * (len(pictures) // settings.batch_size))
    log = pretrain(
        pictures,
        settings,
        ctx.folder / "moco",
        seed=ctx.seed,
        device=ctx.resources.device,
        n_workers=max(1, ctx.resources.n_workers),
        tick=ctx.step,
        report=lambda e: ctx.note(f"epoch {e.epoch}: loss {e.loss:.3f}, top-1 {e.top1:.3f}"),
    )
    return {
        "pictures": len(pictures),
        "epochs": len(log),
        "loss": log[-1].loss,
        "top1": log[-1].top1,
        "losses": [entry.loss for entry in log],
        "cost": {"pictures_per_s": log[-1].rate},
    }
