"""Six networks that answer questions about images, with the authors' parameter names.

Shapes: B batch, L words, R regions, D region channels, E word vector, Q question vector, A answers.
Call: ``net(question int64 [B, L], image, length int64 [B])`` with image float [B, R, D], or [B, D] for the pooled nets.
Questions may come in any order of length; positions from ``length`` on are padding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cl_kernel import BadSetting
from cl_plugin_remind.network.layers import Classifier, Question, Sizes
from cl_plugin_remind.network.mac import Mac

NETWORKS = ("updown", "smac", "mac", "ramen", "q_only", "qi")
POOLED = ("q_only", "qi")


def make(name: str, sizes: Sizes) -> nn.Module:
    """A network by name.

    :raises BadSetting: for an unknown name.
    """
    match name:
        case "updown":
            return UpDown(sizes)
        case "smac" | "mac":
            return Mac(sizes, simple=name == "smac")
        case "ramen":
            return Ramen(sizes)
        case "q_only":
            return QuestionOnly(sizes)
        case "qi":
            return QuestionImage(sizes)
    raise BadSetting(f"no network {name!r} for questions; there are {', '.join(NETWORKS)}", where="model.network")


class ConcatAttention(nn.Module):
    """The authors' "old" attention: question and region side by side."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.nlin = nn.Linear(sizes.region_dim + sizes.question, sizes.attention)
        self.drop = nn.Dropout(sizes.dropout_attention)
        self.attnmap = nn.Linear(sizes.attention, 1)

    def forward(self, image: Tensor, question: Tensor) -> Tensor:
        """Weights [B, R, 1]."""
        tiled = question.unsqueeze(1).expand(-1, image.shape[1], -1)
        return self.attnmap(self.drop(self.nlin(torch.cat([image, tiled], 2)).relu())).softmax(1)


class ProductAttention(nn.Module):
    """The authors' "new" attention: question times region."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.q_proj = nn.Linear(sizes.question, sizes.attention)
        self.v_proj = nn.Linear(sizes.region_dim, sizes.attention)
        self.drop = nn.Dropout(sizes.dropout_attention)
        self.attnmap = nn.Linear(sizes.attention, 1)

    def forward(self, image: Tensor, question: Tensor) -> Tensor:
        """Weights [B, R, 1]."""
        joint = self.v_proj(image).relu() * self.q_proj(question).relu().unsqueeze(1)
        return self.attnmap(self.drop(joint)).softmax(1)


class UpDown(nn.Module):
    """Several attention hops from the same question and image."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        kind = ConcatAttention if sizes.attention_kind == "old" else ProductAttention
        self.ques_encoder = Question(sizes)
        self.attention = nn.ModuleList(kind(sizes) for _ in range(sizes.hops))
        joint = sizes.question + sizes.hops * sizes.region_dim
        self.classifier = Classifier(joint, 2 * sizes.hidden, sizes.n_answers, sizes.dropout_classifier)

    def forward(self, question: Tensor, image: Tensor, length: Tensor) -> Tensor:
        """Scores [B, A]."""
        asked = self.ques_encoder(question, length)
        seen = [(attention(image, asked) * image).sum(1) for attention in self.attention]
        return self.classifier(torch.cat([asked, *seen], 1))


class QuestionOnly(nn.Module):
    """Does not look."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.ques_encoder = Question(sizes)
        self.classifier = Classifier(sizes.question, sizes.hidden, sizes.n_answers, sizes.dropout_classifier)

    def forward(self, question: Tensor, image: Tensor, length: Tensor) -> Tensor:
        """Scores [B, A]."""
        return self.classifier(self.ques_encoder(question, length))


class QuestionImage(nn.Module):
    """Question and mean of the regions."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.ques_encoder = Question(sizes)
        joint = sizes.question + sizes.region_dim
        self.classifier = Classifier(joint, sizes.hidden, sizes.n_answers, sizes.dropout_classifier)

    def forward(self, question: Tensor, image: Tensor, length: Tensor) -> Tensor:
        """Scores [B, A]; regions are averaged if they come one by one."""
        pooled = image.mean(1) if image.dim() == 3 else image
        return self.classifier(torch.cat([self.ques_encoder(question, length), pooled], 1))


class Aggregator(nn.Module):
    """Reads the regions as a sequence."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.rnn = nn.GRU(inputs, hidden, bidirectional=True, batch_first=True)

    def forward(self, regions: Tensor) -> Tensor:
        """[B, 2 hidden]: last state forward, last state backward."""
        _, last = self.rnn(regions)
        return torch.cat([last[0], last[1]], 1)


class Fusion(nn.Module):
    """RAMEN's early fusion of question and regions."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(sizes.region_dim, sizes.conv, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(sizes.conv, sizes.conv, 3, padding=1),
            nn.ReLU(),
        )
        early = sizes.conv + sizes.question
        self.batch_norm_fusion = nn.BatchNorm1d(early)
        layers: list[nn.Module] = []
        for index in range(4):
            layers += [nn.Linear(early if index == 0 else sizes.mlp, sizes.mlp), nn.ReLU()]
        self.mmc_layers = nn.ModuleList(layers)
        self.batch_norm_mmc = nn.BatchNorm1d(sizes.mlp)
        late = sizes.mlp + sizes.question
        self.batch_norm_before_aggregation = nn.BatchNorm1d(late)
        self.aggregator = Aggregator(late, sizes.gru)

    def forward(self, image: Tensor, question: Tensor) -> Tensor:
        """[B, 2 gru]."""
        n, regions, channels = image.shape
        side = int(regions**0.5 + 0.5)
        grid = image.transpose(1, 2).reshape(n, channels, side, -1)
        reduced = self.conv(grid).flatten(2).transpose(1, 2)  # [B, R, conv]
        tiled = question.unsqueeze(1).expand(-1, regions, -1)
        joint = self.batch_norm_fusion(torch.cat([reduced, tiled], 2).flatten(0, 1))
        for index in range(0, len(self.mmc_layers), 2):
            out = self.mmc_layers[index](joint)
            joint = self.mmc_layers[index + 1](out if index == 0 else out + joint)
        joint = self.batch_norm_mmc(joint)
        joint = self.batch_norm_before_aggregation(torch.cat([joint, tiled.flatten(0, 1)], 1))
        return self.aggregator(joint.reshape(n, regions, -1))


class Ramen(nn.Module):
    """Recurrent aggregation of multimodal embeddings."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.mmc_net = Fusion(sizes)
        self.ques_encoder = Question(sizes)
        joint = 2 * sizes.gru + sizes.question
        self.classifier = Classifier(joint, 2 * sizes.hidden, sizes.n_answers, sizes.dropout_classifier)

    def forward(self, question: Tensor, image: Tensor, length: Tensor) -> Tensor:
        """Scores [B, A]."""
        asked = self.ques_encoder(question, length)
        return self.classifier(torch.cat([asked, self.mmc_net(image, asked)], 1))
