"""Questions as numbers, and the order in which a VQA stream asks them.

Shapes: N questions, L words.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from attrs import define, field

from cl_kernel import BadInput

ORDER_SEED = 666


def words_of(question: str) -> list[str]:
    """Lower case, no commas and question marks, possessive ``'s`` a word of its own, split on spaces."""
    text = question.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    return text.split()


@define
class Vocabulary:
    """Words by number, in order of first appearance; one past the last is padding."""

    ids: dict[str, int] = field(factory=dict)

    @classmethod
    def of(cls, questions: Iterable[str]) -> Vocabulary:
        """The words of these questions."""
        vocabulary = cls()
        for question in questions:
            vocabulary.learn(question)
        return vocabulary

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def words(self) -> list[str]:
        """Words in order of their number."""
        return list(self.ids)

    def learn(self, question: str) -> list[int]:
        """Numbers of a question's words, new words included."""
        return [self.ids.setdefault(word, len(self.ids)) for word in words_of(question)]

    def encode(self, questions: Sequence[str], longest: int) -> tuple[np.ndarray, np.ndarray, int]:
        """Numbers padded to ``longest``; longer questions are cut, unknown words left out.

        :return: int64 [N, longest], lengths int64 [N] (at least 1), and how many words were unknown.
        """
        tokens = np.full((len(questions), longest), len(self), np.int64)
        lengths = np.ones(len(questions), np.int64)
        unknown = 0
        for row, question in enumerate(questions):
            ids = [self.ids.get(word, -1) for word in words_of(question)]
            known = [i for i in ids if i >= 0][:longest]
            unknown += sum(i < 0 for i in ids)
            tokens[row, : len(known)] = known
            lengths[row] = max(len(known), 1)
        return tokens, lengths, unknown


def rank_by_frequency(values: Sequence[str]) -> dict[str, int]:
    """Value -> number, most frequent first, ties by first appearance."""
    counts: dict[str, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return {value: rank for rank, value in enumerate(sorted(counts, key=lambda v: -counts[v]))}


def dataset_order(kind: str, types: np.ndarray, answers: np.ndarray, n_answers: int) -> tuple[np.ndarray, list[int]]:
    """Rows in the order they are learnt, and the cumulative boundaries.

    :param kind: ``iid``: shuffled, boundaries at every tenth; ``qtype``: by question type, types in a shuffled order.
    :param n_answers: rows with an answer beyond are left out.
    :raises BadInput: for an unknown kind or when nothing is left.
    """
    rows = np.flatnonzero((answers >= 0) & (answers < n_answers))
    if not len(rows):
        raise BadInput("no question has a known answer", where="question order")
    chance = random.Random(ORDER_SEED)
    if kind == "iid":
        shuffled = rows.tolist()
        chance.shuffle(shuffled)
        ends = [int(len(rows) * tenth / 10) for tenth in range(1, 10)] + [len(rows)]
        return np.array(shuffled, np.int64), sorted({end for end in ends if end > 0})
    if kind != "qtype":
        raise BadInput(f"no question order {kind!r}; there are iid and qtype", where="dataset.order")
    order = type_order(int(types.max()) + 1)
    parts = [rows[types[rows] == kind_id] for kind_id in order]
    parts = [part for part in parts if len(part)]
    return np.concatenate(parts), np.cumsum([len(part) for part in parts]).tolist()


def type_order(n_types: int) -> list[int]:
    """The order in which question types come: the types are sorted by shuffled ranks."""
    rank = list(range(n_types))
    random.Random(ORDER_SEED).shuffle(rank)
    return sorted(range(n_types), key=lambda kind: rank[kind])


def streamed_order(order: np.ndarray, lengths: np.ndarray, batch: int, boundaries: Sequence[int] = ()) -> np.ndarray:
    """Each loader batch sorted by falling question length (stable).

    :param order: rows as :func:`dataset_order` gives them. :param lengths: of every row.
    :param boundaries: where batches begin anew; () lets them run across stages, as the authors' loader does.
    """
    ends = [*boundaries] if len(boundaries) else [len(order)]
    pieces, start = [], 0
    for end in ends:
        for at in range(start, end, batch):
            part = order[at : min(at + batch, end)]
            pieces.append(part[np.argsort(-lengths[part], kind="stable")])
        start = end
    return np.concatenate(pieces)


def mean_types(table: Mapping[str, int]) -> tuple[str, ...]:
    """Names in order of their number."""
    return tuple(sorted(table, key=lambda name: table[name]))
