"""Task-selecting vision transformers: an instruction of task and argument decides what is read out.

Three ways to let the instruction in (encoder, encoder-decoder in bottom-up top-down order, two streams with
multiplicative laterals) and a backbone from the ``transformers`` library. Blocks normalise before each part.

Shapes: B batch, P patches, N tokens, d hidden, h heads, T tasks, A arguments, K classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor, nn

EPS = 1e-12
"""Layer-norm epsilon of the published models."""
MIXES = ("q", "k", "v")


@frozen(kw_only=True)
class VitShape:
    """Sizes of a transformer stack."""

    hidden: int = 240
    ffn: int = 768
    layers: int = 6
    heads: int = 3


class Attention(nn.Module):
    """Multi-head attention with an output projection (none where a block is to expose its raw attention).

    :param context: width of what is attended to, when it differs.
    """

    def __init__(self, hidden: int, heads: int, *, context: int = 0, project: bool = True) -> None:
        super().__init__()
        if hidden % heads:
            raise ValueError(f"{hidden} hidden units do not divide into {heads} heads")
        self.heads = heads
        self.query = nn.Linear(hidden, hidden)
        self.key = nn.Linear(context or hidden, hidden)
        self.value = nn.Linear(context or hidden, hidden)
        self.project = nn.Linear(hidden, hidden) if project else None

    def qkv(self, x: Tensor, context: Tensor) -> dict[str, Tensor]:
        """Queries, keys, values, each [B, N, d]."""
        return {"q": self.query(x), "k": self.key(context), "v": self.value(context)}

    def mix(self, parts: dict[str, Tensor]) -> Tensor:
        """Attend with given queries, keys and values: [B, N, d]."""
        q, k, v = (parts[name].unflatten(-1, (self.heads, -1)).transpose(1, 2) for name in MIXES)
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return out if self.project is None else self.project(out)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """[B, N, d] -> [B, N, d]; self-attention when no context is given."""
        return self.mix(self.qkv(x, x if context is None else context))


def feedforward(hidden: int, ffn: int) -> nn.Sequential:
    """Linear, GELU, linear."""
    return nn.Sequential(nn.Linear(hidden, ffn), nn.GELU(), nn.Linear(ffn, hidden))


class Block(nn.Module):
    """Self-attention and feed-forward, each with a residual."""

    def __init__(self, shape: VitShape) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(shape.hidden, EPS), nn.LayerNorm(shape.hidden, EPS)
        self.attention = Attention(shape.hidden, shape.heads)
        self.feed = feedforward(shape.hidden, shape.ffn)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, d] -> [B, N, d]."""
        x = x + self.attention(self.norm1(x))
        return x + self.feed(self.norm2(x))


