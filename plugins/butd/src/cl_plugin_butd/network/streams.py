"""The streams of a counter-stream network, bottom-up and top-down, and what is set about their layout.

Laterals of a stream are a list over levels: the stem map, then per stage a list over blocks of three maps, then the
pooled vector. Top-down laterals are stored in the same (bottom-up) order.

Shapes: B batch, C_k channels of stage k, H W map, F instruction bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from attrs import evolve, field, frozen
from torch import Tensor, nn

from cl_plugin_butd.network.blocks import Gate, Norm, combine, conv, convolve, rectified
from cl_plugin_butd.network.modulation import BlockModulation

PLACEMENTS = ("TD", "BU1", "BU2", "NOFLAG", "BU1_SIMPLE", "BU1_NOLAT")
VARIANTS = ("shared", "separate", "duplicate")
Laterals = list[Any]
"""[stem, [[(map, map, map) per block] per stage] ..., top]: nested as described above."""


@frozen(kw_only=True)
class Topology:
    """Everything that decides the shape of a counter-stream network.

    :param filters: channels of the stem and of each stage.
    :param strides: the same, strides.
    :param blocks: blocks per stage, 0 for the stem.
    :param in_shape: channels, height and width of the image.
    :param instruction: bits of the instruction (task and argument).
    :param n_occurrence: outputs of the occurrence head; 0 for none.
    :param outputs: classes of each output of the task head.
    :param placement: where the instruction enters, one of :data:`PLACEMENTS`.
    :param variant: how the two bottom-up passes relate, one of :data:`VARIANTS`.
    :param n_tasks: rows of the per-task tables of batch norm; 0 keeps none.
    :param reorder: do commuting operations in the cheaper order; the same up to rounding.
    """

    filters: tuple[int, ...] = field(converter=tuple)
    strides: tuple[int, ...] = field(converter=tuple)
    blocks: tuple[int, ...] = field(converter=tuple)
    in_shape: tuple[int, int, int] = field(converter=tuple)
    instruction: int = 0
    n_occurrence: int = 0
    outputs: tuple[int, ...] = field(default=(), converter=tuple)
    placement: str = "TD"
    variant: str = "shared"
    bu_to_td: bool = True
    td_to_bu: bool = True
    td_image: bool = False
    final_td_conv: bool = False
    head_layers: int = 1
    orig_relus: bool = False
    norm: str = "batch"
    norm_eps: float = 1e-5
    norm_groups: int = 0
    separable: bool = True
    n_tasks: int = 0
    reorder: bool = True

    def __attrs_post_init__(self) -> None:
        if self.placement not in PLACEMENTS:
            raise ValueError(f"placement {self.placement!r} is none of {', '.join(PLACEMENTS)}")
        if self.variant not in VARIANTS:
            raise ValueError(f"variant {self.variant!r} is none of {', '.join(VARIANTS)}")
        if not len(self.filters) == len(self.strides) == len(self.blocks):
            raise ValueError(
                f"filters, strides and blocks differ in length: {self.filters}, {self.strides}, {self.blocks}"
            )

    @property
    def top(self) -> int:
        """Length of the pooled vector."""
        return self.filters[-1]

    @property
    def flag_in_image(self) -> bool:
        """Whether the instruction enters as an image plane."""
        return self.placement in ("BU1", "BU1_SIMPLE", "BU1_NOLAT")

    @property
    def single_pass(self) -> bool:
        """Whether this is the bottom-up-only baseline."""
        return self.placement == "BU1_SIMPLE"

    def make_norm(self, channels: int) -> Norm:
        """A norm of the topology's kind."""
        return Norm(channels, self.norm, eps=self.norm_eps, n_tasks=self.n_tasks, groups=self.norm_groups)

    def effective(self) -> Topology:
        """The topology with what the placement implies: no laterals, or three times the blocks and one pass."""
        if self.placement == "BU1_NOLAT":
            return evolve(self, bu_to_td=False, td_to_bu=False)
        if self.single_pass:
            return evolve(self, bu_to_td=False, td_to_bu=False, td_image=False, blocks=[3 * n for n in self.blocks])
        return self


