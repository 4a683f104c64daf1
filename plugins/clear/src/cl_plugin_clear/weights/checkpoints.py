"""Checkpoint keys: pre-training checkpoints -> plain backbone weights, and where public weights come from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from cl_kernel import BadInput, atomic

T = TypeVar("T")

PREFIXES = ("module.encoder_q.", "encoder_q.", "backbone.")
"""DDP, single process, lightly."""


def adapt(state: Mapping[str, T]) -> dict[str, T]:
    """Backbone entries of a MoCo checkpoint under torchvision's names: prefix off, head left out.

    The first prefix of :data:`PREFIXES` that occurs counts.
    """
    for prefix in PREFIXES:
        found = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
        if found:
            return {key: value for key, value in found.items() if not key.startswith("fc")}
    return {}


def load_backbone(network: Any, path: str) -> None:
    """Fill a backbone without head from a weight file: plain, MoCo, BYOL or lightly keys.

    :raises BadInput: when a weight other than the head's is missing or unknown.
    """
    from cl_kernel.torch import state

    content = state.read_file(path)
    for wrapper in ("state_dict", "model", "state_dict_model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    tensors = adapt(content) or {k.removeprefix("module."): v for k, v in content.items()}
    tensors = {k: v for k, v in tensors.items() if not k.startswith("fc.")}
    state.assign(network, tensors, where=path)


def convert(checkpoint: Path, to: Path, *, detectron2: bool = False) -> int:
    """Write the backbone of a pre-training checkpoint as plain weights; :return: tensors written.

    :param detectron2: names of Detectron2's ResNets (stem, res2 ... res5) in its pickle of numpy arrays.
    :raises BadInput: when the checkpoint holds no backbone.
    """
    import torch

    from cl_kernel.torch import state

    content = state.read_file(checkpoint)
    tensors = content["state_dict"] if isinstance(content, Mapping) and "state_dict" in content else content
    plain = adapt(tensors)
    if not plain:
        raise BadInput(
            f"no weights under {', '.join(PREFIXES)}",
            where=str(checkpoint),
            fix="is this a MoCo or lightly checkpoint?",
        )
    if detectron2:
        import pickle

        arrays = {
            detectron_name(name): value.numpy()
            for name, value in plain.items()
            if not name.endswith("num_batches_tracked")
        }
        with atomic(to) as file:
            pickle.dump({"model": arrays, "__author__": "clk", "matching_heuristics": True}, file)
        return len(arrays)
    if to.suffix == ".safetensors":
        save_weights(to, plain)
    else:
        with atomic(to) as file:
            torch.save(plain, file)
    return len(plain)


def save_weights(path: Path, tensors: Mapping[str, Any]) -> None:
    """Tensors as a .safetensors file, whole or not at all."""
    from safetensors.torch import save

    with atomic(path) as file:
        file.write(save({name: value.detach().cpu().contiguous() for name, value in tensors.items()}))


def detectron_name(name: str) -> str:
    """Torchvision's name of a ResNet tensor -> Detectron2's."""
    if not name.startswith("layer"):
        name = "stem." + name
    for stage in range(1, 5):
        name = name.replace(f"layer{stage}", f"res{stage + 1}")
    for k in range(1, 4):
        name = name.replace(f"bn{k}", f"conv{k}.norm")
    return name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
