"""Exemplars and prototypes: iCaRL's herding and nearest mean, distillation losses, CoPE's prototypes.

Shapes: N candidates, D feature length, B batch, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

EPS = 1e-12


def herding(features: Tensor, n: int) -> Tensor:
    """ICaRL's choice: greedily, the candidates whose mean stays nearest to the class mean; none twice.

    :param features: [N, D].
    :return: row numbers in the order chosen, int64 [min(n, N)].
    """
    features = F.normalize(features, dim=1)
    mean = F.normalize(features.mean(0), dim=0)
    total = torch.zeros_like(mean)
    free = torch.ones(len(features), dtype=torch.bool, device=features.device)
    order = []
    for k in range(min(n, len(features))):
        means = F.normalize((features + total) / (k + 1), dim=1)
        distance = ((mean - means) ** 2).sum(1).masked_fill(~free, torch.inf)
        best = int(distance.argmin())
        order.append(best)
        free[best] = False
        total = total + features[best]
    return torch.tensor(order, dtype=torch.int64)


def herding_shipped(features: Tensor, n: int) -> Tensor:
    """Herding as CRUMB's repository has it: the candidate means are divided by the norm of the whole matrix, and
    candidates may repeat, so the memory usually holds copies of one image (Q6).
    """
    features = F.normalize(features, dim=1)
    mean = F.normalize(features.mean(0), dim=0)
    total = torch.zeros_like(mean)
    order = []
    for k in range(n):
        means = (features + total) / (k + 1)
        distance = ((mean - means / means.norm()) ** 2).sum(1)
        order.append(int(distance.argmin()))
        total = total + features[order[-1]]
    return torch.tensor(order, dtype=torch.int64)


def prototype(features: Tensor, *, normalised_first: bool = True) -> Tensor:
    """Unit-length mean of exemplars [n, D]; as shipped the exemplars themselves are not normalised (Q6)."""
    if normalised_first:
        features = F.normalize(features, dim=1)
    return F.normalize(features.mean(0), dim=0)


def nearest_mean_scores(queries: Tensor, prototypes: Tensor) -> Tensor:
    """``1 / squared distance`` of unit-length queries [B, D] to prototypes [K, D]: [B, K]."""
    distance = ((F.normalize(queries, dim=1)[:, None] - prototypes[None]) ** 2).sum(2)
    return 1 / distance.clamp_min(EPS)


def sigmoid_distillation(scores: Tensor, old_scores: Tensor) -> Tensor:
    """Binary cross-entropy of sigmoids to the old network's sigmoids, mean over batch and columns."""
    return F.binary_cross_entropy_with_logits(scores, torch.sigmoid(old_scores))


def lwf_loss(scores: Tensor, labels: Tensor, old_scores: Tensor | None) -> Tensor:
    """LwF of spec 2.11: one-hot targets whose old columns are the old network's sigmoids.

    :param scores: [B, K]; ``old_scores``: [B, k] of the network before this task, None in the first.
    """
    target = F.one_hot(labels, scores.shape[1]).to(scores.dtype)
    if old_scores is not None and old_scores.shape[1]:
        target[:, : old_scores.shape[1]] = torch.sigmoid(old_scores)
    return F.binary_cross_entropy_with_logits(scores, target)


def ppp_loss(embeddings: Tensor, labels: Tensor, prototypes: Tensor, temperature: float = 1.0) -> Tensor:
    """CoPE's pseudo-prototypical proxy loss: draw each example to its class, push all others away from it.

    Batch mates stand in for the prototype. An example is drawn to the mean, over the prototype and its mates
    (detached), of the probability of its class; examples of other classes are pushed off the mean of the prototype's
    and each single mate's probability (eqs. 4 to 6 of De Lange and Tuytelaars, 2021).

    :param embeddings: unit length, [B, D]; ``prototypes``: row c is class c's, [K, D].
    """
    total = embeddings.new_zeros(())
    for c in labels.unique().tolist():
        mine = labels == c
        n = int(mine.sum())
        to_all = (embeddings @ prototypes.t() / temperature).exp()
        rest = to_all.sum(1, keepdim=True) - to_all[:, c : c + 1]
        by_prototype = to_all[:, c : c + 1] / to_all.sum(1, keepdim=True)

        def by_mates(mates: Tensor, rows: Tensor, rest: Tensor = rest) -> Tensor:
            closeness = (embeddings[rows] @ mates.t() / temperature).exp()
            return closeness / (closeness + rest[rows])

        others = 1 - torch.eye(n, dtype=embeddings.dtype, device=embeddings.device)
        drawn = (by_mates(embeddings[mine].detach(), mine) * others).sum(1) + by_prototype[mine, 0]
        total = total - (drawn / n).log().sum()
        pushed = 0.5 * (by_mates(embeddings[mine], ~mine) + by_prototype[~mine])
        total = total - torch.log1p(-pushed).sum()
    return total / len(labels)