class Patches(nn.Module):
    """Image to tokens."""

    def __init__(self, hidden: int, image: int, patch: int) -> None:
        super().__init__()
        if image % patch:
            raise ValueError(f"images of {image} pixels do not divide into patches of {patch}")
        self.n = (image // patch) ** 2
        self.projection = nn.Conv2d(3, hidden, patch, patch)

    def forward(self, image: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, P, d]."""
        return self.projection(image).flatten(2).transpose(1, 2)


def positions(n: int, hidden: int) -> nn.Parameter:
    """Learned positions, small at the start."""
    return nn.Parameter(torch.randn(1, n, hidden) * 0.02)


class TaskSelectEncoder(nn.Module):
    """Task and argument are two tokens in front of the patches; the first token answers."""

    def __init__(
        self, shape: VitShape, *, image: int, patch: int, n_tasks: int, n_arguments: int, n_classes: int
    ) -> None:
        super().__init__()
        self.patches = Patches(shape.hidden, image, patch)
        self.positions = positions(self.patches.n + 2, shape.hidden)
        self.task = nn.Linear(n_tasks, shape.hidden)
        self.argument = nn.Linear(n_arguments, shape.hidden)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.hidden, EPS)
        self.classifier = nn.Linear(shape.hidden, n_classes)

    def forward(self, image: Tensor, task: Tensor, argument: Tensor) -> Tensor:
        """[B, 3, H, W], one-hot [B, T], one-hot [B, A] -> logits [B, K]."""
        tokens = torch.stack([self.task(task), self.argument(argument)], 1)
        x = torch.cat([tokens, self.patches(image)], 1) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.classifier(self.norm(x)[:, 0])


class DecoderBlock(nn.Module):
    """Self-attention on the instruction tokens, cross-attention to the image, feed-forward."""

    def __init__(self, shape: VitShape, context: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(shape.hidden, EPS), nn.LayerNorm(shape.hidden, EPS)
        self.norm_context, self.norm_cross = nn.LayerNorm(context, EPS), nn.LayerNorm(shape.hidden, EPS)
        self.attention = Attention(shape.hidden, shape.heads)
        self.cross = Attention(shape.hidden, shape.heads, context=context, project=False)
        self.feed = feedforward(shape.hidden, shape.ffn)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """[B, 2, d], [B, N, d_context] -> [B, 2, d]."""
        x = x + self.attention(self.norm1(x))
        x = x + self.cross(self.norm_cross(x), self.norm_context(context))
        return x + self.feed(self.norm2(x))


class TaskSelectEncoderDecoder(nn.Module):
    """Instruction tokens read the image encoder's states.

    :param deepest_first: decoder layer i reads encoder state L - i (top-down order); otherwise always the last.
    """

    unused = (r"encoder\.layernorm\..*",)  # published, behind the last state that is read

    def __init__(
        self,
        encoder: VitShape,
        decoder: VitShape,
        *,
        image: int,
        patch: int,
        n_tasks: int,
        n_arguments: int,
        n_classes: int,
        deepest_first: bool = True,
    ) -> None:
        super().__init__()
        self.deepest_first = deepest_first
        self.patches = Patches(encoder.hidden, image, patch)
        self.cls = positions(1, encoder.hidden)
        self.positions = positions(self.patches.n + 1, encoder.hidden)
        self.encoder = nn.ModuleList(Block(encoder) for _ in range(encoder.layers))
        self.decoder = nn.ModuleList(DecoderBlock(decoder, encoder.hidden) for _ in range(decoder.layers))
        self.task = nn.Linear(n_tasks, decoder.hidden)
        self.argument = nn.Linear(n_arguments, decoder.hidden)
        self.task_positions = positions(2, decoder.hidden)
        self.norm = nn.LayerNorm(encoder.hidden, EPS)
        self.classifier = nn.Linear(decoder.hidden, n_classes)

    def forward(self, image: Tensor, task: Tensor, argument: Tensor) -> Tensor:
        """[B, 3, H, W], one-hot [B, T], one-hot [B, A] -> logits [B, K]."""
        x = self.patches(image)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.positions
        states = [x]
        for block in self.encoder:
            x = block(x)
            states.append(x)
        tokens = torch.stack([self.task(task), self.argument(argument)], 1) + self.task_positions
        # deepest first, there is a state for each of the first L + 1 layers; further ones are never reached
        for i, layer in enumerate(self.decoder[: len(states)] if self.deepest_first else self.decoder):
            tokens = layer(tokens, self.norm(states[-1 - i if self.deepest_first else -1]))
        return self.classifier(tokens[:, 0])


class InstructionBlock(nn.Module):
    """A block of the instruction stream that shows its queries, keys or values."""

    def __init__(self, shape: VitShape) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(shape.hidden, EPS), nn.LayerNorm(shape.hidden, EPS)
        self.attention = Attention(shape.hidden, shape.heads, project=False)
        self.feed = feedforward(shape.hidden, shape.ffn)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """[B, N, d] -> [B, N, d], and the parts it attended with."""
        x = self.norm1(x)  # the residual starts behind the norm
        parts = self.attention.qkv(x, x)
        x = x + self.attention.mix(parts)
        return x + self.feed(self.norm2(x)), parts


class ImageBlock(nn.Module):
    """A block of the image stream whose queries, keys or values are multiplied by the instruction's.

    :param mix: which of them.
    :param self_attention: an ordinary self-attention first.
    """

    def __init__(self, shape: VitShape, mix: str, *, self_attention: bool) -> None:
        super().__init__()
        if mix not in MIXES:
            raise ValueError(f"mix {mix!r} is none of {', '.join(MIXES)}")
        self.mix = mix
        self.norm1, self.norm2 = nn.LayerNorm(shape.hidden, EPS), nn.LayerNorm(shape.hidden, EPS)
        self.norm_context = nn.LayerNorm(shape.hidden, EPS) if self_attention else None
        self.attention = Attention(shape.hidden, shape.heads) if self_attention else None
        self.lateral = Attention(shape.hidden, shape.heads, project=False)
        self.feed = feedforward(shape.hidden, shape.ffn)

    def forward(self, x: Tensor, parts: dict[str, Tensor]) -> Tensor:
        """[B, N, d] -> [B, N, d]."""
        x = self.norm1(x)  # here and below the residual starts behind the norm
        if self.attention is not None and self.norm_context is not None:
            x = self.norm_context(x + self.attention(x))
        mine = self.lateral.qkv(x, x)
        mine[self.mix] = mine[self.mix] * parts[self.mix]
        x = x + self.lateral.mix(mine)
        return x + self.feed(self.norm2(x))


class TaskSelectTwoStream(nn.Module):
    """An instruction stream and an image stream of equal depth, joined by multiplication, deepest first."""

    unused = (r"image_encoder_blocks\.\d+\.lateral_layernorm\..*",)  # published, never called

    def __init__(
        self,
        shape: VitShape,
        *,
        image: int,
        patch: int,
        n_tasks: int,
        n_arguments: int,
        n_classes: int,
        mix: str = "v",
        self_attention: bool = True,
    ) -> None:
        super().__init__()
        self.patches = Patches(shape.hidden, image, patch)
        n_tokens = self.patches.n + 1
        self.n_tokens = n_tokens
        self.cls = positions(1, shape.hidden)
        self.positions = positions(n_tokens, shape.hidden)
        self.task_positions = positions(n_tokens, shape.hidden)
        self.task = nn.Linear(n_tasks, shape.hidden)
        self.argument = nn.Linear(n_arguments, shape.hidden)
        self.stretch = nn.Linear(2 * shape.hidden, n_tokens * shape.hidden)
        self.task_blocks = nn.ModuleList(InstructionBlock(shape) for _ in range(shape.layers))
        self.image_blocks = nn.ModuleList(
            ImageBlock(shape, mix, self_attention=self_attention) for _ in range(shape.layers)
        )
        self.norm = nn.LayerNorm(shape.hidden, EPS)
        self.classifier = nn.Linear(shape.hidden, n_classes)

    def forward(self, image: Tensor, task: Tensor, argument: Tensor) -> Tensor:
        """[B, 3, H, W], one-hot [B, T], one-hot [B, A] -> logits [B, K]."""
        joined = torch.cat([self.task(task), self.argument(argument)], -1)
        t = self.stretch(F.relu(joined)).unflatten(-1, (self.n_tokens, -1)) + self.task_positions
        shown = []
        for block in self.task_blocks:
            t, parts = block(t)
            shown.append(parts)
        x = self.patches(image)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.positions
        for block, parts in zip(self.image_blocks, reversed(shown), strict=True):
            x = block(x, parts)
        return self.classifier(self.norm(x)[:, 0])
