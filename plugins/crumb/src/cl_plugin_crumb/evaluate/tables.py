"""The csv files of the authors' scripts, so that scripts written for the original read our results."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cl_kernel import BadInput

Accuracies = Mapping[str, Any]
"""run -> source (``direct``, ``mem``) -> set -> ``{"all_epochs": task x epoch x k, "best_epochs": task x k}``."""

SETS = ("test_all", "test_1st", "test_current_task", "val_all")


def folder(scenario: str, agent: str, model: str, *, offline: bool = False, runs: Sequence[int] = ()) -> Path:
    """Where results lie below the output folder; ``runs`` names them when not all were made at once."""
    place = Path(scenario) / f"{agent}_{model}{'_offline' if offline else ''}"
    return place / f"runs-{'-'.join(map(str, runs))}" if runs else place


def _row(cells: Sequence[float | None]) -> str:
    return ",".join("" if cell is None else repr(float(cell)) for cell in cells) + "\n"


def texts(accuracies: Accuracies, ks: Sequence[int] = (1,), *, pretraining: bool = False) -> dict[str, str]:
    """File name -> content of every accuracy file.

    :param pretraining: there is one task and only ``test_all`` is written.
    """
    out: dict[str, str] = {}
    runs = sorted(accuracies, key=int)
    sources = sorted({source for run in runs for source in accuracies[run]})
    for source in sources:
        for name in SETS[:1] if pretraining else SETS:
            for at, k in enumerate(ks):
                last = [[task[at] for task in accuracies[run][source][name]["best_epochs"]] for run in runs]
                out[f"top{k}_{name}_{source}_all_runs.csv"] = "".join(map(_row, last))
                for run in runs:
                    epochs = [[epoch[at] for epoch in task] for task in accuracies[run][source][name]["all_epochs"]]
                    width = max(map(len, epochs), default=0)
                    padded = [row + [None] * (width - len(row)) for row in epochs]
                    out[f"all_epochs/top{k}_{name}_{source}_all_epochs_run{run}.csv"] = "".join(map(_row, padded))
    return out


def mem_stats(rows: Iterable[Mapping[str, float]]) -> str:
    """``mem_stats.csv`` with an index column: run, task, epoch and the statistics of codebook and maps."""
    return pd.DataFrame(list(rows)).to_csv()


def hyper_parameters(values: Mapping[str, Any]) -> str:
    """``hyperparams.csv``: key,value without header; values with a comma are quoted."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows((key, value) for key, value in values.items())
    return out.getvalue()


def write(root: Path, files: Mapping[str, str]) -> None:
    """Write files below a folder."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def _cells(path: Path) -> list[list[str]]:
    return [line.split(",") if line else [] for line in path.read_text().splitlines()]


def final_accuracies(path: Path) -> list[float]:
    """Last column of an ``all_runs`` file: the figure of the paper's main table is its mean.

    :raises BadInput: for a file without numbers.
    """
    rows = [row for row in _cells(path) if row]
    try:
        return [float(row[-1]) for row in rows]
    except ValueError as error:
        raise BadInput(f"a cell holds no number: {error}", where=str(path)) from error


def merge_runs(folders: Sequence[Path], target: Path) -> list[Path]:
    """Join the results of runs made apart (``runs-0``, ``runs-1``, ...) into one folder.

    ``all_runs`` files get one row a run, in the order of the run numbers; per-run files are copied.

    :raises BadInput: when two folders hold the same run, or none holds results.
    """
    numbered: dict[int, tuple[Path, int]] = {}
    for place in folders:
        for row, run in enumerate(int(n) for n in place.name.removeprefix("runs-").split("-") if n.isdigit()):
            if run in numbered:
                raise BadInput(f"run {run} is in two folders", where=f"{numbered[run][0]} and {place}")
            numbered[run] = (place, row)
    if not numbered:
        raise BadInput("no folder named runs-N", where=", ".join(map(str, folders)) or "nothing given")
    written = []
    names = sorted({path.name for place in folders for path in place.glob("*_all_runs.csv")})
    if not names:
        raise BadInput("no *_all_runs.csv to join", where=", ".join(map(str, folders)))
    for name in names:
        lines = []
        for run in sorted(numbered):
            place, row = numbered[run]
            given = (place / name).read_text().splitlines() if (place / name).exists() else []
            lines.append(given[row] if row < len(given) else "")
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text("\n".join(lines) + "\n")
        written.append(target / name)
    for place in folders:
        for path in sorted((place / "all_epochs").glob("*.csv")):
            (target / "all_epochs").mkdir(parents=True, exist_ok=True)
            (target / "all_epochs" / path.name).write_text(path.read_text())
            written.append(target / "all_epochs" / path.name)
    if stats := [place / "mem_stats.csv" for place in folders if (place / "mem_stats.csv").exists()]:
        pd.concat([pd.read_csv(path, index_col=0) for path in stats], ignore_index=True).to_csv(
            target / "mem_stats.csv"
        )
        written.append(target / "mem_stats.csv")
    return written


def merge_tables(paths: Sequence[Path], target: Path) -> pd.DataFrame:
    """Stack csv tables of equal columns.

    :raises BadInput: when the columns differ.
    """
    tables = [pd.read_csv(path) for path in paths]
    for path, table in zip(paths[1:], tables[1:], strict=True):
        if list(table.columns) != list(tables[0].columns):
            raise BadInput(f"columns {list(table.columns)} are not {list(tables[0].columns)}", where=str(path))
    merged = pd.concat(tables, ignore_index=True)
    merged.to_csv(target, index=False)
    return merged
