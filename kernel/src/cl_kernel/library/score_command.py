"""``clk score``: a finished run scored again from its checkpoint, by other metrics or on other data."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from cl_kernel.cli.console import Console
from cl_kernel.cli.run import add_data_root
from cl_kernel.contract.errors import Mismatch
from cl_kernel.contract.stream import Stream
from cl_kernel.running.settings import parse_assignments

Handler = Callable[[Namespace, Console], int]


def score(parser: ArgumentParser) -> Handler:
    """Score a finished run again, as it stands after its last stage."""
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--metric", action="append", default=[], metavar="NAME", help="metric by name; repeatable")
    parser.add_argument("--dataset", default="", metavar="NAME", help="other data with the same fields and classes")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="assignments", help="a setting of that data"
    )
    parser.add_argument("--output", type=Path, default=None, metavar="FILE", help="also write the scores there (JSON)")
    add_data_root(parser)

    def handle(namespace: Namespace, console: Console) -> int:
        from cl_kernel.storage.files import write_json

        given = parse_assignments(namespace.assignments).values
        found = scores(namespace.run, namespace.metric, namespace.dataset, given, namespace.data_root)
        for metric, sets in found["values"].items():
            keys = list(dict.fromkeys(key for values in sets.values() for key in values if "/" not in key))
            rows = [[name, *(values.get(key) for key in keys)] for name, values in sets.items()]
            rows.append(["all", *(found["seen"][metric].get(key) for key in keys)])
            console.table(f"{metric} after the last stage, on {found['data']}", ["test set", *keys], rows)
        for metric, sets in found.get("task_aware", {}).items():
            rows = [[name, next(iter(values.values()))] for name, values in sets.items()]
            console.table(f"{metric}, answers among the task's classes", ["test set", metric], rows)
        if namespace.output is not None:
            write_json(namespace.output, found)
        console.json(found)
        return 0

    return handle


def scores(
    folder: Path,
    metrics: list[str],
    dataset: str = "",
    settings: Mapping[str, Any] | None = None,
    data_roots: list[str] | None = None,
) -> dict[str, Any]:
    """Scores of a finished run's last state.

    :param metrics: by name; empty: those of the run.
    :param dataset: other data; empty: the run's.
    :return: ``values`` by metric and test set, ``seen`` over all test sets, ``task_aware`` where there is one.
    :raises ClkError: for a run without a final checkpoint, and for data or metrics that do not fit.
    """
    from cl_kernel.registry import discover
    from cl_kernel.running.build import build
    from cl_kernel.running.plan import plan
    from cl_kernel.running.scoring import score as score_sets
    from cl_kernel.running.session import ended, make_resources, request_of

    registry = discover()
    request = request_of(folder, data_roots or ())
    layer = ("clk score", {"metrics": metrics} if metrics else {})
    planned = plan(registry, attrs.evolve(request, overrides=(*request.overrides, layer)))
    resources = make_resources(registry, planned, folder, lambda event: None)
    built = ended(planned, resources, folder)
    stream = built.stream
    if dataset or settings:
        named = {**({"dataset": dataset} if dataset else {}), **(settings or {})}
        other = plan(registry, attrs.evolve(request, overrides=(*request.overrides, layer, ("clk score", named))))
        stream = _fitting(build(other, resources).stream, stream)
    found = score_sets(built.learner, stream, built.scorers, list(stream.test_sets))
    return {**found, "data": stream.name}


def _fitting(other: Stream, own: Stream) -> Stream:
    """Other data whose samples and classes are of the kind that the run learnt.

    :raises Mismatch: naming what differs.
    """
    mine, theirs = dict(own.test.spec), dict(other.test.spec)
    for name, field in mine.items():
        if name not in theirs or (theirs[name].shape, theirs[name].dtype) != (field.shape, field.dtype):
            raise Mismatch(
                f"the run reads {name} {field.dtype} {list(field.shape)}, {other.name} has "
                + ", ".join(f"{key} {one.dtype} {list(one.shape)}" for key, one in theirs.items()),
                where="--dataset",
            )
    if other.class_names != own.class_names:
        raise Mismatch(
            f"the run learnt the classes {', '.join(own.class_names)}; {other.name} has {', '.join(other.class_names)}",
            where="--dataset",
        )
    return other
