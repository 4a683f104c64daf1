"""What the regularising baselines keep between tasks, and the penalty they make of it.

Everything is held as named tensors, so that a checkpoint is just those names. All act on the shared weights (BU1, TD,
BU2) and leave the heads alone. The textbook versions, not the slips of the
published code (github idan-tankel/BU-TD, ``Baselines_code``).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import torch
from attrs import define, field
from torch import Tensor, nn

from cl_kernel.methods.si import PathIntegral
from cl_plugin_butd.method.regularisers import (
    OnlineEwc,
    OnlinePathIntegral,
    OnlineWalk,
    distillation,
    mas_objective,
    quadratic,
)
from cl_plugin_butd.network.blocks import Norm
from cl_plugin_butd.network.continual import ContinualCounterStream

QUADRATIC = ("ewc", "mas", "si", "imm-mean", "imm-mode")
ONLINE = ("rwalk", "ewc-online", "pi")
TEACHERS = ("lwf", "lfl")
Named = dict[str, Tensor]
Batch = tuple[Tensor, Tensor, Tensor]
"""Pictures as the network sees them, arguments, answers."""

SI_DAMPING = 1e-7
"""Added to the squared distance travelled (as published)."""


@define(eq=False)
class Keeper:
    """A baseline's memory of earlier tasks.

    :param kept: slot -> parameter name -> tensor: ``importance``, ``anchor``, ``fisher``, ``score``, ``path``, ...
    """

    method: str
    net: ContinualCounterStream
    alpha: float = 0.5
    walk_period: int = 10
    temperature: float = 2.0
    kept: dict[str, Named] = field(factory=dict)
    n_tasks: int = 0
    teacher: ContinualCounterStream | None = None
    online: OnlineEwc | OnlinePathIntegral | OnlineWalk | None = None
    path: PathIntegral | None = None

    def weights(self) -> Named:
        """The shared parameters that learn: streams only."""
        return {name: p for name, p in self.net.shared().items() if not name.startswith(("occurrence", "image"))}

    def begin(self) -> None:
        """A task begins (not called again when a run is resumed inside it)."""
        now = self.weights()
        if self.method == "si":
            self.path = PathIntegral(SI_DAMPING)
            self.path.start = {n: p.detach().clone() for n, p in now.items()}
            self.path.omega = {n: torch.zeros_like(p) for n, p in now.items()}
        elif self.method in ONLINE:
            self.online = self._online(now)
        elif self.method in TEACHERS and self.n_tasks:
            self.teacher = copy.deepcopy(self.net).eval().requires_grad_(False)

    def _online(self, now: Named) -> OnlineEwc | OnlinePathIntegral | OnlineWalk:
        fisher, score = self.kept.get("fisher"), self.kept.get("score")
        if self.method == "ewc-online":
            return OnlineEwc(now, fisher, self.alpha)
        if self.method == "pi":
            return OnlinePathIntegral(now, score)
        before = (fisher, score) if fisher is not None and score is not None else None
        return OnlineWalk(now, before, self.alpha, self.walk_period)

    def penalty(self, batch: Batch, task: int) -> Tensor | None:
        """The regularising term, or None while there is nothing to keep."""
        if not self.n_tasks:
            return None
        if self.method in QUADRATIC:
            return quadratic(self.weights(), self.kept["anchor"], self.kept["importance"])
        if self.online is not None:
            return self.online.penalty()
        if self.teacher is None:
            return None
        image, argument, _ = batch
        with _frozen_statistics(self.net):
            if self.method == "lfl":
                mine = self.net.answer(image, argument, task - 1)["answer"]
                with torch.no_grad():
                    theirs = self.teacher.answer(image, argument, task - 1)["answer"]
                return torch.nn.functional.mse_loss(mine, theirs)
            terms = []
            for old in range(self.n_tasks):
                with torch.no_grad():
                    theirs = self.teacher.answer(image, argument, old)["task"]
                terms.append(
                    distillation(self.net.answer(image, argument, old)["task"], theirs, temperature=self.temperature)
                )
            return torch.stack(terms).sum()

    def needs_plain_gradient(self) -> bool:
        """Whether steps must report the gradient of the task loss alone."""
        return self.method == "si" or self.method in ONLINE

    def before_step(self, gradients: Named) -> Named | None:
        """Count a step's plain gradient; what must be remembered until after the step."""
        if self.online is not None:
            self.online.update(gradients)
        if self.path is not None:
            return {n: p.detach().clone() for n, p in self.weights().items()}
        return None

    def after_step(self, gradients: Named, before: Named | None) -> None:
        """Count the movement."""
        if self.path is not None and before is not None:
            now = self.weights()
            self.path.step(gradients, before, {n: now[n] for n in gradients})

    def end(self, batches: Callable[[], Iterable[Batch]], task: int) -> None:
        """A task ends: measure what mattered, merge where the method merges, set the anchor."""
        now = self.weights()
        n = self.n_tasks
        if self.method == "ewc":
            self._add(
                "importance",
                self._measure(batches, task, lambda logits, y: nn.functional.cross_entropy(logits, y), torch.square),
            )
        elif self.method == "mas":
            new = self._measure(batches, task, lambda logits, y: mas_objective(logits), torch.abs)
            old = self.kept.get("importance")
            self.kept["importance"] = (
                new if old is None else {k: self.alpha * old[k] + (1 - self.alpha) * new[k] for k in new}
            )
        elif self.method == "si" and self.path is not None:
            here = {k: p.detach() for k, p in now.items()}
            self._add(
                "importance",
                {
                    k: (self.path.omega[k] / ((here[k] - self.path.start[k]).square() + self.path.damping)).clamp(min=0)
                    for k in here
                },
            )
        elif self.method.startswith("imm"):
            self._merge(batches, task, n)
        elif isinstance(self.online, OnlineWalk):
            self.kept["fisher"], self.kept["score"] = self.online.importance()
        elif isinstance(self.online, OnlineEwc):
            self.kept["fisher"] = self.online.importance()
        elif isinstance(self.online, OnlinePathIntegral):
            self.kept["score"] = self.online.importance()
        if self.method in QUADRATIC:
            self.kept["anchor"] = {k: p.detach().clone() for k, p in self.weights().items()}
        self.n_tasks += 1
        self.teacher = self.online = self.path = None

    def _add(self, slot: str, new: Named) -> None:
        old = self.kept.get(slot)
        self.kept[slot] = new if old is None else {k: old[k] + v for k, v in new.items()}

    def _merge(self, batches: Callable[[], Iterable[Batch]], task: int, n: int) -> None:
        now = self.weights()
        anchor = self.kept.get("anchor")
        if self.method == "imm-mean":
            if anchor is not None:
                with torch.no_grad():
                    for k, p in now.items():
                        p.copy_((p + n * anchor[k]) / (n + 1))
        else:
            new = self._measure(batches, task, lambda logits, y: nn.functional.cross_entropy(logits, y), torch.square)
            old = self.kept.get("fisher")
            if anchor is not None and old is not None:
                with torch.no_grad():
                    for k, p in now.items():
                        total = new[k] + old[k]
                        p.copy_(torch.where(total > 0, (new[k] * p + old[k] * anchor[k]) / total.clamp(min=1e-30), p))
            self._add("fisher", new)
        self.kept["importance"] = {k: torch.ones_like(p) for k, p in now.items()}

    def _measure(
        self,
        batches: Callable[[], Iterable[Batch]],
        task: int,
        objective: Callable[[Tensor, Tensor], Tensor],
        power: Callable[[Tensor], Tensor],
    ) -> Named:
        """Mean over mini-batches of a power of the mean gradient, in training mode; statistics stay as they were."""
        parameters = {k: p for k, p in self.weights().items() if p.requires_grad}
        total = {k: torch.zeros_like(p) for k, p in self.weights().items()}
        kept = {k: v.clone() for k, v in self.net.named_buffers()}
        self.net.train()
        count = 0
        for image, argument, answer in batches():
            loss = objective(self.net.answer(image, argument, task)["task"], answer)
            grads = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            for k, g in zip(parameters, grads, strict=True):
                if g is not None:
                    total[k] += power(g)
            count += 1
        for k, v in self.net.named_buffers():
            v.copy_(kept[k])
        return {k: v / max(count, 1) for k, v in total.items()}

    # ---- checkpoint ---------------------------------------------------------------------------------
    def tensors(self) -> dict[str, Named]:
        """Everything kept, as named tensors."""
        out = dict(self.kept)
        if self.path is not None:
            out |= {"path.omega": self.path.omega, "path.start": self.path.start}
        match self.online:
            case OnlineWalk() as walk:
                out |= {
                    "online.fisher": walk.ewc.fisher,
                    "online.anchor": walk.ewc.anchor,
                    "online.score": walk.score,
                    "online.last": walk.last,
                    "online.count": {"n": torch.tensor(walk.n_updates)},
                }
            case OnlineEwc() as ewc:
                out |= {"online.fisher": ewc.fisher, "online.anchor": ewc.anchor}
            case OnlinePathIntegral() as pi:
                out |= {"online.path": pi.path, "online.anchor": pi.anchor, "online.last": pi.last}
        if self.teacher is not None:
            out["teacher"] = dict(self.teacher.state_dict())
        return out

    def load(self, tensors: dict[str, Named], n_tasks: int) -> None:
        """Take over what :meth:`tensors` gave."""
        self.n_tasks = n_tasks
        self.kept = {k: v for k, v in tensors.items() if not k.startswith(("path.", "online.", "teacher"))}
        self.path = self.online = self.teacher = None
        if "path.omega" in tensors:
            self.path = PathIntegral(SI_DAMPING, tensors["path.omega"], tensors["path.start"])
        if "online.anchor" in tensors:
            self.online = self._online(self.weights())
            ewc = self.online.ewc if isinstance(self.online, OnlineWalk) else self.online
            ewc.anchor = tensors["online.anchor"]
            if isinstance(self.online, OnlinePathIntegral):
                self.online.path, self.online.last = tensors["online.path"], tensors["online.last"]
            else:
                ewc.fisher = tensors["online.fisher"]
            if isinstance(self.online, OnlineWalk):
                self.online.score, self.online.last = tensors["online.score"], tensors["online.last"]
                self.online.n_updates = int(tensors["online.count"]["n"])
        if "teacher" in tensors:
            self.teacher = copy.deepcopy(self.net).eval().requires_grad_(False)
            self.teacher.load_state_dict(tensors["teacher"])


class _frozen_statistics:
    """Evaluation statistics for a while, gradients as usual."""

    def __init__(self, net: nn.Module) -> None:
        self.norms = [m for m in net.modules() if isinstance(m, Norm)]

    def __enter__(self) -> None:
        self.was = [m.training for m in self.norms]
        for m in self.norms:
            m.eval()

    def __exit__(self, *_: object) -> None:
        for m, training in zip(self.norms, self.was, strict=True):
            m.train(training)
