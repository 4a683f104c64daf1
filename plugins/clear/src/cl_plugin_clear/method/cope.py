"""CoPE (De Lange and Tuytelaars, ICCV 2021): slowly moving class prototypes and the pseudo-prototypical proxy loss.

Shapes: n a batch, C classes, e the embedding (here the network's outputs).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def embed(outputs: Tensor) -> Tensor:
    """Outputs on the unit sphere, [n, e]."""
    return functional.normalize(outputs, dim=1)


def proxy_loss(embedded: Tensor, labels: Tensor, prototypes: Tensor, temperature: float) -> Tensor:
    """Pseudo-prototypical proxy loss: every item is drawn to its class' prototype and to the other items of its class,
    which stand in for prototypes; items of other classes are pushed away from both.

    :param embedded: unit vectors [n, e]; :param prototypes: unit vectors [C, e], zeros for a class never seen.
    """
    n = len(labels)
    to_class = embedded @ prototypes.T / temperature  # [n, C]
    to_item = embedded @ embedded.T / temperature  # [n, n], the other item stands in for a prototype
    own = functional.one_hot(labels, len(prototypes)).bool()
    same = labels[:, None] == labels[None]
    # log of what the other classes' prototypes add up to, for each item i and each class c left out: [n, C]
    left_out = torch.eye(len(prototypes), dtype=torch.bool, device=labels.device) | ~prototypes.any(1)
    rest = to_class[:, None].masked_fill(left_out, -torch.inf).logsumexp(2)

    def log_chance(score: Tensor, others: Tensor) -> Tensor:
        return score - torch.logaddexp(score, others)

    # attraction: the mean chance of the own class over its prototype and its other items
    others_of_own = rest[own]  # [n]
    by_prototype = log_chance(to_class[own], others_of_own).exp()
    by_items = log_chance(to_item, others_of_own[:, None]).exp() * (
        same & ~torch.eye(n, dtype=torch.bool, device=labels.device)
    )
    attraction = (by_prototype + by_items.sum(1)) / same.sum(1)
    # repulsion: item j of another class against class c of item i, by c's prototype and by item i itself
    against = rest[:, labels]  # [j, i]
    chance = 0.5 * (log_chance(to_class[:, labels], against).exp() + log_chance(to_item, against).exp())
    repulsion = torch.log1p(-chance.clamp(max=1 - 1e-6)).masked_fill(same, 0.0).sum()
    return -(attraction.clamp_min(1e-12).log().sum() + repulsion) / n


@torch.no_grad()
def move(prototypes: Tensor, embedded: Tensor, labels: Tensor, momentum: float) -> None:
    """Prototypes follow the mean embedding of their class in the batch; a class never seen begins at it."""
    sums = torch.zeros_like(prototypes).index_add_(0, labels, embedded.detach())
    for c in torch.unique(labels).tolist():
        mean = functional.normalize(sums[c], dim=0)
        old = prototypes[c]
        prototypes[c] = (
            mean if not bool(old.any()) else functional.normalize(momentum * old + (1 - momentum) * mean, dim=0)
        )
