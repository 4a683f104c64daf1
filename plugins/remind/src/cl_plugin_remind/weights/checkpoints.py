"""Weight files: the authors' checkpoints in, ours in the same form out.

Their classifier files hold ``model_state_dict`` (F) and ``optimizer_state_dict``; base files ``state_dict`` or
``model_state``, with or without the prefix ``module.`` and with ``model.`` before torchvision's names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cl_kernel import BadInput, MissingAsset
from cl_kernel.torch.state import assign, read_file, read_weights

if TYPE_CHECKING:
    from cl_plugin_remind.network.resnet import ResNet


def find_base(name: str, roots: Sequence[Path] = ()) -> Path:
    """A base checkpoint: a path as it stands, or a file below a data root.

    :raises MissingAsset: saying where it was looked for.
    """
    given = Path(name).expanduser()
    places = (
        [given]
        if given.is_absolute()
        else [given, *(root / part / given for root in roots for part in ("", "weights"))]
    )
    for place in places:
        if place.is_file():
            return place
    torchvision = given.name.startswith("resnet") and "-" in given.name
    origin = f"get it from download.pytorch.org/models/{given.name} and pass --data-root DIR" if torchvision else ""
    raise MissingAsset(f"no base checkpoint {given.name}", where=", ".join(map(str, places)), fix=origin)


def load_base(network: ResNet, path: str | Path, *, new_head: bool = False) -> None:
    """Fill a whole network from a base checkpoint; names and shapes must all fit.

    :param new_head: leave the classifier as it is, where the file's has another number of classes.
    :raises BadInput: naming missing, unexpected and mis-shaped tensors.
    """
    tensors = plain_names(read_weights(path))
    head = ("fc.weight", "fc.bias")
    if new_head:
        tensors = {name: tensor for name, tensor in tensors.items() if name not in head}
    elif "fc.weight" in tensors and tensors["fc.weight"].shape[0] != network.fc.out_features:
        raise BadInput(
            f"the checkpoint classifies {tensors['fc.weight'].shape[0]} classes, the network {network.fc.out_features}",
            where=str(path),
            fix="give the data set all its classes, or start with a random classifier: --set learner.new_head=true",
        )
    counters = [name for name in network.state_dict() if name.endswith("num_batches_tracked")]  # older files have none
    assign(network, tensors, where=str(path), may_miss=[*counters, *(head if new_head else ())])


def plain_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' names as torchvision's: without ``module.`` and ``model.``."""
    return {name.removeprefix("module.").removeprefix("model."): tensor for name, tensor in tensors.items()}


def load_upper(upper: nn.Module, path: str | Path) -> Mapping[str, Any] | None:
    """Fill the upper part from a ``remind_classifier_F_*.pth`` file.

    :return: the file's optimiser state, if it has one; see :func:`adopt_momentum`.
    """
    content = read_file(path)
    if not isinstance(content, Mapping) or "model_state_dict" not in content:
        raise BadInput("no entry 'model_state_dict'", where=str(path), fix="a file remind_classifier_F_N.pth")
    tensors = {name.removeprefix("module."): tensor for name, tensor in content["model_state_dict"].items()}
    assign(upper, tensors, where=str(path))
    return content.get("optimizer_state_dict")


def save_upper(upper: nn.Module, optimizer: torch.optim.Optimizer, path: Path) -> None:
    """Write ``remind_classifier_F_*.pth``."""
    torch.save({"model_state_dict": upper.state_dict(), "optimizer_state_dict": optimizer.state_dict()}, path)


def adopt_momentum(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any], where: str) -> None:
    """Take over momentum buffers from one parameter group (PR #6) or one group a tensor (the original).

    :raises BadInput: when the number or the shapes of the tensors differ.
    """
    order = [index for group in saved["param_groups"] for index in group["params"]]
    ours = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if len(order) != len(ours):
        raise BadInput(f"the optimiser file is for {len(order)} tensors, this network has {len(ours)}", where=where)
    for index, parameter in zip(order, ours, strict=True):
        buffer = saved["state"].get(index, {}).get("momentum_buffer")
        if buffer is None:
            continue
        if buffer.shape != parameter.shape:
            raise BadInput(f"momentum of shape {list(buffer.shape)} for a tensor {list(parameter.shape)}", where=where)
        optimizer.state[parameter]["momentum_buffer"] = buffer.to(parameter.device, parameter.dtype).clone()
