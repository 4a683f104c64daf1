"""``clk recall validate`` and ``dump``: saved steps of a run, scored again and shown."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cl_kernel import BadSetting, write_text
from cl_plugin_recall.evaluate import report

Handler = Callable[[Namespace, Any], int]


def validate(parser: ArgumentParser) -> Handler:
    """Score saved steps of a run again, without training: mIoU, precision, recall and the loss, one image at a time."""
    parser.add_argument("run", type=Path)
    parser.add_argument("--step", type=int, default=None, help="default: every saved step")
    parser.add_argument("--data-root", action="append", default=[], metavar="DIR", help="where the data lies now")

    def handle(namespace: Namespace, console: Any) -> int:
        from cl_plugin_recall.commands.reopening import reopen
        from cl_plugin_recall.evaluate import validation

        learner, step = reopen(namespace.run, namespace.step, namespace.data_root)
        wanted = None if namespace.step is None else [step]
        rows, text, content = [], "", []
        for step, found in validation.validate_run(learner, namespace.run, wanted).items():
            scores, loss = found.scores, found.loss
            text += report.block(step, scores, loss=loss, old=found.old, new=found.new)
            rows.append(
                (
                    step,
                    loss,
                    scores["miou"],
                    scores["miou_old"] if step else None,
                    scores["miou_new"] if step else None,
                    scores["mean_precision"],
                    scores["pixel_accuracy"],
                )
            )
            content.append({"step": step, "loss": loss, **scores})
        write_text(namespace.run / "outputs" / "validation.txt", text)
        console.table(
            "validation of saved steps",
            ("step", "loss", "mIoU", "old (with bg)", "new", "mean precision", "pixel accuracy"),
            rows,
        )
        console.json(content)
        console.print(f"report in {namespace.run / 'outputs' / 'validation.txt'}")
        return 0

    return handle


def dump(parser: ArgumentParser) -> Handler:
    """Write input, label and prediction pictures of validation images for a saved step."""
    parser.add_argument("run", type=Path)
    parser.add_argument("--step", type=int, default=None)
    parser.add_argument("--data-root", action="append", default=[], metavar="DIR", help="where the data lies now")
    parser.add_argument("--rows", default="0-9", help="validation images, as 0-9,42")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")

    def handle(namespace: Namespace, console: Any) -> int:
        from PIL import Image

        from cl_plugin_recall.commands.reopening import reopen
        from cl_plugin_recall.data.images import decode_image
        from cl_plugin_recall.evaluate.palette import colourise

        learner, step = reopen(namespace.run, namespace.step, namespace.data_root)
        test = learner.stream.test
        rows = _row_numbers(namespace.rows, len(test))
        batch = test.take(np.array(rows), ["image", "mask"])
        images = [
            decode_image(data, f"row {row}") if isinstance(data, bytes) else data
            for data, row in zip(batch["image"], rows, strict=True)
        ]
        predicted = learner.predictor(learner.decoder).arrays(images)
        for row, image, mask, guess in zip(rows, images, batch["mask"], predicted, strict=True):
            for kind, picture in (("input", image), ("label", colourise(mask)), ("prediction", colourise(guess))):
                (namespace.output / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(namespace.output / kind / f"{row:05d}.png")
        console.print(f"{len(rows)} images of step {step} in {namespace.output}: input/, label/, prediction/")
        console.json({"step": step, "rows": rows, "output": str(namespace.output)})
        return 0

    return handle


def _row_numbers(text: str, n: int) -> list[int]:
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not first.isdigit() or (last and not last.isdigit()):
            raise BadSetting(f"{part!r} is no row", where="--rows", fix="--rows 0-9,42")
        found += range(int(first), int(last or first) + 1)
    inside = [row for row in found if row < n]
    if not inside:
        raise BadSetting(f"no such validation image; there are {n}", where="--rows")
    return inside
