"""HAT: hard attention to the task. A task learns a gate for every unit; used units' weights are then protected.

Gates ``a = sigmoid(s e)`` of embeddings ``e`` multiply the units of each layer; over an epoch ``s`` rises from
``1 / s_max`` to ``s_max``, and is ``s_max`` at test time. The gradient of ``e`` is multiplied by
``s_max (cosh(s e) + 1) / (s (cosh(e) + 1))``, ``|s e|`` at most 50, and ``e`` kept within 6. With ``A`` the largest
gate of earlier tasks, a weight between two units moves by ``1 - min(A_out, A_in)`` of a step, and
``lambda sum a (1 - A) / sum (1 - A)`` is added to the loss. Source: Serra et al. 2018,
https://arxiv.org/abs/1801.01423, sec. 2, and the authors' code, https://github.com/joansj/hat (s_max 400, lambda 0.75).

Differs: steps are scaled, not gradients: the same for plain SGD, and right with momentum and Adam. A unit is gated
behind its norm. Where what a layer reads is not only the units of the one before, as behind a residual sum, its weights
are protected by ``A_out`` alone, which is stricter. The rate does not fall by the validation loss.

Shapes: C units of a layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from cl_kernel.contract.offers import doc
from cl_kernel.methods.base import not_negative, positive
from cl_kernel.methods.isolation import Isolated, Isolating, Tensors
from cl_kernel.methods.lazy import nn, torch

if TYPE_CHECKING:
    from torch import Tensor

    from cl_kernel.contract.stream import Stage
    from cl_kernel.running.resources import Setup

MOST_SCALED, MOST = 50.0, 6.0


@frozen(kw_only=True)
class Settings(Isolating):
    """HAT."""

    strength: float = field(default=0.75, validator=not_negative, metadata=doc("weight of the penalty on new units"))
    s_max: float = field(default=400.0, validator=positive, metadata=doc("steepest gates", source="sec. 2.4"))


def steepness(step: int, n_steps: int, s_max: float) -> float:
    """How steep gates are at a step of an epoch, counted from 0: from 1 / s_max to s_max."""
    return 1 / s_max + (s_max - 1 / s_max) * (step / max(1, n_steps - 1))


def compensation(e: Tensor, s: float, s_max: float) -> Tensor:
    """What the gradient of an embedding is multiplied by, so that it does not depend on the steepness."""
    steep = torch.cosh((s * e).clamp(-MOST_SCALED, MOST_SCALED)) + 1
    return s_max / s * steep / (torch.cosh(e) + 1)


def fan_in_gates(gates: Tensor, shape: torch.Size, groups: int) -> Tensor:
    """Gates of the units that a weight [O, I, ...] reads, as [O, I, 1, ...]; a map's units may have been flattened."""
    n_read = shape[1] * groups
    every = gates.repeat_interleave(n_read // len(gates)).view(groups, shape[1])
    return every.repeat_interleave(shape[0] // groups, 0).view(shape[0], shape[1], *([1] * (len(shape) - 2)))


def attention_penalty(gates: list[Tensor], used: list[Tensor]) -> Tensor:
    """Share of units that no earlier task uses and this one opens."""
    opened = torch.cat([a * (1 - u) for a, u in zip(gates, used, strict=True)]).sum()
    return opened / torch.cat([1 - u for u in used]).sum().clamp_min(1e-12)


class Hat(Isolated[Settings]):
    """A gate a unit and task.

    :param follows: layers whose whole input comes from the units of the layer before.
    """

    def __init__(self, settings: Settings, setup: Setup) -> None:
        super().__init__(settings, setup)
        self.follows: set[str] = set()
        self._gates: Tensors = {}
        self._used: Tensors = {}
        self._parts: Tensors | None = None
        self._steepness = settings.s_max
        modules = dict(self.upper.named_modules())
        for layer in self.layers:
            modules[self._gated(layer)].register_forward_hook(self._gate(layer))

    def _gated(self, layer: str) -> str:
        """The module behind which a layer's units are gated: the norm that follows it, or the layer."""
        leaves = [name for name, module in self.upper.named_modules() if not list(module.children())]
        after = leaves[leaves.index(layer) + 1 :][:1]
        return after[0] if after and after[0] in self.norms else layer

    def _gate(self, layer: str) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        spatial = isinstance(dict(self.upper.named_modules())[layer], nn.Conv2d)

        def multiply(_: nn.Module, given: Any, out: Tensor) -> Tensor:
            if (gate := self._gates.get(layer)) is None:
                return out
            return out * (gate.view(-1, 1, 1) if spatial else gate)

        return multiply

    def open(self, task: int) -> Tensors:
        """Embeddings, standard normal."""
        weights = dict(self.upper.named_parameters())
        return {
            f"gate:{n}": nn.Parameter(torch.randn(weights[f"{n}.weight"].shape[0], device=self.device))
            for n in self.layers
        }

    def gates(self, task: int, s: float) -> Tensors:
        """Gates of a task by layer; their gradient reaches the embeddings compensated."""
        made: Tensors = {}
        for layer in self.layers:
            e = self.own[task][f"gate:{layer}"]
            through = e.clone()
            if through.requires_grad:
                factor = compensation(e.detach(), s, self.settings.s_max)
                through.register_hook(lambda gradient, factor=factor: gradient * factor)
            made[layer] = torch.sigmoid(s * through)
        return made

    def answer(self, inputs: Tensor, task: int) -> Tensor:
        """Scores with the task's gates, as steep as training stands, or hard."""
        self._gates = self.gates(task, self._steepness if self.upper.training else self.settings.s_max)
        try:
            return super().answer(inputs, task)
        finally:
            if not torch.is_grad_enabled():
                self._gates = {}

    def step_begins(self, stage: Stage) -> None:
        """Gates become steeper over an epoch."""
        step = self.position // self.settings.batch_size
        self._steepness = steepness(step, self.n_batches(stage), self.settings.s_max)

    def used(self, task: int) -> Tensors:
        """The largest gate of earlier tasks by layer, 0 before the first."""
        with torch.no_grad():
            earlier = [self.gates(t, self.settings.s_max) for t in range(task)]
            none = {n: torch.zeros_like(self.own[-1][f"gate:{n}"]) for n in self.layers}
            return {n: torch.stack([none[n], *(gates[n] for gates in earlier)]).amax(0) for n in self.layers}

    def penalty(self, task: int) -> Tensor:
        """Units that the task opens beyond those in use."""
        gates = [self._gates[n] for n in self.layers]
        return self.settings.strength * attention_penalty(gates, [self._used[n] for n in self.layers])

    def look(self, inputs: Tensor) -> None:
        """Find the layers that read nothing but the units before them: their input vanishes with those units."""
        modules = dict(self.upper.named_modules())
        self.follows = set()
        was = self.upper.training
        self.upper.eval()
        for before, layer in zip(self.layers, self.layers[1:], strict=False):
            weight = modules[before].weight
            self._gates = {before: torch.zeros(weight.shape[0], device=weight.device)}
            seen: list[Tensor] = []
            handle = modules[layer].register_forward_pre_hook(lambda _, given, seen=seen: seen.append(given[0]))
            try:
                with torch.no_grad():
                    self.upper(inputs)
            finally:
                handle.remove()
            if seen and not seen[0].any() and _reads(modules[layer]) % weight.shape[0] == 0:
                self.follows.add(layer)
        self._gates = {}
        self.upper.train(was)
        task = len(self.own) - 1
        self._used, self._parts = self.used(task), self._free(task)

    def free(self, task: int) -> Tensors:
        """How far each weight and bias may move."""
        return self._free(task) if self._parts is None else self._parts

    def _free(self, task: int) -> Tensors:
        if task == 0:
            return {}
        used, modules, made = self.used(task), dict(self.upper.named_modules()), {}
        for before, layer in zip(["", *self.layers], self.layers, strict=False):
            weight, out = modules[layer].weight, used[layer]
            taken = out.view(-1, *([1] * (weight.dim() - 1))).expand_as(weight)
            if layer in self.follows:
                groups = getattr(modules[layer], "groups", 1)
                taken = torch.minimum(taken, fan_in_gates(used[before], weight.shape, groups))
            made[f"{layer}.weight"] = 1 - taken
            if modules[layer].bias is not None:
                made[f"{layer}.bias"] = 1 - out
        return made

    def shares(self, task: int) -> bool:
        """The first task trains everything that is shared."""
        return task == 0

    def descend(self, loss: Tensor) -> None:
        """A step, then embeddings kept within their range."""
        super().descend(loss)
        with torch.no_grad():
            for layer in self.layers:
                self.own[-1][f"gate:{layer}"].clamp_(-MOST, MOST)

    def close(self, task: int) -> None:
        """A task is learnt; no gates linger."""
        super().close(task)
        self._gates, self._parts = {}, None

    def price(self) -> dict[str, int]:
        """An embedding a unit."""
        return {"gates": sum(4 * self.own[-1][f"gate:{n}"].numel() for n in self.layers)}


def _reads(layer: Any) -> int:
    """How many units a layer reads."""
    return int(layer.weight.shape[1]) * int(getattr(layer, "groups", 1))


def build(settings: Settings, setup: Setup) -> Hat:
    """Learner ``hat``."""
    return Hat(settings, setup)
