"""Runs side by side: those that differ only in their seed are one row, with mean, deviation and paired tests.

Numbers on toy data and a paper's never meet in one table: each profile has its own.
"""

from __future__ import annotations

import csv
import io
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from importlib import util
from pathlib import Path
from typing import Any

import yaml
from attrs import define, evolve, field, frozen

from cl_kernel.contract.errors import RunConflict, UnknownName
from cl_kernel.contract.offers import Expected
from cl_kernel.registry import Registry
from cl_kernel.running.plan import NEUTRAL, SHORT
from cl_kernel.running.training import telling
from cl_kernel.storage.files import content_key
from cl_kernel.storage.run_folder import read_json

_LATEX = str.maketrans(
    {character: "\\" + character for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
)
UPPER_BOUNDS = ("joint", "offline", "cumulative", "upper-bound", "upper bound")
"""Learners and comparison runs of these names train on everything at once: what could be reached, never the best."""
PIECES = ("test", "label", "dataset", "learner", "model", "policy", "codec", "source")
HARMLESS = NEUTRAL | {"run.seed", "run.device", "run.on_bad_sample", "run.initial_scores", "metrics"}
"""What may be overridden without a run ceasing to be the published experiment."""


@frozen(kw_only=True)
class Run:
    """A finished run as it lies on disk; needs no plugin."""

    folder: Path
    info: Mapping[str, Any]
    settings: Mapping[str, Any]
    origins: Mapping[str, str]
    results: Mapping[str, Any]
    arm: str = ""

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that makes the run what it is, but the seed."""
        test = self.info["test"] if self.info.get("plugin") else ""  # without a test a run is called by its learner
        named = {"test": test, "label": self.info.get("label", "")} | dict(self.info["pieces"])
        return named | {k: v for k, v in telling(self.settings).items() if k not in NEUTRAL and k != "run.seed"}


@define(kw_only=True)
class Group:
    """Runs that differ only in their seed."""

    profile: str
    metric: str
    identity: Mapping[str, Any]
    runs: dict[int, Run] = field(factory=dict)
    label: str = ""
    shown: dict[str, Any] = field(factory=dict)

    @property
    def data(self) -> dict[str, Any]:
        """Data set, its settings and those of the stream that say what a stage holds, not how it is read."""
        own = {k: v for k, v in self.identity.items() if k == "dataset" or k.startswith(("dataset.", "stream."))}
        return {k: v for k, v in own.items() if k != "stream.online"}

    @property
    def stream(self) -> str:
        """Which other groups may be tested against this one: same data, same metric, same profile."""
        return content_key({"profile": self.profile, "metric": self.metric, **self.data})

    @property
    def arm(self) -> str:
        """The name that the sweep file gives to all of these runs; empty when they have none or several."""
        names = {run.arm for run in self.runs.values()}
        return names.pop() if len(names) == 1 else ""

    @property
    def is_upper_bound(self) -> bool:
        """Whether these runs trained on everything at once, by the name of their learner or comparison run."""
        names = (str(self.identity.get("label", "")), _short(self.identity.get("learner", "")))
        return any(name.lower() in UPPER_BOUNDS for name in names)

    def values(self, column: str) -> dict[int, float]:
        """Seed -> value of a column, where there is one."""
        found = {seed: numbers(run, self.metric).get(column) for seed, run in sorted(self.runs.items())}
        return {seed: value for seed, value in found.items() if value is not None}


def find_runs(paths: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """Finished runs in run folders and sweep folders, comparison runs included.

    :return: the runs, and a line about each that is not finished.
    :raises RunConflict: for a path without any run.
    """
    runs, unfinished = [], []
    for path in dict.fromkeys(file.resolve() for file in _run_files(paths)):
        found = _read_run(path)
        if isinstance(found, Run):
            runs.append(found)
        else:
            unfinished.append(f"{path.parent}: {found}")
    return runs, unfinished


def _read_run(path: Path) -> Run | str:
    """The run of a ``run.json``, or why there is none to look at: unfinished, half-written, of a version unknown."""
    try:
        info = read_json(path)
        if info.get("status") != "finished" or not (path.parent / "metrics.json").exists():
            return f"{info.get('status', 'unknown')} {info.get('reason', '')}".strip()
        if missing := [key for key in ("test", "profile", "seed", "pieces") if key not in info]:
            return f"of another version: run.json has no {', '.join(missing)}"
        settings, origins = read_settings(path.parent / "settings.yaml")
        results = read_json(path.parent / "metrics.json")
        for name, table in results.get("metrics", {}).items():
            if missing := [key for key in ("matrix", "seen", "summary") if key not in table]:
                return f"of another version: {name} in metrics.json has no {', '.join(missing)}"
        run = Run(folder=path.parent, info=info, settings=settings, origins=origins, results=results)
        return evolve(run, arm=_arm(run))
    except RunConflict as error:
        return error.what
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError, TypeError) as error:
        return f"cannot be read: {' '.join(str(error).split())[:160]}"


def _arm(run: Run) -> str:
    """What the sweep file calls a run; a comparison run has its own label."""
    if run.info.get("label") or not (run.folder / "task.json").exists():
        return ""
    return " ".join(map(str, read_json(run.folder / "task.json").get("arm", {}).values()))


def _run_files(paths: Iterable[Path]) -> Iterable[Path]:
    for path in paths:
        found = sorted(path.glob("**/run.json"))
        if not found:
            raise RunConflict(f"no run below {path}", where=str(path), fix="'clk runs' lists the runs")
        yield from found


def read_settings(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Dotted settings of a run and the origin of each, from its ``settings.yaml``."""
    text = path.read_text()
    sections = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}
    settings = {
        f"{section}.{name}": value for section, values in sections.items() for name, value in (values or {}).items()
    }
    origins, section = {}, ""
    for line in text.splitlines():
        if line.startswith("  ") and "  # " in line:
            name = line.strip().partition(":")[0].strip("'\"")
            origins[f"{section}.{name}"] = line.rpartition("  # ")[2]
        else:
            section = line.partition(":")[0]
    return settings, origins


