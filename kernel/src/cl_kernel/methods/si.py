"""Synaptic intelligence: importance is what a parameter contributed to the fall of the loss along its path.

``omega_i = -sum_steps g_i dtheta_i`` with the gradient of the plain loss, and after a stage
``Omega_i += max(0, omega_i) / (Delta_i^2 + damping)``, Delta the distance travelled in it; the penalty is
``strength * sum Omega_i (theta_i - theta*_i)^2``. Source: Zenke, Poole and Ganguli 2017,
https://arxiv.org/abs/1703.04200, eqs. 3 to 5.

Differs: one stage's negative contribution counts as none, since a negative importance would reward leaving the anchor;
``signed`` keeps it. The paper does not carry the optimiser's momentum over to the next stage; here it goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import define, field, frozen

from cl_kernel.contract.offers import doc
from cl_kernel.methods.base import not_negative, positive
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


@frozen(kw_only=True)
class Settings(Penalty):
    """Synaptic intelligence."""

    strength: float = field(
        default=1.0, validator=not_negative, metadata=doc("weight of the penalty, the paper's c", source="sec. 5")
    )
    damping: float = field(
        default=0.1, validator=positive, metadata=doc("added to the squared distance travelled, the paper's xi")
    )
    signed: bool = field(default=False, metadata=doc("keep negative importances, as CRUMB's comparison does"))


@define
class PathIntegral:
    """What each parameter contributed along the way.

    :param damping: added to the squared distance travelled.
    :param signed: keep negative contributions.
    """

    damping: float = 0.1
    signed: bool = True
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
        omega = self.omega if self.signed else {name: value.clamp_min(0) for name, value in self.omega.items()}
        return {name: omega[name] / ((now[name] - self.start[name]) ** 2 + self.damping) for name in now}


@define
class Si(Consolidation):
    """One anchor whose importance adds up, and the account of the stage under way."""

    path: PathIntegral = field(factory=lambda: PathIntegral(signed=False), kw_only=True)

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

    def importance(self, model: nn.Module, batches: LabelledBatches, n_active: int, rng: np.random.Generator) -> Named:
        """This stage's contributions on top of the earlier ones'."""
        return added(self.path.importance(model), self.anchors)

    def n_copies(self, n_stages: int) -> int:
        """Importance, anchor, and the account of the stage under way."""
        return 4

    def state(self) -> dict[str, Any]:
        """The anchor and the account."""
        return {**super().state(), "omega": self.path.omega, "start": self.path.start}

    def load(self, tree: Mapping[str, Any], device: torch.device) -> None:
        """Go on from what :meth:`state` gave."""
        super().load(tree, device)
        self.path.omega, self.path.start = moved(tree["omega"], device), moved(tree["start"], device)


def build(settings: Settings, setup: Setup) -> Penalised:
    """Learner ``si``."""
    path = PathIntegral(settings.damping, settings.signed)
    return Penalised(settings, setup, Si(settings.strength, path=path))
