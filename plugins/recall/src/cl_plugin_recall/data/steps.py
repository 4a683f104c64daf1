"""From labelled images to a stream of steps: class order, protocol, labels and validation sets of every step.

The protocols are those of arXiv 2002.00718 and 2108.03673. Classes are numbered in the order in which they are learnt,
whatever the data calls them. Shapes: N images, K classes without background, H W image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from attrs import define, field, frozen

from cl_kernel import BadInput, BadSetting, Field, Resources, Samples, Stage, Stream
from cl_plugin_recall.data.files import LabelMaps, decode_png, objects, record_fields
from cl_plugin_recall.data.orders import steps_of

VOID = 255


class Encoded(Protocol):
    """Images as file bytes and labels as class numbers, by row."""

    def __len__(self) -> int: ...

    def image(self, row: int) -> bytes:
        """Encoded image."""

    def mask(self, row: int) -> np.ndarray:
        """Class numbers, uint8 [H, W]."""

    def where(self, row: int) -> str:
        """File or record of a row, for messages."""

    def identify(self, files: Any, rows: np.ndarray | None = None) -> str:
        """By content."""


@frozen
class InMemory:
    """Encoded images and labels held in memory."""

    pairs: Sequence[tuple[bytes, bytes]]
    name: str
    _maps: LabelMaps = field(init=False, factory=LabelMaps, eq=False, repr=False)

    def __len__(self) -> int:
        return len(self.pairs)

    def image(self, row: int) -> bytes:
        """Encoded image."""
        return self.pairs[row][0]

    def mask(self, row: int) -> np.ndarray:
        """Class numbers, uint8 [H, W]."""
        return self._maps.get(row, lambda: decode_png(self.pairs[row][1], self.where(row)))

    def where(self, row: int) -> str:
        """Name and row."""
        return f"{self.name}, image {row}"

    def identify(self, files: Any, rows: np.ndarray | None = None) -> str:
        """By the bytes of both."""
        chosen = range(len(self)) if rows is None else [int(row) for row in rows]
        digest: str = files.content(files.array(objects([part for row in chosen for part in self.pairs[row]])))
        return digest


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
        at = [int(self.rows[row]) for row in rows]
        batch: dict[str, np.ndarray] = {}
        if "image" in fields:
            batch["image"] = objects([self.base.image(row) for row in at])
        if "mask" in fields:
            masks = [self.base.mask(row) for row in at]
            batch["mask"] = objects([mask if self.table is None else self.table.take(mask) for mask in masks])
        return batch

    def identify(self, files: Any, rows: np.ndarray | None = None) -> str:
        """By what the images and labels hold, and the table."""
        table = None if self.table is None else self.table.tolist()
        digest: str = files.content(self.base.identify(files, self.rows if rows is None else self.rows[rows]), table)
        return digest


def keep_table(classes: Sequence[int]) -> np.ndarray:
    """Labels of ``classes`` and void stay, everything else becomes background, uint8 [256]."""
    table = np.zeros(256, np.uint8)
    table[list(classes)] = list(classes)
    table[VOID] = VOID
    return table


def order_table(order: Sequence[int]) -> np.ndarray | None:
    """The data's class number -> place in the order of learning, uint8 [256]; None where they are the same."""
    if list(order) == list(range(1, len(order) + 1)):
        return None
    table = np.zeros(256, np.uint8)
    table[list(order)] = range(1, len(order) + 1)
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


# ---- where the images of a step come from -----------------------------------------------------------


class StepImages(Protocol):
    """Training images of each step, and which labels they show."""

    def of_step(self, step: int, classes: Sequence[int], protocol: str) -> Samples:
        """The step's images, labelled as the protocol says."""

    def shown(self, step: int, classes: Sequence[int], protocol: str) -> np.ndarray:
        """Which labels occur in which of them, bool [n, K + 1], in learning order."""


@frozen
class Chosen:
    """Steps chosen out of one set of labelled images.

    :param present: bool [N, K + 1], which labels occur, in learning order.
    :param relabel: see :func:`order_table`.
    """

    images: Encoded
    present: np.ndarray
    relabel: np.ndarray | None

    def of_step(self, step: int, classes: Sequence[int], protocol: str) -> StepSamples:
        """Images and labels by the protocol."""
        table = labels_of_step(classes, protocol)
        return StepSamples(
            self.images,
            rows_of_step(self.present, classes, protocol),
            table if self.relabel is None else table[self.relabel],
            record_fields(self.present.shape[1]),
        )

    def shown(self, step: int, classes: Sequence[int], protocol: str) -> np.ndarray:
        """Which labels occur in them."""
        return self.present[rows_of_step(self.present, classes, protocol)]


# ---- the stream -------------------------------------------------------------------------------------


