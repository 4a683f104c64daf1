"""Identities of streams, stage by stage: what each holds, whatever comes after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from cl_kernel.contract.interfaces import Samples
from cl_kernel.contract.stream import Stage, Stream
from cl_kernel.data.samples import Unidentified, identify_samples
from cl_kernel.storage.digests import Files
from cl_kernel.storage.identity import Identity, canonical, counted, identify


def identified(stream: Stream, piece: str, revision: int, settings: Any, files: Files) -> Stream:
    """The stream with the identity of every stage and of the whole, whose key becomes its fingerprint.

    A stage's identity covers the piece, its settings but those that only say how samples are dealt to stages, and what
    the stage holds; so a longer stream has the identities of the shorter one at its beginning. A data set whose samples
    cannot say what they hold (contract 1) is told by the fingerprint that it gave.

    :param piece: full name, ``plugin:name``.
    :param settings: the data set's, or None.
    :raises BadInput: naming a file that cannot be read.
    """
    base: dict[str, Any] = {
        "piece": piece,
        "piece revision": revision,
        "settings": {} if settings is None else counted(settings),
    }
    stages = tuple(attrs.evolve(stage, identity=_stage(stage, base, stream, files)) for stage in stream.stages)
    tests = _held(stream.test, stream, files)
    whole = identify(
        "stream",
        files=files,
        **base,
        task=stream.task,
        names=stream.class_names,
        stages={f"{stage.index} {stage.name}": stage.identity.key for stage in stages},
        test={"held": tests, "sets": dict(stream.test_sets)},
    )
    plain = _speaks(stream.test) and all(_speaks(stage.train) for stage in stages)
    fingerprint = whole.key if plain else stream.fingerprint
    return attrs.evolve(stream, stages=stages, identity=whole, fingerprint=fingerprint)


def _stage(stage: Stage, base: Mapping[str, Any], stream: Stream, files: Files) -> Identity:
    held = _held(stage.train, stream, files)
    info = {key: _plain(value, files) for key, value in stage.info.items()}
    return identify(
        "stage", files=files, **base, stage=stage.name, classes=stage.classes, info=info, n=len(stage.train), train=held
    )


def _held(samples: Samples, stream: Stream, files: Files) -> str:
    try:
        return identify_samples(samples, files)
    except Unidentified:
        return f"as {stream.fingerprint or stream.name} says, rows {_rows(samples, files)}"


def _rows(samples: Any, files: Files) -> str:
    """Which rows of the data samples are, however deep the subsets lie."""
    rows = []
    while (own := getattr(samples, "rows", None)) is not None:
        rows.append(files.array(own))
        samples = samples.base
    return files.content(*rows, len(samples))


def _speaks(samples: Any) -> bool:
    if (parts := getattr(samples, "parts", None)) is not None:
        return all(map(_speaks, parts))
    return _speaks(samples.base) if hasattr(samples, "base") else hasattr(samples, "identify")


def _plain(value: Any, files: Files) -> Any:
    try:
        return canonical(value, files)
    except TypeError:
        return type(value).__name__
