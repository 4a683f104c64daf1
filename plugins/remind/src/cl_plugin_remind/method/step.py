"""One streaming step: a new example and replayed ones through the plastic part, in the paper's order.

Shapes: n examples of the step (the new one first), C channels, H W side, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from attrs import define, field
from torch import Tensor, nn
from torch.nn import functional

from cl_plugin_remind.method.augment import Chance, matrices, mix, resample
from cl_plugin_remind.method.losses import mixed_cross_entropy
from cl_plugin_remind.method.recorded import Recorded, Recorder, Staging, cuda_graph, momentum_buffers, momentum_sgd

if TYPE_CHECKING:
    from cl_kernel import Memory
    from cl_plugin_remind.settings import Streaming

FEATURES, LABEL, ITEM = "features", "class", "item"
"""Fields of a remembered example."""


def decay(step: int, start: float, end: float, n_samples: int = 1300) -> float:
    """Factor by which a class' rate falls every ``step`` of its examples, to reach ``end`` after ``n_samples``."""
    return math.exp(step * math.log(end / start) / n_samples)


@define
class Rates:
    """The learning rate of each class falls with the number of its examples seen in the stream.

    A sample of a class that had t before it uses ``start * gamma ** (t // step)``, whatever came in between.
    """

    start: float
    gamma: float
    step: int
    per_class: bool = True
    seen: dict[int, int] = field(factory=dict)

    def of(self, label: int) -> float:
        """Rate for the next sample of a class."""
        return self.start * self.gamma ** (self.seen.get(label, 0) // self.step) if self.per_class else self.start

    def advance(self, label: int) -> None:
        """A sample of the class was used."""
        self.seen[label] = self.seen.get(label, 0) + 1


def make_rates(settings: Streaming) -> Rates:
    """Rates as the settings say."""
    gamma = decay(settings.lr_step, settings.start_lr, settings.end_lr, settings.lr_samples)
    return Rates(settings.start_lr, gamma, settings.lr_step, settings.lr_mode == "step_lr_per_class")


def make_optimizer(upper: nn.Module, settings: Streaming) -> torch.optim.SGD:
    """Plain momentum SGD over all tensors of the upper part, weight decay on every one."""
    return torch.optim.SGD(upper.parameters(), settings.start_lr, settings.momentum, weight_decay=settings.weight_decay)


@define(eq=False, repr=False)
class Streamer:
    """Everything a step needs; the memory holds codes (or floats, under the codec ``raw``)."""

    settings: Streaming
    upper: nn.Module
    optimizer: torch.optim.SGD
    rates: Rates
    memory: Memory | None
    chance: Chance
    device: torch.device
    draw: Callable[[int], np.ndarray] | None = None
    record: Recorder | None = None  # on CUDA the arithmetic is recorded and played; None runs it as it is
    stage: Staging = field(init=False)
    _recordings: dict[tuple[int, bool], Recorded] = field(init=False, factory=dict)
    _momentum: list[Tensor] = field(init=False, factory=list)

    def __attrs_post_init__(self) -> None:
        self.stage = Staging(self.device)
        if self.record is None and self.device.type == "cuda" and self.settings.capture:
            self.record = cuda_graph

    def step(self, new: Tensor, label: int) -> Tensor:
        """Learn from one example, given as the memory will give it back: quantised and decoded.

        :param new: float32 [1, C, H, W] (or [1, D]). :return: the loss, on the device.
        """
        settings, rate = self.settings, self.rates.of(label)
        inputs, labels = self._gather(new, label)
        down = across = None
        if settings.crops and inputs.dim() == 4:
            height, width = inputs.shape[2:]
            down, across = matrices(self.chance.crops(len(inputs), height, width), height, width)
        share = self.chance.share(settings.mixup_alpha) if settings.mixup else 1.0
        if self.record is None:
            set_rate(self.optimizer, rate)
            loss = self._backward(inputs, labels, down, across, share)
            self.optimizer.step()
        else:
            moved = [m if m is None else self.stage(m) for m in (down, across)]
            play = self._recording(self.record, len(inputs))
            loss = play(inputs, labels, *moved, self.stage(np.array([share, rate], np.float32)))
        self.rates.advance(label)
        return loss

    def forget_recordings(self) -> None:
        """The optimiser was restored: its buffers are not those that recordings write to."""
        self._recordings.clear()
        self._momentum.clear()

    def _recording(self, record: Recorder, n: int) -> Recorded:
        """Forward, backward and update for n examples, recorded once."""
        key = (n, self.upper.training)
        if key not in self._recordings:
            self._momentum = self._momentum or momentum_buffers(self.optimizer)
            parameters, buffers, settings = list(self.upper.parameters()), self._momentum, self.settings

            def work(
                inputs: Tensor, labels: Tensor, down: Tensor | None, across: Tensor | None, numbers: Tensor
            ) -> Tensor:
                loss = self._backward(inputs, labels, down, across, numbers[0])
                momentum_sgd(parameters, buffers, numbers[1], settings.momentum, settings.weight_decay)
                return loss

            self._recordings[key] = Recorded(work, record)
        return self._recordings[key]

    def _backward(
        self, inputs: Tensor, labels: Tensor, down: Tensor | None, across: Tensor | None, share: float | Tensor
    ) -> Tensor:
        """Gradients of the loss on the new example and, mixed in pairs, the replayed ones; all of it on the device."""
        if down is not None and across is not None:
            inputs = resample(inputs, down.to(self.device), across.to(self.device))
        if self.settings.mixup:
            n_pairs = len(inputs) // 2
            first, second = inputs[1 : 1 + n_pairs], inputs[1 + n_pairs :]
            inputs = torch.cat([inputs[:1], mix(first, second, share)])
            one, other = labels[: 1 + n_pairs], torch.cat([labels[:1], labels[1 + n_pairs :]])
            loss = mixed_cross_entropy(self.upper(inputs), one, other, share).mean()
        else:
            loss = functional.cross_entropy(self.upper(inputs), labels)
        self.optimizer.zero_grad()
        loss.backward()
        if self.settings.grad_clip is not None:
            nn.utils.clip_grad_norm_(self.upper.parameters(), self.settings.grad_clip)
        return loss.detach()

    def keep(self, stored: Any, label: int, item: int) -> None:
        """Put the example just learnt into the memory, which makes room as its policy says.

        :param stored: its codes, or its features for a codec without codes; leading axis 1.
        """
        if self.memory is not None:
            group = np.array([label], np.int64)
            self.memory.add({FEATURES: stored, LABEL: group, ITEM: np.array([item], np.int64)}, group)

    def _gather(self, new: Tensor, label: int) -> tuple[Tensor, Tensor]:
        """The new example and the replayed ones, an even number of them where they are mixed, and their labels."""
        wanted = self.settings.replay_samples * (2 if self.settings.mixup else 1)
        if self.memory is None or wanted == 0 or len(self.memory) == 0:
            return new, self.stage(np.array([label], np.int64))
        slots = self.draw(wanted) if self.draw else self.memory.draw(wanted)
        if self.settings.mixup:
            slots = slots[: len(slots) // 2 * 2]
        if len(slots) == 0:
            return new, self.stage(np.array([label], np.int64))
        old = self.memory.take(slots)
        features = old[FEATURES] if isinstance(old[FEATURES], Tensor) else torch.from_numpy(old[FEATURES])
        labels = np.concatenate([np.array([label], np.int64), old[LABEL]])
        inputs = torch.cat([new, features if features.device == new.device else self.stage(features)])
        return inputs, self.stage(labels)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use this learning rate from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def probabilities(upper: nn.Module, batches: Sequence[Tensor]) -> Tensor:
    """Softmax over all classes, no masking of unseen ones; evaluation mode."""
    upper.eval()
    with torch.inference_mode():
        return torch.cat([upper(batch).softmax(1) for batch in batches])
