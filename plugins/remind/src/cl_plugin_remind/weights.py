"""Weight files: the authors' checkpoints in, ours in the same form out.

Their classifier files hold ``model_state_dict`` (F) and ``optimizer_state_dict``; base files ``state_dict`` or
``model_state``, with or without the prefix ``module.`` and with ``model.`` before torchvision's names.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from cl_kernel import BadInput, MissingAsset, load_tree, save_tree
from cl_kernel.torch.state import assign, read_file, read_weights
from cl_plugin_remind.model.resnet import ResNet


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
    assign(network, tensors, where=str(path), may_miss=head if new_head else ())


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


def save_buffer(path: Path, codes: np.ndarray, labels: np.ndarray, items: np.ndarray, centroids: np.ndarray) -> None:
    """Write ``remind_buffer_*.pkl`` as the authors' code does: a pickle of dictionaries.

    :param codes: uint8 [n, H, W, M]. :param labels: int64 [n]. :param items: int64 [n], unique item numbers.
    :param centroids: float32 [M, K, d].
    """
    by_class: dict[int, list[int]] = {}
    for label, item in zip(labels.tolist(), items.tolist(), strict=True):
        by_class.setdefault(label, []).append(item)
    content = {
        "latent_dict": {
            item: [code, np.array(label)]
            for item, code, label in zip(items.tolist(), codes, labels.tolist(), strict=True)
        },
        "rehearsal_ixs": items.tolist(),
        "class_id_to_item_ix_dict": by_class,
        "pq_centroids": centroids,
    }
    with path.open("wb") as file:
        pickle.dump(content, file, protocol=4)


class _OnlyArrays(pickle.Unpickler):
    """Rebuilds numpy arrays, dictionaries and lists; anything else in the file is refused."""

    ALLOWED: ClassVar[set[tuple[str, str]]] = {
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("collections", "defaultdict"),
        ("builtins", "list"),
        ("collections", "OrderedDict"),
        ("_codecs", "encode"),  # how protocols 0 to 2 write bytes
        *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
        *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
    }

    def find_class(self, module: str, name: str) -> Any:
        """Only the names above."""
        if (module, name) not in self.ALLOWED:
            raise BadInput(
                f"the buffer file names {module}.{name}, which is no part of a buffer", where="remind_buffer"
            )
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def read_buffer(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Read ``remind_buffer_*.pkl``, the authors' or ours; only by explicit request, and only arrays are rebuilt.

    :return: codes uint8 [n, H, W, M], labels int64 [n], item numbers int64 [n], centroids float32 [M, K, d].
    :raises BadInput: for a file of another form.
    """
    try:
        with path.open("rb") as file:
            content = _OnlyArrays(file).load()
        items = np.array([int(np.asarray(item).item()) for item in content["rehearsal_ixs"]], np.int64)
        latent = {int(np.asarray(key).item()): value for key, value in content["latent_dict"].items()}
        codes = np.stack([np.asarray(latent[item][0], np.uint8) for item in items.tolist()])
        labels = np.array([int(np.asarray(latent[item][1]).reshape(-1)[0]) for item in items.tolist()], np.int64)
        return codes, labels, items, np.asarray(content["pq_centroids"], np.float32)
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise BadInput(f"no buffer of REMIND: {type(error).__name__}: {error}", where=str(path)) from error


def convert_legacy(buffer: Path, classifier: Path, folder: Path) -> int:
    """The authors' buffer and classifier as files that need no pickle: ``buffer.tree`` and ``classifier.pth``.

    :return: number of examples.
    """
    codes, labels, items, centroids = read_buffer(buffer)
    content = read_file(classifier)
    if not isinstance(content, Mapping) or "model_state_dict" not in content:
        raise BadInput("no entry 'model_state_dict'", where=str(classifier), fix="a file remind_classifier_F_N.pth")
    folder.mkdir(parents=True, exist_ok=True)
    save_tree(folder / "buffer.tree", {"codes": codes, "labels": labels, "items": items, "centroids": centroids})
    torch.save(dict(content), folder / "classifier.pth")
    return len(items)


def read_start(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What :func:`convert_legacy` wrote: codes, labels, item numbers, centroids.

    :raises MissingAsset: when it did not.
    """
    if not (folder / "buffer.tree").is_file():
        raise MissingAsset(
            "no imported buffer", where=str(folder), fix="clk remind import-legacy BUFFER CLASSIFIER --output DIR"
        )
    tree = load_tree(folder / "buffer.tree")
    return tree["codes"], tree["labels"], tree["items"], tree["centroids"]
