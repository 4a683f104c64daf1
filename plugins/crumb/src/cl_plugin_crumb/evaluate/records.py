"""What a CRUMB run notes along the way, and the files it makes of it: the csv files of the authors' scripts.

Shapes: N test images, K classes, k as in top-k.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pandas as pd
from attrs import define, field

from cl_kernel import Stream
from cl_plugin_crumb.evaluate import accuracy, batches, tables
from cl_plugin_crumb.settings import Crumb

DISTURBED = ("spatial", "feature")
"""Disturbances of the shape-bias tests; images in another style are a third."""


@define(eq=False)
class Records:
    """Accuracies of every epoch and task, statistics of the codebook, and what is known of each test image.

    :param scores: those of the last evaluation: source -> set -> percent for each k.
    :param last: of the test images one by one after the last task: right or wrong plainly and disturbed, labels, codes.
    """

    options: Crumb
    epochs: list[list[dict[str, Any]]] = field(factory=list)
    tasks: list[dict[str, Any]] = field(factory=list)
    stats: list[dict[str, Any]] = field(factory=list)
    scores: dict[str, dict[str, list[float | None]]] = field(init=False, factory=dict)
    last: dict[str, np.ndarray] = field(init=False, factory=dict)

    def tally(self, labels: np.ndarray, scores: Mapping[str, np.ndarray], by_stage: list[list[int]]) -> None:
        """Note direct and mem accuracies on all, first-task and current classes: one pass gives them all."""
        seen = np.isin(labels, [c for classes in by_stage for c in classes])
        held = np.zeros(len(labels), bool)
        if self.options.validate:
            held = np.random.default_rng(0).random(len(labels)) < 0.25
        ks = self.options.top_k
        self.scores = {}
        for source, values in scores.items():
            rows = seen & ~held
            three = accuracy.by_task(values[rows], labels[rows], by_stage, ks)
            self.scores[source] = {f"test_{name}": numbers for name, numbers in three.items()}
            if self.options.validate:
                rows = seen & held
                self.scores[source]["val_all"] = accuracy.by_task(values[rows], labels[rows], by_stage, ks)["all"]

    def end_epoch(self, task: int) -> None:
        """The last evaluation was that of an epoch of this task."""
        if len(self.epochs) <= task:
            self.epochs.append([])
        self.epochs[task].append(self.scores)

    def end_task(self, task: int, epoch: int = -1) -> None:
        """The task's accuracies are those of this epoch."""
        if self.epochs:
            self.tasks.append(self.epochs[task][epoch])

    def folder(self, root: Path, stream: Stream, run: int) -> Path:
        """Where the files of a run lie."""
        info = stream.info
        scenario, offline = str(info.get("scenario", stream.name)), bool(info.get("offline"))
        return root / "crumb" / tables.folder(scenario, "Crumb", "Network", offline=offline, runs=[run])

    def write(self, folder: Path, run: int, stored_bytes: int, n_blocks: int, n_classes: int) -> None:
        """The csv files, as far as the run has come; those about single images once it is over."""
        n_ks = range(len(self.options.top_k))

        def pick(scores: Mapping[str, Any], source: str, name: str) -> list[float | None]:
            return [scores[source][name][at] for at in n_ks]

        given = {
            str(run): {
                source: {
                    name: {
                        "all_epochs": [
                            [pick(e, source, name) for e in task] if name in task[0][source] else []
                            for task in self.epochs
                        ],
                        "best_epochs": [pick(t, source, name) for t in self.tasks if name in t[source]],
                    }
                    for name in tables.SETS
                }
                for source in self.epochs[0][0]
            }
        }
        files = tables.texts(given, self.options.top_k)
        if self.stats:
            files["mem_stats.csv"] = tables.mem_stats([{**row, "run": run} for row in self.stats])
        files["hyperparams.csv"] = tables.hyper_parameters(
            {**attrs.asdict(self.options), "seed": run, "stored_bytes": stored_bytes}
        )
        if self.last:
            files |= self._by_image(run, n_blocks, n_classes)
            if "codes" in self.last:
                folder.mkdir(parents=True, exist_ok=True)
                np.savez_compressed(
                    folder / f"{batches.CODES}_run{run}.npz", codes=self.last["codes"], labels=self.last["labels"]
                )
        tables.write(folder, files)

    def _by_image(self, run: int, n_blocks: int, n_classes: int) -> dict[str, str]:
        """Accuracy batch by batch, plainly and disturbed; how often each block stands for a slice."""
        last = self.last
        table = batches.batch_table(self.options.arm, run, last["right"])
        files = {f"batchwise_accs_run{run}.csv": table.to_csv(index=False)}
        if disturbed := {kind: last[kind] for kind in (*DISTURBED, "style") if kind in last}:
            table = batches.shape_bias_table(run, last["right"], disturbed)
            files[f"shape_bias_accs_run{run}_top1.csv"] = table.to_csv(index=False)
        if "codes" in last:
            counts = batches.usage(last["codes"], n_blocks)
            files["memory_blocks_usage.csv"] = pd.DataFrame(
                {"block": range(n_blocks), "count": counts, "mean_per_image": counts / len(last["codes"])}
            ).to_csv(index=False)
            by_class = batches.class_slots(last["codes"], last["labels"], n_classes, n_blocks)
            files |= {
                f"class_memory_slot_counts_slice{s}.csv": pd.DataFrame(counted).to_csv()
                for s, counted in enumerate(by_class)
            }
        return files

    def state(self) -> dict[str, Any]:
        """What was noted so far."""
        return {"epochs": self.epochs, "tasks": self.tasks, "stats": self.stats}

    def load(self, tree: Mapping[str, Any]) -> None:
        """Take over what :meth:`state` gave."""
        self.epochs, self.tasks, self.stats = tree["epochs"], tree["tasks"], tree["stats"]
