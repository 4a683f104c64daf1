"""CWR*: the body is frozen after the first stage, and each stage's score weights are averaged into those kept.

A stage trains score weights ``tw`` that start at zero; after it, for each of its classes, ``cw = (cw * w_past + tw -
mean(tw)) / (w_past + 1)`` with ``w_past = sqrt(seen before / seen now)`` and the mean over the stage's classes. Source:
Lomonaco, Maltoni and Pellegrini 2020, https://arxiv.org/abs/1907.03799.

Differs: weights and biases are centred each by their own mean; a class that comes again starts at zero too, not at
what is kept.

Shapes: K classes of the stream, D what enters the score layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from attrs import frozen

from cl_kernel.contract.errors import Mismatch
from cl_kernel.methods.base import Steps, Training, size_of
from cl_kernel.methods.exemplar_sets import score_layer
from cl_kernel.methods.lazy import nn, torch

if TYPE_CHECKING:
    from torch import Tensor

    from cl_kernel.contract.interfaces import Samples, Tree
    from cl_kernel.contract.stream import Stage
    from cl_kernel.running.loop import StreamContext
    from cl_kernel.running.resources import Setup


@frozen(kw_only=True)
class Settings(Steps):
    """CWR*."""


def consolidated(kept: Tensor, trained: Tensor, seen: Tensor, now: Tensor) -> Tensor:
    """Kept score weights after a stage.

    :param kept: [K, ...], ``trained`` likewise.
    :param seen: examples of each class before the stage [K]; ``now``: in it.
    """
    present = now > 0
    centred = trained - trained[present].mean()
    past = (seen / now.clamp_min(1)).sqrt().view(-1, *[1] * (kept.ndim - 1))
    mixed = (kept * past + centred) / (past + 1)
    return torch.where(present.view(past.shape), mixed, kept)


class Cwr(Training[Settings]):
    """A frozen body and consolidated score weights.

    :raises Mismatch: for a network whose score layer has no bias or gives other than one score a class.
    """

    def __init__(self, settings: Settings, setup: Setup) -> None:
        super().__init__(settings, setup)
        head = score_layer(self.upper)
        if not isinstance(head, nn.Linear | nn.Conv2d) or head.bias is None or len(head.bias) != self.n_classes:
            raise Mismatch(f"CWR* needs a score layer with bias and {self.n_classes} outputs", where="--model")
        self.head = head
        self.weight, self.bias = torch.zeros_like(head.weight.data), torch.zeros_like(head.bias.data)
        self.n_seen = torch.zeros(self.n_classes, device=self.device)

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """One stage; then its score weights are averaged into those kept."""
        batches = self.begin(stage, ctx)
        if stage.index:
            self._freeze_body()
        if self.at_start():
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self._bias)
        for epoch in self.epochs(stage):
            for _, inputs, labels in self.steps(batches, stage, ctx, epoch):
                loss = self.seen.cross_entropy(self.upper(inputs), labels)
                self.descend(loss)
                self.stepped(ctx, loss=loss.detach())
        labels = torch.cat([labels for _, _, labels in self.in_order(batches, stage)])
        now = torch.bincount(self.seen.columns_of(labels), minlength=self.n_classes).to(self.n_seen)
        self.weight = consolidated(self.weight, self.head.weight.detach(), self.n_seen, now)
        self.bias = consolidated(self.bias, self._bias.detach(), self.n_seen, now)
        self.n_seen = self.n_seen + now

    @property
    def _bias(self) -> Tensor:
        assert self.head.bias is not None
        return self.head.bias

    def _freeze_body(self) -> None:
        """Only the score layer learns; normalisation keeps its statistics."""
        self.upper.requires_grad_(False)
        self.head.requires_grad_(True)
        self.upper.eval()

    def predict(self, samples: Samples) -> Iterator[dict[str, Any]]:
        """Scores of the kept weights."""
        own = self.head.weight.detach().clone(), self._bias.detach().clone()
        self._put(self.weight, self.bias)
        try:
            yield from super().predict(samples)
        finally:
            self._put(*own)

    def _put(self, weight: Tensor, bias: Tensor) -> None:
        with torch.no_grad():
            self.head.weight.copy_(weight)
            self._bias.copy_(bias)

    def reserve(self) -> int:
        """Consolidated weights of the score layer, and a count of each class."""
        return size_of(score_layer(self.upper)) + 8 * self.n_classes

    def kept(self) -> dict[str, Tree]:
        """Kept score weights, and how often each class was seen."""
        from cl_kernel.torch.state import pack

        return {"kept": pack({"weight": self.weight, "bias": self.bias, "n_seen": self.n_seen})}

    def regain(self, tree: Tree) -> None:
        """Take them back."""
        from cl_kernel.torch.state import unpack

        kept = {name: value.to(self.device) for name, value in unpack(tree["kept"]).items()}
        self.weight, self.bias, self.n_seen = kept["weight"], kept["bias"], kept["n_seen"]


def build(settings: Settings, setup: Setup) -> Cwr:
    """Learner ``cwr``."""
    return Cwr(settings, setup)
