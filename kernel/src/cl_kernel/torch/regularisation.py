"""Penalties that hold a network near what it was: L2, EWC, online EWC, SI and MAS.

One *slot* is an importance and an anchor for every trainable parameter; the penalty of a slot is
``sum(importance * (parameter - anchor)^2)``, with no half (CRUMB's framework, spec 2.10).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from attrs import define, field
from torch import Tensor, nn
from torch.nn import functional as F

from cl_kernel.contract.interfaces import Samples, Tree
from cl_kernel.contract.stream import Stage
from cl_kernel.torch.state import pack, unpack
from cl_kernel.torch.stepping import Stand, build_stand

if TYPE_CHECKING:
    from cl_kernel.running.loop import StreamContext
    from cl_kernel.running.resources import Setup

Named = dict[str, Tensor]
Batches = Iterable[tuple[Tensor, Tensor]]
"""Inputs and labels."""


def trainable(model: nn.Module) -> Named:
    """Parameters that learn, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def snapshot(model: nn.Module) -> Named:
    """Copies of the parameters that learn."""
    return {name: p.detach().clone() for name, p in trainable(model).items()}


@define
class Slot:
    """What mattered after some task, and where the parameters were."""

    importance: Named
    anchor: Named


def penalty(slots: Sequence[Slot], parameters: Mapping[str, Tensor]) -> Tensor:
    """Sum of the penalties of all slots; a zero without gradient when there is none."""
    device = next(iter(parameters.values())).device
    total = torch.zeros((), device=device)
    for slot in slots:
        for name, importance in slot.importance.items():
            total = total + (importance * (parameters[name] - slot.anchor[name]) ** 2).sum()
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


def _accumulate(
    model: nn.Module, batches: Batches, loss: Callable[[Tensor], Tensor], term: Callable[[Tensor, int], Tensor]
) -> Named:
    """Mean over batches of ``term(gradient, batch size)``, in evaluation mode."""
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


def fisher(model: nn.Module, batches: Batches, n_active: int) -> Named:
    """EWC's importance: squared gradient of each batch's mean loss at the predicted labels, times the batch size."""

    def loss(scores: Tensor) -> Tensor:
        scores = scores[:, :n_active]
        return F.cross_entropy(scores, scores.argmax(1))

    return _accumulate(model, batches, loss, lambda gradient, n: gradient**2 * n)


def sensitivity(model: nn.Module, batches: Batches, n_active: int) -> Named:
    """MAS' importance: magnitude of the gradient of the mean squared score."""
    return _accumulate(
        model, batches, lambda scores: (scores[:, :n_active] ** 2).mean(), lambda gradient, n: gradient.abs()
    )


