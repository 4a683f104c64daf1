"""``clk butd export-task`` and ``import-task``: single tasks from run to run, as files."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from cl_kernel import BadInput, RunConflict
from cl_plugin_butd.commands import Handler
from cl_plugin_butd.data.directions import NAMES

ENDING = ".task"


def export_task(parser: ArgumentParser) -> Handler:
    """Write tasks of a finished run as files of their bytes."""
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("task", nargs="*", help="tasks by name, as 'clk show RUN' lists the stages; none: all of them")
    parser.add_argument("--output", type=Path, default=Path(), metavar="DIR", help="folder to write to")
    parser.add_argument("--data-root", action="append", default=[], metavar="DIR", help="where the data lie now")

    def handle(namespace: Namespace, console: Any) -> int:
        from cl_plugin_butd.network.one_task import take

        learner, stages = _finished(namespace.run, namespace.data_root)
        names = [stage.name for stage in stages]
        for name in namespace.task:
            if name not in names:
                raise BadInput(f"the run has no task {name!r}; it has {', '.join(names)}", where=str(namespace.run))
        rows = []
        for task, stage in enumerate(stages):
            if not namespace.task or stage.name in namespace.task:
                dx, dy = stage.info["direction"]
                one = take(learner.net, task, stage.name, (int(dx), int(dy)))
                path = namespace.output / f"{stage.name}{ENDING}"
                path.parent.mkdir(parents=True, exist_ok=True)
                held = sum(value.nbytes for value in one.parts.values())
                rows.append((stage.name, held, one.save(path), str(path)))
        console.table("", ("task", "bytes held", "bytes of the file", "file"), rows)
        console.json([dict(zip(("task", "held", "bytes", "file"), row, strict=True)) for row in rows])
        return 0

    return handle


def import_task(parser: ArgumentParser) -> Handler:
    """Add tasks that another run learnt to a finished run, which answers them to the same bits."""
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("file", type=Path, nargs="+", help="files that export-task wrote")
    parser.add_argument("--data-root", action="append", default=[], metavar="DIR", help="where the data lie now")

    def handle(namespace: Namespace, console: Any) -> int:
        from cl_kernel import LiveLine, discover, extend, plan, request_of, show_outcome
        from cl_plugin_butd.network.one_task import read_task

        tasks = [read_task(path) for path in namespace.file]
        registry = discover()
        planned = plan(registry, request_of(namespace.run, namespace.data_root))
        data, learner = (planned.resolved.sections[name] for name in ("dataset", "learner"))
        if not hasattr(data, "directions") or not hasattr(learner, "imported"):
            raise RunConflict("the run has no directions to add to", where=str(namespace.run))
        ways = [*data.directions, *(NAMES.get(one.direction, "{},{}".format(*one.direction)) for one in tasks)]
        files = [*learner.imported, *(str(path.resolve()) for path in namespace.file)]
        outcome = extend(
            registry,
            namespace.run,
            {"dataset.directions": ways},
            also={"learner.imported": files},
            data_roots=namespace.data_root,
            listen=[LiveLine()],
            comparisons=False,
        )
        show_outcome(console, outcome)
        return 0

    return handle


def _finished(folder: Path, data_roots: list[str]) -> tuple[Any, Any]:
    """The learner of a finished run as it ended, and the stages of its stream."""
    from cl_kernel import discover, ended, make_resources, plan, request_of

    registry = discover()
    planned = plan(registry, request_of(folder, data_roots))
    built = ended(planned, make_resources(registry, planned, None, lambda event: None), folder)
    if not hasattr(built.learner, "net") or not hasattr(built.learner.net, "modulations"):
        raise RunConflict(f"{planned.name} keeps no tasks apart", where=str(folder), fix="export from a BU-TD stream")
    return built.learner, built.stream.stages
