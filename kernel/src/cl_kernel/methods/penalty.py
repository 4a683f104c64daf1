"""Quadratic penalties that hold a network near what it was: ``strength * sum(importance * (parameter - anchor)^2)``.

A :class:`Consolidation` works on any module; :class:`Penalised` trains with one. Which parameters matter, and how
much, is what the methods differ in: ``l2``, ``ewc``, ``online_ewc``, ``si``, ``mas``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import define, field, frozen

from cl_kernel.contract.offers import doc
from cl_kernel.methods.base import Steps, Training, heads, not_negative
from cl_kernel.methods.gradients import per_sample_gradients
from cl_kernel.methods.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from cl_kernel.contract.interfaces import Tree
    from cl_kernel.contract.stream import Stage
    from cl_kernel.running.loop import StreamContext
    from cl_kernel.running.resources import Setup

Named = dict[str, "Tensor"]
LabelledBatches = Iterable[tuple["Tensor", "Tensor"]]
"""Inputs and score columns."""


def trainable(model: nn.Module) -> Named:
    """Parameters that learn, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def snapshot(model: nn.Module) -> Named:
    """Copies of the parameters that learn."""
    return {name: p.detach().clone() for name, p in trainable(model).items()}


@define
class Anchor:
    """What mattered after some stage, and where the parameters were."""

    importance: Named
    anchor: Named


def penalty(anchors: Sequence[Anchor], parameters: Mapping[str, Tensor]) -> Tensor:
    """Sum over anchors and parameters of ``importance * (parameter - anchor)^2``; zero when there is no anchor."""
    device = next(iter(parameters.values())).device
    total = torch.zeros((), device=device)
    for kept in anchors:
        for name, importance in kept.importance.items():
            total = total + (importance * (parameters[name] - kept.anchor[name]) ** 2).sum()
    return total


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while, back to what it was afterwards."""
    was = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was)


@contextmanager
def columns_from(model: nn.Module, first: int) -> Iterator[None]:
    """For a while a model gives only its score columns from ``first`` on: the newest task's head."""
    handle = model.register_forward_hook(lambda module, inputs, scores: scores[:, first:]) if first else None
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()


def mean_over_batches(
    model: nn.Module, batches: LabelledBatches, loss: Callable[[Tensor], Tensor], term: Callable[[Tensor, int], Tensor]
) -> Named:
    """Mean over batches of ``term(gradient of the batch's loss, batch size)``, in evaluation mode."""
    parameters = trainable(model)
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    n_batches = 0
    with evaluating(model):
        for inputs, _ in batches:
            gradients = torch.autograd.grad(loss(model(inputs)), list(parameters.values()), allow_unused=True)
            for name, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    total[name] += term(gradient, len(inputs))
            n_batches += 1
    return {name: value / max(n_batches, 1) for name, value in total.items()}


def mean_over_samples(
    model: nn.Module,
    batches: LabelledBatches,
    target: Callable[[Tensor, Tensor], Tensor],
    loss: Callable[[Tensor, Tensor], Tensor],
    term: Callable[[Tensor], Tensor],
) -> Named:
    """Mean over single samples of ``term(gradient of the sample's loss)``, in evaluation mode.

    :param target: scores [n, K] and labels of a batch -> what ``loss`` compares each sample with.
    :param loss: scores [K] and target of one sample -> its loss.
    """
    total = {name: torch.zeros_like(p) for name, p in trainable(model).items()}
    n_samples = 0
    with evaluating(model):
        for inputs, labels in batches:
            with torch.no_grad():
                targets = target(model(inputs), labels)
            for gradients in per_sample_gradients(model, inputs, targets, loss):
                for name, gradient in gradients.items():
                    total[name] += term(gradient).sum(0)
            n_samples += len(inputs)
    return {name: value / max(n_samples, 1) for name, value in total.items()}


def added(importance: Named, earlier: Sequence[Anchor], decay: float = 1.0) -> Named:
    """Importance on top of what is left of the last anchor's."""
    if not earlier:
        return importance
    return {name: value + decay * earlier[-1].importance[name] for name, value in importance.items()}


