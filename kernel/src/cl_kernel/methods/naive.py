"""Naive training: plain steps on each stage, nothing remembered; the lower bound.

Cross-entropy over all classes of the stream, those not seen yet included; ``fine-tuning`` leaves them out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from cl_kernel.methods.base import Optimiser, make_optimizer
from cl_kernel.methods.er import Replaying

if TYPE_CHECKING:
    from cl_kernel.running.resources import Setup


@frozen(kw_only=True)
class Settings(Optimiser):
    """Plain training, stage after stage."""


def build(settings: Settings, setup: Setup) -> Replaying:
    """Learner ``naive``."""
    from cl_kernel.torch.split import build_network

    network, device = build_network(setup)
    return Replaying(settings, network, make_optimizer(network.upper, settings), None, device)
