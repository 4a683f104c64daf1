"""What a run leaves in ``reports/`` of its folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cl_kernel import write_json
from cl_plugin_butd.evaluate.figures import draw
from cl_plugin_butd.evaluate.tables import confusion, person_table

if TYPE_CHECKING:
    from cl_kernel import StreamContext


def write_reports(learner: Any, ctx: StreamContext, n_pictures: int, curve: Sequence[Sequence[float]]) -> None:
    """Write ``reports/`` in the run folder: confusion matrices, pictures with the query marked, the learning curve."""
    stream, folder = ctx.stream, ctx.folder / "reports"
    folder.mkdir(exist_ok=True)
    write_json(folder / "curve.json", {"columns": ["stage", "epoch", "loss"], "rows": [list(r) for r in curve]})
    if not n_pictures:
        return
    labels = stream.test.take(np.arange(len(stream.test)), ["class"])["class"]
    predicted = np.concatenate([out["class"] for out in learner.predict(stream.test)])
    tables = {
        name: confusion(labels[rows], predicted[rows], stream.n_classes).tolist()
        for name, rows in stream.test_sets.items()
    }
    write_json(folder / "confusion.json", {"classes": list(stream.class_names), "sets": tables})
    if "person" in stream.spec:
        taken = stream.test.take(np.arange(len(stream.test)), ["argument", "task"])
        report = person_table(taken["argument"], taken["task"], predicted == labels)
        write_json(
            folder / "persons.json",
            {
                "table": np.where(np.isnan(report["table"]), None, report["table"].astype(object)).tolist(),
                "mean": report["mean"],
            },
        )
    draw(folder, stream, tables, curve, labels, predicted, n_pictures)
