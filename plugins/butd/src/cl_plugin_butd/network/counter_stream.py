"""The counter-stream network: bottom-up, top-down, bottom-up again, with laterals in both directions.

Shapes: B batch, C_k channels of stage k, H W map, F instruction bits, n classes of an output, J outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from attrs import field, frozen
from torch import Tensor, nn

from cl_plugin_butd.network.blocks import Norm, conv, initialise
from cl_plugin_butd.network.modulation import BlockModulation
from cl_plugin_butd.network.streams import BottomUp, Embed, Filters, TopDown, Topology, upsample


class InstructionTop(nn.Module):
    """Fuse BU1's vector with the whole instruction: ``z = f([bu ; e(instruction)])``."""

    def __init__(self, topology: Topology) -> None:
        super().__init__()
        self.embed = Embed(topology.instruction, topology.top, topology.make_norm(topology.top))
        self.fuse = Embed(2 * topology.top, topology.top, topology.make_norm(topology.top))

    def forward(self, bu: Tensor, instruction: Tensor, task: int | Tensor | None = None) -> tuple[Tensor, Tensor]:
        """[B, C], [B, F] -> fused [B, C], embedded [B, C]."""
        embedded = self.embed(instruction, task)
        return self.fuse(torch.cat([bu, embedded], 1), task), embedded


class TaskArgumentTop(nn.Module):
    """Task and argument embedded apart, half of the vector each; task half first.

    :param per_task: the task half has an own layer per task, fed with a constant 1 (mode ``SF``).
    """

    def __init__(
        self, top: int, n_tasks: int, n_arguments: int, *, per_task: bool = False, norm_eps: float = 1e-5
    ) -> None:
        super().__init__()
        half = top // 2
        self.n_tasks, self.per_task = n_tasks, per_task

        def norm(channels: int) -> Norm:
            return Norm(channels, eps=norm_eps, n_tasks=n_tasks)

        if per_task:
            self.task = nn.ModuleList(Embed(1, half, norm(half)) for _ in range(n_tasks))
        else:
            self.task = Embed(n_tasks, half, norm(half))
        self.argument = Embed(n_arguments, top - half, norm(top - half))
        self.fuse = Embed(2 * top, top, norm(top))

    def forward(self, bu: Tensor, instruction: Tensor, task: int | Tensor | None = None) -> tuple[Tensor, Tensor]:
        """[B, C], one-hot task then one-hot argument [B, T + A] -> fused [B, C], embedded [B, C]."""
        bits, argument = instruction[:, : self.n_tasks], instruction[:, self.n_tasks :]
        if self.per_task:
            chosen = bits.argmax(1)
            first = chosen[0]
            if not bool((chosen == first).all()):
                raise ValueError("a batch of several tasks reached a layer kept per task: split it by task first")
            task_half = self.task[int(first)](torch.ones_like(bits[:, :1]), task)
        else:
            task_half = self.task(bits, task)
        embedded = torch.cat([task_half, self.argument(argument, task)], 1)
        return self.fuse(torch.cat([bu, embedded], 1), task), embedded


class ArgumentTop(nn.Module):
    """Only the argument enters here, one layer per language, neither norm nor ReLU (continual model).

    :param n_arguments: arguments of each language.
    :param languages: the language each task speaks.
    """

    def __init__(self, top: int, n_arguments: Sequence[int], languages: Sequence[int]) -> None:
        super().__init__()
        self.languages = tuple(languages)
        self.argument = nn.ModuleList(nn.Linear(n, top) for n in n_arguments)
        self.fuse = nn.Linear(2 * top, top)

    def forward(self, bu: Tensor, argument: Tensor, task: int) -> tuple[Tensor, Tensor]:
        """[B, C], one-hot argument [B, A] -> fused [B, C], embedded [B, C]."""
        embedded = self.argument[self.languages[task]](argument)
        return self.fuse(torch.cat([bu, embedded], 1)), embedded


