"""The prediction pass: in order, batch by batch, under inference mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cl_kernel.contract.interfaces import Samples
from cl_kernel.torch.loaders import Batches


def predict(
    network: nn.Module | Callable[[Tensor], Tensor], batches: Batches, batch_size: int = 256
) -> Iterator[dict[str, Any]]:
    """Scores of every sample in order.

    :param network: input [n, ...] -> scores [n, K]; a module is put into evaluation mode for the pass.
    :return: per batch ``scores`` float32 [n, K] and ``class`` int64 [n].
    """
    module = network if isinstance(network, nn.Module) else None
    training = module.training if module else False
    if module:
        module.eval()
    try:
        for _, inputs, _ in batches(np.arange(len(batches.samples)), batch_size):
            with torch.inference_mode():
                scores = network(inputs).float()
                found = scores.argmax(1)
            yield {"scores": scores.cpu().numpy(), "class": found.cpu().numpy()}
    finally:
        if module:
            module.train(training)


def accuracy(
    network: nn.Module | Callable[[Tensor], Tensor], samples: Samples, device: torch.device, batch_size: int = 256
) -> float:
    """Share of samples whose class is found; for use inside a learner, as when it keeps its best epoch."""
    batches = Batches(samples, device)
    labels = samples.take(np.arange(len(samples)), [batches.label])[batches.label]
    found = np.concatenate([out["class"] for out in predict(network, batches, batch_size)])
    return float((found == labels).mean())
