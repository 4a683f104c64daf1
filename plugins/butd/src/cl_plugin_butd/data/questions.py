"""Samples of questions: one stored picture serves every question about it.

Shapes: N pictures, Q questions, n a batch, H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from attrs import define, field

from cl_kernel import BadInput, Field
from cl_plugin_butd.data.packed import Packed

if TYPE_CHECKING:
    from cl_kernel import Files


@define
class Questions:
    """Pictures, a row of them for each question, and tables of labels.

    :param images: uint8 [N, h, w] or [N, h, w, 3], possibly memory-mapped or packed, and cropped to where anything is
        drawn.
    :param picture: row of the picture of each question, [Q].
    :param tables: field -> one row a question, [Q, ...].
    :param shape: canvas (H, W); what was cropped away is empty.
    :param corner: where the stored part lies on the canvas.
    :param seg: segmentation pictures, one a question, read only when asked for.
    """

    images: np.ndarray | Packed
    picture: np.ndarray
    tables: Mapping[str, np.ndarray]
    fields: Mapping[str, Field]
    shape: tuple[int, int] = (0, 0)
    corner: tuple[int, int] = (0, 0)
    seg: np.ndarray | Packed | None = None
    _spec: dict[str, Field] = field(init=False)

    def __attrs_post_init__(self) -> None:
        if not self.shape[0]:
            self.shape = self.images.shape[1:3]
        if bad := {name: len(t) for name, t in self.tables.items() if len(t) != len(self.picture)}:
            raise BadInput(f"tables of other lengths than the {len(self.picture)} questions: {bad}")
        self._spec = {
            "image": Field(shape=(*self.shape, *self.images.shape[3:]), dtype="uint8", kind="image"),
            **self.fields,
        }
        if self.seg is not None:
            self._spec["drawing"] = Field(shape=(*self.shape, *self.seg.shape[3:]), dtype="uint8", kind="mask")

    @property
    def spec(self) -> Mapping[str, Field]:
        """Fields of a question."""
        return self._spec

    def __len__(self) -> int:
        return len(self.picture)

    def identify(self, files: Files, rows: np.ndarray | None = None) -> str:
        """What the questions hold: pictures, where each lies on the canvas, every table."""
        rows = np.arange(len(self)) if rows is None else np.asarray(rows)
        pictures = [_held(files, part) for part in (self.images, self.seg)]
        tables = {name: files.array(table, rows) for name, table in sorted(self.tables.items())}
        place = files.array(self.picture, rows)
        segs = files.array(rows) if self.seg is not None else ""
        return files.content(pictures, list(self.shape), list(self.corner), place, segs, tables)

    def take(self, rows: np.ndarray, fields: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """A batch; pictures and segmentations are read only when asked for."""
        out: dict[str, np.ndarray] = {}
        for name in fields or self._spec:
            if name == "image":
                out[name] = self._whole(self.images[self.picture[rows]])
            elif name == "drawing" and self.seg is not None:
                out[name] = self._whole(self.seg[rows])
            else:
                out[name] = self.tables[name][rows]
        return out

    def _whole(self, part: np.ndarray) -> np.ndarray:
        if part.shape[1:3] == tuple(self.shape):
            return np.array(part)
        whole = np.zeros((len(part), *self.shape, *part.shape[3:]), np.uint8)
        y, x = self.corner
        whole[:, y : y + part.shape[1], x : x + part.shape[2]] = part
        return whole


def _held(files: Files, pictures: np.ndarray | Packed | None) -> str:
    """Digest of pictures; of packed ones, as they lie deflated."""
    if isinstance(pictures, Packed):
        return files.content(files.array(pictures.content), files.array(pictures.start), list(pictures.size))
    return "" if pictures is None else files.array(pictures)


def question_fields(n_tasks: int, n_arguments: int, n_occurrence: int, n_classes: int) -> dict[str, Field]:
    """Fields of an instruction stream besides the picture."""
    return {
        "task": Field(shape=(), dtype="int64", kind="instruction", n=n_tasks),
        "argument": Field(shape=(), dtype="int64", kind="instruction", n=n_arguments),
        "existence": Field(shape=(n_occurrence,), dtype="uint8", kind="vector"),
        "class": Field(shape=(), dtype="int64", kind="class", n=n_classes),
        "box": Field(shape=(4,), dtype="int64", kind="vector"),
    }


def existence(layout: np.ndarray, n_classes: int) -> np.ndarray:
    """Which characters a picture shows, uint8 [N, K]."""
    shown = np.zeros((len(layout), n_classes), np.uint8)
    shown[np.arange(len(layout))[:, None], layout.reshape(len(layout), -1)] = 1
    return shown


def joined(parts: list[Questions]) -> Questions:
    """Questions about the same pictures one after the other."""
    first = parts[0]
    return Questions(
        first.images,
        np.concatenate([p.picture for p in parts]),
        {name: np.concatenate([p.tables[name] for p in parts]) for name in first.tables},
        first.fields,
        first.shape,
        first.corner,
    )


def picked(samples: Questions, rows: np.ndarray) -> Questions:
    """Some questions."""
    return Questions(
        samples.images,
        samples.picture[rows],
        {k: v[rows] for k, v in samples.tables.items()},
        samples.fields,
        samples.shape,
        samples.corner,
    )


def stacked(a: Questions, b: Questions) -> Questions:
    """Questions about different pictures, one after the other."""
    return Questions(
        np.concatenate([a.images, b.images]),
        np.concatenate([a.picture, b.picture + len(a.images)]),
        {k: np.concatenate([a.tables[k], b.tables[k]]) for k in a.tables},
        a.fields,
        a.shape,
        a.corner,
    )


def widened(samples: Questions, n: int) -> Questions:
    """The same with presence tables of a common width."""
    tables = dict(samples.tables)
    before = tables["existence"]
    tables["existence"] = np.pad(before, ((0, 0), (0, n - before.shape[1])))
    n_tasks = samples.fields["task"].n
    return Questions(
        samples.images, samples.picture, tables, question_fields(n_tasks, n, n, n + 1), samples.shape, samples.corner
    )
