"""Random views of training pictures, made by transforms of torchvision v2 that are called by name.

Numbers are drawn from torch's own generator, whose state every learner saves, so that a run resumes bit for bit.
Transforms: https://docs.pytorch.org/vision/stable/transforms.html

Shapes: n a batch, C channels, H W image.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cl_kernel.contract.errors import BadSetting, UnknownName

WHERE = "stream.augment"
View = Callable[[Tensor], Tensor]


def make_view(names: Sequence[str], shape: Sequence[int]) -> View:
    """Images [n, C, H, W] in [0, 1] -> another view of each, drawn for each image.

    :param names: ``RandomHorizontalFlip`` or ``RandomCrop(32, padding=4)``, applied in this order.
    :param shape: C, H, W of the images.
    :raises BadSetting: for what is no transform, or changes the shape of an image.
    """
    transform = nn.Sequential(*(_transform(name) for name in names))

    def view(images: Tensor) -> Tensor:
        return torch.stack([transform(image) for image in images]) if len(images) else images

    _try(view, names, shape)
    return view


def _transform(text: str) -> nn.Module:
    from torchvision.transforms import v2

    name, positional, named = _call(text)
    kinds = {k: v for k, v in vars(v2).items() if isinstance(v, type) and issubclass(v, v2.Transform)}
    if name not in kinds:
        raise UnknownName.of("transform", name, kinds, where=WHERE)
    try:
        made: nn.Module = kinds[name](*positional, **named)
    except (TypeError, ValueError) as error:
        raise BadSetting(f"{text}: {error}", where=WHERE) from error
    return made


def _call(text: str) -> tuple[str, list[Any], dict[str, Any]]:
    """A name with plain arguments."""
    try:
        node = ast.parse(text.strip(), mode="eval").body
        if isinstance(node, ast.Name):
            return node.id, [], {}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and all(k.arg for k in node.keywords):
            values = [ast.literal_eval(argument) for argument in node.args]
            return node.func.id, values, {str(k.arg): ast.literal_eval(k.value) for k in node.keywords}
    except (SyntaxError, ValueError):
        pass
    raise BadSetting(
        f"{text!r} reads like no NAME or NAME(argument=value)", where=WHERE, fix="RandomCrop(32, padding=4)"
    )


def _try(view: View, names: Sequence[str], shape: Sequence[int]) -> None:
    """One view of an empty image, generators left as they were."""
    with torch.random.fork_rng(devices=[]):
        try:
            found = view(torch.zeros(1, *shape))
        except Exception as error:
            raise BadSetting(f"{', '.join(names)}: {str(error).splitlines()[0]}", where=WHERE) from error
    if found.shape[1:] != torch.Size(shape) or not found.is_floating_point():
        raise BadSetting(
            f"{', '.join(names)} makes {found.dtype} {tuple(found.shape[1:])} of images {tuple(shape)}",
            where=WHERE,
            fix="views are floats of the images' own shape, as of RandomResizedCrop with their height and width",
        )
