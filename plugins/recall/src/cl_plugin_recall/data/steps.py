"""From labelled images to a stream of steps, under the three protocols (spec 4.2).

Shapes: N images, K classes without background, H W image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from attrs import define, frozen

from cl_kernel import BadInput, BadSetting, Field, Stage, Stream, fingerprint
from cl_plugin_recall.data.files import decode_png, objects, record_fields
from cl_plugin_recall.experiments import class_steps, parse_structure

VOID = 255


class Encoded(Protocol):
    """Images and labels as file bytes, by row."""

    def __len__(self) -> int: ...

    def encoded(self, row: int) -> tuple[bytes, bytes]:
        """JPEG and PNG bytes."""

    def where(self, row: int) -> str:
        """File or record of a row, for messages."""


@frozen
class InMemory:
    """Encoded images and labels held in memory."""

    pairs: Sequence[tuple[bytes, bytes]]
    name: str

    def __len__(self) -> int:
        return len(self.pairs)

    def encoded(self, row: int) -> tuple[bytes, bytes]:
        """JPEG and PNG bytes."""
        return self.pairs[row]

    def where(self, row: int) -> str:
        """Name and row."""
        return f"{self.name}, image {row}"


@define
class StepSamples:
    """Some rows of encoded images; labels pass through a table when they are read.

    :param table: uint8 [256], label stored -> label given; None changes nothing.
    """

    base: Encoded
    rows: np.ndarray
    table: np.ndarray | None
    spec: Mapping[str, Field]

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, row: int) -> str:
        """File or record of a row."""
        return self.base.where(int(self.rows[row]))

    def take(self, rows: np.ndarray, fields: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Encoded images, decoded masks."""
        fields = tuple(fields or self.spec)
        pairs = [self.base.encoded(int(self.rows[row])) for row in rows]
        batch: dict[str, np.ndarray] = {}
        if "image" in fields:
            batch["image"] = objects([image for image, _ in pairs])
        if "mask" in fields:
            masks = [decode_png(label, self.where(int(row))) for (_, label), row in zip(pairs, rows, strict=True)]
            batch["mask"] = objects([mask if self.table is None else self.table[mask] for mask in masks])
        return batch


def keep_table(classes: Sequence[int]) -> np.ndarray:
    """Labels of ``classes`` and void stay, everything else becomes background, uint8 [256]."""
    table = np.zeros(256, np.uint8)
    table[list(classes)] = list(classes)
    table[VOID] = VOID
    return table


def rows_of_step(present: np.ndarray, classes: Sequence[int], protocol: str) -> np.ndarray:
    """Images of a step.

    :param present: bool [N, K + 1], which labels occur in which image.
    :return: overlapped: images with a pixel of ``classes``; otherwise images whose highest class is one of them.
    """
    if protocol == "overlapped":
        return np.flatnonzero(present[:, list(classes)].any(1))
    return np.flatnonzero(np.isin(highest(present), classes))


def highest(present: np.ndarray) -> np.ndarray:
    """Highest class of every image, int64 [N]; 0 for background alone."""
    n_labels = present.shape[1]
    seen = present.copy()
    seen[:, 0] = True
    return n_labels - 1 - np.argmax(seen[:, ::-1], axis=1)


def labels_of_step(classes: Sequence[int], protocol: str) -> np.ndarray:
    """Label table of a step: sequential keeps all classes up to the newest, the others only its own."""
    return keep_table(range(1, max(classes) + 1) if protocol == "sequential" else classes)


def presence(labels: Sequence[np.ndarray], n_classes: int, where: Sequence[str]) -> np.ndarray:
    """Which labels occur in which image, bool [N, K + 1].

    :raises BadInput: for a label above the class count, naming the file.
    """
    present = np.zeros((len(labels), n_classes + 1), bool)
    for row, label in enumerate(labels):
        values = np.flatnonzero(np.bincount(label.reshape(-1), minlength=256))
        if (bad := values[(values > n_classes) & (values != VOID)]).size:
            raise BadInput(
                f"label {int(bad[0])} in a data set of {n_classes} classes",
                where=where[row],
                fix="check classes.txt (one class name a line), or that the PNG holds class indices",
            )
        present[row, values[values <= n_classes]] = True
    return present


