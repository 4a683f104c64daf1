"""The model ``vqa``: a question network built for the words, regions and answers of a stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import numpy as np
import torch
from torch import Tensor, nn

from cl_kernel import BadInput, BadSetting, Field, MissingAsset
from cl_plugin_remind.network import layers, questions

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


def read_glove(path: Path, words: Sequence[str], dim: int) -> Tensor:
    """Word vectors of a GloVe text file; words it lacks keep small random values.

    :return: float32 [n_words, dim].
    :raises MissingAsset: when there is no such file. :raises BadInput: for lines of another length.
    """
    if not path.is_file():
        raise MissingAsset(
            f"no word vectors {path.name}",
            where=str(path),
            fix="glove.6B.300d.txt from nlp.stanford.edu/projects/glove",
        )
    wanted = {word: row for row, word in enumerate(words)}
    table = np.random.default_rng(0).normal(0, 0.1, (len(words), dim)).astype(np.float32)
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            word, _, rest = line.rstrip("\n").partition(" ")
            if word in wanted:
                values = rest.split()
                if len(values) != dim:
                    raise BadInput(f"line {number} has {len(values)} numbers, expected {dim}", where=str(path))
                table[wanted[word]] = np.array(values, np.float32)
    return torch.from_numpy(table)


def set_words(network: nn.Module, table: Tensor) -> None:
    """Fill the rows of the vocabulary; the padding row stays."""
    for module in network.modules():
        if isinstance(module, layers.Words):
            with torch.no_grad():
                module.emb.weight[: len(table)] = table


def word_dim(network: nn.Module) -> int:
    """Length of a network's word vectors."""
    return next(module.emb.embedding_dim for module in network.modules() if isinstance(module, layers.Words))
