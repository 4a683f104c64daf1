"""The model ``vqa``: a question network built for the words, regions and answers of a stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import torch
from torch import Tensor, nn

from cl_kernel import BadInput, BadSetting, Field, MissingAsset
from cl_plugin_remind.network import layers, questions
from cl_plugin_remind.weights.safe_pickle import read_pickle

if TYPE_CHECKING:
    from cl_kernel import Resources
    from cl_plugin_remind.settings import VqaNetwork


def build(settings: VqaNetwork, fields: Mapping[str, Field], n_outputs: int, resources: Resources) -> nn.Module:
    """The network; the learner fills in word vectors, since it knows the vocabulary.

    :raises BadSetting: when the stream has no questions or image codes.
    """
    if "question" not in fields or "codes" not in fields:
        raise BadSetting(
            f"this network answers questions about images in regions; the data set has {', '.join(fields)}",
            where="--model/--dataset",
            fix="--dataset remind:tinyclevr",
        )
    own = {a.name for a in attrs.fields(type(settings))} & {a.name for a in attrs.fields(layers.Sizes)}
    sizes = layers.Sizes(
        n_words=fields["question"].n - 1,
        n_answers=n_outputs,
        region_dim=int(fields["codes"].encoding.split()[1]),
        **{name: getattr(settings, name) for name in own},
    )
    return questions.make(settings.network, sizes)


def read_words(path: Path, words: Sequence[str], dim: int, dictionary: str = "") -> Tensor:
    """Word vectors of a file; words it lacks keep small random values.

    :param path: GloVe's text file; the authors' table ``glove6b_init_300d_*.npy``, a row a word of their dictionary; or
        a pickle that holds word -> vector.
    :param dictionary: their ``dictionary_*.pkl``, for a table; by default the one beside it.
    :return: float32 [n_words, dim].
    :raises MissingAsset: when there is no such file. :raises BadInput: for vectors of another length.
    """
    if not path.is_file():
        raise MissingAsset(
            f"no word vectors {path.name}",
            where=str(path),
            fix="glove.6B.300d.txt from nlp.stanford.edu/projects/glove",
        )
    table = np.random.default_rng(0).normal(0, 0.1, (len(words), dim)).astype(np.float32)
    known = {word: row for row, word in enumerate(words)}
    readers = {".npy": _of_table, ".pkl": _of_pickle, ".pickle": _of_pickle}
    found = 0
    for word, vector, where in readers.get(path.suffix.lower(), _of_text)(path, dictionary, known):
        if (values := _vector(vector)).shape != (dim,):
            raise BadInput(f"{where} has {values.size} numbers, expected {dim}", where=str(path))
        table[known[word]] = values
        found += 1
    if not found:
        raise BadInput(f"none of the {len(words)} words of the questions is in the file", where=str(path))
    return torch.from_numpy(table)


Vectors = Iterator[tuple[str, Any, str]]


def _vector(values: Any) -> np.ndarray:
    try:
        return np.asarray(values, np.float32)
    except (ValueError, TypeError):
        return np.zeros(0, np.float32)


def _of_text(path: Path, dictionary: str, known: Mapping[str, int]) -> Vectors:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            word, _, rest = line.rstrip("\n").partition(" ")
            if word in known:
                yield word, rest.split(), f"line {number}"


def _of_table(path: Path, dictionary: str, known: Mapping[str, int]) -> Vectors:
    try:
        rows = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise BadInput(f"the table cannot be read: {error}", where=str(path)) from error
    beside = [Path(dictionary).expanduser()] if dictionary else sorted(path.parent.glob("dictionary_*.pkl"))
    if len(beside) != 1:
        raise BadInput(
            f"the table does not say which row is which word, and {len(beside)} dictionaries lie beside it",
            where=str(path),
            fix="--set learner.dictionary=dictionary_clevr.pkl",
        )
    content = read_pickle(beside[0], "dictionary")
    if not (isinstance(content, list) and len(content) == 2 and isinstance(content[0], dict)):
        raise BadInput("no list of two tables, word -> number and words", where=str(beside[0]))
    if rows.ndim != 2 or len(rows) < len(content[0]):
        raise BadInput(
            f"a table {list(rows.shape)} for the {len(content[0])} words of {beside[0].name}", where=str(path)
        )
    for word, row in content[0].items():
        if word in known:
            yield word, rows[row], f"row {row}"


def _of_pickle(path: Path, dictionary: str, known: Mapping[str, int]) -> Vectors:
    content = read_pickle(path, "table of word vectors")
    if not isinstance(content, Mapping):
        raise BadInput("no table word -> vector", where=str(path))
    for word, vector in content.items():
        if word in known:
            yield word, vector, f"word {word!r}"


def set_words(network: nn.Module, table: Tensor) -> None:
    """Fill the rows of the vocabulary; the padding row stays."""
    for module in network.modules():
        if isinstance(module, layers.Words):
            with torch.no_grad():
                module.emb.weight[: len(table)] = table


def word_dim(network: nn.Module) -> int:
    """Length of a network's word vectors."""
    return next(module.emb.embedding_dim for module in network.modules() if isinstance(module, layers.Words))
