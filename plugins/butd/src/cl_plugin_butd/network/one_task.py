"""A single task of a continual network as a file of its bytes: modulation, head, statistics and its embedding.

It answers in any network with the same shared weights, to the same bits. A mask travels as a bit a weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import frozen
from torch import Tensor

from cl_kernel import BadInput, MissingAsset, digest_tree, load_tree, save_tree
from cl_kernel.torch import state
from cl_plugin_butd.network.continual import ContinualCounterStream
from cl_plugin_butd.network.modulation import WeightModulation

FORMAT = "butd task 1"
TABLES = ("task_mean", "task_var")
STATISTICS = "statistics"
BITS = " bits"
"""Ends the name of a part that is a mask."""


@frozen
class OneTask:
    """What a file holds.

    :param name: of the task, as the direction is called.
    :param network: digest of the shared weights it was learnt on.
    :param direction: what it asks, as ``(dx, dy)``.
    :param parts: by name, without the number of the task.
    """

    name: str
    network: str
    direction: tuple[int, int]
    parts: Mapping[str, np.ndarray]

    def save(self, path: Path) -> int:
        """Write it; bytes of the file."""
        tree = {"format": FORMAT, "name": self.name, "network": self.network, "direction": list(self.direction)}
        return save_tree(path, {**tree, "parts": dict(self.parts)})


def read_task(path: Path) -> OneTask:
    """A task from its file.

    :raises BadInput: for another kind of file.
    """
    if not path.is_file():
        raise MissingAsset(f"no file {path.name}", where=str(path), fix="clk butd export-task RUN writes them")
    tree = load_tree(path)
    if not isinstance(tree, dict) or tree.get("format") != FORMAT:
        raise BadInput(f"{path.name} holds no task", where=str(path), fix="clk butd export-task RUN writes them")
    dx, dy = tree["direction"]
    return OneTask(tree["name"], tree["network"], (int(dx), int(dy)), tree["parts"])


def shared_digest(net: ContinualCounterStream) -> str:
    """Of everything that a later task reads and does not own."""
    own = ("td.top.task.", "image.", *(f"td.top.argument.{i}." for i in range(1, len(net.n_arguments))))
    return digest_tree({n: state.pack(p) for n, p in net.shared().items() if not n.startswith(own)})


def take(net: ContinualCounterStream, task: int, name: str, direction: tuple[int, int]) -> OneTask:
    """One task of a network."""
    masks = _masks(net, task)
    parts = {part: np.array(value.detach().cpu().numpy()) for part, value in _places(net, task)}
    packed = {part: parts.pop(part) for part in list(parts) if part in masks}
    bits = {part + BITS: np.packbits(value > masks[part]) for part, value in packed.items()}
    statistics = np.concatenate([np.zeros(0, np.float32), *(row.cpu().numpy() for row in _rows(net, task))])
    return OneTask(name, shared_digest(net), direction, {**parts, **bits, STATISTICS: statistics})


def check_shapes(net: ContinualCounterStream, task: int, one: OneTask, where: str) -> None:
    """Refuse a task that does not fit the network.

    :raises BadInput: naming the part.
    """
    masks = _masks(net, task)
    wanted = {
        part + BITS if part in masks else part: (-(-v.numel() // 8),) if part in masks else tuple(v.shape)
        for part, v in _places(net, task)
    }
    wanted[STATISTICS] = (sum(row.numel() for row in _rows(net, task)),)
    found = {part: tuple(value.shape) for part, value in one.parts.items()}
    if found != wanted:
        odd = next(part for part in (*wanted, *found) if found.get(part) != wanted.get(part))
        raise BadInput(
            f"task {one.name!r}: {odd} is {_shape(found.get(odd))}, the network takes {_shape(wanted.get(odd))}",
            where=where,
            fix="import it where filters, modulation, factor and number of answers are those it was learnt with",
        )


def check_network(net: ContinualCounterStream, one: OneTask, where: str) -> None:
    """Refuse a task learnt on other shared weights.

    :raises BadInput: naming both.
    """
    if (here := shared_digest(net)) != one.network:
        raise BadInput(
            f"task {one.name!r} belongs to another network: its shared weights are {one.network[:8]}, here {here[:8]}",
            where=where,
            fix="import it into a run that shares the first task's network (same data, first direction and seed)",
        )


def put(net: ContinualCounterStream, task: int, one: OneTask) -> None:
    """Give a task of a network what the file holds."""
    masks = _masks(net, task)
    with torch.no_grad():
        for part, place in _places(net, task):
            if part in masks:
                bits = np.unpackbits(one.parts[part + BITS], count=place.numel()).reshape(place.shape)
                place.copy_(torch.from_numpy(bits.astype(np.float32)) * 2 - 1 + masks[part])
            else:
                place.copy_(torch.from_numpy(np.array(one.parts[part])))
        at = 0
        for row in _rows(net, task):
            row.copy_(torch.from_numpy(np.array(one.parts[STATISTICS][at : at + row.numel()])))
            at += row.numel()
    for norm in net.norms():
        if norm.kind == "batch":
            norm.task_stored[task] = True


def _rows(net: ContinualCounterStream, task: int) -> list[Tensor]:
    """The task's rows of the norms' tables, in order."""
    return [buffer[task] for name, buffer in net.named_buffers() if name.rpartition(".")[2] in TABLES]


def _places(net: ContinualCounterStream, task: int) -> Iterator[tuple[str, Tensor]]:
    """Tensors that are the task's own, where they lie in the network."""
    for part, module in (("modulation", net.modulations[task]), ("head", net.heads[task])):
        for name, value in module.named_parameters():
            yield f"{part} {name}", value
    for at, value in enumerate(net.embedding(task)):
        yield f"embedding {at}", value


def _masks(net: ContinualCounterStream, task: int) -> dict[str, float]:
    """Parts that are masks, with their thresholds."""
    modules = net.modulations[task].named_modules()
    return {
        f"modulation {name}.m": module.tau
        for name, module in modules
        if isinstance(module, WeightModulation) and module.kind == "mask"
    }


def _shape(shape: tuple[int, ...] | None) -> Any:
    return "not there" if shape is None else list(shape)
