"""MoCo: momentum contrast (He et al., arXiv 1911.05722) and its second version (Chen et al., arXiv 2003.04297).

Shapes: N batch of this process, B batch of all processes, D embedding, K queue, d backbone width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from cl_kernel import BadSetting
from cl_kernel.torch import distributed


class MoCo(nn.Module):
    """Momentum contrast: a query encoder, a slowly following key encoder and a queue of negative keys.

    :param encoder_q, encoder_k: the same architecture with a final ``fc`` of ``dim`` outputs; the second is
        overwritten with the first's parameters.
    :param mlp: replace ``fc`` by Linear(d, d), ReLU, and the same ``fc`` (v2).
    """

    queue: Tensor
    queue_ptr: Tensor

    def __init__(
        self,
        encoder_q: nn.Module,
        encoder_k: nn.Module,
        *,
        dim: int = 128,
        queue: int = 65536,
        momentum: float = 0.999,
        temperature: float = 0.07,
        mlp: bool = False,
    ) -> None:
        super().__init__()
        self.encoder_q, self.encoder_k = encoder_q, encoder_k
        self.momentum, self.temperature = momentum, temperature
        if mlp:
            for encoder in (encoder_q, encoder_k):
                fc: Any = encoder.fc
                encoder.fc = nn.Sequential(nn.Linear(fc.in_features, fc.in_features), nn.ReLU(), fc)
        for q, k in zip(encoder_q.parameters(), encoder_k.parameters(), strict=True):
            k.data.copy_(q.data)
            k.requires_grad = False
        self.register_buffer("queue", functional.normalize(torch.randn(dim, queue), dim=0))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))

    @torch.no_grad()
    def follow(self) -> None:
        """theta_k <- m theta_k + (1 - m) theta_q, parameters only."""
        q = [p.detach() for p in self.encoder_q.parameters()]
        k = [p.detach() for p in self.encoder_k.parameters()]
        torch._foreach_mul_(k, self.momentum)
        torch._foreach_add_(k, q, alpha=1.0 - self.momentum)

    @torch.no_grad()
    def keys(self, images: Tensor, shuffle: Tensor | None = None) -> Tensor:
        """Normalised keys [N, D]; with several processes each encodes a random slice of all images, so that batch
        statistics of a key and its query differ.

        :param shuffle: permutation of all B images, the same on every process; None for none (one process needs none:
            the permutation of a whole batch changes nothing).
        """
        if distributed.world() == 1 or shuffle is None:
            return functional.normalize(self.encoder_k(images), dim=1)
        n, rank = len(images), distributed.rank()
        mine = gathered(images)[shuffle[rank * n : (rank + 1) * n]]
        found = gathered(functional.normalize(self.encoder_k(mine), dim=1))
        return found[torch.argsort(shuffle)[rank * n : (rank + 1) * n]]

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Put the keys of all processes into the queue.

        :raises BadSetting: when the queue is no multiple of the whole batch.
        """
        if distributed.world() > 1:
            keys = gathered(keys)
        size, at = self.queue.shape[1], int(self.queue_ptr)
        if size % len(keys):
            raise BadSetting(
                f"a queue of {size} is no multiple of the batch of {len(keys)}",
                where="moco.queue",
                fix="choose a batch size that divides the queue",
            )
        self.queue[:, at : at + len(keys)] = keys.T
        self.queue_ptr[0] = (at + len(keys)) % size

    def forward(self, x_q: Tensor, x_k: Tensor, shuffle: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits [N, 1 + K], the positive first, against the queue as it was before this batch; and the keys [N, D]."""
        q = functional.normalize(self.encoder_q(x_q), dim=1)
        with torch.no_grad():
            self.follow()
            k = self.keys(x_k, shuffle)
        positive = (q * k).sum(1, keepdim=True)
        negative = q @ self.queue.clone().detach()
        return torch.cat([positive, negative], 1) / self.temperature, k


def contrast(logits: Tensor) -> Tensor:
    """Cross-entropy of the positive, column 0."""
    return functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))


def gathered(rows: Tensor) -> Tensor:
    """The rows of all processes, in rank order."""
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)