def build_stream(
    name: str,
    *,
    train: Encoded,
    val: Encoded,
    train_present: np.ndarray,
    val_present: np.ndarray,
    class_names: Sequence[str],
    settings: Any,
    digest: str,
) -> Stream:
    """Steps, their labels and their validation sets.

    A step's validation images are those whose highest class it brings, so that all steps so far make up the paper's
    cumulative set. Where that leaves a step without any (``dataset.validation`` auto), every step is validated on all
    images, pixels of classes still to come left out.

    :raises BadInput: for a step without training images.
    :raises BadSetting: when the structure does not fit the classes.
    """
    n_classes = len(class_names)
    sizes = parse_structure(settings.structure, n_classes)
    steps = class_steps(sizes)
    protocols = (settings.protocol_first, settings.protocol_helpers, settings.protocol)
    spec = record_fields(n_classes + 1)
    stages = []
    for index, classes in enumerate(steps):
        protocol = protocols[0] if index == 0 else protocols[2]
        rows = rows_of_step(train_present, classes, protocol)
        names = [class_names[c - 1] for c in classes]
        if not len(rows):
            raise BadInput(
                f"step {index} ({', '.join(names)}) has no training images under the {protocol} protocol",
                where=f"data set {name!r}",
                fix="use --set dataset.protocol=overlapped --set dataset.protocol_first=overlapped",
            )
        info: dict[str, Any] = {"protocol": protocol}
        if 0 < index < len(steps) - 1:
            info["helper_rows"] = _helper_rows(train_present, rows, classes, protocols)
        stages.append(
            Stage(
                index=index,
                name=names[0] if len(names) == 1 else f"{names[0]}..{names[-1]}",
                train=StepSamples(train, rows, labels_of_step(classes, protocol), spec),
                classes=tuple(classes),
                info=info,
            )
        )
    test = StepSamples(val, np.arange(len(val)), None, spec)
    return Stream(
        name=name,
        task="image -> mask",
        stages=stages,
        test=test,
        test_sets=_validation(val_present, steps, [stage.name for stage in stages], settings.validation),
        class_names=("background", *class_names),
        fingerprint=digest,
        info={"structure": settings.structure, "sizes": list(sizes), "protocols": list(protocols)},
    )


def _validation(
    present: np.ndarray, steps: Sequence[Sequence[int]], names: Sequence[str], wish: str
) -> dict[str, np.ndarray]:
    top = highest(present)
    sets = {
        name: np.flatnonzero(np.isin(top, [*classes, *([0] if step == 0 else [])]))
        for step, (name, classes) in enumerate(zip(names, steps, strict=True))
    }
    empty = [name for name, rows in sets.items() if not len(rows)]
    if wish == "full" or (wish == "auto" and empty):
        return {"val": np.arange(len(present))}
    if empty:
        raise BadInput(
            f"no validation image has its highest class in {', '.join(empty)}",
            where="dataset.validation",
            fix="--set dataset.validation=full",
        )
    return sets


def _helper_rows(
    present: np.ndarray, rows: np.ndarray, classes: Sequence[int], protocols: Sequence[str]
) -> dict[str, list[int]]:
    """Positions within the step's images of those a helper for the step, and for each of its classes, may see."""
    kind = protocols[1]
    if (kind == "overlapped") != (protocols[2] == "overlapped"):
        raise BadSetting(
            f"helpers want the {kind} protocol and later steps {protocols[2]}, but both use a step's images",
            where="dataset.protocol_helpers",
            fix=f"--set dataset.protocol_helpers={protocols[2]}",
        )
    wanted = {
        "-".join(map(str, group)): rows_of_step(present, group, kind)
        for group in [list(classes), *([c] for c in classes)]
    }
    return {key: np.flatnonzero(np.isin(rows, some)).tolist() for key, some in wanted.items()}


def data_digest(*parts: Any) -> str:
    """What identifies the data."""
    return fingerprint(*parts)
