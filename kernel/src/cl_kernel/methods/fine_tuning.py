"""Fine-tuning: plain training stage after stage, scores restricted to the classes seen; the lower bound.

On a stream whose stages hold everything so far it is the upper bound. ``naive`` is the same without the restriction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cl_kernel.methods.penalty import Penalised, Penalty

if TYPE_CHECKING:
    from cl_kernel.running.resources import Setup


def build(settings: Penalty, setup: Setup) -> Penalised:
    """Learner ``fine-tuning``."""
    return Penalised(settings, setup, None)
