"""Transformers of other libraries that answer instructions: ViT (``transformers``), CCT, PiT (``timm``).

Shapes: B batch, N tokens, d hidden, K classes, H outputs, T tasks, A arguments.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cl_kernel import BadSetting, MissingAsset


class InstructionTokens(nn.Module):
    """A ViT's embeddings with two tokens behind the patches: argument, then task; neither has a position."""

    def __init__(self, base: nn.Module, hidden: int, n_tasks: int, n_arguments: int) -> None:
        super().__init__()
        self.base = base
        self.argument_head = nn.Linear(n_arguments, hidden)
        self.task_head = nn.Linear(n_tasks, hidden)
        self.patch_embeddings = base.patch_embeddings
        self.instruction: tuple[Tensor, Tensor] | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Pictures [B, 3, H, W] -> tokens [B, 1 + patches + 2, d]."""
        if self.instruction is None:
            raise ValueError("no instruction was given")
        task, argument = self.instruction
        return torch.cat(
            [self.base(*args, **kwargs), self.argument_head(argument)[:, None], self.task_head(task)[:, None]], 1
        )


class Unflatten(nn.Module):
    """[B, C H] -> [B, C, H]."""

    def __init__(self, n_classes: int, n_outputs: int) -> None:
        super().__init__()
        self.shape = (n_classes, n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Reshape."""
        return x.unflatten(-1, self.shape)


class HubVit(nn.Module):
    """``transformers``' ViT with a read-out from CLS, guided by instruction tokens or not.

    :param n_outputs: answers at once (H); 1 for guided and vanilla.
    :param hub: name of pretrained weights, else fresh ones.
    """

    def __init__(
        self,
        *,
        hidden: int,
        layers: int,
        heads: int,
        ffn: int,
        image: int,
        patch: int,
        n_classes: int,
        n_outputs: int = 1,
        guided: tuple[int, int] | None = None,
        qkv_bias: bool = False,
        hub: str = "",
    ) -> None:
        super().__init__()
        try:
            from transformers import ViTConfig, ViTModel
        except ImportError as error:
            raise MissingAsset(
                "transformers of other libraries need the package transformers",
                where="this Python environment",
                fix="pip install 'cl-plugin-butd[transformers]'",
            ) from error
        if hub:
            self._check(hub, image)
            self.vit = ViTModel.from_pretrained(hub, add_pooling_layer=False)
            hidden = self.vit.config.hidden_size
        else:
            config = ViTConfig(
                hidden_size=hidden,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                intermediate_size=ffn,
                image_size=image,
                patch_size=patch,
                qkv_bias=qkv_bias,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            )
            self.vit = ViTModel(config, add_pooling_layer=False)
        self.guided = guided is not None
        if guided is not None:
            self.vit.embeddings = InstructionTokens(self.vit.embeddings, hidden, *guided)
        self.classifier = nn.Sequential(nn.Linear(hidden, n_classes * n_outputs), Unflatten(n_classes, n_outputs))

    @staticmethod
    def _check(hub: str, image: int) -> None:
        """Refuse what would load in part or fail at the first step.

        :raises BadSetting: for another architecture than ViT, or another size of pictures.
        """
        from transformers import AutoConfig

        try:
            config = AutoConfig.from_pretrained(hub)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise BadSetting(f"cannot read {hub!r}: {reason}", where="learner.hub", fix="give a folder") from error
        if config.model_type != "vit":
            raise BadSetting(
                f"{hub!r} is a {config.model_type}; its tensors would not fit a ViT",
                where="learner.hub",
                fix="give a model of type vit",
            )
        if config.image_size != image:
            raise BadSetting(
                f"{hub!r} was trained on pictures of {config.image_size} pixels, not {image}",
                where="learner.image",
                fix=f"--set learner.image={config.image_size}",
            )

    def forward(self, image: Tensor, task: Tensor, argument: Tensor) -> Tensor:
        """[B, 3, H, W], one-hot [B, T], one-hot [B, A] -> logits [B, K, H]."""
        if self.guided:
            self.vit.embeddings.instruction = (task, argument)
        tokens = self.vit(pixel_values=image).last_hidden_state
        return self.classifier(tokens[:, 0])


