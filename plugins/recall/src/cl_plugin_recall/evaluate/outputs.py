"""What a finished run leaves for people: the reference's text report, scores a step, overlay pictures."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from cl_kernel import StreamContext, write_text
from cl_plugin_recall.data.images import decode_image
from cl_plugin_recall.evaluate.palette import legend, overlay, picture
from cl_plugin_recall.evaluate.report import block
from cl_plugin_recall.evaluate.validation import validate_run
from cl_plugin_recall.experiments import TESTS
from cl_plugin_recall.gin_bindings import as_gin
from cl_plugin_recall.method.parts import Learning
from cl_plugin_recall.weights.names import Names


def names_of(learner: Learning) -> Names:
    """The reference's names of a learner's artefacts."""
    s = learner.settings
    sizes = tuple(learner.sizes)
    test: int | str = next((t.index for t in TESTS if t.sizes == sizes), "-".join(map(str, sizes[:2])))
    first, helpers, later = learner.stream.info.get("protocols", ("overlapped",) * 3)
    return Names(
        test_name=s.test_name,
        test=test,
        sizes=sizes,
        source=learner.source.name if learner.source and len(sizes) > 1 else None,
        index=(
            s.parameters_common_index,
            s.parameters_first_step_index,
            getattr(s, "parameters_helper_index", 0),
            s.parameters_incremental_index,
        ),
        protocols=(first, helpers, later),
        one_class=getattr(s, "helper_decoders_one_class", False),
        mix=getattr(s, "mix_labels", False),
    )


def write_reports(learner: Learning, ctx: StreamContext) -> None:
    """``outputs/NAME.txt`` as the reference writes it (never appended to), ``steps.jsonl``, ``operative.gin``."""
    names = names_of(learner)
    folder = ctx.folder / "outputs"
    folder.mkdir(exist_ok=True)
    protocols = learner.stream.info.get("protocols", ("overlapped",) * 3)
    write_text(folder / "operative.gin", as_gin(learner.settings, protocols))
    if not learner.settings.validate:
        return
    text, lines = "", ""
    for step, found in validate_run(learner, ctx.folder).items():
        scores = found.scores
        text += block(step, scores, loss=found.loss, old=found.old, new=found.new)
        lines += json.dumps({"step": step, "classes": names.n_seen(step), "loss": found.loss, **scores}) + "\n"
    write_text(folder / names.report.rsplit("/", 1)[-1], text)
    write_text(folder / "steps.jsonl", lines)


def write_overlays(learner: Learning, ctx: StreamContext) -> None:
    """One sheet: photo, truth, prediction of some validation images, spread over the set."""
    test = learner.stream.test
    rows = np.unique(np.linspace(0, len(test) - 1, min(learner.settings.overlays, len(test))).astype(np.int64))
    batch: dict[str, Any] = test.take(rows, ["image", "mask"])
    images = [
        decode_image(data, f"test image {row}") if isinstance(data, bytes) else data
        for data, row in zip(batch["image"], rows, strict=True)
    ]
    predicted = learner.predictor(learner.decoder).arrays(images)
    sheet = [
        [image, overlay(image, mask), overlay(image, guess)]
        for image, mask, guess in zip(images, batch["mask"], predicted, strict=True)
    ]
    if images[0].shape[0] <= 100:
        sheet = [[np.kron(part, np.ones((2, 2, 1), np.uint8)) for part in row] for row in sheet]
    shown = {int(c) for mask in (*batch["mask"], *predicted) for c in np.unique(mask)} - {0, 255}
    if shown:
        names = learner.stream.class_names
        sheet.append([legend(sorted(shown), names, max(240, 3 * max(row[0].shape[1] for row in sheet)))])
    picture(sheet, ctx.folder / "overlays" / "photo-truth-prediction.png")
