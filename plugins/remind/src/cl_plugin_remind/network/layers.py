"""What the question networks share: their sizes, word vectors, the reading of words, the classifier.

Shapes: B batch, L words, E word vector, Q question vector, A answers.
"""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


@frozen(kw_only=True)
class Sizes:
    """Everything that fixes the parameters; defaults are the paper's."""

    n_words: int
    n_answers: int
    region_dim: int
    word_dim: int = 300
    lstm: int = 512
    hidden: int = 1024
    attention: int = 1024
    attention_kind: str = "old"
    hops: int = 2
    dim: int = 512
    n_steps: int = 12
    conv: int = 512
    mlp: int = 1024
    gru: int = 1024
    dropout_word: float = 0.0
    dropout_attention: float = 0.5
    dropout_classifier: float = 0.5
    dropout_memory: float = 0.15

    @property
    def question(self) -> int:
        """Length of the question vector."""
        return 2 * self.lstm


class Words(nn.Module):
    """Word vectors; the last row, one past the vocabulary, is padding."""

    def __init__(self, n_words: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.emb = nn.Embedding(n_words + 1, dim, padding_idx=n_words)
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.emb.weight)

    def forward(self, question: Tensor) -> Tensor:
        """[B, L] -> [B, L, E]."""
        return self.dropout(self.emb(question))


class Question(nn.Module):
    """Last states of a bidirectional LSTM."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.embedding = Words(sizes.n_words, sizes.word_dim, sizes.dropout_word)
        self.lstm = nn.LSTM(sizes.word_dim, sizes.lstm, bidirectional=True, batch_first=True)

    def forward(self, question: Tensor, length: Tensor) -> Tensor:
        """[B, Q]: forward state, then backward state."""
        return read_words(self.lstm, self.embedding(question), length)[1]


def read_words(lstm: nn.LSTM, words: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs [B, longest, 2 h] (zero at padding) and last states [B, 2 h] of a bidirectional LSTM."""
    packed = pack_padded_sequence(words, length.cpu(), batch_first=True, enforce_sorted=False)
    output, (last, _) = lstm(packed)
    return pad_packed_sequence(output, batch_first=True)[0], torch.cat([last[0], last[1]], 1)


class Classifier(nn.Module):
    """Two linear layers."""

    def __init__(self, inputs: int, hidden: int, n_answers: int, dropout: float) -> None:
        super().__init__()
        self.lin1 = nn.Linear(inputs, hidden)
        self.drop = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden, n_answers)

    def forward(self, joint: Tensor) -> Tensor:
        """[B, A]."""
        return self.classifier(self.drop(self.lin1(joint).relu()))