@define
class Consolidation:
    """What is kept of earlier stages, and the training step that heeds it.

    :param strength: weight of the penalty.
    """

    strength: float
    anchors: list[Anchor] = field(factory=list, kw_only=True)

    def begin(self, model: nn.Module) -> None:
        """A stage begins."""

    def penalty(self, model: nn.Module) -> Tensor:
        """The weighted penalty of a model, with gradient."""
        return self.strength * penalty(self.anchors, trainable(model))

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        """One optimiser step on ``loss`` plus the penalty."""
        optimizer.zero_grad()
        (loss + self.penalty(model) if self.anchors else loss).backward()
        optimizer.step()

    def end(
        self, model: nn.Module, batches: LabelledBatches, n_active: int, rng: np.random.Generator | None = None
    ) -> None:
        """A stage is over: keep where the parameters are and what matters.

        :param batches: the stage's samples, inputs and score columns, for methods that need a pass over them.
        :param n_active: score columns of the classes seen.
        :param rng: for methods that draw; None for a fixed one.
        """
        rng = rng if rng is not None else np.random.default_rng(0)
        self.keep(Anchor(self.importance(model, batches, n_active, rng), snapshot(model)))

    def importance(self, model: nn.Module, batches: LabelledBatches, n_active: int, rng: np.random.Generator) -> Named:
        """How much each parameter matters, earlier stages included where they add up."""
        raise NotImplementedError

    def n_copies(self, n_stages: int) -> int:
        """How many values a parameter are kept after so many stages."""
        return 2

    def keep(self, anchor: Anchor) -> None:
        """The newest anchor replaces the one before."""
        self.anchors = [anchor]

    def state(self) -> dict[str, Any]:
        """Everything, as tensors."""
        slots = [{"importance": kept.importance, "anchor": kept.anchor} for kept in self.anchors]
        return {"slots": slots, "omega": {}, "start": {}}

    def load(self, tree: Mapping[str, Any], device: torch.device) -> None:
        """Go on from what :meth:`state` gave."""
        self.anchors = [
            Anchor(moved(slot["importance"], device), moved(slot["anchor"], device)) for slot in tree["slots"]
        ]


def moved(named: Mapping[str, Tensor], device: torch.device) -> Named:
    """Tensors by name on this device."""
    return {name: value.to(device) for name, value in named.items()}


@frozen(kw_only=True)
class Penalty(Steps):
    """Penalised training."""

    heads: str = heads()

    strength: float = field(default=100.0, validator=not_negative, metadata=doc("weight of the penalty"))
    every_epoch: bool = field(
        default=False, metadata=doc("compute importance after every epoch, not only at the end of a stage")
    )


class Penalised(Training[Penalty]):
    """Plain training with a penalty for leaving what earlier stages needed."""

    def __init__(self, settings: Penalty, setup: Setup, consolidation: Consolidation) -> None:
        self.consolidation = consolidation
        super().__init__(settings, setup)

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """One stage: epochs of steps; what matters is measured at its end (or after every epoch)."""
        keeper = self.consolidation
        batches = self.begin(stage, ctx)
        if self.at_start():
            keeper.begin(self.upper)
        n_epochs = self.n_epochs(stage)
        for epoch in self.epochs(stage):
            for _, inputs, labels in self.steps(batches, stage, ctx, epoch):
                loss = self.seen.cross_entropy(self.upper(inputs), labels)
                keeper.step(self.upper, self.optimizer, loss)
                self.stepped(ctx, loss=loss.detach())
            if epoch == n_epochs - 1 or self.settings.every_epoch:
                first = self.seen.n_before(stage.index) if self.seen.by_task else 0
                labelled = ((x, self.seen.columns_of(y) - first) for _, x, y in self.in_order(batches, stage))
                with columns_from(self.upper, first):
                    keeper.end(self.upper, labelled, len(self.seen) - first, ctx.rng("importance", stage.index, epoch))
                if epoch < n_epochs - 1:
                    keeper.begin(self.upper)

    def reserve(self) -> int:
        """Importances and anchors."""
        learning = sum(p.numel() * p.element_size() for p in trainable(self.upper).values())
        return self.consolidation.n_copies(self.n_stages) * learning

    def kept(self) -> dict[str, Tree]:
        """What is remembered of earlier stages."""
        from cl_kernel.torch.state import pack

        return {"keeper": pack(self.consolidation.state())}

    def regain(self, tree: Tree) -> None:
        """Take it back."""
        from cl_kernel.torch.state import unpack

        self.consolidation.load(unpack(tree["keeper"]), self.device)
