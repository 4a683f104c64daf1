"""Training of the base network on the first classes, in a run or as a job of its own under ``torchrun``.

Shapes: B batch, C channels, H W image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from attrs import define, field
from torch import Tensor, nn
from torch.nn import functional

from cl_kernel import Samples
from cl_kernel.torch import distributed, state
from cl_kernel.torch.loaders import Batches, ahead, as_tensor, in_memory, input_name, label_name, take_good, to_input
from cl_plugin_remind.method.augment import Drawn, crop
from cl_plugin_remind.settings import BaseTraining

BadSample = Callable[[str, Exception], None]


@define(eq=False, repr=False)
class BaseTrainer:
    """Epochs of momentum SGD over the base classes, resumable at any step.

    :param rng: ``(names) -> generator``; orders and augmentation of an epoch are drawn anew from it when resumed.
    :param frozen: the part that stays in evaluation mode, or None; its tensors must need no gradients.
    """

    settings: BaseTraining
    network: nn.Module
    device: torch.device
    rng: Callable[..., np.random.Generator]
    frozen: nn.Module | None = None
    optimizer: torch.optim.SGD = field(init=False)
    epoch: int = field(init=False, default=0)
    position: int = field(init=False, default=0)
    wrapped: nn.Module = field(init=False)

    def __attrs_post_init__(self) -> None:
        settings = self.settings
        self.wrapped = self.network
        self.optimizer = torch.optim.SGD(
            self.network.parameters(),
            settings.base_lr,
            settings.base_momentum,
            weight_decay=settings.base_weight_decay,
            nesterov=settings.base_nesterov,
        )

    def epochs(
        self, samples: Samples, step: Callable[..., None], on_bad: BadSample, n_workers: int = 1
    ) -> Iterator[int]:
        """Train from wherever the trainer stands, yielding the number of each finished epoch.

        :param step: told the loss after every step; the trainer's state is consistent then.
        """
        settings = self.settings
        n_steps = math.ceil(len(samples) / settings.base_batch)
        while self.epoch < settings.base_epochs:
            self.wrapped.train()
            if self.frozen is not None:
                self.frozen.eval()
            order = self.rng("base order", self.epoch).permutation(len(samples))
            start = self.position // settings.base_batch
            batches = augmented(samples, order, self.epoch, settings, self.rng, self.device, on_bad, n_workers, start)
            for number, (inputs, labels) in enumerate(batches, start):
                rate = base_rate(settings, self.epoch, self.epoch * n_steps + number, settings.base_epochs * n_steps)
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
                with torch.autocast(self.device.type, torch.bfloat16, enabled=settings.base_precision == "bfloat16"):
                    loss = functional.cross_entropy(self.wrapped(inputs), labels)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                self.position = (number + 1) * settings.base_batch
                step(loss=loss.detach())
            self.epoch, self.position = self.epoch + 1, 0
            yield self.epoch

    def state(self) -> dict[str, Any]:
        """Optimiser and position; the network is its owner's."""
        return {"optimizer": state.pack(self.optimizer), "epoch": self.epoch, "position": self.position}

    def load(self, tree: dict[str, Any]) -> None:
        """Take over what :meth:`state` gave."""
        state.restore(self.optimizer, tree["optimizer"])
        self.epoch, self.position = int(tree["epoch"]), int(tree["position"])


