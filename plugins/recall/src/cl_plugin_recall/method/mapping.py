"""Which generator class stands for which class of the data: mean confidence of a classifier."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen

from cl_kernel import BadInput, MissingAsset, write_json


@frozen
class ClassMap:
    """Mean confidences and the choice made from them.

    :param mean: float64 [classes, generator classes], rows in the order of ``classes``.
    """

    classes: tuple[int, ...]
    names: tuple[str, ...]
    mean: np.ndarray
    counts: tuple[int, ...]
    chosen: Mapping[int, int]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Rows to probabilities."""
    e = np.exp(logits - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def map_classes(
    images: Iterable[tuple[np.ndarray, Sequence[int]]],
    classifier: Any,
    classes: Sequence[int],
    names: Sequence[str],
    *,
    override: Mapping[int, int] | None = None,
    exclude: Sequence[int] = (),
    batch: int = 16,
) -> ClassMap:
    """Average the classifier's confidence over all images that show a class, and take the best.

    :param images: (RGB uint8 [H, W, 3], classes shown).
    :param override: generator class fixed by hand for a class.
    :param exclude: generator classes never chosen.
    :raises BadInput: for a class no image shows.
    """
    from cl_plugin_recall.backend import tf

    sums: dict[int, np.ndarray] = {}
    counts = dict.fromkeys(classes, 0)

    def flush(group: list[tuple[np.ndarray, Sequence[int]]]) -> None:
        stack = tf.stack(
            [
                tf.image.resize(tf.cast(image, tf.float32) / 255.0, (classifier.side, classifier.side))
                for image, _ in group
            ]
        )
        for confidence, (_, shown) in zip(softmax(classifier.logits(stack)), group, strict=True):
            for c in shown:
                if c in counts:
                    sums[c] = sums.get(c, 0.0) + confidence
                    counts[c] += 1

    waiting: list[tuple[np.ndarray, Sequence[int]]] = []
    for item in images:
        waiting.append(item)
        if len(waiting) == batch:
            flush(waiting)
            waiting = []
    if waiting:
        flush(waiting)
    fixed = dict(override or {})
    for c, name in zip(classes, names, strict=True):
        if not counts[c] and c not in fixed:
            raise BadInput(
                f"no image shows class {c} ({name}), so it cannot be mapped",
                where="map-classes",
                fix=f"give it by hand: --override {c}=GENERATOR_CLASS",
            )
    if not sums:
        raise BadInput("no image shows any of the classes", where="map-classes", fix="check --data-root and --classes")
    nothing = np.zeros_like(next(iter(sums.values())))
    mean = np.stack([sums[c] / counts[c] if counts[c] else nothing for c in classes]).astype(np.float64)
    n_generator = mean.shape[1]
    if outside := [g for g in (*fixed.values(), *exclude) if not 0 <= g < n_generator]:
        raise BadInput(f"generator class {outside[0]} is outside 0..{n_generator - 1}", where="--override, --exclude")
    allowed = mean.copy()
    allowed[:, list(exclude)] = -1.0
    chosen = {c: int(allowed[row].argmax()) for row, c in enumerate(classes)} | fixed
    return ClassMap(tuple(classes), tuple(names), mean, tuple(counts[c] for c in classes), chosen)


def top(mapping: ClassMap, n: int = 5) -> dict[int, list[tuple[int, float]]]:
    """The likeliest generator classes of each class, best first."""
    return {
        c: [(int(k), float(row[k])) for k in np.argsort(-row)[:n]]
        for c, row in zip(mapping.classes, mapping.mean, strict=True)
    }


def shared(mapping: ClassMap) -> dict[int, list[int]]:
    """Generator classes that stand for more than one class: a warning, not an error."""
    users: dict[int, list[int]] = {}
    for c, g in mapping.chosen.items():
        users.setdefault(g, []).append(c)
    return {g: cs for g, cs in users.items() if len(cs) > 1}


def write_mapping(path: Path, mapping: ClassMap) -> None:
    """JSON with the choice, the top five and the mean confidences."""
    best = top(mapping)
    write_json(
        path,
        {
            "classes": [
                {
                    "class": c,
                    "name": name,
                    "generator_class": mapping.chosen[c],
                    "images": n,
                    "top5": [{"generator_class": g, "confidence": p} for g, p in best[c]],
                    "mean": [float(v) for v in row],
                }
                for c, name, n, row in zip(mapping.classes, mapping.names, mapping.counts, mapping.mean, strict=True)
            ]
        },
    )


def read_mapping(path: Path) -> dict[int, int]:
    """Class -> generator class, from :func:`write_mapping` or a plain object ``{"1": 404}``.

    :raises BadInput: when the file is no such mapping.
    """
    if not path.is_file():
        raise MissingAsset("class mapping does not exist", where=str(path), fix="clk recall map-classes --output FILE")
    try:
        content = json.loads(path.read_text())
        if "classes" in content:
            return {int(entry["class"]): int(entry["generator_class"]) for entry in content["classes"]}
        return {int(c): int(g) for c, g in content.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"not a class mapping: {error}", where=str(path)) from error