@define
class PathIntegral:
    """SI's account of what each parameter contributed along the way.

    :param damping: added to the squared distance travelled.
    """

    damping: float = 0.1
    omega: Named = field(factory=dict)
    start: Named = field(factory=dict)

    def begin(self, model: nn.Module) -> None:
        """Start a task here."""
        self.start = snapshot(model)
        self.omega = {name: torch.zeros_like(p) for name, p in self.start.items()}

    def step(self, gradients: Mapping[str, Tensor], before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
        """Count one optimiser step: ``omega -= gradient of the plain loss * movement``."""
        for name, gradient in gradients.items():
            self.omega[name] -= gradient * (after[name].detach() - before[name])

    def importance(self, model: nn.Module) -> Named:
        """Importance of the task that ends here."""
        now = snapshot(model)
        return {name: self.omega[name] / ((now[name] - self.start[name]) ** 2 + self.damping) for name in now}


def added(importance: Named, earlier: Sequence[Slot]) -> Named:
    """Importance accumulated onto the last slot's."""
    if not earlier:
        return importance
    return {name: value + earlier[-1].importance[name] for name, value in importance.items()}


METHODS = ("l2", "ewc", "ewc-online", "si", "mas")


@define
class Keeper:
    """One of the methods at work: what it remembers of earlier tasks, and its training step.

    :param strength: weight of the penalty (lambda).
    """

    method: str
    strength: float
    slots: list[Slot] = field(factory=list)
    path: PathIntegral = field(factory=PathIntegral)

    def begin(self, model: nn.Module) -> None:
        """A task begins."""
        if self.method == "si":
            self.path.begin(model)

    def penalty(self, model: nn.Module) -> Tensor:
        """The weighted penalty of a model, with gradient."""
        return self.strength * penalty(self.slots, trainable(model))

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        """One optimiser step on ``loss`` plus the penalty; SI also keeps its account."""
        optimizer.zero_grad()
        if self.method != "si":
            (loss + self.penalty(model) if self.slots else loss).backward()
            optimizer.step()
            return
        loss.backward()
        plain = {name: p.grad.clone() for name, p in trainable(model).items() if p.grad is not None}
        if self.slots:
            self.penalty(model).backward()
        before = snapshot(model)
        optimizer.step()
        self.path.step(plain, before, trainable(model))

    def end(self, model: nn.Module, batches: Batches, n_active: int) -> None:
        """A task is over: importance and anchor for it, from a pass over its samples where the method needs one."""
        match self.method:
            case "l2":
                importance = {name: torch.ones_like(p) for name, p in snapshot(model).items()}
            case "ewc":
                importance = fisher(model, batches, n_active)
            case "ewc-online":
                importance = added(fisher(model, batches, n_active), self.slots)
            case "mas":
                importance = added(sensitivity(model, batches, n_active), self.slots)
            case "si":
                importance = added(self.path.importance(model), self.slots)
            case _:
                raise ValueError(f"{self.method!r} is none of {', '.join(METHODS)}")
        slot = Slot(importance, snapshot(model))
        self.slots = [*self.slots, slot] if self.method == "ewc" else [slot]


# ---- learners --------------------------------------------------------------------------------


def build_fine_tuning(settings: Any, setup: Setup) -> RegularisedLearner:
    """Plain steps in the stream's order: the lower bound; on an offline stream, the upper bound."""
    return RegularisedLearner(build_stand(settings, setup), None)


def build_l2(settings: Any, setup: Setup) -> RegularisedLearner:
    """L2: every parameter matters alike, the last task's values are the anchor."""
    return RegularisedLearner(build_stand(settings, setup), Keeper("l2", settings.strength))


def build_ewc(settings: Any, setup: Setup) -> RegularisedLearner:
    """EWC: one penalty a task."""
    return RegularisedLearner(build_stand(settings, setup), Keeper("ewc", settings.strength))


def build_ewc_online(settings: Any, setup: Setup) -> RegularisedLearner:
    """Online EWC: one penalty whose importance adds up."""
    return RegularisedLearner(build_stand(settings, setup), Keeper("ewc-online", settings.strength))


def build_si(settings: Any, setup: Setup) -> RegularisedLearner:
    """Synaptic intelligence."""
    return RegularisedLearner(build_stand(settings, setup), Keeper("si", settings.strength))


def build_mas(settings: Any, setup: Setup) -> RegularisedLearner:
    """Memory-aware synapses."""
    return RegularisedLearner(build_stand(settings, setup), Keeper("mas", settings.strength))


@define(eq=False)
class RegularisedLearner:
    """Plain training with a penalty for leaving what earlier tasks needed; without a keeper, fine-tuning."""

    stand: Stand
    keeper: Keeper | None

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """One task: epochs of steps; importance at its end (or, as shipped, after every epoch, Q16)."""
        stand, keeper = self.stand, self.keeper
        batches = stand.begin(stage, ctx)
        if keeper and stand.epoch == stand.position == 0:
            keeper.begin(stand.upper)
        n_epochs = stand.n_epochs(stage)
        for epoch in stand.epochs(stage):
            for _, inputs, labels in stand.steps(batches, stage, ctx, epoch):
                loss = stand.seen.cross_entropy(stand.upper(inputs), labels)
                if keeper:
                    keeper.step(stand.upper, stand.optimizer, loss)
                else:
                    stand.optimizer.zero_grad()
                    loss.backward()
                    stand.optimizer.step()
                stand.stepped(ctx, loss=loss.detach())
            if keeper and (epoch == n_epochs - 1 or stand.settings.every_epoch):
                keeper.end(stand.upper, ((x, y) for _, x, y in stand.in_order(batches, stage)), len(stand.seen))
                if epoch < n_epochs - 1:
                    keeper.begin(stand.upper)

    def predict(self, samples: Samples) -> Iterator[dict[str, Any]]:
        """Scores over the classes seen."""
        return self.stand.predict(samples)

    def state(self) -> Tree:
        """The stand, and what is remembered of earlier tasks."""
        kept = self.keeper and {
            "slots": [{"importance": s.importance, "anchor": s.anchor} for s in self.keeper.slots],
            "omega": self.keeper.path.omega,
            "start": self.keeper.path.start,
        }
        return {**self.stand.state(), "keeper": pack(kept)}

    def load(self, tree: Tree) -> None:
        """Take over what :meth:`state` gave."""
        self.stand.load(tree)
        if self.keeper:
            kept, device = unpack(tree["keeper"]), self.stand.device

            def there(named: Named) -> Named:
                return {name: value.to(device) for name, value in named.items()}

            self.keeper.slots = [Slot(there(s["importance"]), there(s["anchor"])) for s in kept["slots"]]
            self.keeper.path.omega, self.keeper.path.start = there(kept["omega"]), there(kept["start"])
