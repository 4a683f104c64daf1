"""Losses: cross-entropy on the classes seen so far, weighted over the two ways through the head."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import field, frozen
from torch import Tensor
from torch.nn import functional as F

from cl_kernel import BadInput


@frozen
class Weights:
    """Weights of the two losses of a step: through the codebook, and directly from the map."""

    out: float = field(default=1.0)
    direct: float = field(default=1.0)


PRETRAINING = Weights(1.0, 1.0)
STREAMING = Weights(1.0, 0.0)
SHIPPED_PRETRAINING = Weights(1.0, 0.0)
"""What the released scripts do, against their own comments."""


def check_active(active: Sequence[int]) -> int:
    """How many score columns count: labels seen so far must be 0 .. k-1.

    :raises BadInput: otherwise; a loss on other columns would train the wrong outputs silently.
    """
    if list(active) != list(range(len(active))):
        raise BadInput(
            f"classes seen so far are {list(active)[:12]}, not 0..{len(active) - 1}",
            where="class labels of the stream",
            fix="number classes in the order in which stages bring them",
        )
    return len(active)


def cross_entropy(scores: Tensor, labels: Tensor, n_active: int) -> Tensor:
    """Mean cross-entropy over the first ``n_active`` columns."""
    return F.cross_entropy(scores[:, :n_active], labels)
