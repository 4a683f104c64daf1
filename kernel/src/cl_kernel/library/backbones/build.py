"""Networks by name as pieces: made by their source, weights laid over, a new head, preprocessing in front, cut.

Shapes: B batch, C channels, H W image, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from cl_kernel.contract.errors import BadInput, BadSetting, Mismatch
from cl_kernel.contract.stream import Field
from cl_kernel.library.backbones import sources
from cl_kernel.library.backbones.cutting import cut_at, head_name, maps_name, replace_head
from cl_kernel.library.backbones.preprocessing import Preprocess, Wants, preprocess
from cl_kernel.library.backbones.settings import Backbone
from cl_kernel.torch.loaders import input_name, input_shape
from cl_kernel.torch.split import Split
from cl_kernel.torch.state import assign, read_weights

if TYPE_CHECKING:
    from cl_kernel.running.resources import Resources

KEYWORDS = ("default", "none", "hub")


def build(
    source: sources.Source, settings: Backbone, fields: Mapping[str, Field], n_outputs: int, resources: Resources
) -> Split:
    """The network of ``source`` for a data set, frozen below ``settings.cut``.

    :raises ClkError: for weights, a cut, images or a head that do not fit; before anything is trained.
    """
    shape = input_shape(fields[input_name(fields)])
    if len(shape) != 3:
        raise Mismatch(f"this network reads images, the data set gives samples of shape {shape}", where="--model")
    channels, height, width = shape
    side = settings.size or height
    if not settings.size and height != width:
        raise Mismatch(f"the images are {height}x{width}, not square", where="--model", fix="--set model.size=224")
    made = source(settings, n_outputs, side)
    network = made.network
    head = head_name(network) if settings.new_head or settings.cut == "head" else ""
    _weigh(made, settings, head)
    _head(network, head, n_outputs, settings)
    front = preprocess(settings, made.wants.with_settings(settings), channels)
    example = torch.zeros(2, channels, height, width)
    _try(network, front, example, n_outputs)
    if settings.name.startswith("cl_kernel.library.given:"):
        resources.say(
            "the network is an object of this process: to resume or reproduce the run, give it again in Python"
        )
    resources.say(preprocessing_of(settings, made.wants, front, side))
    if not settings.cut or not settings.frozen:
        return Split(None, nn.Sequential(front, network))
    at = head if settings.cut == "head" else settings.cut
    if at == "maps":
        at = maps_name(network, front(example))
    lower, upper = cut_at(network, at)
    if not any(True for _ in upper.parameters()):
        raise BadSetting(
            f"nothing learns from layer {at!r} on: it lies behind the last layer that has weights",
            where="model.cut",
            fix=f"model.cut={head_name(network)}, or a layer in front of it",
        )
    return Split(nn.Sequential(front, lower), upper, pretrained=settings.weights != "none")


def preprocessing_of(settings: Backbone, wants: Wants, front: Preprocess, side: int) -> str:
    """What stands in front of the network, in words, and where that comes from."""
    values = (", ".join(f"{value:.4g}" for value in tensor.flatten().tolist()) for tensor in (front.mean, front.std))
    mean, std = values
    edge = f"resized to {front.side} ({front.interpolation})" if front.side else f"{side} as the data set gives them"
    trained = f"; trained at {wants.side}" if wants.side else ""
    source = "settings" if settings.mean or settings.std else wants.source or "none known of these weights"
    return f"preprocessing: (pixels / 255 - [{mean}]) / [{std}], edge {edge}{trained} ({source})"


build_efficientnet_lite0 = partial(build, sources.efficientnet_lite0)
build_torchvision = partial(build, sources.torchvision)
build_timm = partial(build, sources.timm)
build_transformers = partial(build, sources.transformers)
build_module = partial(build, sources.module)


def _weigh(made: sources.Made, settings: Backbone, head: str) -> None:
    """Lay published or given tensors over the network; those of the head only when it is kept."""
    tensors, where = made.weights, made.where
    if settings.weights not in KEYWORDS:
        tensors, where = read_weights(settings.weights), settings.weights
    if tensors is None:
        return
    tensors = dict(_prefixed(tensors, made.network))
    if settings.drop:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(settings.drop)}
    heads = tuple(name for name in made.network.state_dict() if name.startswith(f"{head}."))
    if settings.new_head:
        tensors = {name: tensor for name, tensor in tensors.items() if name not in heads}
    tensors = _interpolated(tensors, made.network)
    counters = tuple(name for name in made.network.state_dict() if name.endswith("num_batches_tracked"))
    assign(made.network, tensors, where=where, may_miss=(*counters, *(heads if settings.new_head else ())))


def _prefixed(tensors: Mapping[str, Tensor], network: nn.Module) -> Mapping[str, Tensor]:
    """Without a prefix that all names share and the network's names have not, as ``model.`` or ``encoder_q.``."""
    own = set(network.state_dict())
    while not own & set(tensors):
        heads = {name.partition(".")[0] for name in tensors}
        if len(heads) != 1 or not all("." in name for name in tensors):
            break
        tensors = {name.partition(".")[2]: tensor for name, tensor in tensors.items()}
    return tensors


def _interpolated(tensors: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Position embeddings [1, N, D] of another image size brought to the network's, bicubic over the square grid."""
    for name, own in network.state_dict().items():
        given = tensors.get(name)
        if "pos" not in name or given is None or given.shape == own.shape or given.dim() != 3 or own.dim() != 3:
            continue
        for extra in range(3):
            old, new = (math.isqrt(max(t.shape[1] - extra, 0)) for t in (given, own))
            if old * old + extra == given.shape[1] and new * new + extra == own.shape[1]:
                grid = given[:, extra:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
                grid = functional.interpolate(grid, (new, new), mode="bicubic", antialias=True, align_corners=False)
                tensors[name] = torch.cat([given[:, :extra], grid.flatten(2).transpose(1, 2)], 1)
                break
    return tensors


def _head(network: nn.Module, head: str, n_outputs: int, settings: Backbone) -> None:
    if settings.new_head:
        replace_head(network, head, n_outputs)
        return
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    layer = linear[-1] if linear else None
    if layer is not None and layer.out_features != n_outputs:
        raise Mismatch(
            f"the network's own classifier has {layer.out_features} outputs, the data set {n_outputs} classes",
            where="model.new_head=false",
            fix="model.new_head=true",
        )


def _try(network: nn.Module, front: nn.Module, example: Tensor, n_outputs: int) -> None:
    """One pass over empty images: what does not fit is said now, not after the data are read."""
    training = network.training
    try:
        with torch.no_grad():
            scores = network.eval()(front(example))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise BadInput(
            f"the network cannot read images of {tuple(example.shape[1:])}: {str(error).splitlines()[0]}",
            where="--model",
            fix="--set model.size=224 resizes them; colour networks need colour images",
        ) from error
    finally:
        network.train(training)
    if not isinstance(scores, Tensor) or tuple(scores.shape) != (len(example), n_outputs):
        raise BadSetting(
            f"the network gives {tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__} for two "
            f"images of {n_outputs} classes, not (2, {n_outputs})",
            where="--model",
            fix="let its forward give one score a class",
        )
