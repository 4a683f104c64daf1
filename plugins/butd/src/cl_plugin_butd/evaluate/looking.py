"""What the top-down network shows of a question: maps at every level, and the object it draws.

Shapes: n questions, H W pixels, K answers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from attrs import frozen
from torch import Tensor

OTHERS = 16


@frozen
class Looked:
    """Maps of the top-down network, the deepest first, each [n, h, w]; the drawn object [n, H, W]; logits [n, K]."""

    maps: list[np.ndarray]
    drawn: np.ndarray | None
    logits: np.ndarray


def looked(ask: Callable[[Tensor], dict[str, Any]], argument: Tensor, n_arguments: int) -> Looked:
    """Ask about pictures, and about the same pictures with other arguments.

    A map shows where the top-down network answers to the argument: the root mean square over channels of what its
    activations differ from their mean over arguments.

    :param ask: argument [n] -> streams, with ``task`` logits and, where there is an image head, ``drawn``.
    :param n_arguments: arguments there are; at most :data:`OTHERS` of them are compared.
    """
    run = ask(argument)
    others = [_levels(ask(torch.full_like(argument, k))) for k in range(min(n_arguments, OTHERS))]
    maps = []
    for i, own in enumerate(_levels(run)):
        usual = torch.stack([levels[i] for levels in others]).mean(0)
        maps.append((own - usual).square().mean(1).sqrt().cpu().numpy())
    drawn = run.get("drawn")
    picture = None if drawn is None else drawn.float().mean(1).clamp(0, 255).cpu().numpy()
    return Looked(maps, picture, run["task"].float().cpu().numpy())


def _levels(run: dict[str, Any]) -> list[Tensor]:
    """Top-down maps [n, C, h, w], the deepest first."""
    return [level.float() for level in (*(taps[0][-1] for taps in reversed(run["td_lat"][1:-1])), run["td"])]


def enlarged(map_: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map [h, w] over the whole picture, bilinear, 0..1."""
    x = torch.from_numpy(np.ascontiguousarray(map_))[None, None]
    x = torch.nn.functional.interpolate(x, size=size, mode="bilinear", align_corners=False)[0, 0].numpy()
    return (x - x.min()) / max(float(np.ptp(x)), 1e-12)
