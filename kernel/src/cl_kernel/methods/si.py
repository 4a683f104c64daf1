"""Synaptic intelligence: importance is what a parameter contributed to the fall of the loss along its path.

``omega_i = -sum_steps g_i dtheta_i`` with the gradient of the plain loss, and after a stage
``Omega_i += omega_i / (Delta_i^2 + damping)``, Delta the distance travelled in it; the penalty is
``strength * sum Omega_i (theta_i - theta*_i)^2``. Source: Zenke, Poole and Ganguli 2017,
https://arxiv.org/abs/1703.04200, eqs. 3 to 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attrs import define, field

from cl_kernel.methods.lazy import torch
from cl_kernel.methods.penalty import (
    Consolidation,
    LabelledBatches,
    Named,
    Penalised,
    Penalty,
    added,
    moved,
    snapshot,
    trainable,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from cl_kernel.running.resources import Setup


@define
class PathIntegral:
    """What each parameter contributed along the way.

    :param damping: added to the squared distance travelled.
    """

    damping: float = 0.1
    omega: Named = field(factory=dict)
    start: Named = field(factory=dict)

    def begin(self, model: nn.Module) -> None:
        """Start a stage here."""
        self.start = snapshot(model)
        self.omega = {name: torch.zeros_like(p) for name, p in self.start.items()}

    def step(self, gradients: Mapping[str, Tensor], before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
        """Count one optimiser step: ``omega -= gradient of the plain loss * movement``."""
        for name, gradient in gradients.items():
            self.omega[name] -= gradient * (after[name].detach() - before[name])

    def importance(self, model: nn.Module) -> Named:
        """Importance of the stage that ends here."""
        now = snapshot(model)
        return {name: self.omega[name] / ((now[name] - self.start[name]) ** 2 + self.damping) for name in now}


@define
class Si(Consolidation):
    """One anchor whose importance adds up, and the account of the stage under way."""

    path: PathIntegral = field(factory=PathIntegral, kw_only=True)

    def begin(self, model: nn.Module) -> None:
        """Start the account."""
        self.path.begin(model)

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        """One optimiser step on ``loss`` plus the penalty; the account knows the gradient of ``loss`` alone."""
        optimizer.zero_grad()
        loss.backward()
        plain = {name: p.grad.clone() for name, p in trainable(model).items() if p.grad is not None}
        if self.anchors:
            self.penalty(model).backward()
        before = snapshot(model)
        optimizer.step()
        self.path.step(plain, before, trainable(model))

    def importance(self, model: nn.Module, batches: LabelledBatches, n_active: int) -> Named:
        """This stage's contributions on top of the earlier ones'."""
        return added(self.path.importance(model), self.anchors)

    def state(self) -> dict[str, Any]:
        """The anchor and the account."""
        return {**super().state(), "omega": self.path.omega, "start": self.path.start}

    def load(self, tree: Mapping[str, Any], device: torch.device) -> None:
        """Go on from what :meth:`state` gave."""
        super().load(tree, device)
        self.path.omega, self.path.start = moved(tree["omega"], device), moved(tree["start"], device)


def build(settings: Penalty, setup: Setup) -> Penalised:
    """Learner ``si``."""
    return Penalised(settings, setup, Si(settings.strength))