_NEWER = [
    (r"\.encoder\.layer\.", ".layers."),
    (r"\.attention\.attention\.(query|key|value)\.", r".attention.\1_proj."),
    (r"\.query_proj\.", ".q_proj."),
    (r"\.key_proj\.", ".k_proj."),
    (r"\.value_proj\.", ".v_proj."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(layers\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
]


def rename_for_installed(tensors: Mapping[str, Tensor], net: HubVit) -> dict[str, Tensor]:
    """Tensors named as ``transformers`` 4 named them, in the names of the installed version."""
    own = set(net.state_dict())
    out = {}
    for name, value in tensors.items():
        if net.guided:
            name = re.sub(
                r"^vit\.embeddings\.(cls_token|position_embeddings|patch_embeddings)", r"vit.embeddings.base.\1", name
            )
        if name not in own:
            for pattern, newer in _NEWER:
                name = re.sub(pattern, newer, name)
        out[name] = value
        alias = name.replace("embeddings.base.patch_embeddings", "embeddings.patch_embeddings")
        if alias != name and alias in own:
            out[alias] = value
    return out


class CctInstructed(nn.Module):
    """CCT of ``vit-pytorch`` (two convolutions, two layers), the instruction joined to its 1000 features."""

    def __init__(self, *, image: int, n_tasks: int, n_arguments: int, n_classes: int, embedding: int = 128) -> None:
        super().__init__()
        try:
            from vit_pytorch.cct import CCT
        except ImportError as error:
            raise MissingAsset(
                "CCT needs the package vit-pytorch",
                where="this Python environment",
                fix="pip install 'cl-plugin-butd[transformers]'",
            ) from error
        self.cct = CCT(
            img_size=image,
            embedding_dim=embedding,
            n_conv_layers=2,
            kernel_size=3,
            stride=2,
            padding=3,
            pooling_kernel_size=3,
            pooling_stride=2,
            pooling_padding=1,
            num_layers=2,
            num_heads=2,
            mlp_ratio=1.0,
            num_classes=1000,
            positional_embedding="learnable",
            attention_dropout=0.0,
            stochastic_depth_rate=0.0,
        )
        self.head = nn.Sequential(nn.Linear(1000 + n_tasks + n_arguments, 256), nn.ReLU(), nn.Linear(256, n_classes))

    def forward(self, image: Tensor, task: Tensor, argument: Tensor) -> Tensor:
        """[B, 3, H, W], one-hot [B, T], one-hot [B, A] -> logits [B, K]."""
        return self.head(torch.cat([self.cct(image), task, argument], 1))


class PitInstructed(nn.Module):
    """PiT or ViT of ``timm``; task and argument each become a token through two linear layers (a bottleneck of 10)."""

    def __init__(
        self,
        *,
        image: int,
        n_tasks: int,
        n_arguments: int,
        n_classes: int,
        name: str = "pit_ti_224",
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        try:
            import timm
        except ImportError as error:
            raise MissingAsset(
                "PiT needs the package timm", where="this Python environment", fix="pip install 'cl-plugin-butd[timm]'"
            ) from error
        self.body = timm.create_model(name, pretrained=pretrained, num_classes=0, img_size=image)
        width = self.body.num_features
        self.task = nn.Sequential(nn.Linear(n_tasks, 10), nn.Linear(10, width))
        self.argument = nn.Sequential(nn.Linear(n_arguments, 10), nn.Linear(10, width))
        self.mix = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True)
        self.head = nn.Linear(width, n_classes)

    def forward(self, image: Tensor, task: Tensor, argument: Tensor) -> Tensor:
        """[B, 3, H, W], one-hot [B, T], one-hot [B, A] -> logits [B, K]."""
        tokens = torch.stack([self.body(image), self.task(task), self.argument(argument)], 1)
        return self.head(self.mix(tokens)[:, 0])


def padded(tensors: Mapping[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """Pretrained tensors in the shapes of a net: zeros where the net is larger, cut where it is smaller."""
    out = {}
    for name, own in net.state_dict().items():
        if name not in tensors:
            continue
        given, fitted = tensors[name], torch.zeros_like(own)
        part = tuple(slice(0, min(a, b)) for a, b in zip(own.shape, given.shape, strict=True))
        fitted[part] = given[part]
        out[name] = fitted
    return out
