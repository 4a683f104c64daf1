"""Piggyback: a learnt binary mask for each weight of a fixed network, a mask and a head a task.

``W_t = W * 1[R_t > tau]`` with a real mask ``R_t`` of the weight's shape that begins at 0.01; its gradient is that of
the binary mask, passed straight through. Source: Mallya, Davis and Lazebnik 2018, https://arxiv.org/abs/1801.06519,
sec. 3, and the authors' code, https://github.com/arunmallya/piggyback (threshold 0.005, Adam at 1e-4 for the masks).

Differs: where no pretrained network is given the first task trains it, unmasked. ``mask_lr`` is the masks' own rate for
Adam, as published; everything else follows ``lr`` and ``optimizer``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import field, frozen

from cl_kernel.contract.offers import doc
from cl_kernel.methods.base import positive
from cl_kernel.methods.isolation import Isolated, Isolating, Tensors, mask_bytes, norms_setting, straight_through
from cl_kernel.methods.lazy import nn, torch

if TYPE_CHECKING:
    from torch import Tensor

    from cl_kernel.running.resources import Setup


@frozen(kw_only=True)
class Settings(Isolating):
    """Piggyback."""

    norms: str = norms_setting("frozen")
    tau: float = field(default=0.005, metadata=doc("threshold of the masks", source="sec. 4"))
    mask_init: float = field(default=0.01, metadata=doc("where the real masks begin", source="sec. 4"))
    mask_lr: float = field(
        default=1e-4, validator=positive, metadata=doc("learning rate of the masks", source="sec. 4")
    )


def masked(weight: Tensor, real: Tensor, tau: float) -> Tensor:
    """The weight under a thresholded mask, whose gradient reaches the real one unchanged."""
    return weight * straight_through((real > tau).to(weight.dtype), real)


class Piggyback(Isolated[Settings]):
    """A mask a task."""

    def open(self, task: int) -> Tensors:
        """Real masks that begin above the threshold."""
        if self.shares(task):
            return {}
        weights = dict(self.upper.named_parameters())
        start = self.settings.mask_init
        return {f"mask:{n}.weight": nn.Parameter(torch.full_like(weights[f"{n}.weight"], start)) for n in self.layers}

    def tensors(self, task: int) -> Tensors:
        """Masked weights."""
        weights = dict(self.upper.named_parameters())
        masks = {n.removeprefix("mask:"): v for n, v in self.own[task].items() if n.startswith("mask:")}
        return {name: masked(weights[name].detach(), real, self.settings.tau) for name, real in masks.items()}

    def make_optimizer(self) -> torch.optim.Optimizer:
        """Adam at the published rate for the masks, beside the chosen optimiser at its own rate where that is Adam."""
        made = super().make_optimizer()
        masks = [v for n, v in self.own[-1].items() if n.startswith("mask:")] if self.own else []
        if not masks:
            return made
        others = [p for p in made.param_groups[0]["params"] if not any(p is m for m in masks)]
        s = self.settings
        return torch.optim.Adam(
            [{"params": masks, "lr": s.mask_lr}, {"params": others, "lr": s.lr, "weight_decay": s.weight_decay}]
        )

    def price(self) -> dict[str, int]:
        """A bit a weight."""
        return {"masks": mask_bytes(self.upper, self.layers)}


def build(settings: Settings, setup: Setup) -> Piggyback:
    """Learner ``piggyback``."""
    return Piggyback(settings, setup)
