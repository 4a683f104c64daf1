"""``clk compare`` and ``clk report``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_kernel.cli.console import Console
from cl_kernel.contract.errors import RunConflict, UnknownName

if TYPE_CHECKING:
    from cl_kernel.reports.compare import Group

PLAIN_COLUMNS = (
    "score",
    "task-aware",
    "average_incremental_accuracy",
    "forgetting",
    "memory bytes",
    "kept bytes",
    "score per kB",
    "seconds",
)
"""What a table for people shows when no column is named; CSV and JSON hold all."""
Handler = Callable[[Namespace, Console], int]


def compare(parser: ArgumentParser) -> Handler:
    """Compare runs: one row for all seeds of the same settings."""
    _add_common(parser)
    parser.add_argument("--format", choices=("table", "csv", "markdown", "latex"), default="table")
    parser.add_argument("--column", action="append", default=[], metavar="NAME", help="only these columns; repeatable")
    parser.add_argument("--output", type=Path, default=None, metavar="FILE", help="write there instead of printing")

    def handle(namespace: Namespace, console: Console) -> int:
        from cl_kernel.registry import discover
        from cl_kernel.reports import compare as comparing
        from cl_kernel.storage.files import write_text

        groups = groups_of(namespace, console)
        columns = comparing.columns_of(groups, namespace.column)
        tests = comparing.paired_tests(groups, namespace.against)
        registry = discover()
        found = [(group, comparing.published(group, registry)) for group in groups]
        console.json(
            {
                "rows": comparing.summary_rows(groups, columns),
                "warnings": comparing.unlike(groups),
                "paired": [
                    {
                        key: getattr(test, key)
                        for key in ("label", "against", "n", "difference", "t_test", "wilcoxon", "note")
                    }
                    for test in tests
                ],
                "published": [
                    {"run": group.label, "metric": e.metric, "value": e.value, "where": e.where}
                    for group, expected in found
                    for e in expected
                ],
            }
        )
        if namespace.format == "table" and namespace.output is None:
            show_groups(console, groups, namespace.column or PLAIN_COLUMNS)
            _show_tests(console, tests)
            for line in comparing.unlike(groups):
                console.print(line)
            if not tests and any(len(group.runs) > 1 for group in groups) and len(groups) > 1:
                console.say("paired tests over seeds: name the row to test against, --against ROW")
            for group, expected in found:
                for e in expected:
                    console.print(f"published, for {group.label}: {e.metric} {e.value} {e.where}")
            return 0
        text = comparing.as_csv(groups, columns)
        if namespace.format != "csv":
            write = comparing.as_latex if namespace.format == "latex" else comparing.as_markdown
            parts = []
            for profile, mine in by_profile(groups):
                known = comparing.columns_of(mine)
                shown = [column for column in namespace.column or PLAIN_COLUMNS if column in known]
                header = [f"run (profile {profile})", "n", *(column.replace("_", " ") for column in shown)]
                parts.append(write(header, comparing.text_rows(mine, shown)))
            text = "\n".join(parts)
        if namespace.output is not None:
            write_text(namespace.output, text)
            console.say(f"wrote {namespace.output}")
        else:
            console.print(text.rstrip("\n"))
        return 0

    return handle


def report(parser: ArgumentParser) -> Handler:
    """One HTML page about runs; nothing in it comes from elsewhere."""
    _add_common(parser)
    parser.add_argument(
        "--output", type=Path, default=None, metavar="FILE", help="the page (default: report.html in the first folder)"
    )
    parser.add_argument("--title", default="", help="heading of the page")

    def handle(namespace: Namespace, console: Console) -> int:
        from cl_kernel.registry import discover
        from cl_kernel.reports.page import build_page
        from cl_kernel.storage.files import write_text

        groups = groups_of(namespace, console)
        output = namespace.output or namespace.runs[0] / "report.html"
        title = namespace.title or namespace.runs[0].resolve().name
        page = build_page(groups, discover(), title, namespace.against)
        write_text(output, page)
        console.print(f"wrote {output}")
        console.json({"report": str(output), "nbytes": len(page.encode()), "runs": sum(len(g.runs) for g in groups)})
        return 0

    return handle


def _add_common(parser: ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders, or folders of a sweep")
    parser.add_argument("--metric", default="", metavar="NAME", help="metric (default: each run's first)")
    parser.add_argument("--against", default="", metavar="ROW", help="test the other rows against this one, by seeds")


def groups_of(namespace: Namespace, console: Console) -> list[Group]:
    """Groups of the finished runs that a command names; what is left out is said.

    :raises RunConflict: when none is finished.
    """
    from cl_kernel.reports import compare as comparing

    runs, unfinished = comparing.find_runs(namespace.runs)
    for line in unfinished:
        console.say(f"left out: {line.partition(chr(10))[0]}")
    groups = comparing.group_runs(runs, namespace.metric)
    if not groups:
        raise RunConflict("no finished run to look at", where=", ".join(map(str, namespace.runs)), fix="clk resume RUN")
    return groups


def chosen(groups: Sequence[Group], names: Sequence[str], where: str) -> list[Group]:
    """Groups by label, in the order asked for.

    :raises UnknownName: for a label that none has.
    """
    known = {group.label: group for group in groups}
    for name in names:
        if name not in known:
            raise UnknownName.of("row", name, known, where=where)
    return [known[name] for name in dict.fromkeys(names)]


def by_profile(groups: Sequence[Group]) -> list[tuple[str, list[Group]]]:
    """Groups of each profile: numbers on toy data and the paper's stay apart."""
    profiles = dict.fromkeys(group.profile for group in groups)
    return [(profile, [group for group in groups if group.profile == profile]) for profile in profiles]


def show_groups(console: Console, groups: Sequence[Group], columns: Sequence[str]) -> None:
    """A table for each profile."""
    from cl_kernel.reports import compare as comparing

    for profile, mine in by_profile(groups):
        known = comparing.columns_of(mine)
        shown = [column for column in columns if column in known]
        metrics = ", ".join(dict.fromkeys(group.metric for group in mine if group.metric))
        kinds = {"tiny": " (toy data, not the papers' numbers)", "own": " (data of your own)"}
        title = f"profile {profile}{kinds.get(profile, '')}"
        console.table(
            title + (f"; score: {metrics} over everything seen, after the last stage" if metrics else ""),
            ["run", "n", *(column.replace("_", " ") for column in shown)],
            comparing.text_rows(mine, shown),
        )


def _show_tests(console: Console, tests: Sequence[Any]) -> None:
    if not tests:
        return
    rows = [[t.label, t.against, t.n, t.difference, _p(t.t_test), _p(t.wilcoxon), t.note] for t in tests]
    header = ("run", "against", "seeds", "difference", "paired t, p", "Wilcoxon, p", "")
    console.table("paired over seeds, two-sided", header, rows)


def _p(value: float | None) -> str | None:
    return None if value is None else f"{value:.2g}"
