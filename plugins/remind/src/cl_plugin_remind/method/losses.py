"""Losses of the streaming step."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def mixed_cross_entropy(scores: Tensor, first: Tensor, second: Tensor, share: float | Tensor) -> Tensor:
    """Cross entropy of a mixture, per example: ``share * CE(first) + (1 - share) * CE(second)``.

    :param scores: [n, K]. :param first: labels int64 [n]. :param second: labels int64 [n].
    :return: [n].
    """
    one = functional.cross_entropy(scores, first, reduction="none")
    other = functional.cross_entropy(scores, second, reduction="none")
    return share * one + (1 - share) * other
