"""TensorFlow checkpoints: V2 bundles (two files) are written, and read as well as V1 checkpoints of a single file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from cl_kernel import BadCheckpoint, MissingAsset
from cl_plugin_recall.backend import tf


def save(prefix: Path, values: Mapping[str, np.ndarray]) -> None:
    """Write ``prefix.index`` and ``prefix.data-00000-of-00001``, complete or not at all.

    TensorFlow 1.15 reads them with ``tf.train.Saver``.
    """
    prefix.parent.mkdir(parents=True, exist_ok=True)
    names = sorted(values)
    temporary = prefix.with_name(f".{prefix.name}.part")
    tf.raw_ops.SaveV2(
        prefix=str(temporary),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.constant(values[name]) for name in names],
    )
    for suffix in (".data-00000-of-00001", ".index"):  # a reader looks for the index, so it comes last
        temporary.with_name(temporary.name + suffix).replace(prefix.with_name(prefix.name + suffix))


def names(prefix: Path) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape.

    :raises MissingAsset: when there is no such bundle or file.
    :raises BadCheckpoint: when it cannot be read.
    """
    if not prefix.with_name(prefix.name + ".index").is_file() and not prefix.is_file():
        raise MissingAsset(
            "checkpoint is missing",
            where=f"{prefix}.index",
            fix="import it with `clk recall import-checkpoint`, or train step 0",
        )
    try:
        return {name: tuple(shape) for name, shape in tf.train.list_variables(str(prefix))}
    except (tf.errors.OpError, ValueError) as error:
        raise BadCheckpoint(
            f"checkpoint cannot be read: {str(error).splitlines()[0][:160]}", where=str(prefix)
        ) from error


def load(prefix: Path, expected: Mapping[str, Iterable[int]] | None = None) -> dict[str, np.ndarray]:
    """Tensors of a checkpoint by name, whoever wrote it.

    :param expected: name -> shape of what must be there, and nothing else; None for whatever there is.
    :raises BadCheckpoint: naming missing and extra tensors and wrong shapes, or damage.
    """
    found = names(prefix)
    if expected is not None:
        check(found, expected, str(prefix))
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        return {name: reader.get_tensor(name) for name in found}
    except (tf.errors.OpError, RuntimeError, IndexError, ValueError) as error:
        raise BadCheckpoint(f"checkpoint is damaged: {str(error).splitlines()[0][:160]}", where=str(prefix)) from error


def check(found: Mapping[str, Iterable[int]], expected: Mapping[str, Iterable[int]], where: str) -> None:
    """Refuse tensors that are missing, extra or of another shape (the reference only prints)."""
    problems = []
    if missing := sorted(set(expected) - set(found)):
        problems.append(f"{len(missing)} tensor(s) missing, as {missing[0]}")
    if extra := sorted(set(found) - set(expected)):
        problems.append(f"{len(extra)} tensor(s) too many, as {extra[0]}")
    for name in sorted(set(found) & set(expected)):
        if tuple(found[name]) != tuple(expected[name]):
            problems.append(f"{name} has shape {tuple(found[name])}, expected {tuple(expected[name])}")
    if problems:
        raise BadCheckpoint(
            "; ".join(problems[:4]),
            where=where,
            fix="use a checkpoint of the same network, or state its source with --format",
        )
