"""The metric ``segmentation``: mIoU of the step-0 classes, of later ones, and of all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from attrs import frozen

from cl_kernel import Mismatch, Stream
from cl_plugin_recall.data.tables import class_table
from cl_plugin_recall.evaluate.scores import confusion, mean_of, scores

State = dict[str, Any]


@frozen
class Iou:
    """Scores from one confusion matrix; label 0 is background.

    :param brought: class numbers of each step.
    :param background: whether label 0 is a class that counts.
    """

    names: tuple[str, ...]
    brought: tuple[tuple[int, ...], ...]
    background: bool = True

    def start(self) -> State:
        """Nothing counted."""
        return {"matrix": np.zeros((len(self.names), len(self.names)), np.int64)}

    def update(self, state: State, output: Sequence[np.ndarray], target: Sequence[np.ndarray]) -> State:
        """Count label maps of any size; truth outside the classes is void."""
        counted = class_table(range(len(self.names)))
        total = state["matrix"].copy()
        for predicted, truth in zip(output, target, strict=True):
            if predicted.shape != truth.shape:
                raise Mismatch(f"predicted mask of shape {predicted.shape} for truth of shape {truth.shape}")
            total += confusion(truth, predicted, len(self.names), counted)
        return {"matrix": total}

    def merge(self, a: State, b: State) -> State:
        """Sums."""
        return {"matrix": a["matrix"] + b["matrix"]}

    def compute(self, state: State, stage: int | None = None) -> dict[str, float | None]:
        """``all``: known classes and background; ``old``: step-0 classes, ``new``: later ones, both without background.

        The in-run split of the reference (old with background) follows under ``run/``, per-class values under ``iou/``
        and ``precision/``. Without a stage, over the classes that occur in the truth.
        """
        matrix = state["matrix"]
        if not matrix.sum():
            return {"all": None}
        if stage is None:
            known, first, later, before, newest = sorted(np.flatnonzero(matrix.sum(1)).tolist()), [], [], [], []
        else:
            first = list(self.brought[0])
            later = [c for step in self.brought[1 : stage + 1] for c in step]
            known = [*([0] if self.background else []), *first, *later]
            newest = list(self.brought[stage]) if stage else []
            before = [c for c in known if c not in newest] if stage else []
        masked = matrix.copy()
        masked[[c for c in range(len(matrix)) if c not in known]] = 0
        got = scores(masked, known, before, newest)
        iou, precision = got["class_iou"], got["precision"]

        def mean(classes: Sequence[int]) -> float | None:
            return mean_of(iou, classes) if any(iou[c] is not None for c in classes) else None

        values: dict[str, float | None] = {"all": got["miou"]}
        if stage is not None:
            values |= {"old": mean(first), "new": mean(later), "foreground": mean([*first, *later])}
            values |= {f"run/{key}": got[key] for key in ("mean_precision", "pixel_accuracy")}
            if stage:
                values |= {f"run/{key}": got[key] for key in ("miou_old", "miou_new", "precision_old", "precision_new")}
        values |= {f"iou/{self.names[c]}": iou[c] for c in known}
        return values | {f"precision/{self.names[c]}": precision[c] for c in known}


def build(settings: object, stream: Stream) -> Iou:
    """The metric for a stream whose label 0 is background.

    :raises Mismatch: for a stream that has no masks or no step structure.
    """
    if not stream.class_names or any(0 in stage.classes for stage in stream.stages):
        raise Mismatch(
            "this metric wants masks whose label 0 is background, belonging to no stage", where="--metric segmentation"
        )
    return Iou(
        stream.class_names,
        tuple(tuple(stage.classes) for stage in stream.stages),
        bool(stream.info.get("background", True)),
    )