class Embed(nn.Sequential):
    """Linear, norm, ReLU on vectors."""

    def __init__(self, n_in: int, n_out: int, norm: Norm) -> None:
        super().__init__(nn.Linear(n_in, n_out), norm)

    def forward(self, x: Tensor, task: int | Tensor | None = None) -> Tensor:
        """[B, n_in] -> [B, n_out]."""
        return F.relu(self[1](self[0](x), task))


class BlockFilters(nn.Module):
    """Weights of one bottom-up block, without norms."""

    def __init__(self, c_in: int, c_out: int, stride: int, *, separable: bool, gates: bool) -> None:
        super().__init__()
        self.conv1 = conv(c_in, c_out, 3, stride, separable=separable)
        self.conv2 = conv(c_out, c_out, 3, separable=separable)
        self.project = nn.Conv2d(c_in, c_out, 1, stride, bias=False) if stride != 1 or c_in != c_out else None
        self.gates = nn.ModuleList(Gate(c) for c in (c_in, c_out, c_out)) if gates else None


class BlockNorms(nn.Module):
    """Norms of one bottom-up block."""

    def __init__(self, topology: Topology, c_in: int, filters: BlockFilters, *, laterals: bool) -> None:
        super().__init__()
        c_out = filters.conv2.pointwise.out_channels if topology.separable else filters.conv2.out_channels
        self.norm1 = topology.make_norm(c_out)
        self.norm2 = topology.make_norm(c_out)
        self.norm_project = topology.make_norm(c_out) if filters.project is not None else None
        self.laterals = nn.ModuleList(topology.make_norm(c) for c in (c_in, c_out, c_out)) if laterals else None