class TaskHead(nn.Module):
    """J outputs of n classes each, all of the same n so that they stack."""

    def __init__(
        self, channels: int, outputs: Sequence[int], layers: int = 1, *, make_norm: Callable[[int], Norm] = Norm
    ) -> None:
        super().__init__()
        if len(set(outputs)) > 1:
            raise ValueError(f"outputs of different sizes cannot be stacked: {sorted(set(outputs))}")
        self.outputs = nn.ModuleList()
        for n in outputs:
            hidden = [Embed(channels, channels, make_norm(channels)) for _ in range(layers - 1)]
            self.outputs.append(nn.Sequential(*hidden, nn.Linear(channels, n)))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C] -> logits [B, n, J]."""
        return torch.stack([head(x) for head in self.outputs], -1)


class ImageHead(nn.Module):
    """Draw what the top-down stream sees: the queried object, 0..255."""

    def __init__(self, topology: Topology) -> None:
        super().__init__()
        self.conv = conv(topology.filters[0], topology.in_shape[0], 3, separable=topology.separable)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """[B, C_0, h, w] -> [B, 3, H, W]."""
        return self.conv(upsample(x, size))


@frozen(kw_only=True)
class Outputs:
    """What a forward pass gives; ``trace`` holds every stream's laterals when asked for."""

    occurrence: Tensor | None
    task: Tensor | None
    td_image: Tensor | None
    trace: dict[str, Any] = field(factory=dict)


class CounterStream(nn.Module):
    """The whole network of the first generation, all placements and variants (and the base of the continual one)."""

    def __init__(self, topology: Topology, *, top: nn.Module | None = None) -> None:
        super().__init__()
        self.topology = topology = topology.effective()
        self.filters = Filters(topology)
        self.bu1 = BottomUp(topology, self.filters, second=False)
        self.filters2 = self.bu2 = self.td = None
        if not topology.single_pass:
            if topology.variant == "separate":
                self.filters2 = Filters(topology)
            if topology.variant != "duplicate":
                self.bu2 = BottomUp(topology, self.filters2 or self.filters, second=True)
            elif topology.placement == "BU2":
                raise ValueError(
                    "the duplicate variant has one set of bottom-up weights: it cannot take the "
                    "instruction in its second pass only"
                )
            if top is None and topology.placement == "TD":
                top = InstructionTop(topology)
            self.td = TopDown(topology, top)
        initialise(self)
        self.occurrence = nn.Linear(topology.top, topology.n_occurrence) if topology.n_occurrence else None
        self.task = (
            TaskHead(topology.top, topology.outputs, topology.head_layers, make_norm=topology.make_norm)
            if topology.outputs
            else None
        )
        self.image = ImageHead(topology) if topology.td_image else None

    def streams(
        self,
        image: Tensor,
        instruction: Tensor | None,
        *,
        task: int | Tensor | None = None,
        modulation: Sequence[Sequence[BlockModulation]] | None = None,
        top_options: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Run the passes: ``bu1``, ``td``, ``bu2`` outputs, their laterals, the embedded instruction, the top."""
        topology = self.topology
        stem = self.bu1.stem_map(self.filters, image, instruction, task)
        bu1, bu1_laterals = self.bu1(self.filters, stem, task=task)
        if topology.single_pass:
            return {"bu1": bu1, "bu1_lat": bu1_laterals, "answer": bu1}
        td, td_laterals, embedded, z = self.td(bu1, bu1_laterals, instruction, task)
        filters, bu2 = self.filters2 or self.filters, self.bu2 or self.bu1
        if filters is not self.filters or filters.flag is not None:
            stem = bu2.stem_map(filters, image, instruction, task)
        send = td_laterals if topology.td_to_bu else [td] + [None] * (len(td_laterals) - 1)
        answer, bu2_laterals = bu2(filters, stem, send, instruction, modulation=modulation, task=task)
        return {
            "bu1": bu1,
            "bu1_lat": bu1_laterals,
            "td": td,
            "td_lat": td_laterals,
            "td_embed": embedded,
            "td_top": z,
            "bu2": answer,
            "bu2_lat": bu2_laterals,
            "answer": answer,
        }

    def forward(
        self, image: Tensor, instruction: Tensor | None = None, *, task: int | Tensor | None = None, trace: bool = False
    ) -> Outputs:
        """Answer an instruction about an image.

        :param image: float [B, 3, H, W], mean image subtracted.
        :param instruction: one-hot task and argument [B, F], or None where the network takes none.
        :return: occurrence logits [B, n_occ], task logits [B, n, J], the drawn object [B, 3, H, W].
        """
        run = self.streams(image, instruction, task=task)
        occurrence = self.occurrence(run["bu1"].flatten(1)) if self.occurrence is not None else None
        answer = self.task(run["answer"].flatten(1)) if self.task is not None else None
        drawn = self.image(run["td"], image.shape[-2:]) if self.image is not None else None
        return Outputs(occurrence=occurrence, task=answer, td_image=drawn, trace=run if trace else {})
