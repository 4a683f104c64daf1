"""Networks in two parts: a lower one that may be frozen, an upper one that learns.

Shapes: B batch, C channels, H W image, D vector, K classes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cl_kernel.contract.errors import BadSetting
from cl_kernel.contract.stream import Field
from cl_kernel.torch.loaders import input_name, input_shape
from cl_kernel.torch.split import Split, cut
from cl_kernel.torch.state import assign, read_weights

if TYPE_CHECKING:
    from cl_kernel.library.torch_settings import Convnet, Mlp, Resnet18
    from cl_kernel.running.resources import Resources

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Normalise(nn.Module):
    """Subtract the mean and divide by the deviation of each channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).reshape(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] in [0, 1] -> about zero mean and unit deviation."""
        return (images - self.mean) / self.std


def build_mlp(settings: Mlp, fields: Mapping[str, Field], n_outputs: int, resources: Resources) -> Split:
    """A multi-layer perceptron on vectors or flattened images; layers ``hidden0``, ``hidden1``, ..., ``head``."""
    width = 1
    for axis in input_shape(fields[input_name(fields)]):
        width *= axis
    layers: list[tuple[str, nn.Module]] = [("flatten", nn.Flatten())]
    for index, hidden in enumerate(settings.hidden):
        layers.append((f"hidden{index}", nn.Sequential(nn.Linear(width, hidden), nn.ReLU())))
        width = hidden
    layers.append(("head", nn.Linear(width, n_outputs)))
    return cut(layers, settings.cut)


def build_convnet(settings: Convnet, fields: Mapping[str, Field], n_outputs: int, resources: Resources) -> Split:
    """A small convolutional network; layers ``conv0``, ``conv1``, ..., ``head``.

    :raises BadSetting: when the images are too small for the number of layers.
    """
    channels, height, width = _image_shape(fields)
    if min(height, width) < 2 ** len(settings.widths):
        raise BadSetting(f"{len(settings.widths)} halvings do not fit {height}x{width} images", where="model.widths")
    layers: list[tuple[str, nn.Module]] = []
    for index, out in enumerate(settings.widths):
        block = nn.Sequential(
            nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(), nn.MaxPool2d(2)
        )
        layers.append((f"conv{index}", block))
        channels = out
    layers.append(("head", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, n_outputs))))
    return cut(layers, settings.cut)


def build_resnet18(settings: Resnet18, fields: Mapping[str, Field], n_outputs: int, resources: Resources) -> Split:
    """Torchvision's ResNet-18, cut before any block: ``layer1.0`` ... ``layer4.1`` or ``fc``.

    :raises BadSetting: for an unknown cut. :raises BadInput: for weights that do not fit.
    """
    channels, height, _ = _image_shape(fields)
    small = settings.stem == "small" or (settings.stem == "auto" and height < 96)
    network = resnet18(n_outputs, channels=channels, small=small)
    if settings.weights:
        head = ("fc.weight", "fc.bias")
        tensors = read_weights(settings.weights, fix="--set model.weights=FILE, as torch.save or safetensors wrote it")
        if settings.new_head:
            tensors = {name: tensor for name, tensor in tensors.items() if name not in head}
        assign(network, tensors, where=settings.weights, may_miss=head if settings.new_head else ())
    layers = resnet_layers(network)
    if settings.normalise:
        layers = [
            ("normalise", Normalise() if channels == 3 else Normalise((0.5,) * channels, (0.25,) * channels)),
            *layers,
        ]
    split = cut(layers, settings.cut.replace(".", "_"))
    split.pretrained = bool(settings.weights)
    return split


def resnet18(n_outputs: int, *, channels: int = 3, small: bool = False) -> nn.Module:
    """Torchvision's ResNet-18; ``small`` gives it the 3x3 stem without pooling that suits 32x32 images."""
    import torchvision

    network: nn.Module = torchvision.models.resnet18(weights=None, num_classes=n_outputs)
    if small:
        network.conv1 = nn.Conv2d(channels, 64, 3, stride=1, padding=1, bias=False)
        network.maxpool = nn.Identity()
    elif channels != 3:
        network.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    return network


def resnet_layers(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """The blocks of a torchvision ResNet as a chain of named layers; dots become underscores."""
    part = dict(network.named_children())
    stem = nn.Sequential(OrderedDict({name: part[name] for name in ("conv1", "bn1", "relu", "maxpool")}))
    layers: list[tuple[str, nn.Module]] = [("stem", stem)]
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        layers += [(f"{stage}_{index}", block) for index, block in enumerate(part[stage].children())]
    return [*layers, ("fc", nn.Sequential(OrderedDict(pool=part["avgpool"], flat=nn.Flatten(), fc=part["fc"])))]


def _image_shape(fields: Mapping[str, Field]) -> tuple[int, int, int]:
    shape = input_shape(fields[input_name(fields)])
    if len(shape) != 3:
        raise BadSetting(f"this network reads images, the data set gives samples of shape {shape}", where="--model")
    return shape[0], shape[1], shape[2]
