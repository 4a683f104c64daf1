"""The reference's text report, and its summary across reports."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen

from cl_kernel import BadInput
from cl_plugin_recall.experiments import TESTS

JOINT_FALLBACK = 71.0
"""Joint mIoU in per cent that the summary compares with when no joint run is given."""


def _text(values: Sequence[float | None]) -> list[str]:
    return ["None" if value is None else f"{value:.3f}" for value in values]


def block(
    step: int, scores: Mapping[str, Any], *, loss: float | None, old: Sequence[int] = (), new: Sequence[int] = ()
) -> str:
    """Text of one validated step, as the reference appends it; ``class accuracy`` is precision."""
    lines: list[tuple[str, Any]] = [
        ("LOSS", loss),
        ("mIoU", scores["miou"]),
        ("class_iou", _text(scores["class_iou"])),
        ("mean class accuracy", scores["mean_precision"]),
        ("mean pixel accuracy", scores["pixel_accuracy"]),
        ("class accuracy", _text(scores["precision"])),
    ]
    if step:
        lines += [
            (f"old mIoU {list(old)}", scores["miou_old"]),
            (f"new mIoU {list(new)}", scores["miou_new"]),
            (f"old mean accuracy {list(old)}", scores["precision_old"]),
            (f"new mean accuracy {list(new)}", scores["precision_new"]),
        ]
    banner = f"{'*' * 20} STEP {step} {'*' * 20}\n\n"
    return banner + "".join(f"{key}:\n{value}\n\n" for key, value in lines)


def read_blocks(text: str) -> list[list[float | None]]:
    """All ``class_iou`` lists of a report, in order."""
    blocks = []
    for match in re.finditer(r"class_iou\s*:?\s*\n?\s*(\[[^\]]*\])", text):
        values = ast.literal_eval(match.group(1))
        blocks.append([None if value in (None, "None") else float(value) for value in values])
    return blocks


@frozen(kw_only=True)
class Summary:
    """mIoU in per cent of one experiment: old are the step-0 classes without background."""

    old: float | None
    new: float | None
    all_without_background: float
    all_with_background: float

    def delta(self, joint: float = JOINT_FALLBACK) -> float:
        """All classes with background, minus the joint value."""
        return self.all_with_background - joint


def summarise(iou: Sequence[float | None], n_old: int) -> Summary:
    """Means of old, new and all classes from per-class IoU in [0, 1]; those without a value are left out."""

    def percent(values: Sequence[float | None]) -> float | None:
        defined = [value for value in values if value is not None]
        return float(100 * np.mean(defined)) if defined else None

    return Summary(
        old=percent(iou[1 : n_old + 1]),
        new=percent(iou[n_old + 1 :]),
        all_without_background=percent(iou[1:]) or 0.0,
        all_with_background=percent(iou) or 0.0,
    )


def first_classes(name: str) -> int | None:
    """Step-0 class count told by a report's name: ``T3_`` or a structure string such as ``15-1``."""
    if match := re.search(r"T(\d)_", name):
        index = int(match.group(1))
        if index < len(TESTS):
            return TESTS[index].sizes[0]
    if match := re.search(r"(?<!\d)(\d+)-\d+", name):
        return int(match.group(1))
    return None


def structure_text(name: str) -> str:
    """``15-1`` for a report named ``... (T3_P...)``; empty if the name has no test index."""
    match = re.search(r"T(\d)_", name)
    if not match or int(match.group(1)) >= len(TESTS):
        return ""
    sizes = TESTS[int(match.group(1))].sizes
    return "-".join(str(size) for size in sizes[:2])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def summary_text(path: str, iou: Sequence[float | None], n_old: int, joint: float | None = JOINT_FALLBACK) -> str:
    """The reference's paragraph about one report, one decimal, ``&``-separated."""
    source = "GAN" if "gan" in Path(path).name.lower() else "FLICKR"
    label = {"GAN": "GAN", "FLICKR": "Web"}[source]
    s = summarise(iou, n_old)
    structure = structure_text(Path(path).name)
    head = f"{structure}   {source}" if structure else source
    return (
        f"{path}\n{head}\nperClassIoU (no bg):\n"
        f"{label} &   & {_number(s.old)} & {_number(s.new)} & {_number(s.all_without_background)}\n"
        f"perClassIoU (with bg):\n"
        f"{label} &   & {_number(s.old)} & {_number(s.new)} & {_number(s.all_with_background)}"
        f" & {'-' if joint is None else format(s.delta(joint), '.1f')}\n\n"
    )


def summarise_report(path: Path, *, n_old: int | None = None, shown_as: str = "", joint: float = JOINT_FALLBACK) -> str:
    """Summary of a report file; the last ``class_iou`` block counts.

    :raises BadInput: without such a block, or when the step-0 class count cannot be told.
    """
    blocks = read_blocks(path.read_text())
    if not blocks:
        raise BadInput("report holds no class_iou list", where=str(path))
    n_old = n_old or first_classes(path.name)
    if n_old is None:
        raise BadInput("the report's name tells no test and no structure", where=str(path), fix="give --old N")
    return summary_text(shown_as or str(path), blocks[-1], n_old, joint)
