"""Linear heads of several seeds trained side by side: one batched product a step instead of one a seed.

Each seed keeps its own weights, data, order and memory, and gets what it would get alone, up to the rounding of sums.
Shapes: S seeds, n a batch, C classes, D features, N rows of all training sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from attrs import define, field
from torch import Tensor, nn
from torch.nn import functional

from cl_kernel import Samples, Stage
from cl_kernel.torch.loaders import RESIDENT_BYTES, as_tensor, input_name, label_name
from cl_plugin_clear.method.buckets import Classifier, few_threads


def learn_together(learners: Sequence[Classifier], stages: Sequence[Stage], contexts: Sequence[Any]) -> None:
    """One bucket of every learner; one after the other where their heads cannot be batched.

    :param stages: the bucket as each learner has it. :param contexts: of each learner.
    """
    triples = list(zip(learners, stages, contexts, strict=True))
    if learners[0].skips(stages[0]):
        return
    if len(learners) == 1 or not all(_plain_head(learner, stage) for learner, stage, _ in triples):
        for learner, stage, ctx in triples:
            learner.learn(stage, ctx)
        return
    for learner, stage, ctx in triples:
        learner.begin(stage, ctx)
    sets = [learner.training_set(stage, ctx) for learner, stage, ctx in triples]
    if len({len(samples) for samples in sets}) > 1 or len(sets) * _nbytes(sets[0]) > RESIDENT_BYTES:
        for (learner, _, ctx), samples, stage in zip(triples, sets, stages, strict=True):
            with few_threads(learner.network, learner.device):
                learner.train(samples, stage, ctx)
        return
    with few_threads(learners[0].network, learners[0].device), torch.no_grad():
        _Heads(learners, sets).train(stages[0].index, contexts)


def _plain_head(learner: Classifier, stage: Stage) -> bool:
    shape = stage.train.spec[input_name(stage.train.spec)].shape
    return isinstance(learner.network, nn.Linear) and learner.settings.method == "plain" and len(shape) == 1


def _nbytes(samples: Samples) -> int:
    width = samples.spec[input_name(samples.spec)].shape[0] or 0
    return 4 * len(samples) * width


@define
class _Heads:
    """Weights [S, C, D], biases [S, C, 1] and their momentum; classes before rows, where the products are fastest."""

    learners: Sequence[Classifier]
    sets: Sequence[Samples]
    rows_ND: Tensor = field(init=False)
    labels_N: Tensor = field(init=False)
    weight: Tensor = field(init=False)
    bias: Tensor = field(init=False)
    _momenta: tuple[Tensor, Tensor] = field(init=False)
    _batch: Tensor = field(init=False)  # room for the rows of a step: megabytes, not to be asked for at each

    def __attrs_post_init__(self) -> None:
        device = self.learners[0].device
        spec = self.sets[0].spec
        names = input_name(spec), label_name(spec)
        parts = [samples.take(np.arange(len(samples)), names) for samples in self.sets]
        self.rows_ND = torch.cat([as_tensor(part[names[0]], device).float() for part in parts])
        self.labels_N = torch.cat([as_tensor(part[names[1]], device).long() for part in parts])
        networks: list[Any] = [learner.network for learner in self.learners]
        self.weight = torch.stack([network.weight.detach() for network in networks])
        self.bias = torch.stack([network.bias.detach() for network in networks]).unsqueeze(2)
        self._momenta = torch.zeros_like(self.weight), torch.zeros_like(self.bias)
        n = min(self.learners[0].settings.batch_size, len(self.sets[0]))
        self._batch = self.rows_ND.new_empty(len(self.sets) * n, self.rows_ND.shape[1])

    def train(self, bucket: int, contexts: Sequence[Any]) -> None:
        """All epochs; the weights of each seed's best epoch go back into its network."""
        settings, n = self.learners[0].settings, len(self.sets[0])
        first = torch.arange(len(self.sets), device=self.weight.device).unsqueeze(1) * n
        least = torch.full((len(self.sets),), torch.inf, dtype=torch.float64, device=self.weight.device)
        best = self.weight, self.bias
        for epoch in range(settings.epochs):
            orders = np.stack([ctx.rng("order", bucket, epoch).permutation(n) for ctx in contexts])
            order_SN = torch.from_numpy(orders).to(first.device) + first
            lr = settings.lr * settings.lr_gamma ** (epoch // settings.lr_step)
            total = torch.zeros_like(least)
            for rows_Sn in order_SN.split(settings.batch_size, 1):
                total += self._step(rows_Sn, lr)
                contexts[0].step()
            if settings.keep_best:
                better = (total / n < least)[:, None, None]
                least = torch.minimum(least, total / n)
                best = torch.where(better, self.weight, best[0]), torch.where(better, self.bias, best[1])
        weight, bias = best if settings.keep_best else (self.weight, self.bias)
        for at, learner in enumerate(self.learners):
            learner.network.load_state_dict({"weight": weight[at], "bias": bias[at, :, 0]})

    def _step(self, rows_Sn: Tensor, lr: float) -> Tensor:
        """One step of SGD on the mean cross-entropy of each seed's batch. :return: its sum over the batch, [S]."""
        settings = self.learners[0].settings
        S, n = rows_Sn.shape
        chosen = torch.index_select(self.rows_ND, 0, rows_Sn.reshape(-1), out=self._batch[: S * n])
        inputs = chosen.view(S, n, -1)
        labels = self.labels_N[rows_Sn].unsqueeze(1)
        logs = functional.log_softmax(torch.baddbmm(self.bias, self.weight, inputs.transpose(1, 2)), 1)
        loss = -logs.gather(1, labels).double().sum((1, 2))
        slope = logs.exp_()
        slope.scatter_add_(1, labels, torch.full_like(labels, -1, dtype=slope.dtype)).div_(n)
        for value, momentum in zip((self.weight, self.bias), self._momenta, strict=True):
            momentum.mul_(settings.momentum).add_(value, alpha=settings.weight_decay)
        self._momenta[0].baddbmm_(slope, inputs)
        self._momenta[1].add_(slope.sum(2, keepdim=True))
        self.weight.sub_(self._momenta[0], alpha=lr)
        self.bias.sub_(self._momenta[1], alpha=lr)
        return loss
