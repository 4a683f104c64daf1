"""What stands in front of a pretrained network: size, mean and deviation, as its weights want them.

Shapes: B batch, C channels, H W image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from attrs import evolve, frozen
from torch import Tensor, nn
from torch.nn import functional

from cl_kernel.contract.errors import BadSetting, Mismatch
from cl_kernel.library.backbones.settings import Backbone


@frozen
class Wants:
    """What a set of weights was trained on.

    :param side: edge of the training images in pixels; 0 when unknown.
    :param mean, std: of each channel, images in [0, 1].
    """

    side: int = 0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    interpolation: str = "bilinear"
    source: str = ""

    def with_settings(self, settings: Backbone) -> Wants:
        """What a person set wins.

        :raises BadSetting: for a deviation that is not positive.
        """
        if any(value <= 0 for value in settings.std):
            raise BadSetting(f"a deviation must be positive, got {settings.std}", where="model.std")
        return evolve(
            self,
            mean=settings.mean or self.mean,
            std=settings.std or self.std,
            interpolation=settings.interpolation or self.interpolation,
        )


class Preprocess(nn.Module):
    """Resize to ``side`` (0: leave the size), subtract the mean, divide by the deviation."""

    mean: Tensor
    std: Tensor

    def __init__(self, side: int, mean: Sequence[float], std: Sequence[float], interpolation: str) -> None:
        super().__init__()
        self.side, self.interpolation = side, interpolation
        self.register_buffer("mean", torch.tensor(mean).reshape(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] in [0, 1] -> [B, C, side, side] about zero mean and unit deviation."""
        if self.side and tuple(images.shape[2:]) != (self.side, self.side):
            images = functional.interpolate(
                images, (self.side, self.side), mode=self.interpolation, align_corners=False, antialias=True
            )
        return (images - self.mean) / self.std

    def extra_repr(self) -> str:
        """Shown by ``print(network)``."""
        return f"side={self.side or 'as given'}, {self.interpolation}"


def preprocess(settings: Backbone, wants: Wants, channels: int) -> Preprocess:
    """The module for images of ``channels``.

    :raises ClkError: when mean and deviation are for another number of channels.
    """
    mean, std = wants.mean or (0.0,) * channels, wants.std or (1.0,) * channels
    for name, values in (("mean", mean), ("std", std)):
        if len(values) == channels:
            continue
        if not getattr(settings, name):
            raise Mismatch(
                f"the network's weights are for images of {len(values)} channels, the data set gives "
                f"{channels} ({'grey' if channels == 1 else 'no colour alone'})",
                where="--model/--dataset",
                fix="give colour pictures, grey ones three times: x = numpy.repeat(x[..., None], 3, axis=-1)",
            )
        raise BadSetting(
            f"{len(values)} values for images of {channels} channels",
            where=f"model.{name}",
            fix="give one value a channel",
        )
    return Preprocess(settings.size, mean, std, wants.interpolation)
