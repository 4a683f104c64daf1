"""SupSup: supermasks in superposition. Weights are random and never trained; a task is a mask over them.

A task keeps, of each layer, the ``density`` of weights with the largest scores ``|s|``; scores learn through the mask,
straight through. Weights are signed constants: plus or minus the standard deviation of Kaiming's normal initialisation.
At test time the task may be inferred: with the masks superposed, ``W sum_i a_i M_i`` at ``a_i = 1/T``, the task is the
one whose weight most lowers the entropy of the answer, ``argmax_i -dH/da_i``. Source: Wortsman et al. 2020,
https://arxiv.org/abs/2006.14769, sec. 3.1-3.3, and the authors' code, https://github.com/RAIVNLab/supsup.

Differs: inference is sample by sample, and one shot; norms keep statistics a task, averaged over tasks while the task
is not known, where the paper normalises by the batch. Every task's head has the width of the largest task.

Shapes: B batch, T tasks learnt.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from attrs import field, frozen, validators

from cl_kernel.contract.offers import doc
from cl_kernel.methods.base import Validator
from cl_kernel.methods.isolation import Isolated, Isolating, Tensors, mask_bytes, straight_through
from cl_kernel.methods.lazy import nn, torch

if TYPE_CHECKING:
    from torch import Tensor

    from cl_kernel.running.resources import Setup

part: Validator = validators.and_(validators.gt(0), validators.le(1))


@frozen(kw_only=True)
class Settings(Isolating):
    """SupSup."""

    density: float = field(default=0.5, validator=part, metadata=doc("share of each layer's weights that a mask keeps"))
    task: str = field(
        default="given",
        validator=validators.in_(("given", "inferred")),
        metadata=doc("whether the task is given at test time or inferred from the sample"),
    )
    weights: str = field(
        default="signed",
        validator=validators.in_(("signed", "given")),
        metadata=doc("fixed weights: random signed constants, or the network's own", source="sec. 3.1"),
    )


def signed_constants(weight: Tensor) -> Tensor:
    """Plus or minus sqrt(2 / fan in), by the sign of a random weight."""
    fan_in = math.prod(weight.shape[1:])
    return torch.where(weight < 0, -1.0, 1.0).to(weight.dtype) * math.sqrt(2 / fan_in)


def supermask(scores: Tensor, density: float) -> Tensor:
    """1 for the largest ``density`` of ``|scores|``, else 0; int((1 - density) n) weights are left out."""
    n_out = int((1 - density) * scores.numel())
    order = scores.abs().flatten().argsort(stable=True)
    mask = torch.ones_like(scores).flatten()
    mask[order[:n_out]] = 0.0
    return mask.view_as(scores)


def entropy(scores: Tensor) -> Tensor:
    """Entropy of the softmax of scores [..., k]."""
    return -(scores.softmax(-1) * scores.log_softmax(-1)).sum(-1)


class SupSup(Isolated[Settings]):
    """A supermask a task."""

    def __init__(self, settings: Settings, setup: Setup) -> None:
        super().__init__(settings, setup)
        self.width = max(len(stage.classes) for stage in setup.stream.stages) or self.n_classes
        self.masked = [f"{name}.weight" for name in (*self.layers, self.head)]
        if settings.weights == "signed":
            with torch.no_grad():
                for name, value in self.upper.named_parameters():
                    if name in self.masked:
                        value.copy_(signed_constants(value))
                    elif name.endswith(".bias") and name.removesuffix("bias") + "weight" in self.masked:
                        value.zero_()

    def shares(self, task: int) -> bool:
        """No task trains a weight."""
        return False

    def _fresh_head(self, task: int) -> Tensors:
        return {}

    def open(self, task: int) -> Tensors:
        """Scores of every masked weight, Kaiming-uniform as a linear layer's."""
        weights = dict(self.upper.named_parameters())
        made: Tensors = {}
        for name in self.masked:
            scores = torch.empty_like(self._weight(name, weights))
            nn.init.kaiming_uniform_(scores, a=math.sqrt(5))
            made[f"scores:{name}"] = nn.Parameter(scores)
        return made

    def _weight(self, name: str, weights: dict[str, nn.Parameter]) -> Tensor:
        """A fixed weight; of the score layer as many rows as the largest task has classes."""
        value = weights[name].detach()
        return value[: self.width] if name == f"{self.head}.weight" else value

    def tensors(self, task: int) -> Tensors:
        """Weights under the task's mask."""
        weights = dict(self.upper.named_parameters())
        made: Tensors = {}
        for name in self.masked:
            scores = self.own[task][f"scores:{name}"]
            mask = supermask(scores.detach(), self.settings.density)
            made[name] = self._weight(name, weights) * straight_through(mask, scores.abs())
        return {**made, **self._head_bias()}

    def _head_bias(self) -> Tensors:
        bias = f"{self.head}.bias"
        values = dict(self.upper.named_parameters())
        return {bias: values[bias].detach()[: self.width]} if bias in values else {}

    def infer(self, inputs: Tensor) -> Tensor:
        """The task of each sample, int64 [B]."""
        masks = [self.tensors(task) for task in range(len(self.own))]
        plain = {name: torch.stack([m[name] for m in masks]).detach() for name in masks[0]}
        norms = [{n: v for n, v in own.items() if ":" not in n} for own in self.own]
        floats = {n: torch.stack([one[n].detach().float() for one in norms]).mean(0) for n in norms[0]}

        def uncertainty(weights: Tensor, sample: Tensor) -> Tensor:
            mixed = {name: torch.tensordot(weights, stack, 1) for name, stack in plain.items()}
            scores = torch.func.functional_call(self.upper, {**mixed, **floats}, (sample[None],))
            return entropy(scores[0])

        even = torch.full((len(self.own),), 1 / len(self.own), device=inputs.device)
        slopes: Tensor = torch.func.vmap(torch.func.grad(uncertainty), (None, 0))(even, inputs)
        return slopes.argmin(1)

    def scores(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Scores [B, K]: of the classes of the task given, or of the one inferred."""
        if self.settings.task == "given" or not self.own:
            return super().scores(inputs, labels)
        out = torch.full((len(inputs), self.n_classes), -torch.inf, device=inputs.device)
        found = self.infer(inputs)
        for task in range(len(self.own)):
            rows = (found == task).nonzero().flatten()
            if len(rows):
                self.put(out, rows, task, self.answer(inputs[rows], task))
        return out

    def price(self) -> dict[str, int]:
        """A bit a weight."""
        return {"masks": mask_bytes(self.upper, [name.removesuffix(".weight") for name in self.masked])}


def build(settings: Settings, setup: Setup) -> SupSup:
    """Learner ``supsup``."""
    return SupSup(settings, setup)
