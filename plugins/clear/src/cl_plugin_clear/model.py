"""Networks of CLEAR: the MoCo pair of encoders, backbones without head, classifier heads.

Shapes: N batch of this process, B batch of all processes, D embedding, K queue, d backbone width, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from cl_kernel import BadSetting, Mismatch
from cl_kernel.torch import distributed
from cl_plugin_clear.weights import load_backbone

if TYPE_CHECKING:
    from cl_kernel import Field, Resources
    from cl_plugin_clear.settings import Cnn, Linear, Mlp


class MoCo(nn.Module):
    """Momentum contrast: a query encoder, a slowly following key encoder and a queue of negative keys (sec. 2.10).

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


class TinyEncoder(nn.Module):
    """Two convolutions for the stand-in: everything of a real encoder, in milliseconds."""

    def __init__(self, n_outputs: int = 128, width: int = 16, *, norm: str = "batch") -> None:
        super().__init__()
        make = nn.BatchNorm2d if norm == "batch" else lambda channels: nn.GroupNorm(4, channels)
        self.conv1 = nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False)
        self.bn1 = make(width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False)
        self.bn2 = make(2 * width)
        self.fc: nn.Module = nn.Linear(2 * width, n_outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Float [N, 3, H, W] -> [N, outputs]."""
        x = functional.relu(self.bn1(self.conv1(images)))
        x = functional.relu(self.bn2(self.conv2(x)))
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


ARCHITECTURES = ("resnet50", "resnet18", "tiny", "tiny-group")
"""``tiny-group`` has no batch statistics: several processes then compute exactly what one does."""


def encoder(arch: str, n_outputs: int) -> nn.Module:
    """A network with a final ``fc`` of ``n_outputs``, weights random.

    :raises BadSetting: for an architecture nobody knows.
    """
    if arch in ("tiny", "tiny-group"):
        return TinyEncoder(n_outputs, norm="group" if arch == "tiny-group" else "batch")
    if arch not in ARCHITECTURES:
        raise BadSetting(f"unknown architecture {arch!r}", where="arch", fix=f"one of {', '.join(ARCHITECTURES)}")
    import torchvision

    return getattr(torchvision.models, arch)(weights=None, num_classes=n_outputs)  # type: ignore[no-any-return]


def backbone(arch: str) -> tuple[nn.Module, int]:
    """The same without head, and its width d."""
    network = encoder(arch, 1)
    fc: Any = network.fc
    width = int(fc.in_features)
    network.fc = nn.Identity()
    return network, width


def build_linear(settings: Linear, fields: Mapping[str, Field], n_outputs: int, resources: Resources) -> nn.Module:
    """Linear(d, C) on feature vectors."""
    return nn.Linear(_width(fields), n_outputs)


def build_mlp(settings: Mlp, fields: Mapping[str, Field], n_outputs: int, resources: Resources) -> nn.Module:
    """Linear(d, hidden), ReLU, Linear(hidden, C) on feature vectors."""
    return nn.Sequential(nn.Linear(_width(fields), settings.hidden), nn.ReLU(), nn.Linear(settings.hidden, n_outputs))


def build_cnn(settings: Cnn, fields: Mapping[str, Field], n_outputs: int, resources: Resources) -> nn.Module:
    """A backbone with a new head, all weights trained, from scratch or from a checkpoint."""
    network, width = backbone(settings.arch)
    if settings.weights:
        load_backbone(network, settings.weights)
    network.fc = nn.Linear(width, n_outputs)
    return network


def _width(fields: Mapping[str, Field]) -> int:
    vectors = [spec for spec in fields.values() if spec.kind == "vector"]
    if not vectors or vectors[0].shape[0] is None:
        raise Mismatch(
            "this head reads feature vectors, the data set gives none",
            where="--model",
            fix="--model clear:cnn, or a data set of features",
        )
    return int(vectors[0].shape[0])
