"""Several processes under ``torchrun``: start-up, who am I, wrapping a network; all no-ops in a single process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from cl_kernel.torch.device import resolve


@contextmanager
def started(device: str = "auto") -> Iterator[torch.device]:
    """Join the process group that ``torchrun`` describes, if it started us, and give this process' device.

    nccl on CUDA, gloo on the CPU; the group is left at the end of the block.
    """
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield resolve(device)
        return
    chosen = resolve(device)
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield chosen
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """Number of this process, 0 when alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes take part, 1 when alone."""
    return dist.get_world_size() if dist.is_initialized() else 1


def wrap(network: nn.Module, device: torch.device, **options: Any) -> nn.Module:
    """The network under DistributedDataParallel, or as it is when alone."""
    if world() == 1:
        return network
    ids = [device.index] if device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(network, device_ids=ids, **options)


def unwrap(network: nn.Module) -> nn.Module:
    """The network itself."""
    return network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network


def share(order: np.ndarray) -> np.ndarray:
    """This process' part of an order every process drew alike; the tail is filled up so that parts are equal.

    Position k of the parts together is batch k of the whole: one process with W times the batch sees the same.
    """
    n, i = world(), rank()
    if n == 1:
        return order
    padded = np.resize(order, -(-len(order) // n) * n)
    return padded[i::n]


def mean(value: torch.Tensor) -> torch.Tensor:
    """Mean over all processes."""
    if world() > 1:
        value = value.clone()
        dist.all_reduce(value)
        value /= world()
    return value


def barrier() -> None:
    """Wait for every process."""
    if world() > 1:
        dist.barrier()


def share_of(batch: Any) -> Any:
    """This process' part of a batch all processes know: its share of every batch, so that together they see it all.

    :param batch: array or tensor with leading batch axis; returned whole when alone.
    """
    n, i = world(), rank()
    if n == 1:
        return batch
    size = -(-len(batch) // n)
    part = batch[i * size : (i + 1) * size]
    return part if len(part) else batch[:1]
