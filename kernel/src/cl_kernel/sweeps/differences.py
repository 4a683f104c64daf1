"""In which settings the learners of a sweep differ, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cl_kernel.cli.console import Console
from cl_kernel.registry import Registry
from cl_kernel.running.plan import NEUTRAL, plan
from cl_kernel.running.training import telling
from cl_kernel.sweeps.sweep import Task, read_spec, tasks_of

SEED = ("run.seed",)
COMMON = 2
"""A setting that fewer learners have is a method's own."""


def differing(flats: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Settings that at least two rows have and that are not equal in all: name -> row -> value."""
    names = list(dict.fromkeys(name for flat in flats.values() for name in flat))
    found = {}
    for name in names:
        values = {row: flat[name] for row, flat in flats.items() if name in flat}
        if len(values) >= COMMON and len({repr(value) for value in values.values()}) > 1:
            found[name] = values
    return found


def of_tasks(registry: Registry, tasks: Sequence[Task]) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, str]]]:
    """By learner: the settings in which a sweep's learners differ, and what of ``train`` each has no setting for.

    Each learner is told by its first run; what else a sweep varies is in its table of tasks.
    """
    flats: dict[str, dict[str, Any]] = {}
    ignored: dict[str, dict[str, str]] = {}
    for task in tasks:
        if task.refused:
            continue
        planned = plan(registry, task.request)
        name = planned.pieces["learner"][0].name if "learner" in planned.pieces else planned.name
        if name in flats:
            continue
        pieces = {section: offer.name for section, (offer, _) in planned.pieces.items() if section != "learner"}
        settings = telling(planned.resolved.flat())
        flats[name] = pieces | {k: v for k, v in settings.items() if k not in NEUTRAL and k not in SEED}
        if planned.ignored:
            ignored[name] = planned.ignored
    return differing(flats), ignored


def show_differences(console: Console, registry: Registry, tasks: Sequence[Task]) -> None:
    """A table of what differs between the learners, a row a setting."""
    found, ignored = of_tasks(registry, tasks)
    rows = list(dict.fromkeys(row for values in found.values() for row in values))
    if rows:
        table = [[name, *(_cell(values.get(row, "")) for row in rows)] for name, values in found.items()]
        console.table("settings that differ between the learners", ("setting", *rows), table)
    else:
        console.print("the learners differ in no setting that several of them have")
    for values in ignored.values():
        for key, why in values.items():
            console.print(f"{key} is left out: {why}")


def _cell(value: Any) -> str:
    return "" if value is None else str(value)


def show(path: Path, console: Console) -> int:
    """``clk show FILE.yaml``: the tasks of a sweep and in which settings its learners differ."""
    from cl_kernel.registry import discover

    registry, spec = discover(), read_spec(path)
    tasks = tasks_of(registry, spec, Path("runs") / spec.name)
    console.print(f"sweep {spec.name}: {len(tasks)} tasks")
    show_differences(console, registry, tasks)
    found, ignored = of_tasks(registry, tasks)
    console.json({"sweep": spec.name, "tasks": len(tasks), "differences": found, "ignored": ignored})
    return 0
