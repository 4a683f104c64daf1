"""The zero-forgetting network: everything shared is frozen after the first task, each further task adds its own.

What a task owns: a modulation of the second bottom-up pass, a read-out head, a row of statistics in every batch norm
(and, for a new language, the embedding of its arguments).

Shapes: B batch, C_K top vector, A arguments, n classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from attrs import evolve, field, frozen
from torch import Tensor, nn

from cl_plugin_butd.network.blocks import Norm, modulated_weight
from cl_plugin_butd.network.counter_stream import ArgumentTop, CounterStream, ImageHead, TaskArgumentTop, TaskHead
from cl_plugin_butd.network.modulation import ActivationModulation, BlockModulation, WeightModulation
from cl_plugin_butd.network.streams import BottomUp, Topology


@frozen(kw_only=True)
class ModulationSpec:
    """Which modulation a task gets.

    :param kind: one of :data:`cl_plugin_butd.network.modulation.MODULATIONS`, or ``none``.
    :param factor: shrinkage per axis of the filter.
    :param init: starting value; None for the kind's own.
    :param first: whether the first task has one, too; without it, that task uses the filters as they are.
    """

    kind: str = "weight-mul"
    factor: tuple[int, ...] = field(default=(8, 8, 1, 1), converter=tuple)
    init: float | None = None
    mode: str = "bicubic"
    tau: float = 0.005
    first: bool = True


@frozen(kw_only=True)
class TaskSpec:
    """One task of the stream: its language's arguments and the number of its answers."""

    n_classes: int
    language: int = 0


