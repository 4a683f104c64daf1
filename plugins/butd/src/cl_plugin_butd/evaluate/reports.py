"""What a run leaves in ``reports/`` of its folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cl_kernel import write_json
from cl_plugin_butd.evaluate.figures import draw
from cl_plugin_butd.evaluate.sheet import draw_sheet
from cl_plugin_butd.evaluate.tables import confusion, not_border, person_table, zero_forgetting

if TYPE_CHECKING:
    from cl_kernel import Stream, StreamContext


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
    write_json(
        folder / "confusion.json", {"classes": list(stream.class_names), "sets": tables, **_border(stream, predicted)}
    )
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
    if hasattr(learner, "look") and "box" in stream.spec:
        draw_sheet(folder / "contact-sheet.png", learner, stream)


def _border(stream: Stream, predicted: np.ndarray) -> dict[str, Any]:
    """Share of answers that are not "border", by test set, where that is an answer."""
    if "border" not in stream.class_names:
        return {}
    border = stream.class_names.index("border")
    return {"not_border": {name: not_border(predicted[rows], border) for name, rows in stream.test_sets.items()}}


def write_promise(ctx: StreamContext, report: dict[str, Any], promised: bool) -> None:
    """Leave ``reports/zero-forgetting.json`` and say whether the logits of earlier tasks are the same to the bit.

    :param promised: whether the method leaves everything of earlier tasks alone.
    """
    rows = ctx.progress.rows
    sets = list(ctx.stream.test_sets)
    if len(sets) == len(ctx.stages) and len(ctx.stages) > 1:
        scores = [[_first(row["values"], name) for name in sets] for row in rows]
        report = {**report, **zero_forgetting(scores)} if len(scores) == len(sets) else report
    write_json(ctx.folder / "reports" / "zero-forgetting.json", report)
    said = "yes" if report["bit_equal"] else "no"
    if len(ctx.stages) > 1 and (promised or not report["bit_equal"]):
        ctx.note(f"logits of earlier tasks after every stage, bit-equal: {said}")


def _first(values: Any, name: str) -> float | None:
    scored = next(iter(values.values())).get(name)
    return next(iter(scored.values())) if scored else None


def write_price(ctx: StreamContext, price: dict[str, Any]) -> None:
    """Leave ``reports/price.json``, and say what the last task added."""
    write_json(ctx.folder / "reports" / "price.json", price)
    name, parts = list(price["tasks"].items())[-1]
    total = sum(part["bytes"] for part in parts.values())
    share = ", ".join(f"{key} {part['bytes']:,} B ({part['parameters']:,})" for key, part in parts.items())
    ctx.note(
        f"price of task {name}: {total:,} bytes ({share}); shared network {price['shared']['bytes']:,} bytes; "
        f"remembered by the method {price['method']['bytes']:,} bytes"
    )
