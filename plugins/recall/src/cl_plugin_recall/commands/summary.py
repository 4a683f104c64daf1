"""``clk recall summary``: mIoU of runs and reports side by side."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen

from cl_kernel import BadInput, write_text
from cl_plugin_recall.commands import METRIC
from cl_plugin_recall.evaluate import report
from cl_plugin_recall.experiments import TESTS

Handler = Callable[[Namespace, Any], int]
COLUMNS = (
    "experiment",
    "structure",
    "method",
    "source",
    "profile",
    "old",
    "new",
    "all without bg",
    "all with bg",
    "mean of steps",
    "delta to joint",
)
N_TEXT = 5
"""Columns that hold words."""


@frozen(kw_only=True)
class Row:
    """One run, or one of its comparison runs.

    :param seen: values of the metric after each step.
    :param data: identifies the images; a delta is taken only between equal ones.
    """

    name: str
    structure: str
    method: str
    source: str
    profile: str
    n_first: int
    seen: list[dict[str, Any]]
    data: str
    finished: bool

    @property
    def iou(self) -> list[float | None]:
        """IoU of every label after the last step, background first."""
        found = {key[4:]: value for key, value in self.seen[-1].items() if key.startswith("iou/")}
        return list(found.values()) if "background" in found else [None, *found.values()]

    @property
    def summary(self) -> report.Summary:
        """Means of old, new and all classes after the last step."""
        return report.summarise(self.iou, self.n_first)

    @property
    def average(self) -> float:
        """Mean over steps of the mean IoU of all classes known, in per cent, as the field reports it."""
        return float(100 * np.mean([values["all"] for values in self.seen if values.get("all") is not None]))

    def cells(self, joint: float | None) -> tuple[str, ...]:
        """The row as text."""
        s = self.summary
        return (
            self.name if self.finished else f"{self.name} (not finished: {len(self.seen)} steps)",
            self.structure,
            self.method,
            self.source,
            self.profile,
            _cell(s.old),
            _cell(s.new),
            _cell(s.all_without_background),
            _cell(s.all_with_background),
            _cell(self.average),
            "-" if joint is None or not self.finished or self.structure == "joint" else _cell(s.delta(joint)),
        )


def summary(parser: ArgumentParser) -> Handler:
    """Summarise run folders (metrics.json), folders of runs, or text reports of the reference.

    Comparison runs stand below their run; runs of another kind are left out and named; a run that is not finished says
    so in its row. A delta is taken only to a joint run of the same data and profile, unless a value is given.
    """
    parser.add_argument("paths", nargs="+", type=Path, metavar="RUN|DIR|REPORT.txt")
    parser.add_argument("--format", choices=("table", "markdown", "latex", "text"), default="table")
    parser.add_argument("--old", type=int, default=0, help="step-0 class count where a report's name does not tell it")
    parser.add_argument(
        "--joint",
        type=float,
        default=None,
        help="joint mIoU in per cent (default: that of a joint run of the same data among the paths)",
    )
    parser.add_argument("--steps", action="store_true", help="also mIoU after every step and IoU of every class")
    parser.add_argument("--output", type=Path, default=None, metavar="FILE")

    def handle(namespace: Namespace, console: Any) -> int:
        folders = [run for path in namespace.paths for run in find_runs(path)]
        reports = [path for path in namespace.paths if path.is_file()]
        rows, foreign = read_rows(folders)
        for folder, reason in foreign:
            console.say(f"left out {folder}: {reason}")
        if not rows and not reports:
            raise BadInput(
                "no runs of this plugin and no reports found",
                where=", ".join(map(str, namespace.paths)),
                fix="give run folders of clk run",
            )
        given: float | None = namespace.joint
        fallback = report.JOINT_FALLBACK if given is None else given
        text = "".join(report.summarise_report(p, n_old=namespace.old or None, joint=fallback) for p in reports)
        joints = [given if given is not None else joint_of(row, rows) for row in rows]
        cells = [row.cells(joint) for row, joint in zip(rows, joints, strict=True)]
        if namespace.format == "text":
            text += "".join(
                report.summary_text(f"{row.name} {row.source}", row.iou, row.n_first, joint)
                for row, joint in zip(rows, joints, strict=True)
            )
        tables = [("mIoU in per cent after the last step", COLUMNS, cells)] if cells else []
        tables += step_tables(rows) if namespace.steps else []
        for title, columns, body in tables:
            if namespace.format == "table":
                console.table(title, columns, body)
            elif namespace.format == "latex":
                text += _latex(columns, body)
            elif namespace.format == "markdown":
                text += (f"\n{title}\n\n" if namespace.steps else "") + _markdown(columns, body)
        if text:
            console.print(text.strip("\n"))
        if namespace.output:
            write_text(namespace.output, text or "".join(_markdown(columns, body) for _, columns, body in tables))
        console.json(
            {
                "rows": [dict(zip(COLUMNS, row, strict=True)) for row in cells],
                "left out": [{"folder": str(folder), "reason": reason} for folder, reason in foreign],
            }
        )
        return 0

    return handle


def find_runs(path: Path) -> Iterator[Path]:
    """Run folders at a path, comparison runs behind theirs."""
    if path.is_file():
        return
    if not path.is_dir():
        raise BadInput("no such run folder or report", where=str(path))
    inner = [path] if (path / "metrics.json").is_file() else sorted(p.parent for p in path.glob("*/metrics.json"))
    for folder in inner:
        yield folder
        for name in ("comparisons", "beside"):
            yield from sorted(p.parent for p in (folder / name).glob("*/metrics.json"))


def read_rows(folders: Sequence[Path]) -> tuple[list[Row], list[tuple[Path, str]]]:
    """Rows of the runs that can be summarised, and what the others lack."""
    rows, foreign = [], []
    for folder in folders:
        try:
            rows.append(_row(folder))
        except (KeyError, IndexError, OSError, ValueError, TypeError) as error:
            foreign.append((folder, f"no run with the metric {METRIC} ({type(error).__name__}: {error})"))
    return rows, foreign


def _row(folder: Path) -> Row:
    info = json.loads((folder / "run.json").read_text())
    content = json.loads((folder / "metrics.json").read_text())
    seen = [values for values in content["metrics"][METRIC]["seen"] if any(k.startswith("iou/") for k in values)]
    sizes = [len(classes) for classes in content["classes"]]
    within = folder.parent.name in ("comparisons", "beside")
    source = info.get("pieces", {}).get("source", "-").split(":")[-1]
    return Row(
        name=f"{folder.parent.parent.name} / {folder.name}" if within else folder.name,
        structure=_structure(sizes),
        method=info.get("pieces", {}).get("learner", "-").split(":")[-1],
        source={"gan": "GAN", "flickr": "Web"}.get(source, source) if len(sizes) > 1 else "-",
        profile=info.get("profile", ""),
        n_first=sizes[0],
        seen=_not_empty(seen),
        data=f"{info.get('profile', '')} {content['data']['name']} {sum(sizes)}",
        finished=bool(content.get("finished")) and len(seen) == len(sizes),
    )


def _not_empty(seen: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if not seen:
        raise ValueError("no step was validated")
    return seen


def _structure(sizes: Sequence[int]) -> str:
    if len(sizes) == 1:
        return "joint"
    found = next((test.structure for test in TESTS if list(test.sizes) == list(sizes)), "")
    if found:
        return found
    equal = len(set(sizes[1:])) == 1
    return "-".join(map(str, sizes[:2] if equal else sizes))


def joint_of(row: Row, rows: Sequence[Row]) -> float | None:
    """Mean over the finished joint runs of the same data and profile; None without any."""
    found = [
        r.summary.all_with_background for r in rows if r.structure == "joint" and r.data == row.data and r.finished
    ]
    return float(np.mean(found)) if found else None


def step_tables(rows: Sequence[Row]) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """MIoU after every step, and IoU of every class after the last one."""
    longest = max((len(row.seen) for row in rows), default=0)
    steps = [
        (
            row.name,
            row.method,
            *(_per_cent(row.seen[k].get("all")) if k < len(row.seen) else "" for k in range(longest)),
        )
        for row in rows
    ]
    tables = [("mIoU of all classes known after each step", ("run", "method", *map(str, range(longest))), steps)]
    for names in dict.fromkeys(tuple(k[4:] for k in row.seen[-1] if k.startswith("iou/")) for row in rows):
        same = [row for row in rows if tuple(k[4:] for k in row.seen[-1] if k.startswith("iou/")) == names]
        body = [(row.name, *(_per_cent(row.seen[-1][f"iou/{name}"]) for name in names)) for row in same]
        tables.append(("IoU of each class after the last step", ("run", *names), body))
    return tables


def _per_cent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _markdown(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def _latex(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    body = [" & ".join(part.replace("_", r"\_") for part in row) + r" \\" for row in rows]
    return (
        "\n".join(
            [
                r"\begin{tabular}{" + "l" * N_TEXT + "r" * (len(columns) - N_TEXT) + "}",
                " & ".join(columns) + r" \\ \hline",
                *body,
                r"\end{tabular}",
            ]
        )
        + "\n"
    )
