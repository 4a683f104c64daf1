"""The files the authors' code leaves after each increment, beside the run's own.

``a``, ``b``: first and last class rank trained so far. Accuracies are percentages.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from attrs import define, field

from cl_kernel import Stage, StreamContext, Tree, subset, write_json
from cl_kernel.torch.loaders import label_name
from cl_plugin_remind.evaluate.metrics import top_k
from cl_plugin_remind.method.codec import PqCodec
from cl_plugin_remind.method.step import FEATURES, ITEM, LABEL
from cl_plugin_remind.weights import buffers, checkpoints

if TYPE_CHECKING:
    from cl_plugin_remind.method.learner import Remind

GROUPS = ("base_classes", "non_base_classes", "seen_classes")


@define
class AuthorsFiles:
    """Accuracy lists that grow with the increments."""

    lists: dict[str, list[float]] = field(factory=dict)

    def write(self, stage: Stage, ctx: StreamContext, learner: Remind) -> None:
        """Score all seen test samples and write the files into ``authors/`` of the run folder."""
        folder = (ctx.resources.folder or Path()) / "authors"
        folder.mkdir(parents=True, exist_ok=True)
        stages = ctx.stages
        base, seen = set(stages[0].classes), [c for s in stages[: stage.index + 1] for c in s.classes]
        labels = _labels(ctx)
        rows = np.flatnonzero(np.isin(labels, seen))
        scores = np.concatenate([out["scores"] for out in learner.predict(subset(ctx.stream.test, rows))])
        truth = labels[rows]
        is_base = np.isin(truth, sorted(base))
        for name, mask in zip(GROUPS, (is_base, ~is_base, np.ones(len(rows), bool)), strict=True):
            if mask.any():
                for k, value in zip((1, 5), top_k(scores[mask], truth[mask]), strict=True):
                    self.lists.setdefault(f"{name}_top{k}", []).append(value)
        prefix = str(ctx.stream.info.get("file_prefix", ""))
        ends = f"min_trained_0_max_trained_{len(seen)}"
        torch.save(np.asarray(scores, np.float32), folder / f"{prefix}preds_{ends}.pth")
        if stage.index > 0:
            write_json(folder / f"{prefix}accuracies_{ends}.json", self.lists)
        model = folder / "remind_model"
        model.mkdir(exist_ok=True)
        checkpoints.save_upper(
            learner.brain.upper, learner.streamer.optimizer, model / f"remind_classifier_F_{len(seen)}.pth"
        )
        if learner.memory is not None and isinstance(learner.memory.codec, PqCodec):
            buffers.save_buffer(model / f"remind_buffer_{len(seen)}.pkl", *_buffer(learner))

    def state(self) -> Tree:
        """The lists."""
        return {name: np.array(values) for name, values in self.lists.items()}

    def load(self, tree: Tree) -> None:
        """Take over what :meth:`state` gave."""
        self.lists = {name: np.asarray(values).tolist() for name, values in tree.items()}


def _labels(ctx: StreamContext) -> np.ndarray:
    test = ctx.stream.test
    name = label_name(test.spec)
    return np.asarray(test.take(np.arange(len(test)), [name])[name])


def _buffer(learner: Remind) -> tuple[Any, Any, Any, Any]:
    memory = learner.memory
    assert memory is not None
    kept = memory.state()["slots"]
    return kept[FEATURES], kept[LABEL], kept[ITEM], memory.codec.quantisers[FEATURES].centroids.cpu().numpy()
