"""PackNet: each task trains what earlier ones left free, then prunes it and trains what is left again.

After training, each layer's weights of the task are ranked by magnitude and the smallest ``prune`` of them are set to
zero and freed; the others are trained for ``prune_epochs`` more and then fixed for ever. A task sees its own and all
earlier tasks' weights. Biases and norms are fixed after the first task. Source: Mallya and Lazebnik 2018,
https://arxiv.org/abs/1711.05769, sec. 3 and the authors' code, https://github.com/arunmallya/packnet.

Differs: the first task may begin from random weights, where the paper begins from ImageNet.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from attrs import field, frozen, validators

from cl_kernel.contract.offers import doc
from cl_kernel.methods.base import Validator
from cl_kernel.methods.isolation import Isolated, Isolating, Tensors, fitting, norms_setting
from cl_kernel.methods.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from cl_kernel.contract.interfaces import Tree
    from cl_kernel.contract.stream import Stage
    from cl_kernel.running.resources import Setup

inside: Validator = validators.and_(validators.gt(0), validators.lt(1))


@frozen(kw_only=True)
class Settings(Isolating):
    """PackNet."""

    norms: str = norms_setting("frozen")
    prune: float = field(
        default=0.5, validator=inside, metadata=doc("share of a task's weights freed", source="sec. 4")
    )
    prune_epochs: int = field(
        default=0, validator=validators.ge(0), metadata=doc("passes after pruning; 0: half of those before, rounded up")
    )


def pruned(weight: Tensor, mine: Tensor, share: float) -> Tensor:
    """Which of a task's weights are freed: those not above the k-th smallest magnitude, k = round(share n).

    :param mine: bool, which weights of the layer are the task's.
    """
    magnitudes = weight[mine].abs()
    rank = round(share * magnitudes.numel())
    if rank < 1:
        return torch.zeros_like(mine)
    return mine & (weight.abs() <= magnitudes.kthvalue(rank).values)


class PackNet(Isolated[Settings]):
    """Weights that belong to one task each.

    :param owner: for each layer's weight the task that owns it, int16, counted from 1; 0 is free.
    """

    def __init__(self, settings: Settings, setup: Setup) -> None:
        self.owner: Tensors = {}
        super().__init__(settings, setup)
        weights = dict(self.upper.named_parameters())
        self.owner = {
            f"{name}.weight": torch.zeros_like(weights[f"{name}.weight"], dtype=torch.int16) for name in self.layers
        }

    def open(self, task: int) -> Tensors:
        """A task begins with everything that is free."""
        for owner in self.owner.values():
            owner[owner == 0] = task + 1
        return {}

    def tensors(self, task: int) -> Tensors:
        """Weights of this task and of earlier ones."""
        weights = dict(self.upper.named_parameters())
        return {
            name: weights[name] * ((owner > 0) & (owner <= task + 1)).to(weights[name].dtype)
            for name, owner in self.owner.items()
        }

    def free(self, task: int) -> Tensors:
        """The task's own weights."""
        return {name: owner == task + 1 for name, owner in self.owner.items()}

    def n_epochs(self, stage: Stage) -> int:
        """Passes before and after pruning."""
        return super().n_epochs(stage) + self._after(super().n_epochs(stage))

    def _after(self, before: int) -> int:
        return self.settings.prune_epochs or math.ceil(before / 2)

    def epoch_begins(self, stage: Stage, epoch: int) -> None:
        """Prune between the two."""
        if epoch == super().n_epochs(stage) and self.position == 0:
            self._prune(stage.index)

    def _prune(self, task: int) -> None:
        weights = dict(self.upper.named_parameters())
        with torch.no_grad():
            for name, owner in self.owner.items():
                freed = pruned(weights[name], owner == task + 1, self.settings.prune)
                owner[freed] = 0
                weights[name][freed] = 0.0
        self.optimizer = self.make_optimizer()

    def price(self) -> dict[str, int]:
        """The task number of every weight, shared out among the tasks."""
        n = sum(owner.numel() for owner in self.owner.values())
        tasks = len(self.own)
        return {"masks": math.ceil(n * math.ceil(math.log2(tasks + 1)) / 8 / tasks)}

    def kept(self) -> dict[str, Tree]:
        """Owners beside what the tasks own."""
        from cl_kernel.torch.state import pack

        return {**super().kept(), "owner": pack(self.owner)}

    def regain(self, tree: Tree) -> None:
        """Take it back."""
        from cl_kernel.torch.state import unpack

        super().regain(tree)
        kept = unpack(tree["owner"])
        fitting(kept, self.upper)
        self.owner = {name: value.to(self.device) for name, value in kept.items()}


def build(settings: Settings, setup: Setup) -> PackNet:
    """Learner ``packnet``."""
    return PackNet(settings, setup)
