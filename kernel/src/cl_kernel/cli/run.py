"""``clk run``, ``clk resume``, ``clk reproduce``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cl_kernel.cli.console import Console, LiveLine, duration, size
from cl_kernel.contract.errors import BadSetting, Interrupted
from cl_kernel.running.plan import RUN_FLAGS, Request, make_request, plan
from cl_kernel.running.settings import parse_assignments

Handler = Callable[[Namespace, Console], int]


def add_run_arguments(parser: ArgumentParser) -> None:
    """Flags that say what to run; shared with ``clk show``."""
    parser.add_argument("--plugin", default="", metavar="NAME", help="plugin whose tests and pieces are meant")
    parser.add_argument("--test", default="", metavar="NAME", help="experiment: name, number or alias (clk list tests)")
    parser.add_argument("--profile", default="", metavar="NAME", help="tiny (toy data, default), small, paper, ...")
    parser.add_argument(
        "--data-root", action="append", default=[], metavar="DIR", help="where real data lies; repeatable"
    )
    for kind in ("dataset", "model", "learner"):
        parser.add_argument(f"--{kind}", default="", metavar="NAME", help=f"{kind} by name (clk list {kind}s)")
    parser.add_argument(
        "--replay", default="", metavar="NAME", help="POLICY+CODEC, or a source, or none (clk list replays)"
    )
    parser.add_argument("--metric", action="append", default=[], metavar="NAME", help="metric by name; repeatable")
    parser.add_argument(
        "--memory", default=None, metavar="SIZE", help="replay capacity: examples (500) or bytes (1.5MB)"
    )
    parser.add_argument(
        "--budget", default=None, metavar="SIZE", help="bytes for everything kept beyond the network (2MB)"
    )
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--device", default=None, help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--on-bad-sample", choices=("fail", "skip"), default=None)
    parser.add_argument("--n-workers", type=int, default=None)
    parser.add_argument("--evaluate", choices=("all", "seen"), default=None, help="test sets scored after each stage")
    parser.add_argument("--config", default="", metavar="NAME", help="named configuration, for learners that have them")
    parser.add_argument("--gin-file", action="append", default=[], metavar="FILE", help="own gin file; repeatable")
    parser.add_argument(
        "--gin-param", action="append", default=[], metavar="BINDING", help="own gin binding, NAME = VALUE; repeatable"
    )
    parser.add_argument("--config-file", action="append", default=[], type=Path, metavar="YAML", help="settings file")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="assignments",
        help="one setting, e.g. learner.lr=0.1; repeatable",
    )


def request_from(namespace: Namespace) -> Request:
    """The request that the flags make."""
    if not (namespace.test or namespace.plugin or namespace.learner):
        raise BadSetting(
            "nothing to run", where="clk run", fix="clk run --plugin recall --test ADD_ONE_FIVE_TIMES (clk list tests)"
        )
    return make_request(
        namespace.test,
        plugin=namespace.plugin,
        profile=namespace.profile,
        dataset=namespace.dataset,
        model=namespace.model,
        learner=namespace.learner,
        replay=namespace.replay,
        metrics=namespace.metric,
        data_roots=namespace.data_root,
        config_files=namespace.config_file,
        config=namespace.config,
        gin_files=namespace.gin_file,
        gin_params=namespace.gin_param,
        settings=parse_assignments(namespace.assignments).values,
        trackers=getattr(namespace, "tracker", ()),
        **{name: getattr(namespace, name) for name in RUN_FLAGS},
    )


def run(parser: ArgumentParser) -> Handler:
    """Run an experiment."""
    add_run_arguments(parser)
    parser.add_argument(
        "--output", type=Path, default=None, metavar="DIR", help="run folder (default: a new one below runs/)"
    )
    parser.add_argument(
        "--tracker", action="append", default=[], metavar="NAME", help="also track with, e.g., tensorboard"
    )
    parser.add_argument("--no-comparisons", action="store_true", help="without the test's comparison runs")
    parser.add_argument("--all", action="store_true", help="everything of --plugin, as a sweep that can be resumed")
    parser.add_argument("--dry-run", action="store_true", help="plan and check everything, run nothing")

    def handle(namespace: Namespace, console: Console) -> int:
        from cl_kernel.registry import discover, resolve
        from cl_kernel.running import session
        from cl_kernel.running.resources import n_cores
        from cl_kernel.storage.run_folder import new_folder

        registry = discover()
        if namespace.all:
            offer, _ = registry.find("command", "clk:run-all")
            everything: Handler = resolve(offer.record.build)(ArgumentParser())
            return everything(namespace, console)
        planned = plan(registry, request_from(namespace))
        banner(console, planned)
        if namespace.dry_run:
            return _dry(console, registry, planned, alone=namespace.no_comparisons)
        folder = namespace.output or new_folder(
            Path("runs"), f"{planned.name}-{planned.profile}-s{planned.options.seed}"
        )
        return _guarded(
            console,
            folder,
            lambda: session.run_plan(
                registry,
                planned,
                folder,
                listen=[LiveLine()],
                comparisons=not namespace.no_comparisons,
                n_comparisons=n_cores() - 1,
            ),
        )

    return handle


def _dry(console: Console, registry: Any, planned: Any, *, alone: bool) -> int:
    """What would run, found to fit together."""
    from cl_kernel.running.effects import refuse_without_effect
    from cl_kernel.running.plan import check_installed, comparison_plans

    refuse_without_effect(planned)
    plans = {"": planned, **({} if alone else comparison_plans(registry, planned))}
    rows = []
    for label, one in plans.items():
        check_installed(one)
        rows.append((label or planned.name, *(_piece(one, kind) for kind in _KINDS)))
    console.table("would run", ("run", *_KINDS), rows)
    console.json({"runs": [dict(zip(("run", *_KINDS), row, strict=True)) for row in rows], "profile": planned.profile})
    return 0


_KINDS = ("dataset", "learner", "model", "policy", "codec", "source")


def _piece(planned: Any, kind: str) -> str:
    offer, argument = planned.pieces.get(kind, (None, ""))
    return "" if offer is None else f"{offer.name}:{argument}" if argument else offer.name


def add_data_root(parser: ArgumentParser) -> None:
    """``--data-root`` of commands that take up a run."""
    parser.add_argument(
        "--data-root", action="append", default=[], metavar="DIR", help="where the data lie now, if they moved"
    )


def resume(parser: ArgumentParser) -> Handler:
    """Go on with an interrupted run."""
    parser.add_argument("run", type=Path, help="run folder")
    add_data_root(parser)

    def handle(namespace: Namespace, console: Console) -> int:
        from cl_kernel.registry import discover
        from cl_kernel.running import session
        from cl_kernel.running.resources import n_cores

        registry = discover()
        return _guarded(
            console,
            namespace.run,
            lambda: session.resume(
                registry,
                namespace.run,
                data_roots=namespace.data_root,
                listen=[LiveLine()],
                n_comparisons=n_cores() - 1,
            ),
        )

    return handle


def extend(parser: ArgumentParser) -> Handler:
    """Go on with a finished run over further stages."""
    parser.add_argument("run", type=Path, help="run folder")
    add_data_root(parser)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="assignments",
        help="what adds the stages, e.g. dataset.directions=[right,left,up]; repeatable",
    )
    parser.add_argument("--no-comparisons", action="store_true", help="leave the run's comparison runs as they are")

    def handle(namespace: Namespace, console: Console) -> int:
        from cl_kernel.registry import discover
        from cl_kernel.running import session
        from cl_kernel.running.resources import n_cores

        registry = discover()
        return _guarded(
            console,
            namespace.run,
            lambda: session.extend(
                registry,
                namespace.run,
                parse_assignments(namespace.assignments).values,
                data_roots=namespace.data_root,
                listen=[LiveLine()],
                comparisons=not namespace.no_comparisons,
                n_comparisons=n_cores() - 1,
            ),
        )

    return handle


def reproduce(parser: ArgumentParser) -> Handler:
    """Run a finished run again and compare digests; exit 3 when they differ."""
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--output", type=Path, default=None, metavar="DIR")
    add_data_root(parser)

    def handle(namespace: Namespace, console: Console) -> int:
        from cl_kernel.registry import discover
        from cl_kernel.running import session

        outcome, differences = session.reproduce(
            discover(), namespace.run, namespace.output, data_roots=namespace.data_root, listen=[LiveLine()]
        )
        console.json({"run": str(outcome.folder), "differences": differences})
        if differences:
            console.print(f"differs: {namespace.run} and {outcome.folder}")
            for line in differences:
                console.print(f"  {line}")
            return 3
        console.print(f"equal: results and final state of {outcome.folder} have the digests of {namespace.run}")
        return 0

    return handle


def _guarded(console: Console, folder: Path, body: Callable[[], Any]) -> int:
    try:
        outcome = body()
    except Interrupted as interrupted:
        console.say(f"saved; go on with: clk resume {folder}")
        return 128 + interrupted.signum
    show_outcome(console, outcome)
    return 0


def banner(console: Console, planned: Any) -> None:
    """Say loudly what kind of numbers will come."""
    data = planned.pieces.get("dataset", (None, ""))[0]
    own = data is not None and data.record.own
    if own:
        sizes = "" if planned.profile == "own" else f", with the settings of profile {planned.profile}"
        text = f"profile {planned.profile}: data of your own{sizes}"
    elif planned.profile == "tiny":
        text = "profile tiny: toy data, seconds to minutes; these are not the paper's numbers"
    elif planned.profile == "paper":
        text = "profile paper: the publication's settings"
    else:
        text = f"profile {planned.profile}"
    console.say(f"{planned.name} | {text} | seed {planned.options.seed}")
    for key, why in planned.ignored.items():
        console.say(f"{key} is left out: {why}")


def show_outcome(console: Console, outcome: Any) -> None:
    """Tables of a finished run, and of its comparison runs."""
    from cl_kernel.storage.run_folder import read_json

    results = outcome.results
    stored = read_json(outcome.folder / "run.json")
    console.json(
        {
            "run": str(outcome.folder),
            "test": stored["test"],
            "profile": stored["profile"],
            "results": results,
            "comparisons": outcome.comparisons,
        }
    )
    if "metrics" not in results:
        rows = [
            (key, value) for key, value in results.items() if isinstance(value, (int, float, str)) and key != "finished"
        ]
        console.table(stored["test"], ("result", "value"), rows)
    else:
        _stream_tables(console, stored["test"], {_label(stored): results, **outcome.comparisons})
    for figure in stored.get("expected", ()):
        console.print(f"published: {figure['metric']} {figure['value']} {figure['where']}")
    cost = results["cost"]
    line = f"{duration(cost['seconds'])}, {cost['steps']} steps, peak memory {size(cost['peak_bytes'])}"
    if cost.get("memory_bytes"):
        line += f", replay memory {cost['memory_examples']} examples in {size(cost['memory_bytes'])}"
    console.print(line)
    if kept := {what: n for what, n in cost.get("kept", {}).items() if what != "examples"}:
        told = ", ".join(f"{what} {size(n)}" for what, n in kept.items())
        console.print(f"kept beyond the network: {size(sum(cost['kept'].values()))} in all; beside examples: {told}")
    if results.get("skipped"):
        console.print(f"skipped {len(results['skipped'])} bad samples, named in metrics.json")
    console.print(f"results in {outcome.folder}: metrics.json, settings.yaml, plots/")


def _label(stored: Mapping[str, Any]) -> str:
    return str(stored.get("pieces", {}).get("learner", stored["test"])).split(":")[-1]


def _stream_tables(console: Console, name: str, runs: Mapping[str, Mapping[str, Any]]) -> None:
    main = next(iter(runs.values()))
    metric = next(iter(main["metrics"]))
    keys = [key for key in main["metrics"][metric]["seen"][-1] if "/" not in key][:3]
    rows: list[Sequence[Any]] = []
    for index, stage in enumerate(main["stages"]):
        row: list[Any] = [f"{index + 1} {stage}"]
        for results in runs.values():
            seen = results["metrics"][metric]["seen"]
            row += [seen[index].get(key) if index < len(seen) else None for key in keys]
        rows.append(row)
    columns = ["after stage", *(f"{label}: {key}" if len(runs) > 1 else key for label in runs for key in keys)]
    console.table(f"{name}: {metric} over the test samples seen so far", columns, rows)
    summaries = {label: dict(results["metrics"][metric]["summary"]) for label, results in runs.items()}
    for label, value in _omegas(runs, metric).items():
        summaries[label]["omega"] = value
    for label, results in runs.items():
        if aware := results.get("task_aware", {}).get(metric, {}).get("summary"):
            summaries[f"{label}, among the task's classes"] = aware
    if names := list(next(iter(summaries.values()))):
        console.table(
            "from the accuracy matrix",
            ["", *names],
            [[label, *(summary.get(n) for n in names)] for label, summary in summaries.items()],
        )


def _omegas(runs: Mapping[str, Mapping[str, Any]], metric: str) -> dict[str, float]:
    """Omega of each run, when one of them is the offline (joint) learner scored after as many stages."""
    from cl_kernel.running.accuracy_matrix import omega

    series = {
        label: [next(iter(values.values())) for values in results["metrics"][metric]["seen"]]
        for label, results in runs.items()
    }
    bound = series.get("offline", series.get("joint"))
    if bound is None or not all(bound) or any(len(values) != len(bound) for values in series.values()):
        return {}
    return {label: omega(values, bound) for label, values in series.items()}
