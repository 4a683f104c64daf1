"""The residual network of the paper, cut into a frozen lower and a plastic upper part, in the authors' tensor names.

Shapes: B batch, C channels, H W image, K classes. The lower part G ends just before the block named by the cut; the
upper part F begins there and ends with the classifier. Names are those of the authors' checkpoints:
``model.layer4.1.conv1.weight``, ``model.fc.bias``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from cl_kernel import BadSetting, Field
from cl_kernel.library.networks import Normalise
from cl_kernel.torch.loaders import input_name, input_shape
from cl_kernel.torch.split import Split

if TYPE_CHECKING:
    from cl_kernel import Resources
    from cl_plugin_remind.settings import Network

UPPER = {
    "ResNet18_StartAt_FC": "fc",
    "ResNet18_StartAt_Layer4_1": "layer4.1",
    "ResNet18_StartAt_Layer4_0": "layer4.0",
    "ResNet18_StartAt_Layer3_1": "layer3.1",
    "ResNet18_StartAt_Layer3_0": "layer3.0",
    "ResNet18_StartAt_Layer2_1": "layer2.1",
    "ResNet18_StartAt_Layer2_0": "layer2.0",
    "ResNet18_StartAt_Layer1_1": "layer1.1",
    "ResNet18_StartAt_Layer1_0": "layer1.0",
    "ResNet18": "conv1",
}
"""The authors' names of the upper parts and where each begins."""

BASES = {"ResNet18ClassifyAfterLayer4_1": "layer4.1", "ResNet18ClassifyAfterLayer4_0": "layer4.0"}
"""The authors' names of the base networks and the last block each has."""


