"""Checkpoint keys: pre-training checkpoints -> plain backbone weights, and where public weights come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")

PREFIXES = ("module.encoder_q.", "encoder_q.", "backbone.")
"""DDP, single process, lightly."""


def adapt(state: Mapping[str, T]) -> dict[str, T]:
    """Backbone entries of a MoCo checkpoint under torchvision's names (sec. 3): prefix off, head left out.

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
