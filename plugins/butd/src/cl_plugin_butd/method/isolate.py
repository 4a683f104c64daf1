"""Zero forgetting in any network: a small modulation of every convolution and linear layer, a head and norms a task.

Nothing shared moves once the first task has learnt it, or at all where the network is pretrained. The modulations are
those of the second paper: ``W_t = W (1 - E(M_t))`` or ``W E(M_t)`` with ``E`` growing a few numbers to the filter's
shape. Source: Sverdlov and Ullman 2023, https://arxiv.org/abs/2311.15276.

Differs: linear layers and the projections of attention are modulated like filters of one pixel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from attrs import field, frozen

from cl_kernel import doc
from cl_kernel.methods.isolation import Isolated, Isolating, Tensors
from cl_kernel.methods.lazy import nn, torch
from cl_plugin_butd.settings import CODE_2

if TYPE_CHECKING:
    from torch import Tensor

    from cl_kernel import Setup
    from cl_plugin_butd.network.modulation import WeightModulation

ATTENTION = "in_proj_weight"


@frozen(kw_only=True)
class Isolate(Isolating):
    """Zero forgetting in any network."""

    kind: Literal["interp", "weight-1m", "weight-mul", "mask"] = field(
        default="interp", metadata=doc("modulation of every convolution and linear layer", source=CODE_2)
    )
    factor: tuple[int, ...] = field(default=(4, 4), metadata=doc("shrinkage of a modulation", source=CODE_2))
    expansion: Literal["bicubic", "bilinear", "nearest"] = field(
        default="bicubic", metadata=doc("how a modulation of kind interp grows to the filter", source=CODE_2)
    )
    tau: float = field(default=0.005, metadata=doc("threshold of masks", source=CODE_2))


class Isolator(Isolated[Isolate]):
    """A modulation a task.

    :param grow: for each modulated weight how a modulation grows to it; weights too small for one have none.
    """

    def __init__(self, settings: Isolate, setup: Setup) -> None:
        from cl_plugin_butd.network.modulation import WeightModulation

        self.grow_of: dict[str, WeightModulation] = {}
        super().__init__(settings, setup)
        s = settings
        init = 1.0 if s.kind == "weight-mul" else None
        for name, weight in self._modulated().items():
            shape = filter_shape(weight)
            kind = s.kind if s.kind != "interp" or weight.dim() in (2, 4) else "weight-1m"
            made = WeightModulation(shape, kind, s.factor, init=init, mode=s.expansion, tau=s.tau)
            if made.m is not None:
                self.grow_of[name] = made.to(self.device).requires_grad_(False)

    def _modulated(self) -> dict[str, Tensor]:
        names = {f"{name}.weight" for name in self.layers}
        return {
            name: p for name, p in self.upper.named_parameters() if name in names or name.split(".")[-1] == ATTENTION
        }

    def open(self, task: int) -> Tensors:
        """Modulations that begin as the network is."""
        if self.shares(task):
            return {}
        return {f"modulation:{name}": nn.Parameter(made.m.detach().clone()) for name, made in self.grow_of.items()}

    def tensors(self, task: int) -> Tensors:
        """Modulated weights."""
        weights = dict(self.upper.named_parameters())
        own = self.own[task]
        return {
            name: self._seen(name, weights[name].detach(), own[f"modulation:{name}"])
            for name in self.grow_of
            if f"modulation:{name}" in own
        }

    def _seen(self, name: str, weight: Tensor, m: Tensor) -> Tensor:
        grown = torch.func.functional_call(self.grow_of[name], {"m": m}, (weight.view(filter_shape(weight)),))
        return grown.view_as(weight)

    def price(self) -> dict[str, int]:
        """Numbers of the modulation; a bit a weight where it is a mask."""
        values = [v for name, v in self.own[-1].items() if name.startswith("modulation:")]
        if self.settings.kind == "mask":
            return {"modulation": sum(-(-v.numel() // 8) for v in values)}
        return {"modulation": sum(4 * v.numel() for v in values)}


def filter_shape(weight: Tensor) -> tuple[int, ...]:
    """A weight's shape as a filter's, [out, in, height, width]: linear layers have one pixel."""
    return (*weight.shape, 1, 1) if weight.dim() == 2 else tuple(weight.shape)


def build(settings: Isolate, setup: Setup) -> Isolator:
    """Learner ``isolate``."""
    return Isolator(settings, setup)
