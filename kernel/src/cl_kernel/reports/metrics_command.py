"""``clk metrics``: what an accuracy matrix gives, by our definitions and by other libraries'."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cl_kernel.cli.console import Console
from cl_kernel.contract.errors import BadInput, BadSetting, ClkError, UnknownName

if TYPE_CHECKING:
    from cl_kernel.reports.conventions import Scores

Handler = Callable[[Namespace, Console], int]
KEYS = ("matrix", "initial", "sizes", "joint", "independent")


def metrics(parser: ArgumentParser) -> Handler:
    """Metrics of a run, or of a matrix of any library, also by other libraries' conventions."""
    parser.add_argument(
        "run", type=Path, help=f"run folder, or a JSON file with matrix, and {', '.join(KEYS[1:])} where known"
    )
    parser.add_argument(
        "--convention",
        default="",
        metavar="NAME",
        help="beside ours: avalanche, clarena, continuum, gmumcl, mammoth, pycil, pyclad, renate, sequel, or all",
    )
    parser.add_argument("--metric", default="", metavar="NAME", help="metric of the run (default: its first)")
    parser.add_argument(
        "--joint", default="", metavar="RUN", help="run of training on everything, or its scores, for forgetting rate"
    )
    parser.add_argument(
        "--independent",
        default="",
        metavar="RUN",
        help="run whose stages were learnt alone, or its scores, for clarena's forward transfer",
    )

    def handle(namespace: Namespace, console: Console) -> int:
        from cl_kernel.reports.conventions import CONVENTIONS
        from cl_kernel.running import accuracy_matrix as matrix

        wanted = list(CONVENTIONS) if namespace.convention == "all" else [namespace.convention]
        if namespace.convention and (unknown := [name for name in wanted if name not in CONVENTIONS]):
            raise UnknownName.of("convention", unknown[0], [*CONVENTIONS, "all"], where="--convention")
        table = read_table(namespace.run, namespace.metric)
        scores = _scores(table, namespace)
        ours = matrix.summary(scores.R, scores.initial)
        content: dict[str, Any] = {"metric": table["metric"], "matrix": table["matrix"], "clk": ours}
        _show_matrix(console, table["metric"], table)
        if aware := table.get("task_aware"):
            _show_matrix(console, f"{table['metric']}, answers among the task's classes", {**table, **aware})
            content["task_aware"] = {"matrix": aware["matrix"], "clk": aware["summary"]}
        columns = {name: CONVENTIONS[name](scores) for name in wanted if name}
        content |= columns
        keys = [*ours, *dict.fromkeys(key for values in columns.values() for key in values if key not in ours)]
        everything = {"clk": ours, **columns}
        console.table("", ("", *everything), [[key, *(v.get(key) for v in everything.values())] for key in keys])
        _say_what_is_missing(console, scores, columns)
        console.json(content)
        return 0

    return handle


def read_table(path: Path, metric: str = "") -> dict[str, Any]:
    """A matrix with what belongs to it: of a run folder, or of a JSON file.

    :return: ``matrix``, ``metric``, names of ``stages`` and ``test_sets``, and ``initial``, ``sizes``, ``joint``,
        ``independent``, ``task_aware`` where they are there.
    :raises ClkError: naming what is missing or does not fit.
    """
    from cl_kernel.storage.run_folder import read_json

    if path.is_file():
        return _of_file(path)
    results = read_json(path / "metrics.json")
    if not results.get("metrics"):
        raise ClkError("the run has no accuracy matrix", where=str(path / "metrics.json"))
    name = metric or next(iter(results["metrics"]))
    if name not in results["metrics"]:
        raise UnknownName.of("metric", name, results["metrics"], where="--metric")
    table = dict(results["metrics"][name])
    named = {key: results[key] for key in ("stages", "test_sets")}
    aware = results.get("task_aware", {}).get(name)
    return {**table, **named, "metric": name, "sizes": results.get("test_sizes"), "task_aware": aware}


def _of_file(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (ValueError, UnicodeDecodeError) as error:
        raise BadInput(f"no JSON: {error}", where=str(path), fix='{"matrix": [[0.9, 0.1], [0.6, 0.8]]}') from error
    if not isinstance(content, Mapping) or "matrix" not in content:
        raise BadInput("names no matrix", where=str(path), fix='{"matrix": [[0.9, 0.1], [0.6, 0.8]]}')
    if unknown := sorted(set(content) - set(KEYS)):
        raise UnknownName.of("key", unknown[0], KEYS, where=str(path))
    for key, value in content.items():
        _numbers(value, f"{path}: {key}")
    names = [str(j + 1) for j in range(len(content["matrix"]))]
    return {"stages": names, "test_sets": names, "metric": "score", **content}


def _scores(table: Mapping[str, Any], namespace: Namespace) -> Scores:
    from cl_kernel.reports.conventions import Scores

    def known(key: str) -> np.ndarray | None:
        return None if table.get(key) is None else _numbers(table[key], key)

    R = _numbers(table["matrix"], "matrix")
    return Scores(
        R=R,
        initial=known("initial"),
        sizes=known("sizes"),
        joint=_other(namespace.joint, "--joint", namespace.metric) if namespace.joint else known("joint"),
        independent=_other(namespace.independent, "--independent", namespace.metric)
        if namespace.independent
        else known("independent"),
    )


def _other(text: str, flag: str, metric: str) -> np.ndarray:
    """Scores of another run: its last row (joint), or its diagonal; or numbers as given."""
    if Path(text).exists():
        R = _numbers(read_table(Path(text), metric)["matrix"], text)
        return R[-1] if flag == "--joint" else R.diagonal()
    try:
        return np.array([float(part) for part in text.split(",")])
    except ValueError as error:
        raise BadSetting(f"{text!r} is no run folder and no list of numbers", where=flag) from error


def _numbers(values: Any, where: str) -> np.ndarray:
    """Float64; what was not measured is NaN."""
    plain = [[np.nan if v is None else v for v in row] if isinstance(row, list) else row for row in values or ()]
    try:
        return np.array([np.nan if v is None else v for v in plain], np.float64)
    except (ValueError, TypeError) as error:
        raise BadInput(f"no table of numbers: {error}", where=where) from error


def _show_matrix(console: Console, title: str, table: Mapping[str, Any]) -> None:
    rows = [[stage, *row] for stage, row in zip(table["stages"], table["matrix"], strict=False)]
    console.table(f"{title}: after stage (row) on test set (column)", ["", *table["test_sets"]], rows)


def _say_what_is_missing(console: Console, scores: Scores, columns: Mapping[str, Mapping[str, float | None]]) -> None:
    from cl_kernel.reports.conventions import SOURCES, WANTED

    for name, values in columns.items():
        console.print(f"{name}: as {SOURCES[name]} computes it")
        for key in (key for key, value in values.items() if value is None and (name, key) in WANTED):
            console.print(f"{name}: {key.replace('_', ' ')} needs {WANTED[name, key]}")
    if columns and scores.sizes is None:
        console.print("sizes of the test sets are not known here: they count as equal")