class ContinualCounterStream(nn.Module):
    """A counter-stream network whose tasks do not touch each other.

    ``forward`` takes task numbers per sample and routes a mixed batch task by task, so no sample is ever answered
    with another's parameters.

    :param tasks: one entry per task of the stream.
    :param n_arguments: arguments of each language.
    :param top: ``argument`` (the task enters through modulation, head and statistics only), ``split`` or ``per-task``
        (task and argument embedded apart).
    """

    def __init__(
        self,
        topology: Topology,
        tasks: Sequence[TaskSpec],
        n_arguments: Sequence[int],
        modulation: ModulationSpec,
        *,
        top: str = "argument",
    ) -> None:
        super().__init__()
        self.tasks, self.n_arguments = tuple(tasks), tuple(n_arguments)
        self.top_kind = top
        if top == "argument":
            fuse: nn.Module = ArgumentTop(topology.top, n_arguments, [task.language for task in tasks])
        else:
            fuse = TaskArgumentTop(
                topology.top, len(tasks), n_arguments[0], per_task=top == "per-task", norm_eps=topology.norm_eps
            )
        inner = evolve(topology, outputs=(), placement="TD", n_tasks=len(tasks), td_image=False)
        self.net = CounterStream(inner, top=fuse)
        # BU1 hears nobody: its lateral norms would only be dead weight here
        if self.net.bu2 is not None:
            self._drop_laterals(self.net.bu1)
        self.heads = nn.ModuleList(TaskHead(topology.top, [task.n_classes], topology.head_layers) for task in tasks)
        none = evolve(modulation, kind="none")
        self.modulations = nn.ModuleList(
            self._modulation(topology, modulation if t or modulation.first else none) for t in range(len(tasks))
        )
        if topology.td_image:
            # draws of its own: neither the head nor anything else depends on how many tasks there are
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(torch.initial_seed())
                self.net.image = ImageHead(topology)

    @staticmethod
    def _drop_laterals(first: BottomUp) -> None:
        first.stem_lateral = first.top_lateral = None
        for stage in first.stages:
            for norms in stage:
                norms.laterals = None

    def _modulation(self, topology: Topology, spec: ModulationSpec) -> nn.ModuleList:
        height, width = topology.in_shape[1:]
        height, width = -(-height // topology.strides[0]), -(-width // topology.strides[0])
        stages = nn.ModuleList()
        for k, stage in enumerate(self.net.filters.stages, 1):
            blocks = nn.ModuleList()
            for j, block in enumerate(stage):
                stride = topology.strides[k] if j == 0 else 1
                height, width = -(-height // stride), -(-width // stride)
                blocks.append(self._block_modulation(block, spec, topology.filters[k], height, width))
            stages.append(blocks)
        return stages

    @staticmethod
    def _block_modulation(
        block: nn.Module, spec: ModulationSpec, channels: int, height: int, width: int
    ) -> BlockModulation:
        if spec.kind == "none":
            return BlockModulation()
        if spec.kind == "act":
            return BlockModulation(
                activations={name: ActivationModulation(channels, height, width) for name in ("conv1", "conv2")}
            )
        layers = {"conv1": block.conv1, "conv2": block.conv2}
        if block.project is not None:
            layers["project"] = block.project
        return BlockModulation(
            {
                name: WeightModulation(
                    modulated_weight(layer).shape, spec.kind, spec.factor, init=spec.init, mode=spec.mode, tau=spec.tau
                )
                for name, layer in layers.items()
            }
        )

    def answer(self, image: Tensor, argument: Tensor, task: int) -> dict[str, Any]:
        """Run one task on a batch: streams, ``occurrence`` [B, n_occ] and ``task`` logits [B, n_task].

        :param argument: int64 [B].
        """
        language = self.tasks[task].language
        bits = nn.functional.one_hot(argument, self.n_arguments[language]).to(image.dtype)
        if self.top_kind != "argument":
            bits = torch.cat(
                [nn.functional.one_hot(torch.full_like(argument, task), len(self.tasks)).to(image.dtype), bits], 1
            )
        run = self.net.streams(image, bits, task=task, modulation=self.modulations[task])
        run["task"] = self.heads[task](run["answer"].flatten(1))[..., 0]
        run["occurrence"] = self.net.occurrence(run["bu1"].flatten(1)) if self.net.occurrence is not None else None
        return run

    def forward(self, image: Tensor, task: Tensor, argument: Tensor) -> dict[str, Tensor]:
        """Answer a batch that may mix tasks.

        :param task: int64 [B].
        :param argument: int64 [B].
        :return: ``task`` logits [B, max n] (unused places are -inf) and ``occurrence`` [B, n_occ].
        """
        present = torch.unique(task).tolist()
        if len(present) == 1 and len({t.n_classes for t in self.tasks}) == 1:
            run = self.answer(image, argument, present[0])
            return {"task": run["task"], "occurrence": run["occurrence"]}
        out: dict[str, Tensor] = {}
        for t in present:
            rows = torch.nonzero(task == t).flatten()
            run = self.answer(image[rows], argument[rows], t)
            for name in ("task", "occurrence"):
                if run[name] is None:
                    continue
                if name not in out:
                    width = max(spec.n_classes for spec in self.tasks) if name == "task" else run[name].shape[1]
                    out[name] = run[name].new_full((len(image), width), float("-inf"))
                out[name][rows[:, None], torch.arange(run[name].shape[1], device=rows.device)] = run[name]
        return out

    def owned(self, task: int, *, train_argument: bool = False) -> list[nn.Parameter]:
        """Parameters only ``task`` uses: its modulation, its head and its own embedding at the top.

        :param train_argument: with the argument embedding of a language that no earlier task speaks; one that an
            earlier task reads is shared and stays as it is.
        """
        mine = [*self.modulations[task].parameters(), *self.heads[task].parameters()]
        return [*mine, *self.embedding(task, train_argument=train_argument)]

    def embedding(self, task: int, *, train_argument: bool = True) -> list[nn.Parameter]:
        """What only this task embeds: itself, or the arguments of a language that no earlier task speaks."""
        top, language = self.net.td.top, self.tasks[task].language
        if self.top_kind == "per-task":
            return list(top.task[task].parameters())
        known = any(earlier.language == language for earlier in self.tasks[:task])
        return list(top.argument[language].parameters()) if train_argument and not known else []

    def shared(self) -> dict[str, nn.Parameter]:
        """Parameters every task uses, by name."""
        return dict(self.net.named_parameters())

    def base(self) -> dict[str, Tensor]:
        """What a first task learns: everything but tables of tasks and later heads and modulations, by name."""
        later = tuple(f"{part}.{t}." for part in ("heads", "modulations") for t in range(1, len(self.tasks)))
        return {
            name: value
            for name, value in self.state_dict().items()
            if not name.startswith(later) and not name.rpartition(".")[2].startswith("task_")
        }

    def norms(self) -> list[Norm]:
        """Every norm that keeps statistics per task."""
        return [m for m in self.modules() if isinstance(m, Norm) and m.n_tasks]

    def store_statistics(self, task: int) -> None:
        """Keep the running statistics as the task's."""
        for norm in self.norms():
            norm.store(task)

    def price(self, task: int = -1, *, train_argument: bool = False) -> dict[str, dict[str, int]]:
        """What a task adds, by part: ``parameters``, and ``bytes`` in float32; a mask takes a bit a weight.

        :param task: the last by default; a first task may have no modulation.
        """
        task %= len(self.tasks)
        modulations = list(self.modulations[task].parameters())
        masks = any(isinstance(m, WeightModulation) and m.kind == "mask" for m in self.modulations[task].modules())
        n = sum(p.numel() for p in modulations)
        counts = {
            "modulation": n,
            "head": sum(p.numel() for p in self.heads[task].parameters()),
            "embedding": sum(p.numel() for p in self.embedding(task, train_argument=train_argument)),
            "statistics": sum(2 * norm.channels for norm in self.norms()),
        }
        found = {part: {"parameters": count, "bytes": 4 * count} for part, count in counts.items() if count}
        if masks:
            found["modulation"]["bytes"] = sum(-(-p.numel() // 8) for p in modulations)
        return found

    def bytes_per_task(self) -> dict[str, int]:
        """Bytes a further task adds, by part."""
        return {part: entry["bytes"] for part, entry in self.price().items()}