class Filters(nn.Module):
    """All weights the two bottom-up passes share: convolutions, projections, gates, flag plane."""

    def __init__(self, topology: Topology) -> None:
        super().__init__()
        channels, height, width = topology.in_shape
        self.flag = None
        if topology.flag_in_image:
            self.flag = nn.Linear(topology.instruction, (height // 2) * (width // 2))
            channels += 1
        self.stem = conv(channels, topology.filters[0], 7, topology.strides[0], separable=topology.separable)
        self.gate_stem = Gate(topology.filters[0])
        self.stages = nn.ModuleList()
        for k in range(1, len(topology.filters)):
            stage, c_in = nn.ModuleList(), topology.filters[k - 1]
            for j in range(topology.blocks[k]):
                stage.append(
                    BlockFilters(
                        c_in,
                        topology.filters[k],
                        topology.strides[k] if j == 0 else 1,
                        separable=topology.separable,
                        gates=topology.td_to_bu,
                    )
                )
                c_in = topology.filters[k]
            self.stages.append(stage)
        self.gate_top = Gate(topology.top) if topology.td_to_bu else None


class BottomUp(nn.Module):
    """One bottom-up pass: owns its norms, runs with the filters it is given.

    :param second: BU2, which receives laterals; BU1 of the shared variant keeps the same norms, without ever using
        them, so that its parameters and checkpoints have the original's layout.
    """

    def __init__(self, topology: Topology, filters: Filters, *, second: bool, laterals: bool = True) -> None:
        super().__init__()
        self.topology, self.second = topology, second
        _, height, width = topology.in_shape
        self.flag_norm = topology.make_norm((height // 2) * (width // 2)) if topology.flag_in_image else None
        self.stem_norm = topology.make_norm(topology.filters[0])
        self.stem_lateral = topology.make_norm(topology.filters[0]) if laterals else None
        self.stages = nn.ModuleList()
        for k, stage in enumerate(filters.stages, 1):
            c_in, norms = topology.filters[k - 1], nn.ModuleList()
            for block in stage:
                norms.append(BlockNorms(topology, c_in, block, laterals=topology.td_to_bu and laterals))
                c_in = topology.filters[k]
            self.stages.append(norms)
        self.top_lateral = topology.make_norm(topology.top) if topology.td_to_bu and laterals else None
        self.flag_embed = self.flag_fuse = None
        if second and topology.placement == "BU2":
            self.flag_embed = Embed(topology.instruction, topology.top, topology.make_norm(topology.top))
            self.flag_fuse = Embed(2 * topology.top, topology.top, topology.make_norm(topology.top))

    def stem_map(
        self, filters: Filters, image: Tensor, instruction: Tensor | None, task: int | Tensor | None = None
    ) -> Tensor:
        """The stem's convolution, before its norm; both passes share it unless the flag plane is normed apart."""
        if filters.flag is not None:
            height, width = image.shape[-2] // 2, image.shape[-1] // 2
            plane = F.relu(self.flag_norm(filters.flag(instruction), task)).view(-1, 1, height, width)
            plane = F.interpolate(plane, size=image.shape[-2:], mode="bilinear", align_corners=False)
            image = torch.cat([image, plane], 1)
        return filters.stem(image)

    def forward(
        self,
        filters: Filters,
        stem: Tensor,
        laterals: Laterals | None = None,
        instruction: Tensor | None = None,
        *,
        modulation: Sequence[Sequence[BlockModulation]] | None = None,
        task: int | Tensor | None = None,
    ) -> tuple[Tensor, Laterals]:
        """Run the pass.

        :param stem: what :meth:`stem_map` gave.
        :param laterals: top-down laterals in bottom-up order; entries may be None.
        :param modulation: per stage and block, the current task's modulation.
        :return: pooled vector [B, C_K, 1, 1] and this stream's laterals.
        """
        inner = not self.topology.orig_relus
        x = rectified(stem, self.stem_norm, task)
        if laterals is not None and laterals[0] is not None:
            x = combine(x, laterals[0], filters.gate_stem, self.stem_lateral, inner_relu=inner, task=task)
        out: Laterals = [x]
        for k, (weights, norms) in enumerate(zip(filters.stages, self.stages, strict=True)):
            stage = []
            for j in range(len(weights)):
                x, taps = self._block(
                    weights[j],
                    norms[j],
                    x,
                    None if laterals is None else laterals[k + 1],
                    j,
                    None if modulation is None else modulation[k][j],
                    task,
                )
                stage.append(taps)
            out.append(stage)
        x = x.mean((2, 3), keepdim=True)
        if laterals is not None and laterals[-1] is not None and self.top_lateral is not None:
            x = combine(x, laterals[-1], filters.gate_top, self.top_lateral, inner_relu=inner, task=task)
        if self.flag_embed is not None:
            flag = self.flag_embed(instruction, task)
            x = self.flag_fuse(torch.cat([x.flatten(1), flag], 1), task)[..., None, None]
        out.append(x)
        return x, out

    def _block(
        self,
        weights: BlockFilters,
        norms: BlockNorms,
        x: Tensor,
        laterals: list[Any] | None,
        j: int,
        modulation: BlockModulation | None,
        task: int | Tensor | None,
    ) -> tuple[Tensor, list[Tensor]]:
        lateral = [None] * 3 if laterals is None or norms.laterals is None else laterals[j]
        inner = not self.topology.orig_relus

        def tap(x: Tensor, i: int) -> Tensor:
            if lateral[i] is None:
                return x
            return combine(x, lateral[i], weights.gates[i], norms.laterals[i], inner_relu=inner, task=task)

        first = x = tap(x, 0)
        x = convolve(weights.conv1, x, modulation and modulation.weight("conv1"))
        x = rectified(x, norms.norm1, task)
        x = second = tap(x if modulation is None else modulation.activation("conv1", x), 1)
        x = rectified(convolve(weights.conv2, x, modulation and modulation.weight("conv2")), norms.norm2, task)
        x = third = tap(x if modulation is None else modulation.activation("conv2", x), 2)
        skip = first
        if weights.project is not None:
            skip = norms.norm_project(
                convolve(weights.project, first, modulation and modulation.weight("project")), task
            )
        x = x + skip  # no ReLU after the sum
        return (x if inner else F.relu(x)), [first, second, third]


class TopDownBlock(nn.Module):
    """One top-down block, C_in -> C_out, doubling as upsampling by ``factor``."""

    def __init__(self, topology: Topology, c_in: int, c_out: int, factor: int) -> None:
        super().__init__()
        self.inner, self.reorder = not topology.orig_relus, topology.reorder
        self.conv1 = conv(c_in, c_in, 3, separable=topology.separable)
        self.norm1 = topology.make_norm(c_in)
        self.conv2 = conv(c_in, c_out, 3, separable=topology.separable)
        self.norm2 = topology.make_norm(c_out)
        self.project = self.norm_project = None
        if factor > 1 or c_in != c_out:
            self.project = nn.Conv2d(c_in, c_out, 1, bias=False)
            self.norm_project = topology.make_norm(c_out)
        channels = (c_in, c_in, c_out)
        self.gates = nn.ModuleList(Gate(c) for c in channels) if topology.bu_to_td else None
        self.laterals = nn.ModuleList(topology.make_norm(c) for c in channels) if topology.bu_to_td else None

    def forward(
        self, x: Tensor, lateral: Sequence[Tensor] | None, size: Sequence[int], task: int | Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """[B, C_in, h, w] -> [B, C_out, *size] and the three maps it sends out.

        :param lateral: maps of the mirror bottom-up block, mirrored.
        """

        def tap(x: Tensor, i: int) -> Tensor:
            if lateral is None or self.gates is None:
                return x
            return combine(x, lateral[i], self.gates[i], self.laterals[i], inner_relu=self.inner, task=task)

        first = x = tap(x, 0)
        x = second = tap(rectified(self.conv1(x), self.norm1, task), 1)
        x = self.norm2(self.conv2(upsample(x, size)), task)  # no ReLU here, but in the original-ReLU layout
        if not self.inner:
            x = F.relu(x)
        x = third = tap(x, 2)
        skip = first
        if self.project is not None:
            # a 1x1 convolution commutes with interpolation: project where the map is small
            skip = upsample(self.project(first), size) if self.reorder else self.project(upsample(first, size))
            skip = self.norm_project(skip, task)
        return F.relu(x + skip), [first, second, third]


def upsample(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear interpolation to an explicit size, so strides need not divide the image."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    if x.shape[-2] == x.shape[-1] == 1:
        return x.expand(-1, -1, *size)
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


class TopDown(nn.Module):
    """The top-down stream."""

    def __init__(self, topology: Topology, top: nn.Module | None) -> None:
        super().__init__()
        self.topology = topology
        self.top = top
        self.stages = nn.ModuleList()
        for k in range(len(topology.filters) - 1, 0, -1):
            c, stage = topology.filters[k], nn.ModuleList()
            for _ in range(topology.blocks[k] - 1):
                stage.append(TopDownBlock(topology, c, c, 1))
            stage.append(TopDownBlock(topology, c, topology.filters[k - 1], topology.strides[k]))
            self.stages.append(stage)
        self.gate_stem = self.stem_lateral = None
        if topology.bu_to_td:
            self.gate_stem = Gate(topology.filters[0])
            self.stem_lateral = topology.make_norm(topology.filters[0])
        self.final = self.final_norm = None
        if topology.final_td_conv:
            self.final = conv(topology.filters[0], topology.filters[0], 7, separable=topology.separable)
            self.final_norm = topology.make_norm(topology.filters[0])

    def forward(
        self, bu_top: Tensor, laterals: Laterals, instruction: Tensor | None, task: int | Tensor | None = None
    ) -> tuple[Tensor, Laterals, Tensor | None, Tensor]:
        """Run the stream.

        :param bu_top: pooled vector of BU1 [B, C_K, 1, 1].
        :param laterals: BU1's laterals, bottom-up order; they also give the sizes to reach.
        :return: the final map, laterals in bottom-up order, the embedded instruction, the fused top vector.
        """
        embedded, z = None, bu_top
        if self.top is not None:
            z, embedded = self.top(bu_top.flatten(1), instruction, task)
            z = z[..., None, None]
        x = upsample(z, laterals[-2][-1][2].shape[-2:])
        out: Laterals = [z]
        for stage, below in zip(self.stages, reversed(laterals[1:-1]), strict=True):
            taps = []
            for block, mirror in zip(stage, reversed(below), strict=True):
                x, mine = block(x, mirror[::-1], mirror[0].shape[-2:], task)
                taps.append(mine[::-1])
            out.append(taps[::-1])
        if self.stem_lateral is not None:
            x = combine(
                x, laterals[0], self.gate_stem, self.stem_lateral, inner_relu=not self.topology.orig_relus, task=task
            )
        if self.final is not None:
            x = F.relu(self.final_norm(self.final(x), task))
        out.append(x)
        return x, out[::-1], embedded, z
