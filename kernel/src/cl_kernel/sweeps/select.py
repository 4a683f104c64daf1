"""``clk sweep --select METRIC``: settings chosen on validation samples, then scored once on the test samples.

What is varied falls in three: the seed, over which means are taken; pieces, the stream and what may be kept, each
combination of which is a row with a choice of its own; and every other setting, which is chosen. Named arms that say
any of a row are rows, and the grid inside an arm is chosen for it alone.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from cl_kernel.cli.console import Console
from cl_kernel.contract.errors import BadSetting, UnknownName
from cl_kernel.registry import Registry
from cl_kernel.sweeps.sweep import Spec, Task, combinations

LOWER = ("forgetting", "kept bytes", "seconds")
COLUMNS = ("average_accuracy", "average_incremental_accuracy", "learning_accuracy", "task-aware", *LOWER)
SHARE = 0.1
"""Part of the training samples kept apart, where the file does not say."""
ROWS = ("test", "plugin", "profile", "dataset", "learner", "model", "replay", "memory", "budget", "run.budget")
SEEDS = ("seed", "run.seed")


@frozen(kw_only=True)
class Tried:
    """One choice of settings for a row: its seeds' validation scores."""

    row: Mapping[str, Any]
    settings: Mapping[str, Any]
    scores: Mapping[str, float]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.fmean(self.scores.values())

    def plain(self) -> dict[str, Any]:
        """As it is written to ``selection.json``."""
        return {"settings": dict(self.settings), "validation": self.mean, "by seed": dict(self.scores)}


def on_validation(spec: Spec, metric: str, registry: Registry) -> Spec:
    """The sweep with every run scored on validation samples.

    :param metric: a metric by name, or a column of ``clk compare``.
    :raises BadSetting: for a file that itself says what is scored, or that varies nothing to choose from.
    """
    known = {offer.record.name for offer in registry.all("metric")}
    said = {key for _, values in combinations(spec) for key in values}
    if "stream.scored" in said:
        raise BadSetting("the file says stream.scored, which --select sets", where=spec.name)
    base = {"stream.validation": SHARE, **spec.base, "stream.scored": "validation"}
    if metric in known and "metrics" not in said:
        base["metrics"] = metric
    return evolve(spec, base=base)


def is_of_row(key: str) -> bool:
    """Whether what varies under this key makes another row of the table."""
    return key in ROWS or key.startswith(("stream.", "dataset."))


def named_rows(spec: Spec) -> set[str]:
    """Axes of named arms that are rows: an arm says a piece, the stream or the memory."""
    arms = {axis: options for axis, options in spec.grid.items() if isinstance(options, dict)}
    return {axis for axis, options in arms.items() if any(is_of_row(key) for arm in options.values() for key in arm)}


def parted(values: Mapping[str, Any], named: Collection[str] = ()) -> tuple[dict[str, Any], dict[str, Any], str]:
    """What was varied: the row's part, the part to choose, the seed.

    :param named: axes of named arms that are rows.
    """
    row = {k: v for k, v in values.items() if k in named or is_of_row(k)}
    seed = next((str(values[key]) for key in SEEDS if key in values), "")
    return row, {k: v for k, v in values.items() if k not in row and k not in SEEDS}, seed


def tried(tasks: Sequence[Task], score: Callable[[Path], float | None], named: Collection[str] = ()) -> list[Tried]:
    """Choices with their scores; runs that did not finish are left out.

    :param score: of a run folder. :param named: axes of named arms that are rows.
    """
    found: dict[str, Tried] = {}
    for task in tasks:
        value = None if task.refused else score(task.folder)
        if value is None:
            continue
        row, settings, seed = parted(task.values, named)
        key = repr((row, settings))
        earlier = found[key].scores if key in found else {}
        found[key] = Tried(row=row, settings=settings, scores={**earlier, seed: value})
    return list(found.values())


def chosen(all_tried: Sequence[Tried], *, higher: bool) -> list[Tried]:
    """The best choice of each row: the first of equals, by its mean over the seeds.

    A choice that lacks seeds which others of its row have is passed over.
    """
    best: dict[str, Tried] = {}
    most: dict[str, int] = {}
    for one in all_tried:
        most[repr(one.row)] = max(most.get(repr(one.row), 0), len(one.scores))
    for one in all_tried:
        row = repr(one.row)
        if len(one.scores) < most[row]:
            continue
        if row not in best or (one.mean > best[row].mean if higher else one.mean < best[row].mean):
            best[row] = one
    return list(best.values())