def numbers(run: Run, metric: str) -> dict[str, float]:
    """Every figure of a run by column name: final score, what the matrix gives, bytes and seconds."""
    results, found = run.results, {}
    if table := results.get("metrics", {}).get(metric):
        found = {"score": next(iter(table["seen"][-1].values()))}
        found |= table["summary"]
        aware = results.get("task_aware", {}).get(metric, {}).get("summary", {})
        found["task-aware"] = aware.get("average_accuracy")
    else:
        found = {k: v for k, v in results.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
    cost = results.get("cost", {})
    if cost.get("memory_bytes"):
        found["memory bytes"] = cost["memory_bytes"]
        found["memory examples"] = cost["memory_examples"]
        if found.get("score") is not None:
            found["score per kB"] = found["score"] / cost["memory_bytes"] * 1000
    if kept := cost.get("kept"):
        found["kept bytes"] = sum(kept.values())
    found |= {"seconds": cost.get("seconds"), "peak bytes": cost.get("peak_bytes")}
    return {name: float(value) for name, value in found.items() if value is not None}


def group_runs(runs: Sequence[Run], metric: str = "") -> list[Group]:
    """Runs by everything but their seed, named by what tells them apart, in order of appearance.

    :param metric: instead of each run's first.
    :raises UnknownName: for a metric that none has.
    """
    known = {name for run in runs for name in run.results.get("metrics", {})}
    if metric and metric not in known:
        raise UnknownName.of("metric", metric, known, where="--metric")
    groups: dict[str, Group] = {}
    for run in sorted(runs, key=lambda run: str(run.info.get("started", ""))):
        mine = metric or next(iter(run.results.get("metrics", {})), "")
        if metric and metric not in run.results.get("metrics", {}):
            continue
        identity = run.identity
        key = content_key({"profile": run.info["profile"], "metric": mine, **identity})
        group = groups.setdefault(key, Group(profile=run.info["profile"], metric=mine, identity=identity))
        group.runs[int(run.info["seed"])] = run
    name_groups(list(groups.values()))
    return sorted(groups.values(), key=lambda group: (group.profile, str(group.identity.get("dataset")), group.label))


def name_groups(groups: Sequence[Group]) -> None:
    """Label each group by the name that its sweep gives it, else by what tells it apart from the others given."""
    _name_by_settings(groups)
    for arm in dict.fromkeys(group.arm for group in groups if group.arm):
        same = [group for group in groups if group.arm == arm]
        shown = [group.shown for group in same]
        if len(same) > 1:  # several sweeps, or several data sets, with an arm of this name
            _name_by_settings(same)
        for group, told in zip(same, shown, strict=True):
            group.label, group.shown = f"{arm} {group.label}" if len(same) > 1 else arm, told


def _name_by_settings(groups: Sequence[Group]) -> None:
    keys = list(dict.fromkeys(key for group in groups for key in group.identity))
    keys.sort(key=lambda key: PIECES.index(key) if key in PIECES else len(PIECES))
    varied = [key for key in keys if len({repr(group.identity.get(key)) for group in groups}) > 1]
    owners = {key.partition(".")[0] for key in varied if "." not in key}
    for group in groups:
        # A setting of a piece that itself varies says nothing new unless it varies for one and the same piece.
        told = [
            key
            for key in varied
            if "." not in key
            or key.partition(".")[0] not in owners
            or len(
                {
                    repr(other.identity.get(key))
                    for other in groups
                    if other.identity.get(key.partition(".")[0]) == group.identity.get(key.partition(".")[0])
                }
            )
            > 1
        ]
        group.shown = {key: group.identity[key] for key in told if group.identity.get(key) not in (None, "")}
        long = {full: short for short, full in SHORT.items()}
        words = [
            _short(value) if "." not in key else f"{long.get(key, key)}={_short(value)}"
            for key, value in group.shown.items()
        ]
        if {"policy", "codec", "source"} & set(varied) and not {"policy", "source"} & set(group.identity):
            words.append("no memory")
        group.label = " ".join(words) or _short(group.identity["test"] or group.identity.get("learner", "run"))


def _short(value: Any) -> str:
    text = str(value)
    return text.rpartition(":")[2] if "/" not in text else text


# ---- statistics -----------------------------------------------------------------------------------


@frozen(kw_only=True)
class Paired:
    """One group against another over the seeds both have."""

    label: str
    against: str
    n: int
    difference: float
    t_test: float | None = None
    wilcoxon: float | None = None
    note: str = ""


def paired(group: Group, against: Group, column: str = "score") -> Paired:
    """Two-sided paired t-test and Wilcoxon signed-rank test over common seeds (scipy)."""
    ours, theirs = group.values(column), against.values(column)
    seeds = sorted(set(ours) & set(theirs))
    a, b = [ours[s] for s in seeds], [theirs[s] for s in seeds]
    differences = [x - y for x, y in zip(a, b, strict=True)]
    outcome: dict[str, Any] = {
        "label": group.label,
        "against": against.label,
        "n": len(seeds),
        "difference": statistics.fmean(differences) if seeds else math.nan,
    }
    if len(seeds) < 2:
        return Paired(**outcome, note="needs at least two common seeds")
    if util.find_spec("scipy") is None:
        return Paired(**outcome, note="p-values need scipy: pip install 'cl-kernel[stats]'")
    if len(set(differences)) == 1:
        # Without spread the t statistic is 0/0 or infinite; only equality can be stated.
        same = differences[0] == 0
        return Paired(**outcome, t_test=1.0 if same else None, wilcoxon=1.0 if same else None, note="no spread")
    from scipy import stats

    return Paired(
        **outcome,
        t_test=float(stats.ttest_rel(a, b).pvalue),
        wilcoxon=float(stats.wilcoxon(a, b).pvalue),
        note=""
        if len(seeds) > 5
        else f"{len(seeds)} seeds: the Wilcoxon test cannot go below {2 ** (1 - len(seeds)):.3g}",
    )


def paired_tests(groups: Sequence[Group], against: str) -> list[Paired]:
    """Each group against the one named, where they ran on the same data; none without a name.

    :raises UnknownName: when no group has that name.
    """
    if not against:
        return []
    if not any(group.label == against for group in groups):
        raise UnknownName.of("row", against, [group.label for group in groups], where="--against")
    tests = []
    for reference in (group for group in groups if group.label == against and group.values("score")):
        mine = [group for group in groups if group.stream == reference.stream and group.values("score")]
        tests += [paired(group, reference) for group in mine if group is not reference]
    return tests


def unlike(groups: Sequence[Group]) -> list[str]:
    """Lines about what makes the rows of one profile no fair comparison: data, network, passes, bytes kept."""
    lines = []
    for profile in dict.fromkeys(group.profile for group in groups):
        mine = [group for group in groups if group.profile == profile]
        keys = list(dict.fromkeys(key for group in mine for key in group.identity if FAIR.match(key)))
        for key in keys:
            rows = {group.label: group.identity[key] for group in mine if key in group.identity}
            if len({repr(value) for value in rows.values()}) > 1:
                lines.append(_differ(key, {label: str(value) for label, value in rows.items()}))
        kept = {group.label: statistics.fmean(v.values()) for group in mine if (v := group.values("kept bytes"))}
        kept = {label: size for label, size in kept.items() if size}
        if kept and max(kept.values()) > 1.01 * min(kept.values()):
            how = "--budget SIZE makes them equal"
            told = {label: f"{size:,.0f}" for label, size in kept.items()}
            lines.append(f"{_differ('bytes kept beyond the network', told)} ({how})")
    return lines


FAIR = re.compile(r"(dataset|model)(\..*)?\Z|stream\..*|learner\.(n_|first_)?epochs\Z")
"""Settings whose difference is more than the method."""


def _differ(what: str, values: Mapping[str, str]) -> str:
    by_value: dict[str, list[str]] = {}
    for label, value in values.items():
        by_value.setdefault(value, []).append(label)
    told = "; ".join(f"{value} for {', '.join(labels)}" for value, labels in by_value.items())
    return f"rows differ in {what}: {told}"


# ---- published figures ----------------------------------------------------------------------------


def published(group: Group, registry: Registry) -> list[Expected]:
    """The paper's verified figures, if these runs are its experiment: same test, same profile, nothing overridden."""
    run = next(iter(group.runs.values()))
    request = run.info.get("request", {})
    changed = {SHORT.get(k, k) for _, values in request.get("overrides", ()) for k in values} - HARMLESS
    if changed or run.info.get("label"):
        return []
    offers = [
        o for o in registry.all("test") if o.plugin == run.info.get("plugin") and o.record.name == run.info["test"]
    ]
    return [e for offer in offers for e in offer.record.expected if e.profile == group.profile]


# ---- tables ---------------------------------------------------------------------------------------


def columns_of(groups: Sequence[Group], wanted: Sequence[str] = ()) -> list[str]:
    """Columns that any of the groups has a value for.

    :raises UnknownName: for a wanted column that none has.
    """
    known = list(dict.fromkeys(n for g in groups for run in g.runs.values() for n in numbers(run, g.metric)))
    for name in wanted:
        if name not in known:
            raise UnknownName.of("column", name, known, where="--column")
    return list(wanted) or known


def mean_std(values: Iterable[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation; None for a single value."""
    values = list(values)
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def summary_rows(groups: Sequence[Group], columns: Sequence[str]) -> list[dict[str, Any]]:
    """Plain rows for machines: mean, deviation and the values by seed of every column."""
    rows = []
    for group in groups:
        row: dict[str, Any] = {
            "run": group.label,
            "profile": group.profile,
            "metric": group.metric,
            "differs in": group.shown,
            "seeds": sorted(group.runs),
            "folders": [str(run.folder) for _, run in sorted(group.runs.items())],
        }
        for column in columns:
            if values := group.values(column):
                mean, std = mean_std(values.values())
                row[column] = {"mean": mean, "std": std, "values": values}
        rows.append(row)
    return rows


def text_rows(groups: Sequence[Group], columns: Sequence[str], plus_minus: str = " ± ") -> list[list[str]]:
    """Rows for people: ``mean ± std`` where there are several seeds."""
    rows = []
    for group in groups:
        row = [group.label, str(len(group.runs))]
        for column in columns:
            values = list(group.values(column).values())
            row.append("" if not values else _number(column, *mean_std(values), plus_minus))
        rows.append(row)
    return rows


def _number(column: str, mean: float, std: float | None, plus_minus: str) -> str:
    digits = 0 if "bytes" in column or "examples" in column else 1 if column == "seconds" else 4
    exact = digits == 0 and not std
    return f"{mean:,.{digits}f}" + ("" if std is None or exact else f"{plus_minus}{std:,.{digits}f}")


def as_csv(groups: Sequence[Group], columns: Sequence[str]) -> str:
    """One line a group: what tells it apart, then mean and deviation of every column, in full precision."""
    shown = list(dict.fromkeys(key for group in groups for key in group.shown))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", "profile", "metric", *shown, "n", *(f"{c} {k}" for c in columns for k in ("mean", "std"))])
    for group in groups:
        figures: list[Any] = []
        for column in columns:
            values = list(group.values(column).values())
            mean, std = mean_std(values) if values else ("", None)
            figures += [mean, "" if std is None else std]
        told = [group.shown.get(key, "") for key in shown]
        writer.writerow([group.label, group.profile, group.metric, *told, len(group.runs), *figures])
    return text.getvalue()


def as_markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, columns aligned."""
    cells = [[str(value).replace("|", "\\|") for value in row] for row in (header, *rows)]
    widths = [max(3, *(len(row[k]) for row in cells)) for k in range(len(header))]
    lines = ["| " + " | ".join(v.ljust(w) for v, w in zip(row, widths, strict=True)) + " |" for row in cells]
    rule = ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])]
    return "\n".join([lines[0], "| " + " | ".join(rule) + " |", *lines[1:]]) + "\n"


def as_latex(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A tabular for the package booktabs."""

    def cells(row: Sequence[str]) -> str:
        return " & ".join(str(value).translate(_LATEX) for value in row) + r" \\"

    lines = [r"\begin{tabular}{l" + "r" * (len(header) - 1) + "}", r"\toprule", cells(header), r"\midrule"]
    return "\n".join([*lines, *map(cells, rows), r"\bottomrule", r"\end{tabular}"]) + "\n"
