"""``clk sweep``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import define, evolve, field

from cl_kernel.console import Console, duration

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

    from cl_kernel.sweep import Spec, Task

Handler = Callable[[Namespace, Console], int]
MARKS = {"finished": "done", "waiting": "", "refused": "does not fit"}
SHOWN_ROWS = 40


def sweep(parser: ArgumentParser) -> Handler:
    """Run a grid of experiments; the same command again goes on where it stopped."""
    parser.add_argument("file", type=Path, help="sweep file (YAML)")
    parser.add_argument(
        "--executor", default="", metavar="NAME", help="local, ray, slurm (clk list executors); default: the file's"
    )
    parser.add_argument("--address", default="", metavar="HOST", help="Ray cluster: auto, or host:port")
    parser.add_argument("--n-jobs", type=int, default=None, metavar="N", help="tasks at once (default: all cores)")
    parser.add_argument(
        "--output", type=Path, default=None, metavar="DIR", help="folder of all runs (default: runs/NAME)"
    )
    parser.add_argument("--dry-run", action="store_true", help="list the tasks, run nothing")

    def handle(namespace: Namespace, console: Console) -> int:
        from cl_kernel.files import write_text
        from cl_kernel.manager import discover
        from cl_kernel.sweep import outcome_of, read_spec, run_sweep, tasks_of

        spec = read_spec(namespace.file)
        given = {"executor": namespace.executor, "n_jobs": namespace.n_jobs}
        spec = evolve(spec, **{key: value for key, value in given.items() if value not in ("", None)})
        output = (namespace.output or Path("runs") / spec.name).resolve()
        registry = discover()
        registry.find("executor", spec.executor)
        tasks = tasks_of(registry, spec, output)
        if namespace.dry_run:
            states = [{"status": "refused", "error": t.refused} if t.refused else outcome_of(t.folder) for t in tasks]
            _list(console, spec, tasks, states)
            console.json(_content(tasks, states))
            return 0
        output.mkdir(parents=True, exist_ok=True)
        write_text(output / "sweep.yaml", namespace.file.read_text())
        board = Board(spec, tasks, console)
        try:
            with board:
                outcomes = run_sweep(
                    spec, tasks, options={"address": namespace.address}, registry=registry, tell=board.tell
                )
        except KeyboardInterrupt:
            console.say("stopped; what ran has saved itself, and the same command goes on")
            raise
        _list(console, spec, tasks, outcomes)
        compared = _results(console, output, tasks)
        console.json({"folder": str(output), "tasks": _content(tasks, outcomes), "results": compared})
        failed = [outcome for outcome in outcomes if outcome["status"] in ("failed", "interrupted")]
        if failed:
            console.print(
                f"{len(failed)} of {len(tasks)} tasks did not finish; once mended, the same command tries them again"
            )
        console.print(f"results in {output}: results.csv, results.json; next: clk report {output}")
        return 1 if failed else 0

    return handle


def _content(tasks: Sequence[Task], outcomes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"values": dict(task.values), "folder": None if task.refused else str(task.folder), **outcome}
        for task, outcome in zip(tasks, outcomes, strict=True)
    ]


def _list(console: Console, spec: Spec, tasks: Sequence[Task], outcomes: Sequence[Mapping[str, Any]]) -> None:
    keys = list(dict.fromkeys(key for task in tasks for key in task.values))
    rows = [
        [
            *(_cell(task.values.get(key)) for key in keys),
            MARKS.get(outcome["status"], outcome["status"]),
            duration(outcome["seconds"]) if outcome.get("seconds") is not None else "",
            outcome.get("error", "").strip().partition("\n")[0],
        ]
        for task, outcome in zip(tasks, outcomes, strict=True)
    ]
    console.table(f"sweep {spec.name}: {len(tasks)} tasks", (*keys, "status", "time", "error"), rows)


def _cell(value: Any) -> str:
    return "" if value is None else str(value)


def _results(console: Console, output: Path, tasks: Sequence[Task]) -> list[dict[str, Any]]:
    from cl_kernel import compare
    from cl_kernel.commands.comparing import PLAIN_COLUMNS, show_groups
    from cl_kernel.files import write_json, write_text

    folders = [task.folder for task in tasks if not task.refused and (task.folder / "run.json").exists()]
    runs, _ = compare.find_runs(folders)
    groups = compare.group_runs(runs)
    columns = compare.columns_of(groups)
    rows = compare.summary_rows(groups, columns)
    write_json(output / "results.json", rows)
    write_text(output / "results.csv", compare.as_csv(groups, columns))
    if groups:
        show_groups(console, groups, PLAIN_COLUMNS)
    return rows


@define
class Board:
    """The live table on a terminal; elsewhere a line for each task that ends."""

    spec: Spec
    tasks: Sequence[Task]
    console: Console
    _ended: dict[int, Mapping[str, Any]] = field(factory=dict)
    _live: Live | None = None

    def __enter__(self) -> Board:
        import sys

        if sys.stderr.isatty():
            from rich.console import Console as RichConsole
            from rich.live import Live

            self._live = Live(
                get_renderable=self.render, console=RichConsole(stderr=True), refresh_per_second=1, transient=True
            )
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def tell(self, task: Task, outcome: Mapping[str, Any]) -> None:
        """A task ended."""
        self._ended[id(task)] = outcome
        if self._live is None:
            named = " ".join(f"{key}={value}" for key, value in task.values.items())
            done = "was finished" if outcome.get("skipped") else outcome["status"]
            tries = f" after {outcome['attempts']} attempts" if outcome.get("attempts", 1) > 1 else ""
            error = f": {outcome['error'].strip().splitlines()[0]}" if outcome.get("error") else ""
            self.console.say(f"{len(self._ended)}/{len(self.tasks)} {named} {done}{tries}{error}")

    def render(self) -> Table:
        """The table as it stands now: running tasks first, what is over only counted once it gets long."""
        from rich.table import Table

        from cl_kernel.sweep import progress_of

        states = [(task, self._ended.get(id(task)) or progress_of(task.folder)) for task in self.tasks]
        order = {"running": 0, "failed": 1, "interrupted": 1, "waiting": 3}
        states.sort(key=lambda pair: order.get(pair[1]["status"], 2))
        counts = {
            s: sum(state["status"] == s for _, state in states) for s in ("finished", "running", "failed", "waiting")
        }
        table = Table(
            title=f"sweep {self.spec.name}: " + ", ".join(f"{n} {s}" for s, n in counts.items()), title_justify="left"
        )
        keys = list(dict.fromkeys(key for task in self.tasks for key in task.values))
        for name in (*keys, "status", "stages", "score"):
            table.add_column(name)
        for task, state in states[:SHOWN_ROWS]:
            values = [_cell(task.values.get(key)) for key in keys]
            table.add_row(*values, state["status"], state.get("stages", ""), state.get("score", ""))
        if len(states) > SHOWN_ROWS:
            table.add_row(f"and {len(states) - SHOWN_ROWS} more")
        return table
