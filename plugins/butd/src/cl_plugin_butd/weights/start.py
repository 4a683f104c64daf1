"""Weight files that a network starts from: under its own names, or under those of the authors' published files."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from cl_kernel import BadInput, Mismatch
from cl_kernel.torch.state import assign, read_weights
from cl_plugin_butd.data.directions import published_direction_index
from cl_plugin_butd.network.hub import HubVit, rename_for_installed
from cl_plugin_butd.weights.names import from_continual, from_first_generation, from_task_select

if TYPE_CHECKING:
    from torch import Tensor, nn

Tensors = Mapping[str, "Tensor"]
TABLES = ("task_mean", "task_var", "task_stored", "num_batches_tracked")
"""What published files lack, or hold without anybody reading it."""
WHERE = "learner.weights"


def start_from(net: nn.Module, file: str, published: Callable[[Tensors], Tensors]) -> None:
    """Lay a weight file over a network; every tensor of the network must be in it, but for statistics by task.

    :param published: tensors under the authors' names -> under ours.
    :raises ClkError: naming what does not fit.
    """
    tensors = {name: value for name, value in read_weights(file).items() if not name.endswith("num_batches_tracked")}
    where = f"{WHERE}={file}"
    if not set(tensors) <= set(net.state_dict()):
        try:
            tensors = dict(published(tensors))
        except Mismatch as error:
            fix = "choose the learner, placement and variant that the file was trained with"
            raise BadInput(error.what, where=where, fix=fix) from error
    lay_over(net, tensors, where)


def lay_over(net: nn.Module, named: Tensors, where: str) -> None:
    """Copy tensors under our names into a network, every one and into every place but statistics by task.

    :raises BadInput: naming what does not fit.
    """
    assign(net, named, where=where, may_miss=[name for name in net.state_dict() if name.endswith(TABLES)])


def first_generation(tensors: Tensors, *, variant: str, head_layers: int) -> Tensors:
    """The persons and EMNIST models."""
    separate = variant == "separate"
    return {
        from_first_generation(name, tuple(value.shape), separate=separate, head_layers=head_layers): value
        for name, value in tensors.items()
    }


def continual(tensors: Tensors, heads: Mapping[tuple[int, int], int]) -> Tensors:
    """The continual model; heads and modulations of directions that the stream does not ask are left out.

    :param heads: as :func:`numbered` gives them.
    """
    found = {}
    for name, value in tensors.items():
        if name.endswith(("running_mean", "running_var")) and value.dim() == 2:
            continue  # tables that nobody reads
        try:
            found[from_continual(name, heads)] = value
        except KeyError:
            continue
    return found


def numbered(directions: Sequence[Sequence[int]], languages: Sequence[int]) -> dict[tuple[int, int], int]:
    """Language and published number of a direction -> task.

    :param directions: (dx, dy) of each task.
    :raises BadInput: when two directions have one number, as they can in the published files.
    """
    reach_x, reach_y = (max(1, *(abs(int(way[axis])) for way in directions)) for axis in (0, 1))
    found = {
        (int(language), published_direction_index(int(dx), int(dy), reach_x, reach_y)): task
        for task, ((dx, dy), language) in enumerate(zip(directions, languages, strict=True))
    }
    if len(found) < len(directions):
        raise BadInput(
            "two directions of this stream share a number in the published files",
            where=WHERE,
            fix="ask fewer directions, or start from a file under this network's own names",
        )
    return found


def transformer(tensors: Tensors, net: nn.Module) -> Tensors:
    """The transformers: of ``transformers`` 4 for those it builds, else the task-selecting ones."""
    if isinstance(net, HubVit):
        return rename_for_installed(tensors, net)
    unused = getattr(net, "unused", ())
    return {
        from_task_select(name): value
        for name, value in tensors.items()
        if not any(re.fullmatch(pattern, name) for pattern in unused)
    }