def base_rate(settings: BaseTraining, epoch: int, step: int, n_steps: int) -> float:
    """Learning rate of a step: divided by ten now and then, or one cycle (cosine up over 30 %, cosine down)."""
    if settings.base_schedule == "step":
        return settings.base_lr * 0.1 ** (epoch // settings.base_lr_step)
    turn = 0.3 * n_steps - 1
    low, last = settings.base_lr / 25, settings.base_lr / 25e4
    if step <= turn:
        start, end, share = low, settings.base_lr, step / max(turn, 1e-9)
    else:
        start, end, share = settings.base_lr, last, (step - turn) / max(n_steps - 1 - turn, 1e-9)
    return end + (start - end) * (1 + math.cos(math.pi * min(share, 1.0))) / 2


def augmented(
    samples: Samples,
    order: np.ndarray,
    epoch: int,
    settings: BaseTraining,
    rng: Callable[..., np.random.Generator],
    device: torch.device,
    on_bad: BadSample,
    n_workers: int,
    start: int = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Augmented batches of an epoch; each process under ``torchrun`` takes its share of every batch.

    Samples that can augment while they decode (``take_augmented(rows, rng)``, as image folders can) do; others are
    augmented as tensors, a batch at once.
    """
    source, label = input_name(samples.spec), label_name(samples.spec)
    spec = samples.spec[source]
    pieces = [order[at : at + settings.base_batch] for at in range(0, len(order), settings.base_batch)]
    decoding = settings.base_augment == "imagenet" and hasattr(_root(samples), "take_augmented")
    if in_memory(samples):
        batches = Batches(samples, device)(order, settings.base_batch, start * settings.base_batch)
        for number, (_, inputs, labels) in enumerate(batches, start):
            inputs, labels = distributed.share_of(inputs), distributed.share_of(labels)
            yield (
                augment_tensors(inputs, settings.base_augment, rng("base augment", epoch, number, distributed.rank())),
                labels,
            )
        return

    def read(number: int) -> tuple[Any, list[tuple[str, Exception]]]:
        bad: list[tuple[str, Exception]] = []
        rows = distributed.share_of(pieces[number])
        chance = rng("base augment", epoch, number, distributed.rank())
        if decoding:
            return _take_augmented(samples, rows, chance, [source, label], bad), bad
        return take_good(samples, rows, [source, label], bad)[1], bad

    for number, (batch, bad) in enumerate(ahead(read, range(start, len(pieces)), n_workers), start):
        for which, error in bad:
            on_bad(which, error)
        if not batch:
            continue
        inputs = to_input(batch[source], spec, device)
        if not decoding:
            inputs = augment_tensors(
                inputs, settings.base_augment, rng("base augment", epoch, number, distributed.rank())
            )
        yield inputs, as_tensor(batch[label], device).long()


def augment_tensors(images: Tensor, kind: str, rng: np.random.Generator) -> Tensor:
    """Augment a batch of images in [0, 1], all at once.

    :param kind: ``imagenet``: random resized crop (area 8 to 100 %) and flip; ``shift``: flip, shift by up to an
        eighth of the side, brightness +-10 %; ``none``.
    """
    if kind == "none":
        return images
    n, _, height, width = images.shape
    flip = torch.from_numpy(rng.random(n) < 0.5).to(images.device)
    images = torch.where(flip[:, None, None, None], images.flip(3), images)
    if kind == "imagenet":
        return crop(images, Drawn(rng, scale=(0.08, 1.0)).crops(n, height, width)).contiguous()
    reach = max(height // 8, 1)
    padded = functional.pad(images, (reach, reach, reach, reach), mode="replicate")
    top, left = (torch.from_numpy(rng.integers(0, 2 * reach + 1, n)).to(images.device) for _ in range(2))
    rows = top[:, None] + torch.arange(height, device=images.device)
    columns = left[:, None] + torch.arange(width, device=images.device)
    index = torch.arange(n, device=images.device)[:, None, None]
    shifted = padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    brightness = torch.from_numpy(0.9 + 0.2 * rng.random(n)).to(images)
    return (shifted * brightness[:, None, None, None]).clamp(0, 1).contiguous()


def _root(samples: Samples) -> Samples:
    while hasattr(samples, "base"):
        samples = samples.base
    return samples


def _take_augmented(
    samples: Samples, rows: np.ndarray, rng: np.random.Generator, fields: list[str], bad: list[tuple[str, Exception]]
) -> dict[str, np.ndarray]:
    while hasattr(samples, "base"):
        rows, samples = samples.rows[rows], samples.base
    return samples.take_augmented(rows, rng, fields, bad)  # type: ignore[attr-defined]
