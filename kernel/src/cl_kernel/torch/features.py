"""Outputs of any named layers of a network, without computing what lies above them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from cl_kernel.contract.errors import UnknownName


class _Enough(Exception):
    pass


@contextmanager
def watching(network: nn.Module, names: Sequence[str], *, stop: bool) -> Iterator[dict[str, Any]]:
    """Record the outputs of named modules while the block runs.

    :param stop: leave the forward pass once all were seen (raises :class:`_Enough` inside the block).
    """
    known = dict(network.named_modules())
    for name in names:
        if name not in known:
            raise UnknownName.of("layer", name, [k for k in known if k], where=type(network).__name__)
    seen: dict[str, Any] = {}

    def record(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            seen[name] = output.detach() if isinstance(output, Tensor) else output
            if stop and len(seen) == len(set(names)):
                raise _Enough

        return hook

    handles = [known[name].register_forward_hook(record(name)) for name in names]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def extract(network: nn.Module, inputs: Tensor, layers: str | Sequence[str]) -> Any:
    """Outputs of one named layer, or of several.

    :param inputs: a batch for the network.
    :param layers: dotted module names as in ``network.named_modules()``, e.g. ``"layer4.0"``.
    :return: the output of the layer, or layer -> output; computed in evaluation mode without gradients, the
        layers above the last one are not run.
    :raises UnknownName: for a layer the network has not.
    """
    names = [layers] if isinstance(layers, str) else list(layers)
    training = network.training
    network.eval()
    try:
        with torch.inference_mode(), watching(network, names, stop=True) as seen, suppress(_Enough):
            network(inputs)
    finally:
        network.train(training)
    return seen[layers] if isinstance(layers, str) else {name: seen[name] for name in names}