class ResNet(nn.Module):
    """A residual network of basic blocks with torchvision's module names.

    :param widths: channels of the four layers. :param blocks: blocks of each; 0 leaves a layer out.
    :param strides: of the first block of each. :param stem: channels of the first convolution.
    :param small: 3x3 stem without pooling, for images of about 32 pixels.
    """

    def __init__(
        self,
        n_classes: int,
        *,
        channels: int = 3,
        stem: int = 64,
        small: bool = False,
        widths: Sequence[int] = (64, 128, 256, 512),
        blocks: Sequence[int] = (2, 2, 2, 2),
        strides: Sequence[int] = (1, 2, 2, 2),
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, stem, 3 if small else 7, 1 if small else 2, 1 if small else 3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool: nn.Module = nn.Identity() if small else nn.MaxPool2d(3, 2, 1)
        width = stem
        for index, (out, count, stride) in enumerate(zip(widths, blocks, strides, strict=True), 1):
            layer = nn.Sequential()
            for position in range(count):
                layer.append(_block(width, out, stride if position == 0 else 1))
                width = out
            self.add_module(f"layer{index}", layer)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width, n_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Scores [B, K] of images [B, C, H, W]."""
        for _, module in self.steps():
            images = module(images)
        return images

    def steps(self) -> list[tuple[str, nn.Module]]:
        """Everything in order, with dotted names; pooling and flattening belong to ``fc``."""
        chain: list[tuple[str, nn.Module]] = [
            (name, getattr(self, name)) for name in ("conv1", "bn1", "relu", "maxpool")
        ]
        for layer in ("layer1", "layer2", "layer3", "layer4"):
            chain += [(f"{layer}.{name}", block) for name, block in getattr(self, layer).named_children()]
        return [*chain, ("avgpool", self.avgpool), ("flatten", nn.Flatten()), ("fc", self.fc)]

    def cuts(self) -> list[str]:
        """Names an upper part can begin with."""
        return ["conv1", *(name for name, _ in self.steps() if name.startswith("layer")), "fc"]


def _block(inputs: int, outputs: int, stride: int) -> BasicBlock:
    down = None
    if stride != 1 or inputs != outputs:
        down = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    return BasicBlock(inputs, outputs, stride, down)


class Part(nn.Module):
    """Some consecutive steps of a :class:`ResNet` under their own dotted names, prefixed ``model.``."""

    def __init__(self, steps: Sequence[tuple[str, nn.Module]]) -> None:
        super().__init__()
        self.model = nn.Module()
        self._order: list[nn.Module] = []
        for name, module in steps:
            owner, _, leaf = name.rpartition(".")
            if owner and not hasattr(self.model, owner):
                self.model.add_module(owner, nn.Module())
            (getattr(self.model, owner) if owner else self.model).add_module(leaf, module)

    def forward(self, inputs: Tensor) -> Tensor:
        """The steps in the order they were given."""
        for owner in self.model.children():
            if type(owner) is nn.Module:
                for block in owner.children():
                    inputs = block(inputs)
            else:
                inputs = owner(inputs)
        return inputs


def split(network: ResNet, cut: str) -> Split:
    """Lower and upper part of a network; they share its tensors.

    :param cut: the first block that learns (``layer4.1``, ``fc``) or an authors' name (``ResNet18_StartAt_Layer4_1``).
    :raises BadSetting: naming the cuts this network has.
    """
    cut = UPPER.get(cut, cut)
    if cut not in network.cuts():
        raise BadSetting(f"no cut at {cut!r}; there are {', '.join(network.cuts())}", where="model.cut")
    steps = network.steps()
    names = [name for name, _ in steps]
    at = names.index("avgpool") if cut == "fc" else names.index(cut)
    upper = Part(steps[at:])
    return Split(Part(steps[:at]) if at else None, upper)


class Base(nn.Module):
    """A whole network under the authors' names (``model.*``), with the image normalisation in front."""

    def __init__(self, network: ResNet, channels: int = 3) -> None:
        super().__init__()
        self.normalise = Normalise() if channels == 3 else Normalise((0.5,) * channels, (0.25,) * channels)
        self.model = network

    def forward(self, images: Tensor) -> Tensor:
        """Scores [B, K] of images in [0, 1]."""
        return self.model(self.normalise(images))


class Divided(nn.Module):
    """The whole network and its two parts, which share its tensors.

    ``whole`` is what base training trains; ``parts`` is what streaming uses; ``cut`` is where they part.
    """

    def __init__(self, whole: Base, cut: str) -> None:
        super().__init__()
        self.whole, self.cut = whole, cut
        parts = split(whole.model, cut)
        lower = nn.Sequential(OrderedDict(normalise=whole.normalise, part=parts.lower))
        self.__dict__["parts"] = Split(lower, parts.upper)  # beside the module tree: the tensors are already in it

    @property
    def upper(self) -> nn.Module:
        """The plastic part F."""
        return self.parts.upper

    def forward(self, images: Tensor) -> Tensor:
        """Scores [B, K]."""
        return self.whole(images)

    def features(self, images: Tensor) -> Tensor:
        """What crosses the cut, computed up to there and no further."""
        with torch.inference_mode():
            return self.parts.lower(images)


def build(settings: Network, fields: Mapping[str, Field], n_outputs: int, resources: Resources) -> Divided:
    """The model ``resnet18`` or one of its smaller kin, as the settings describe it.

    :raises BadSetting: for a cut the network has not.
    """
    shape = input_shape(fields[input_name(fields)])
    if len(shape) != 3:
        raise BadSetting(f"this network reads images, the data set gives samples of shape {shape}", where="--model")
    if settings.base_arch not in BASES:
        raise BadSetting(
            f"no base network {settings.base_arch!r}; there are {', '.join(BASES)}", where="model.base_arch"
        )
    blocks = list(settings.blocks)
    if BASES[settings.base_arch] == "layer4.0":
        blocks[3] = 1
    small = settings.stem_kind == "small" or (settings.stem_kind == "auto" and min(shape[1:]) < 96)
    network = ResNet(
        n_outputs,
        channels=shape[0],
        stem=settings.stem,
        small=small,
        widths=settings.widths,
        blocks=blocks,
        strides=settings.strides,
    )
    return Divided(Base(network, shape[0]), settings.cut)
