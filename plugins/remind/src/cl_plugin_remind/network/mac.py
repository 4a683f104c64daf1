"""MAC and its simplified form S-MAC: a cell that reads words and image regions in steps.

Shapes: B batch, L words, R regions, D region channels, d = dim of control and memory.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cl_plugin_remind.network.layers import Sizes, Words, read_words


def linear(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    """Xavier-uniform weights, zero bias."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class Control(nn.Module):
    """Which words to attend to next."""

    def __init__(self, dim: int, n_steps: int, *, simple: bool) -> None:
        super().__init__()
        self.simple = simple
        self.pos_aware_layers = nn.ModuleList(linear(2 * dim, dim) for _ in range(n_steps))
        self.ctrl_question = linear(dim if simple else 2 * dim, dim)
        self.attn = linear(dim, 1, bias=not simple)

    def forward(self, step: int, words: Tensor, question: Tensor, control: Tensor) -> Tensor:
        """Next control [B, d] from words [B, L, d] and question [B, 2 d]."""
        here = self.pos_aware_layers[step](question)
        if self.simple:
            asked = self.ctrl_question(control) + here
        else:
            asked = self.ctrl_question(torch.cat([control, here], 1))
        weights = self.attn(asked.unsqueeze(1) * words).softmax(1)  # [B, L, 1]
        return (weights * words).sum(1)


class Read(nn.Module):
    """Which regions to look at."""

    def __init__(self, dim: int, *, simple: bool) -> None:
        super().__init__()
        self.simple = simple
        if not simple:
            self.mem_proj_layer = linear(dim, dim)
        self.concat_layer = linear(dim if simple else 2 * dim, dim)
        self.attn = linear(dim, 1, bias=not simple)

    def forward(self, memory: Tensor, control: Tensor, regions: Tensor, projected: Tensor) -> Tensor:
        """What was read, [B, d], from regions [B, R, d] as they are and projected."""
        if self.simple:
            joint = self.concat_layer(memory.unsqueeze(1) * projected) + projected
        else:
            looked = self.mem_proj_layer(memory).unsqueeze(1) * projected
            joint = self.concat_layer(torch.cat([looked, regions], 2))
        weights = self.attn(joint * control.unsqueeze(1)).softmax(1)  # [B, R, 1]
        return (weights * (projected if self.simple else regions)).sum(1)


class Write(nn.Module):
    """The next memory."""

    def __init__(self, dim: int, *, simple: bool) -> None:
        super().__init__()
        self.simple = simple
        self.concat_layer = linear(dim if simple else 2 * dim, dim)

    def forward(self, memory: Tensor, read: Tensor) -> Tensor:
        """[B, d]."""
        return self.concat_layer(read if self.simple else torch.cat([read, memory], 1))


class Cell(nn.Module):
    """The recurrent cell, all steps."""

    def __init__(self, dim: int, n_steps: int, dropout: float, *, simple: bool) -> None:
        super().__init__()
        self.n_steps, self.keep = n_steps, 1 - dropout
        self.mem_0 = nn.Parameter(torch.zeros(1, dim))
        self.control_0 = nn.Parameter(torch.zeros(1, dim))
        self.control = Control(dim, n_steps, simple=simple)
        self.read = Read(dim, simple=simple)
        self.write = Write(dim, simple=simple)

    def forward(self, words: Tensor, question: Tensor, regions: Tensor, projected: Tensor) -> Tensor:
        """The last memory [B, d]; in training one mask each for control and memory holds over all steps."""
        n = len(question)
        control, memory = self.control_0.expand(n, -1), self.mem_0.expand(n, -1)
        masks = (
            [torch.bernoulli(torch.full_like(control, self.keep)) / self.keep for _ in range(2)]
            if self.training
            else None
        )
        if masks:
            control, memory = control * masks[0], memory * masks[1]
        for step in range(self.n_steps):
            control = self.control(step, words, question, control)
            if masks:
                control = control * masks[0]
            memory = self.write(memory, self.read(memory, control, regions, projected))
            if masks:
                memory = memory * masks[1]
        return memory


class Reducer(nn.Module):
    """Two convolutions over the grid of regions."""

    def __init__(self, inputs: int, dim: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(inputs, dim, 3, padding=1), nn.ELU(), nn.Conv2d(dim, dim, 3, padding=1), nn.ELU()
        )
        for layer in self.conv:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, grid: Tensor) -> Tensor:
        """[B, D, s, s] -> [B, d, s, s]."""
        return self.conv(grid)


class Input(nn.Module):
    """Regions and words in the cell's own width."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        dim = sizes.dim
        self.conv = Reducer(sizes.region_dim, dim)
        self.kb_proj_layer = linear(dim, dim)
        self.lstm = nn.LSTM(sizes.word_dim, dim, bidirectional=True, batch_first=True)
        self.lstm_proj = nn.Linear(2 * dim, dim)

    def forward(self, image: Tensor, words: Tensor, length: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Words [B, L, d], question [B, 2 d], regions and projected regions [B, R, d]."""
        n, n_regions, channels = image.shape
        side = int(n_regions**0.5 + 0.5)
        regions = self.conv(image.transpose(1, 2).reshape(n, channels, side, -1)).flatten(2).transpose(1, 2)
        outputs, question = read_words(self.lstm, words, length)
        return self.lstm_proj(outputs), question, regions, self.kb_proj_layer(regions)


class Output(nn.Module):
    """The answer from memory and question."""

    def __init__(self, dim: int, n_answers: int) -> None:
        super().__init__()
        self.classifier = nn.Sequential(linear(3 * dim, dim), nn.ELU(), linear(dim, n_answers))
        nn.init.kaiming_uniform_(self.classifier[0].weight)

    def forward(self, memory: Tensor, question: Tensor) -> Tensor:
        """[B, A]."""
        return self.classifier(torch.cat([memory, question], 1))


class Mac(nn.Module):
    """MAC, or S-MAC when ``simple``; its word vectors stay as they are unless the learner says otherwise."""

    def __init__(self, sizes: Sizes, *, simple: bool) -> None:
        super().__init__()
        self.embedding = Words(sizes.n_words, sizes.word_dim, sizes.dropout_word)
        self.input_unit = Input(sizes)
        self.mac_unit = Cell(sizes.dim, sizes.n_steps, sizes.dropout_memory, simple=simple)
        self.output_unit = Output(sizes.dim, sizes.n_answers)

    def forward(self, question: Tensor, image: Tensor, length: Tensor) -> Tensor:
        """Scores [B, A]."""
        words, asked, regions, projected = self.input_unit(image, self.embedding(question), length)
        return self.output_unit(self.mac_unit(words, asked, regions, projected), asked)