def final(spec: Spec, tasks: Sequence[Task], winners: Sequence[Tried]) -> tuple[Spec, dict[str, Task]]:
    """The sweep of the chosen settings on the test samples, and which run of ``tasks`` each of its runs repeats."""
    named = named_rows(spec)
    keys = {repr((one.row, one.settings)) for one in winners}
    full = {repr(shown): values for shown, values in combinations(spec)}
    items, repeats = [], {}
    for task in tasks:
        if repr(parted(task.values, named)[:2]) in keys:
            items.append({**full[repr(dict(task.values))], "stream.scored": "test"})
            repeats[repr(items[-1])] = task
    return evolve(spec, base={}, grid={}, list=items, name=f"{spec.name}-chosen"), repeats


def called(finals: Sequence[Task], repeats: Mapping[str, Task]) -> list[Task]:
    """The chosen settings' runs as the file calls them: its arms' names, and of the settings what it varies."""
    named = [(task, repeats[repr(dict(task.values))]) for task in finals]
    return [evolve(task, arm=tried.arm, values=tried.values) for task, tried in named]


def by_choice(tasks: Sequence[Task], spec: Spec, score: Callable[[Path], float | None]) -> dict[str, list[float]]:
    """Scores of the chosen settings' runs, by row and settings."""
    named = named_rows(spec)
    found: dict[str, list[float]] = {}
    for task in tasks:
        if not task.refused and (value := score(task.folder)) is not None:
            found.setdefault(repr(parted(task.values, named)[:2]), []).append(value)
    return found


def score_of(folder: Path, metric: str) -> float | None:
    """A finished run's figure; None where it has none."""
    from cl_kernel.reports.compare import find_runs, numbers

    if not (folder / "run.json").exists() or not (runs := find_runs([folder])[0]):
        return None
    run = runs[0]
    if metric in run.results.get("metrics", {}):
        return numbers(run, metric).get("score")
    return numbers(run, next(iter(run.results.get("metrics", {})), "")).get(metric)


def show(console: Console, content: Mapping[str, Any]) -> None:
    """What was chosen, a line a row."""
    rows = [
        (
            told(row["row"]) or "all",
            told(row["chosen"]) or "nothing to choose",
            len(row["tried"]),
            row["validation"],
            row["test"],
            row["test std"],
        )
        for row in content["rows"]
    ]
    head = ("for", "chosen", "of", "validation", "test", "test std")
    console.table(f"settings chosen by {content['metric']} on validation samples", head, rows)


def told(values: Mapping[str, Any]) -> str:
    """Values in one line."""
    return " ".join(f"{key}={value}" for key, value in values.items())


def direction(registry: Registry, metric: str, columns: Sequence[str]) -> bool:
    """Whether more of a metric or column is better.

    :raises UnknownName: for what is neither.
    """
    for offer in registry.all("metric"):
        if offer.record.name == metric:
            return bool(offer.record.higher_is_better)
    if metric not in columns:
        names = [offer.record.name for offer in registry.all("metric")]
        raise UnknownName.of("metric or column", metric, [*names, *columns], where="--select")
    return metric not in LOWER


def selection(
    all_tried: Sequence[Tried], winners: Sequence[Tried], tested: Mapping[str, Sequence[float]], metric: str
) -> dict[str, Any]:
    """What is written: everything tried, what was chosen, and the chosen one's test scores."""
    rows = []
    for winner in winners:
        scores = list(tested.get(repr((winner.row, winner.settings)), ()))
        rows.append(
            {
                "row": dict(winner.row),
                "chosen": dict(winner.settings),
                "validation": winner.mean,
                "test": statistics.fmean(scores) if scores else None,
                "test std": statistics.stdev(scores) if len(scores) > 1 else None,
                "test by run": scores,
                "tried": [one.plain() for one in all_tried if one.row == winner.row],
            }
        )
    return {"metric": metric, "rows": rows}
