"""Penalties of the baselines as pure functions, and the online importances that grow during training.

Named tensors are mappings name -> tensor of the same names throughout.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from attrs import define, field
from torch import Tensor

Named = Mapping[str, Tensor]


def quadratic(now: Named, before: Named, importance: Named) -> Tensor:
    """``sum importance (now - before)^2``: the penalty of EWC, MAS, SI, IMM and RWalk."""
    return torch.stack([(importance[name] * (now[name] - before[name]).square()).sum() for name in importance]).sum()


def mas_objective(logits: Tensor) -> Tensor:
    """Mean over the batch of the squared length of the logits, whose gradient MAS calls importance."""
    return logits.flatten(1).square().sum(1).mean()


def distillation(new: Tensor, old: Tensor, presence: Tensor | None = None, *, temperature: float = 2.0) -> Tensor:
    """KL divergence of the old answers from the new, over classes, no factor of squared temperature.

    :param new: logits [B, n] or [B, n, J].
    :param presence: weight of each output [B, J].
    :return: summed, divided by B.
    """
    log_new = F.log_softmax(new / temperature, 1)
    log_old = F.log_softmax(old / temperature, 1)
    kl = (log_old.exp() * (log_old - log_new)).sum(1)
    if presence is not None:
        kl = kl * presence
    return kl.sum() / len(new)


def normalised(values: Named, eps: float = 1e-8) -> dict[str, Tensor]:
    """Each tensor stretched to 0..1."""
    return {name: (v - v.min()) / (v.max() - v.min() + eps) for name, v in values.items()}


def copied(values: Named) -> dict[str, Tensor]:
    """Detached copies."""
    return {name: v.detach().clone() for name, v in values.items()}


@define
class OnlineEwc:
    """EWC++: a running Fisher, ``F <- alpha g^2 + (1 - alpha) F``.

    :param before: importance the earlier tasks left; the running one starts from it, or from 1.
    """

    parameters: Named
    before: Named | None = None
    alpha: float = 0.9
    fisher: dict[str, Tensor] = field(init=False)
    anchor: dict[str, Tensor] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.anchor = copied(self.parameters)
        self.fisher = (
            copied(self.before)
            if self.before is not None
            else {name: torch.ones_like(p) for name, p in self.anchor.items()}
        )

    def penalty(self) -> Tensor:
        """Quadratic, importances of the earlier tasks stretched to 0..1."""
        return quadratic(self.parameters, self.anchor, normalised(self.before or self.fisher))

    def update(self, gradients: Named) -> None:
        """Count a step's gradient of the plain loss; call before the optimiser moves."""
        for name, g in gradients.items():
            self.fisher[name] = self.alpha * g.square() + (1 - self.alpha) * self.fisher[name]

    def importance(self) -> dict[str, Tensor]:
        """What this task leaves."""
        return copied(self.fisher)


@define
class OnlinePathIntegral:
    """Path integral: ``score = sum g (theta_before - theta) / ((theta - anchor)^2 + eps)``, never negative."""

    parameters: Named
    before: Named | None = None
    eps: float = 1e-20
    path: dict[str, Tensor] = field(init=False)
    last: dict[str, Tensor] = field(init=False)
    anchor: dict[str, Tensor] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.anchor, self.last = copied(self.parameters), copied(self.parameters)
        self.path = {name: torch.zeros_like(p) for name, p in self.anchor.items()}

    def penalty(self) -> Tensor:
        """Quadratic, importances of the earlier tasks stretched to 0..1."""
        return quadratic(
            self.parameters, self.anchor, normalised(self.before if self.before is not None else self.path)
        )

    def update(self, gradients: Named) -> None:
        """Count the movement since the last call against this step's gradient."""
        for name, g in gradients.items():
            now = self.parameters[name].detach()
            self.path[name] += g * (self.last[name] - now)
            self.last[name] = now.clone()

    def importance(self) -> dict[str, Tensor]:
        """What this task leaves, added to what was there."""
        score = {
            name: (self.path[name] / ((self.parameters[name].detach() - self.anchor[name]).square() + self.eps)).clamp(
                min=0
            )
            for name in self.path
        }
        return {name: s + self.before[name] if self.before is not None else s for name, s in score.items()}


@define
class OnlineWalk:
    """Riemannian walk: EWC++ and a score of how much each parameter lowered the loss per distance travelled.

    :param before: (fisher, score) of the earlier tasks.
    :param period: steps between two readings of the score.
    """

    parameters: Named
    before: tuple[Named, Named] | None = None
    alpha: float = 0.9
    period: int = 10
    eps: float = 1e-8
    ewc: OnlineEwc = field(init=False)
    score: dict[str, Tensor] = field(init=False)
    last: dict[str, Tensor] = field(init=False)
    n_updates: int = 0

    def __attrs_post_init__(self) -> None:
        self.ewc = OnlineEwc(self.parameters, self.before[0] if self.before else None, self.alpha)
        self.last = copied(self.parameters)
        self.score = {name: torch.zeros_like(p) for name, p in self.last.items()}

    def penalty(self) -> Tensor:
        """Quadratic, weighted by the normalised Fisher plus the normalised score of the earlier tasks."""
        fisher, score = self.before or (self.ewc.fisher, self.score)
        fisher, score = normalised(fisher), normalised(score)
        return quadratic(self.parameters, self.ewc.anchor, {name: fisher[name] + score[name] for name in fisher})

    def update(self, gradients: Named) -> None:
        """Count a step; call before the optimiser moves."""
        if self.n_updates % self.period == 0:
            for name, g in gradients.items():
                now = self.parameters[name].detach()
                moved = self.last[name] - now
                self.score[name] += g * moved / (0.5 * self.ewc.fisher[name] * moved.square() + self.eps)
                self.last[name] = now.clone()
        self.ewc.update(gradients)
        self.n_updates += 1

    def importance(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(fisher, score) this task leaves; the score is averaged with the one before."""
        score = {name: s.clamp(min=0) for name, s in self.score.items()}
        if self.before is not None:
            score = {name: 0.5 * (s + self.before[1][name]) for name, s in score.items()}
        return self.ewc.importance(), score
