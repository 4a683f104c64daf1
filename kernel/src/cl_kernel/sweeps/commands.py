"""``clk sweep``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import define, evolve, field

from cl_kernel.cli.console import Console, duration
from cl_kernel.cli.run import add_run_arguments
from cl_kernel.contract.errors import BadSetting, UnknownName

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

    from cl_kernel.registry import Registry
    from cl_kernel.sweeps.sweep import Spec, Task

Handler = Callable[[Namespace, Console], int]
MARKS = {"finished": "done", "waiting": "", "refused": "does not fit"}
SHOWN_ROWS = 40


def sweep(parser: ArgumentParser) -> Handler:
    """Run a grid of experiments; the same command again goes on where it stopped."""
    parser.add_argument(
        "words",
        nargs="+",
        metavar="FILE | KEY=VALUE[,VALUE...]",
        help="sweep file (YAML); or what to run, where several values are varied: learner=er,slda seed=0,1,2; "
        "or both, the words over the file",
    )
    parser.add_argument("--name", default="", help="of the sweep and its folder (default: the file's, or sweep)")
    parser.add_argument(
        "--executor", default="", metavar="NAME", help="local, ray, slurm (clk list executors); default: the file's"
    )
    parser.add_argument("--address", default="", metavar="HOST", help="Ray cluster: auto, or host:port")
    parser.add_argument("--n-jobs", type=int, default=None, metavar="N", help="tasks at once (default: all cores)")
    parser.add_argument(
        "--output", type=Path, default=None, metavar="DIR", help="folder of all runs (default: runs/NAME)"
    )
    parser.add_argument(
        "--select",
        default="",
        metavar="METRIC",
        help="choose settings by this metric on validation samples, then score the chosen ones on the test samples",
    )
    parser.add_argument("--dry-run", action="store_true", help="list the tasks, run nothing")

    def handle(namespace: Namespace, console: Console) -> int:
        from cl_kernel.registry import discover
        from cl_kernel.sweeps.words import read_words

        spec = read_words(namespace.words, namespace.name)
        given = {"executor": namespace.executor, "n_jobs": namespace.n_jobs}
        spec = evolve(spec, **{key: value for key, value in given.items() if value not in ("", None)})
        return (choose if namespace.select else go)(discover(), spec, namespace, console)

    return handle


def run_all(parser: ArgumentParser) -> Handler:
    """Run everything of a plugin, as a sweep that can be resumed; ``clk run --all`` is the same."""
    add_run_arguments(parser)
    parser.add_argument("--output", type=Path, default=None, metavar="DIR", help="folder of all runs")
    parser.add_argument("--dry-run", action="store_true", help="list the tasks, run nothing")

    def handle(namespace: Namespace, console: Console) -> int:
        from cl_kernel.registry import discover

        registry = discover()
        return go(registry, everything(registry, namespace), namespace, console)

    return handle


def go(registry: Registry, spec: Spec, namespace: Namespace, console: Console) -> int:
    """Run a sweep, or list its tasks with ``--dry-run``."""
    from cl_kernel.sweeps.sweep import tasks_of

    output = (namespace.output or Path("runs") / spec.name).resolve()
    registry.find("executor", spec.executor)
    tasks = tasks_of(registry, spec, output)
    if namespace.dry_run:
        return dry(registry, spec, tasks, console)
    outcomes = carry_out(registry, spec, tasks, output, namespace, console)
    compared = _results(console, output, tasks)
    console.json({"folder": str(output), "tasks": _content(tasks, outcomes), "results": compared})
    console.print(f"results in {output}: results.csv, results.json; next: clk report {output}")
    return any_failed(outcomes)


def dry(registry: Registry, spec: Spec, tasks: Sequence[Task], console: Console) -> int:
    """What would run, how far it is, and in which settings the learners differ."""
    from cl_kernel.sweeps.differences import show_differences
    from cl_kernel.sweeps.sweep import outcome_of

    states = [{"status": "refused", "error": t.refused} if t.refused else outcome_of(t.folder) for t in tasks]
    _list(console, spec, tasks, states)
    show_differences(console, registry, tasks)
    console.json(_content(tasks, states))
    return 0


def carry_out(
    registry: Registry, spec: Spec, tasks: Sequence[Task], output: Path, namespace: Namespace, console: Console
) -> list[dict[str, Any]]:
    """Run what is not finished, with a live table; the outcome of each task."""
    from cl_kernel.sweeps.sharing import driving, notes
    from cl_kernel.sweeps.sweep import run_sweep, write_spec

    board = Board(spec, tasks, console)
    try:
        with driving(output) as other:
            for note in notes(output, tasks, other):
                console.say(f"note: {note}")
            write_spec(output / "sweep.yaml", spec)
            with board:
                address = {"address": getattr(namespace, "address", "")}
                outcomes = run_sweep(spec, tasks, options=address, registry=registry, tell=board.tell)
    except KeyboardInterrupt:
        console.say("stopped; what ran has saved itself, and the same command goes on")
        raise
    _list(console, spec, tasks, outcomes)
    if any_failed(outcomes):
        failed = [outcome for outcome in outcomes if outcome["status"] in ("failed", "interrupted")]
        for error in dict.fromkeys(outcome.get("error", "").strip() for outcome in failed):
            if "\n" in error:  # the table has first lines only
                console.print(error)
        console.print(
            f"{len(failed)} of {len(tasks)} tasks did not finish; once mended, the same command tries them again"
        )
    return outcomes


def any_failed(outcomes: Sequence[Mapping[str, Any]]) -> int:
    """Exit code: 1 where a task did not finish."""
    return int(any(outcome["status"] in ("failed", "interrupted") for outcome in outcomes))


def choose(registry: Registry, spec: Spec, namespace: Namespace, console: Console) -> int:
    """Run everything on validation samples, choose, and score the chosen settings on the test samples."""
    from cl_kernel.storage.files import write_json
    from cl_kernel.sweeps import select
    from cl_kernel.sweeps.sweep import tasks_of

    output = (namespace.output or Path("runs") / spec.name).resolve()
    higher = select.direction(registry, namespace.select, select.COLUMNS)
    trying = select.on_validation(spec, namespace.select, registry)
    tasks = tasks_of(registry, trying, output / "tried")
    if namespace.dry_run:
        return dry(registry, trying, tasks, console)
    outcomes = carry_out(registry, trying, tasks, output / "tried", namespace, console)
    named = select.named_rows(spec)
    all_tried = select.tried(tasks, lambda folder: select.score_of(folder, namespace.select), named)
    winners = select.chosen(all_tried, higher=higher)
    if not winners:
        console.print("nothing finished, so nothing can be chosen")
        return 1
    last, repeats = select.final(trying, tasks, winners)
    finals = select.called(tasks_of(registry, last, output / "chosen"), repeats)
    outcomes += carry_out(registry, last, finals, output / "chosen", namespace, console)
    tested = select.by_choice(finals, trying, lambda folder: select.score_of(folder, namespace.select))
    content = select.selection(all_tried, winners, tested, namespace.select)
    write_json(output / "selection.json", content)
    select.show(console, content)
    console.json({"folder": str(output), **content})
    console.print(f"everything tried is in {output}/selection.json; next: clk compare {output}/chosen")
    return any_failed(outcomes)


def everything(registry: Registry, namespace: Namespace) -> Spec:
    """All runs of a plugin (``clk run --plugin NAME --all``) as a sweep.

    Flags for what its list varies choose among it (``--test 15-1,15-5 --replay gan``); the others are for every run.

    :raises BadSetting: without a plugin, or when a flag leaves nothing.
    """
    from cl_kernel.running.plan import RUN_FLAGS
    from cl_kernel.running.resources import n_cores
    from cl_kernel.running.settings import parse_assignments
    from cl_kernel.sweeps.sweep import Spec

    if not namespace.plugin:
        raise BadSetting("--all runs everything of one plugin", where="--all", fix="clk run --plugin recall --all")
    about = registry.owner(namespace.plugin).about
    tests = [offer.record for offer in registry.all("test") if offer.plugin == namespace.plugin]
    plain = [{"test": record.name} for record in tests if not record.pattern]
    items = [dict(item) for item in (about and about.everything) or plain]
    base: dict[str, Any] = {"plugin": namespace.plugin}
    for key in ("test", "profile", "dataset", "model", "learner", "replay", "config"):
        given = [part.strip() for part in getattr(namespace, key).split(",") if part.strip()]
        if key == "test":
            given = [registry.find("test", name, prefer=namespace.plugin)[0].record.name for name in given]
        if not given:
            continue
        if known := list(dict.fromkeys(item[key] for item in items if key in item)):
            if unknown := [name for name in given if name not in known]:
                raise UnknownName.of(key, unknown[0], known, where=f"--{key}")
            items = [item for item in items if item.get(key) in given]
        else:
            base[key] = getattr(namespace, key)
    if not items:
        raise BadSetting("these flags leave nothing to run", where="--all", fix=f"known: {', '.join(map(str, known))}")
    base |= {"data_root": namespace.data_root, "gin_file": namespace.gin_file, "gin_param": namespace.gin_param}
    base |= {f"run.{name}": getattr(namespace, name) for name in RUN_FLAGS}
    base |= parse_assignments(namespace.assignments).values
    base = {key: value for key, value in base.items() if value not in (None, "", [])}
    threads = n_cores() if namespace.profile == "paper" else 1
    return Spec(name=f"{namespace.plugin}-all", base=base, list=items, n_jobs=1, threads=threads)


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
    from cl_kernel.reports import compare
    from cl_kernel.reports.commands import PLAIN_COLUMNS, show_groups
    from cl_kernel.storage.files import write_json, write_text

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
            reused = f"; reused {', '.join(outcome['reused'])}" if outcome.get("reused") else ""
            error = f": {outcome['error'].strip().splitlines()[0]}" if outcome.get("error") else ""
            self.console.say(f"{len(self._ended)}/{len(self.tasks)} {named} {done}{tries}{reused}{error}")

    def render(self) -> Table:
        """The table as it stands now: running tasks first, what is over only counted once it gets long."""
        from rich.table import Table

        from cl_kernel.sweeps.tasks import progress_of

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
