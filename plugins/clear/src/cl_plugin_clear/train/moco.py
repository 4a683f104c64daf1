"""MoCo v1 and v2 on a folder of pictures, in one process or under torchrun.

Shapes: N batch of this process, B batch of all processes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cl_plugin_clear.model import MoCo, contrast

STEPS = (120, 160)


def learning_rate(epoch: int, lr: float, epochs: int, *, cosine: bool, steps: tuple[int, ...] = STEPS) -> float:
    """Learning rate of a 0-based epoch: half a cosine, or a tenth after each of ``steps`` (sec. 6.1)."""
    if cosine:
        return lr * 0.5 * (1.0 + math.cos(math.pi * epoch / epochs))
    for step in steps:
        lr *= 0.1 if epoch >= step else 1.0
    return lr


def step(network: torch.nn.Module, moco: MoCo, optimizer: torch.optim.Optimizer, x_q: Tensor, x_k: Tensor,
         shuffle: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """One training step in the paper's order (sec. 2.10).

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
