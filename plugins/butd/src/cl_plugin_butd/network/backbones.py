"""Pretrained nets with per-task modulations, heads and batch-norm statistics (the second paper's later form).

Any network of torch layers can be carried: its convolutions and batch norms are replaced by ones that know tasks, and
its last linear layer by a head a task.

Shapes: B batch, K classes of a task, T tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_kernel import BadSetting
from cl_plugin_butd.network.blocks import Norm
from cl_plugin_butd.network.modulation import WeightModulation


class TaskConv(nn.Module):
    """A convolution with a modulation for each task; grouped convolutions included."""

    def __init__(self, plain: nn.Conv2d, n_tasks: int, kind: str, factor: Sequence[int], mode: str, tau: float) -> None:
        super().__init__()
        self.plain = plain
        self.modulations = (
            nn.ModuleList(
                WeightModulation(plain.weight.shape, kind, factor, mode=mode, tau=tau) for _ in range(n_tasks)
            )
            if kind != "none"
            else None
        )
        self.task = 0

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the convolution of the current task; task 0 is the pretrained one."""
        weight = self.plain.weight
        if self.modulations is not None and self.task:
            weight = self.modulations[self.task](weight)
        return F.conv2d(
            x, weight, self.plain.bias, self.plain.stride, self.plain.padding, self.plain.dilation, self.plain.groups
        )


class TaskNorm(nn.Module):
    """A batch norm with statistics for each task."""

    def __init__(self, plain: nn.BatchNorm2d, n_tasks: int) -> None:
        super().__init__()
        self.norm = Norm(plain.num_features, eps=plain.eps, momentum=plain.momentum or 0.1, n_tasks=n_tasks)
        with torch.no_grad():
            self.norm.weight.copy_(plain.weight)
            self.norm.bias.copy_(plain.bias)
            self.norm.running_mean.copy_(plain.running_mean)
            self.norm.running_var.copy_(plain.running_var)
        self.norm.store(0)
        self.task = 0

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> normalised with the current task's statistics (once stored)."""
        stored = bool(self.norm.task_stored[self.task])
        return self.norm(x, self.task if stored else None)


class Carried(nn.Module):
    """A backbone and a head for each task."""

    def __init__(
        self,
        backbone: nn.Module,
        width: int,
        n_classes: Sequence[int],
        *,
        kind: str = "interp",
        factor: Sequence[int] = (4, 4),
        mode: str = "bicubic",
        tau: float = 0.005,
        hidden: int = 0,
    ) -> None:
        super().__init__()
        self.backbone = replaced(backbone, len(n_classes), kind, factor, mode, tau)
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, n)) if hidden else nn.Linear(width, n)
            for n in n_classes
        )

    def forward(self, image: Tensor, task: int) -> Tensor:
        """[B, 3, H, W] -> logits of one task [B, K]."""
        for module in self.modules():
            if isinstance(module, TaskConv | TaskNorm):
                module.task = task
        return self.heads[task](self.backbone(image))

    def owned(self, task: int) -> list[nn.Parameter]:
        """What only a task uses: its modulations or masks, and its head."""
        found: list[nn.Parameter] = list(self.heads[task].parameters())
        for module in self.modules():
            if isinstance(module, TaskConv) and module.modulations is not None:
                found += module.modulations[task].parameters()
        return found

    def store(self, task: int) -> None:
        """Keep the running statistics as the task's."""
        for module in self.modules():
            if isinstance(module, TaskNorm):
                module.norm.store(task)


def replaced(module: nn.Module, n_tasks: int, kind: str, factor: Sequence[int], mode: str, tau: float) -> nn.Module:
    """Put task-aware layers in the place of convolutions and batch norms, in place."""
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d):
            setattr(module, name, TaskConv(child, n_tasks, kind, factor, mode, tau))
        elif isinstance(child, nn.BatchNorm2d):
            setattr(module, name, TaskNorm(child, n_tasks))
        else:
            replaced(child, n_tasks, kind, factor, mode, tau)
    return module


class CifarBlock(nn.Module):
    """Two 3 x 3 convolutions; the shortcut takes every second pixel and pads channels with zeros."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.stride, self.pad = stride, (c_out - c_in) // 2

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', H / stride, W / stride]."""
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1 or self.pad:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(out + x)


class CifarResnet(nn.Module):
    """ResNet-32 of CIFAR: 16, 16, 32, 64 channels, five blocks each; ``blocks`` makes it smaller."""

    def __init__(self, blocks: int = 5, channels: Sequence[int] = (16, 16, 32, 64)) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[0])
        stages, c_in = [], channels[0]
        for i, c in enumerate(channels[1:]):
            stages.append(
                nn.Sequential(*(CifarBlock(c_in if j == 0 else c, c, 2 if i and j == 0 else 1) for j in range(blocks)))
            )
            c_in = c
        self.layer1, self.layer2, self.layer3 = stages

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, C]."""
        x = F.relu(self.bn1(self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(x))).mean((2, 3))


def backbone(name: str, *, pretrained: bool, weights: str = "") -> tuple[nn.Module, int]:
    """A net without its last layer, and the width of what it gives.

    :param weights: a file for nets the library has no weights of.
    :raises BadSetting: for an unknown name.
    """
    if name in ("resnet32", "small"):
        net: Any = CifarResnet() if name == "resnet32" else CifarResnet(1, (16, 16, 24, 32))
        if weights:
            from cl_kernel.torch.state import read_weights

            found = {k: v for k, v in read_weights(weights).items() if not k.startswith(("linear", "fc"))}
            net.load_state_dict(found, strict=False)
        return net, 64 if name == "resnet32" else 32
    from torchvision import models

    known = {
        "resnet18": "IMAGENET1K_V1",
        "resnet34": "IMAGENET1K_V1",
        "resnet50": "IMAGENET1K_V1",
        "resnet101": "IMAGENET1K_V1",
        "mobilenet_v2": "IMAGENET1K_V2",
    }
    if name not in known:
        raise BadSetting(f"unknown net {name!r}", where="learner.net", fix=f"use {', '.join(known)}, resnet32 or small")
    net = getattr(models, name)(weights=known[name] if pretrained else None)
    if name == "mobilenet_v2":
        width = net.classifier[1].in_features
        net.classifier = nn.Dropout(0.0)
    else:
        width = net.fc.in_features
        net.fc = nn.Identity()
    return net, width