def build_stream(
    name: str,
    *,
    train: Encoded,
    val: Encoded,
    train_present: np.ndarray,
    val_present: np.ndarray,
    class_names: Sequence[str],
    settings: Any,
    background: bool = True,
) -> Stream:
    """A stream of steps over one set of training and one of validation images.

    :param train_present: bool [N, K + 1] in the data's own numbering, as ``val_present``.
    :param background: whether label 0 is a class of its own, which counts in the mean.
    :raises BadInput: for a step or a class without training images.
    :raises BadSetting: when order and structure do not fit the classes.
    """
    steps = steps_of(settings.order, settings.structure, class_names)
    order = [c for step in steps for c in step]
    relabel = order_table(order)
    columns = [0, *order]
    test = StepSamples(val, np.arange(len(val)), relabel, record_fields(len(class_names) + 1))
    return assemble(
        name,
        images=Chosen(train, train_present[:, columns], relabel),
        test=test,
        top=highest(val_present[:, columns]),
        steps=steps,
        class_names=class_names,
        settings=settings,
        background=background,
    )


def assemble(
    name: str,
    *,
    images: StepImages,
    test: Samples,
    top: np.ndarray,
    steps: Sequence[Sequence[int]],
    class_names: Sequence[str],
    settings: Any,
    background: bool,
) -> Stream:
    """Stages, helper rows and validation sets.

    A step's validation images are those whose highest class it brings, so that all steps so far make up the paper's
    cumulative set. Where that leaves a step without any (``dataset.validation`` auto), every step is validated on all
    images, pixels of classes still to come left out.

    :param top: highest class of every validation image, in learning order; 0 for none.
    :param steps: the data's class numbers of each step.
    """
    order = [c for step in steps for c in step]
    names = [class_names[c - 1] for c in order]
    protocols = (settings.protocol_first, settings.protocol_helpers, settings.protocol)
    stages: list[Stage] = []
    first = 1
    for index, step in enumerate(steps):
        classes = list(range(first, first + len(step)))
        first += len(step)
        protocol = protocols[0] if index == 0 else protocols[2]
        samples = images.of_step(index, classes, protocol)
        title = [names[c - 1] for c in classes]
        if not len(samples):
            raise BadInput(
                f"step {index} ({', '.join(title)}) has no training images under the {protocol} protocol",
                where=f"data set {name!r}",
                fix="use --set dataset.protocol=overlapped --set dataset.protocol_first=overlapped",
            )
        info: dict[str, Any] = {"protocol": protocol}
        if 0 < index < len(steps) - 1:
            info["helper_rows"] = _helper_rows(images.shown(index, classes, protocol), classes, protocols)
        stages.append(
            Stage(
                index=index,
                name=title[0] if len(title) == 1 else f"{title[0]}..{title[-1]}",
                train=samples,
                classes=tuple(classes),
                info=info,
            )
        )
    return Stream(
        name=name,
        task="image -> mask",
        stages=stages,
        test=test,
        test_sets=_validation(top, stages, settings.validation),
        class_names=("background", *names),
        info={
            "structure": settings.structure,
            "sizes": [len(step) for step in steps],
            "protocols": list(protocols),
            "order": order,
            "background": background,
        },
    )


def check_seen(present: np.ndarray, class_names: Sequence[str], resources: Resources, where: str) -> None:
    """Refuse classes that no training image shows, or go on without them under ``--on-bad-sample skip``."""
    for c in np.flatnonzero(~present[:, 1:].any(0)) + 1:
        resources.bad_sample(
            f"class {c} ({class_names[c - 1]}) of {where}", "no training image shows it; take it out of the class list"
        )


def _validation(top: np.ndarray, stages: Sequence[Stage], wish: str) -> dict[str, np.ndarray]:
    sets = {
        stage.name: np.flatnonzero(np.isin(top, [*stage.classes, *([0] if stage.index == 0 else [])]))
        for stage in stages
    }
    empty = [name for name, rows in sets.items() if not len(rows)]
    if wish == "full" or (wish == "auto" and empty):
        return {"val": np.arange(len(top))}
    if empty:
        raise BadInput(
            f"no validation image has its highest class in {', '.join(empty)}",
            where="dataset.validation",
            fix="--set dataset.validation=full",
        )
    return sets


def _helper_rows(shown: np.ndarray, classes: Sequence[int], protocols: Sequence[str]) -> dict[str, list[int]]:
    """Positions within the step's images of those a helper for the step, and for each of its classes, may see."""
    kind = protocols[1]
    if (kind == "overlapped") != (protocols[2] == "overlapped"):
        raise BadSetting(
            f"helpers want the {kind} protocol and later steps {protocols[2]}, but both use a step's images",
            where="dataset.protocol_helpers",
            fix=f"--set dataset.protocol_helpers={protocols[2]}",
        )
    groups = [list(classes), *([c] for c in classes)]
    return {"-".join(map(str, group)): rows_of_step(shown, group, kind).tolist() for group in groups}
