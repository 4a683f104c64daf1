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
    """CoPE's pseudo-prototypical proxy loss: draw each example to its prototype and batch mates, push others off.

    :param embeddings: unit length, [B, D]; ``prototypes``: row c is class c's, [K, D].
    """
    batch = len(labels)
    total = embeddings.new_zeros(())
    for c in labels.unique():
        mine, others = embeddings[labels == c], embeddings[labels != c]
        # Positive term: every example of c against the prototype and its batch mates as stand-ins for it.
        total = total + _attract(mine, prototypes, int(c), temperature)
        total = total + _repel(mine, others, prototypes, int(c), temperature)
    return total / batch


def _attract(mine: Tensor, prototypes: Tensor, c: int, temperature: float) -> Tensor:
    logits = mine @ prototypes.t() / temperature
    return -F.log_softmax(logits, 1)[:, c].sum()


def _repel(mine: Tensor, others: Tensor, prototypes: Tensor, c: int, temperature: float) -> Tensor:
    logits = others @ prototypes.t() / temperature
    return -torch.log1p(-F.softmax(logits, 1)[:, c]).sum() if len(others) else others.sum()
