"""What methods share that give every task parameters of its own in one network, so that none is forgotten.

The task of a sample is known, as these papers test it: that of the stage which brought its class. The score layer is
a head a task, with a row for each of its classes; the network runs with a task's tensors in place of its own.

Shapes: B batch, K classes of the stream, k classes of a task.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from attrs import field, frozen, validators

from cl_kernel.contract.errors import BadCheckpoint, Mismatch
from cl_kernel.contract.offers import doc
from cl_kernel.methods.base import Steps, Training, make_optimizer, size_of
from cl_kernel.methods.lazy import F, nn, torch

if TYPE_CHECKING:
    from torch import Tensor

    from cl_kernel.contract.interfaces import Samples, Tree
    from cl_kernel.contract.stream import Stage
    from cl_kernel.running.loop import StreamContext
    from cl_kernel.running.resources import Setup

Tensors = dict[str, "Tensor"]


def norms_setting(default: str) -> str:
    """A setting that says what becomes of normalisation layers."""
    chosen: str = field(
        default=default,
        validator=validators.in_(("own", "frozen")),
        metadata=doc("normalisation: own weights and statistics a task, or frozen after the first task"),
    )
    return chosen


def base_setting() -> str:
    """A setting that says where the shared weights come from."""
    chosen: str = field(
        default="auto",
        validator=validators.in_(("auto", "first", "given")),
        metadata=doc("shared weights: learnt by the first task, as given, or auto: given where pretrained"),
    )
    return chosen


@frozen(kw_only=True)
class Isolating(Steps):
    """Methods that isolate tasks."""

    norms: str = norms_setting("own")
    base: str = base_setting()


S = TypeVar("S", bound=Isolating, covariant=True)


class Isolated(Training[S]):
    """A network of which every task has a part to itself.

    A method says in :meth:`tensors` what a task puts in the place of the network's own, in :meth:`open` what a new task
    begins with, and in :meth:`free` which part of the shared weights it may change.

    :param own: for each task the tensors only it uses, by name: its head, its norms, what the method adds.
    """

    def __init__(self, settings: S, setup: Setup) -> None:
        self.own: list[Tensors] = []
        super().__init__(settings, setup)
        self.layers = layer_names(self.upper)
        self.head = self.layers.pop()
        self.has_bias = f"{self.head}.bias" in dict(self.upper.named_parameters())
        self.norms = norm_modules(self.upper)
        _check_norms(self.norms)
        self.given = settings.base == "given" or (settings.base == "auto" and self.network.pretrained)

    # ---- what a method says --------------------------------------------------------------------------
    def open(self, task: int) -> Tensors:
        """What a new task adds beside head and norms; leaves with gradient learn."""
        return {}

    def tensors(self, task: int) -> Tensors:
        """Weights of shared layers as a task sees them, by name; those left out are seen as they are."""
        return {}

    def free(self, task: int) -> Tensors:
        """Part of a step that a shared weight takes while a task learns, in [0, 1], by name; 0 for those left out."""
        return {}

    def shares(self, task: int) -> bool:
        """Whether a task trains everything shared: the first one does, unless the weights are given."""
        return task == 0 and not self.given

    def penalty(self, task: int) -> Tensor | None:
        """What is added to the loss."""
        return None

    def price(self) -> dict[str, int]:
        """Bytes that a further task adds, by part; ``masks`` a bit a weight."""
        return {}

    # ---- a stage -------------------------------------------------------------------------------------
    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """One task."""
        batches = self.begin(stage, ctx)
        task = stage.index
        if len(self.own) == task:
            self._begin_task(task)
        self.set_modes(task)
        _, some, _ = next(iter(batches(np.arange(min(2, len(stage.train))), 2)))
        self._guard(some, task)
        self.look(some)
        for epoch in self.epochs(stage):
            self.epoch_begins(stage, epoch)
            for _, inputs, labels in self.steps(batches, stage, ctx, epoch):
                self.step_begins(stage)
                loss = F.cross_entropy(self.answer(inputs, task), self.local(labels, task))
                if (more := self.penalty(task)) is not None:
                    loss = loss + more
                self.descend(loss)
                self.stepped(ctx, loss=loss.detach())
        self.close(task)

    def step_begins(self, stage: Stage) -> None:
        """For methods whose steps differ."""

    def epoch_begins(self, stage: Stage, epoch: int) -> None:
        """For methods whose epochs differ; called again when a run is taken up inside one."""

    def close(self, task: int) -> None:
        """A task is learnt."""
        for value in self.own[task].values():
            value.requires_grad_(False)

    def _begin_task(self, task: int) -> None:
        again = {c for classes in self.seen.by_stage[:task] for c in classes} & set(self.seen.by_stage[task])
        if again:
            raise Mismatch(
                f"stage {task} brings classes again that an earlier one brought: {sorted(again)[:5]}",
                where="--learner/--dataset",
                fix="these methods tell tasks by their classes: use stages of new classes",
            )
        self.own.append({**self._fresh_head(task), **self._fresh_norms(), **self.open(task)})
        self.optimizer = self.make_optimizer()

    def _fresh_head(self, task: int) -> Tensors:
        columns = self._columns(task)
        values = dict(self.upper.named_parameters())
        parts = ("weight", "bias") if self.has_bias else ("weight",)
        made = {f"{self.head}.{part}": values[f"{self.head}.{part}"].detach()[columns].clone() for part in parts}
        return {name: nn.Parameter(value) for name, value in made.items()}

    def _columns(self, task: int) -> list[int]:
        """Rows of the network's score layer that a task's head begins as."""
        start = self.seen.n_before(task)
        return list(range(start, start + len(self.seen.by_stage[task])))

    def _fresh_norms(self) -> Tensors:
        """Norms of a further task begin as the first task left its own."""
        if self.settings.norms == "frozen":
            return {}
        learnt = self.own[0] if self.own else {}
        made: Tensors = {}
        for prefix, module in self.norms.items():
            for name, value in (*module.named_parameters(), *module.named_buffers()):
                full = f"{prefix}.{name}" if prefix else name
                copy = learnt.get(full, value).detach().clone()
                made[full] = nn.Parameter(copy) if isinstance(value, nn.Parameter) else copy
        return made

    def set_modes(self, task: int) -> None:
        """Training mode, but for norms that nobody may move any more."""
        self.network.train()
        if self.settings.norms == "frozen" and not self.shares(task):
            for module in self.norms.values():
                module.eval()

    def look(self, inputs: Tensor) -> None:
        """For methods that need to see how the network runs, with a few samples of a stage."""

    def _guard(self, inputs: Tensor, task: int) -> None:
        """Refuse a network that moves something shared by being run, as a norm that is always in training mode.

        :raises Mismatch: naming the buffer.
        """
        if self.shares(task):
            return
        before = {n: b.clone() for n, b in self.upper.named_buffers() if n not in self.own[task]}
        kept = {name: value.clone() for name, value in self.own[task].items()}
        generators = torch.get_rng_state()
        with torch.no_grad():
            self.answer(inputs, task)
            for name, value in kept.items():
                self.own[task][name].copy_(value)
        torch.set_rng_state(generators)
        moved = [name for name, value in before.items() if not torch.equal(self.upper.get_buffer(name), value)]
        for name in moved:
            self.upper.get_buffer(name).copy_(before[name])
        if moved:
            raise Mismatch(
                f"{moved[0]} moves while a task learns that may not change it: that layer is in training mode",
                where="--model",
                fix="put it into evaluation mode whatever train() says, or use a layer of torch.nn",
            )

    # ---- the network as a task sees it -----------------------------------------------------------------
    def answer(self, inputs: Tensor, task: int) -> Tensor:
        """Scores [B, k] of a task's classes."""
        own = {name: value for name, value in self.own[task].items() if ":" not in name}
        scores: Tensor = torch.func.functional_call(self.upper, {**self.tensors(task), **own}, (inputs,))
        return scores

    def local(self, labels: Tensor, task: int) -> Tensor:
        """Labels as places among a task's classes, int64 [B]."""
        return self.seen.columns_of(labels) - self.seen.n_before(task)

    def shared(self) -> dict[str, nn.Parameter]:
        """Parameters of the learning part that are no task's own, by name."""
        mine = {f"{self.head}.weight", f"{self.head}.bias"}
        if self.settings.norms == "own":
            mine |= {f"{p}.{n}" if p else n for p, m in self.norms.items() for n, _ in m.named_parameters()}
        return {name: p for name, p in self.upper.named_parameters() if name not in mine}

    # ---- steps ---------------------------------------------------------------------------------------
    def make_optimizer(self) -> torch.optim.Optimizer:
        """A fresh optimiser of what the newest task may change."""
        if not self.own:
            return super().make_optimizer()
        task = len(self.own) - 1
        free = self.shared() if self.shares(task) else {n: p for n, p in self.shared().items() if n in self.free(task)}
        for name, value in self.shared().items():
            value.requires_grad_(name in free)
        leaves = [v for v in self.own[task].values() if isinstance(v, nn.Parameter)]
        return make_optimizer(nn.ParameterList([*leaves, *free.values()]), self.settings)

    def descend(self, loss: Tensor) -> None:
        """A step; of shared weights only what the newest task may change moves, whatever the optimiser remembers."""
        parts = self.free(len(self.own) - 1)
        shared = dict(self.upper.named_parameters())
        before = {name: shared[name].detach().clone() for name in parts}
        super().descend(loss)
        with torch.no_grad():
            for name, part in parts.items():
                now = shared[name]
                if part.dtype == torch.bool:
                    now.copy_(torch.where(part, now, before[name]))
                else:
                    now.copy_(before[name] + part * (now - before[name]))

    # ---- prediction and state ---------------------------------------------------------------------------
    def predict(self, samples: Samples) -> Iterator[dict[str, Any]]:
        """``scores`` float32 [n, K], classes of other tasks than the sample's at minus infinity, and ``class``."""
        from cl_kernel.torch.split import split_batches

        was = self.network.training
        self.network.eval()
        batches = split_batches(self.network, samples, self.device)
        for _, inputs, labels in batches(np.arange(len(samples)), self.settings.predict_batch):
            with torch.no_grad():
                scores = self.scores(inputs, labels).cpu().numpy()
            yield {"scores": scores, "class": scores.argmax(1)}
        self.network.train(was)

    def scores(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Scores [B, K] of a batch that may mix tasks."""
        out = torch.full((len(inputs), self.n_classes), -torch.inf, device=inputs.device)
        for task, rows in self.by_task(labels):
            self.put(out, rows, task, self.answer(inputs[rows], task))
        return out

    def put(self, out: Tensor, rows: Tensor, task: int, scores: Tensor) -> None:
        """Write a task's scores into its columns."""
        columns = torch.tensor(self.seen.by_stage[task], device=out.device)
        out[rows[:, None], columns] = scores[:, : len(columns)].float()

    def by_task(self, labels: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Each task learnt so far with the rows of its samples."""
        for task, classes in enumerate(self.seen.by_stage[: len(self.own)]):
            rows = torch.isin(labels, torch.tensor(classes, device=labels.device)).nonzero().flatten()
            if len(rows):
                yield task, rows

    def cost(self) -> dict[str, int]:
        """What a further task adds."""
        if not self.own:
            return {}
        last = self.own[-1]
        parts = {"head": sum(_bytes(v) for n, v in last.items() if n.startswith(f"{self.head}."))}
        parts["norms"] = sum(_bytes(v) for n, v in last.items() if n in set(self._fresh_norms()))
        parts |= self.price()
        return {"bytes_per_task": sum(parts.values()), **{f"bytes_per_task_{name}": n for name, n in parts.items()}}

    def reserve(self) -> int:
        """A whole network a task, at most, and who owns what."""
        return (self.n_stages + 1) * size_of(self.upper)

    def kept(self) -> dict[str, Tree]:
        """What the tasks own."""
        from cl_kernel.torch.state import pack

        return {"own": [pack(own) for own in self.own]}

    def regain(self, tree: Tree) -> None:
        """Take it back."""
        from cl_kernel.torch.state import unpack

        self.own = [self._leaves(unpack(own)) for own in tree["own"]]
        for own in self.own[:-1]:
            for value in own.values():
                value.requires_grad_(False)

    def _leaves(self, own: Mapping[str, Tensor]) -> Tensors:
        buffers = {name for name, _ in self.upper.named_buffers()}
        moved = {name: value.to(self.device) for name, value in own.items()}
        return {
            name: value if name in buffers or not value.is_floating_point() else nn.Parameter(value)
            for name, value in moved.items()
        }

    def load(self, tree: Tree) -> None:
        """Go on from what :meth:`state` gave."""
        from cl_kernel.torch import state

        state.restore(self.network, tree["network"])
        self.seen.load(tree["seen"])
        self.epoch, self.position = int(tree["epoch"]), int(tree["position"])
        self.regain(tree)
        self.optimizer = self.make_optimizer()
        state.restore(self.optimizer, tree["optimizer"])
        if self.own and self.at_start():
            self.close(len(self.own) - 1)
        state.restore_generators(tree["generators"])

    def grow(self, tree: Tree) -> Tree:
        """The state of a run over fewer tasks, for :meth:`load`: tasks bring their own, only unused rows are new."""
        from cl_kernel.running.growing import grown

        return {**tree, "network": grown(tree["network"], self.state()["network"])}


def layer_names(network: nn.Module) -> list[str]:
    """Names of convolutions and linear layers in order; the last one gives the scores.

    :raises Mismatch: for a network with fewer than two.
    """
    found = [name for name, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    if len(found) < 2:
        raise Mismatch(
            f"the learning part of the network has {len(found)} convolutions and linear layers; tasks share those "
            "below the score layer",
            where="--model",
            fix="cut it earlier (model.cut), or use a deeper network",
        )
    return found


def norm_modules(network: nn.Module) -> dict[str, nn.Module]:
    """Normalisation layers by name."""
    kinds = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
    return {name: module for name, module in network.named_modules() if isinstance(module, kinds)}


def _check_norms(norms: Mapping[str, Any]) -> None:
    for name, module in norms.items():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            raise Mismatch(
                f"batch norm {name} keeps no statistics: what a task answers would depend on the rest of the batch",
                where="--model",
                fix="give it track_running_stats=True, or use group norm",
            )


def mask_bytes(network: nn.Module, layers: list[str]) -> int:
    """Bytes of a bit for each weight of some layers, whole bytes a layer."""
    weights = dict(network.named_parameters())
    return sum(math.ceil(weights[f"{name}.weight"].numel() / 8) for name in layers)


def fitting(kept: Mapping[str, Tensor], network: nn.Module) -> None:
    """Refuse masks of another network.

    :raises BadCheckpoint: naming the layer.
    """
    weights = dict(network.named_parameters())
    for name, mask in kept.items():
        if name not in weights or weights[name].shape != mask.shape:
            shape = list(weights[name].shape) if name in weights else "nowhere"
            raise BadCheckpoint(f"a mask for {name} is {list(mask.shape)}, the weight {shape}")


def straight_through(mask: Tensor, real: Tensor) -> Tensor:
    """The mask, with the gradient of it passed to ``real`` unchanged."""
    return mask + (real - real.detach())


def _bytes(value: Tensor) -> int:
    return value.numel() * value.element_size()
