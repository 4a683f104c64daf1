"""Many runs from one file: a grid or a list of tests, pieces, settings and seeds, each a run folder of its own.

A task's folder is named by a digest of its resolved settings, so the same file finds its finished tasks again.
Every task is a process of its own: a crash takes nothing with it, and two frameworks never meet.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import yaml
from attrs import field, frozen

from cl_kernel.compatibility import renamed_keys
from cl_kernel.contract.errors import BadSetting, ClkError, UnknownName
from cl_kernel.registry import Registry, discover, resolve
from cl_kernel.running.effects import refuse_without_effect
from cl_kernel.running.plan import NEUTRAL, SHORT, Plan, Request, framework_of, plan
from cl_kernel.running.settings import as_plain
from cl_kernel.running.training import telling
from cl_kernel.storage.files import content_key, write_json, write_text
from cl_kernel.storage.run_folder import read_json
from cl_kernel.sweeps.tasks import outcome_of, run_task

__all__ = ["Spec", "Task", "outcome_of", "read_spec", "run_sweep", "run_task", "tasks_of", "write_spec"]

KEYS: dict[str, type] = {
    "name": str,
    "base": dict,
    "grid": dict,
    "list": list,
    "comparisons": bool,
    "unfit": str,
    "executor": str,
    "n_jobs": int,
    "threads": int,
    "gpus": int,
    "retries": int,
    "slurm": dict,
}
REQUEST = ("test", "plugin", "profile", "data_root")


@frozen(kw_only=True)
class Spec:
    """A sweep file, checked.

    :param comparisons: also make the comparison runs of each test.
    :param unfit: ``fail``: pieces that do not fit stop the sweep before anything starts; ``skip``: they are listed.
    :param threads: CPU threads of a task; part of what makes numbers equal on every executor.
    :param retries: how often a killed worker's task is taken up again.
    """

    name: str
    base: Mapping[str, Any] = field(factory=dict)
    grid: Mapping[str, Any] = field(factory=dict)
    list: Sequence[Mapping[str, Any]] = ()
    comparisons: bool = False
    unfit: str = "fail"
    executor: str = "local"
    n_jobs: int = 0
    threads: int = 1
    gpus: int = 0
    retries: int = 2
    slurm: Mapping[str, Any] = field(factory=dict)


@frozen(kw_only=True)
class Task:
    """One run of a sweep: what was varied, where it lies, and how to run it as plain values.

    :param arm: what the sweep file calls it: axis of the grid -> name of the arm, where arms have names.
    """

    values: Mapping[str, Any]
    folder: Path
    request: Request
    refused: str = ""
    framework: str = "numpy"
    arm: Mapping[str, str] = field(factory=dict)

    def plain(self, spec: Spec) -> dict[str, Any]:
        """What :func:`run_task` takes."""
        return {
            "folder": str(self.folder),
            "request": attrs.asdict(self.request),
            "framework": self.framework,
            "comparisons": spec.comparisons,
            "threads": spec.threads,
            "retries": spec.retries,
            "arm": dict(self.arm),
        }


# ---- the file -------------------------------------------------------------------------------------


def read_spec(path: Path) -> Spec:
    """Read and check a sweep file.

    :raises BadSetting: naming the key.
    """
    where = str(path)
    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise BadSetting(f"sweep file {path} does not exist", where="clk sweep") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadSetting(f"sweep file cannot be read: {error}", where=where) from error
    if not isinstance(content, dict):
        raise BadSetting("a sweep file holds keys such as base and grid", where=where)
    content = renamed_keys(content, {"beside": "comparisons"}, where)
    for key, value in content.items():
        if key not in KEYS:
            raise UnknownName.of("key", str(key), KEYS, where=where)
        if not isinstance(value, KEYS[key]) or (
            isinstance(value, int) and KEYS[key] is int and (value is True or value < 0)
        ):
            raise BadSetting(f"{key} = {value!r} is no {KEYS[key].__name__}", where=where)
    if content.get("unfit", "fail") not in ("fail", "skip"):
        raise BadSetting(f"unfit = {content['unfit']!r} is neither fail nor skip", where=where)
    if not content.get("grid") and not content.get("list"):
        raise BadSetting("nothing to vary: neither grid nor list", where=where, fix="grid: {seed: [0, 1, 2]}")
    for key, options in content.get("grid", {}).items():
        if not isinstance(options, (list, dict)) or not options:
            raise BadSetting(f"grid.{key} = {options!r} is no list of values", where=where)
        if isinstance(options, dict) and not all(isinstance(arm, dict) for arm in options.values()):
            raise BadSetting(f"grid.{key}: every named arm is a mapping of settings", where=where)
    if not all(isinstance(item, dict) for item in content.get("list", [])):
        raise BadSetting("every item of list is a mapping of settings", where=where)
    _check_inner(content, where)
    return Spec(**{"name": path.stem, **content})


def _check_inner(content: Mapping[str, Any], where: str) -> None:
    """Grids inside items of the list and inside named arms hold lists of values."""
    inside = {f"list[{i}]": item for i, item in enumerate(content.get("list", []))}
    for key, options in content.get("grid", {}).items():
        if isinstance(options, dict):
            inside |= {f"grid.{key}.{label}": arm for label, arm in options.items()}
    for name, item in inside.items():
        grid = item.get("grid", {})
        if not isinstance(grid, dict) or not all(isinstance(values, list) and values for values in grid.values()):
            raise BadSetting(f"{name}.grid = {grid!r} holds no lists of values", where=where)


def write_spec(path: Path, spec: Spec) -> None:
    """Keep a sweep beside its runs, as a file that makes it again."""
    write_text(path, yaml.safe_dump({k: v for k, v in as_plain(spec).items() if v}, sort_keys=False))


def combinations(spec: Spec) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Every combination: what is varied (for people), and the settings it stands for."""
    axes: list[list[tuple[dict[str, Any], dict[str, Any]]]] = [[]]
    for item in spec.list or [{}]:
        axes[0] += [({**fixed, **varied}, {**fixed, **varied}) for fixed, varied in _inner(item)]
    for key, options in spec.grid.items():
        if isinstance(options, dict):
            axes.append(
                [
                    ({key: label, **varied}, {**fixed, **varied})
                    for label, arm in options.items()
                    for fixed, varied in _inner(arm)
                ]
            )
        else:
            axes.append([({key: value}, {key: value}) for value in options])
    for combination in itertools.product(*axes):
        shown, values = {}, dict(spec.base)
        for labels, settings in combination:
            shown.update(labels)
            values.update(settings)
        yield shown, values


def _inner(item: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """What an item of the list or an arm says, once for each combination of its own grid."""
    grid = item.get("grid", {})
    fixed = {key: value for key, value in item.items() if key != "grid"}
    for values in itertools.product(*grid.values()):
        yield fixed, dict(zip(grid, values, strict=True))


def request_for(values: Mapping[str, Any], origin: str) -> Request:
    """The request that one combination makes; keys as on the command line, or dotted settings."""
    roots = values.get("data_root", ())
    settings = {SHORT.get(key, key): value for key, value in values.items() if key not in REQUEST}
    settings.setdefault("run.plots", False)  # clk report draws all of them together
    return Request(
        test=str(values.get("test") or ""),
        plugin=str(values.get("plugin") or ""),
        profile=str(values.get("profile") or ""),
        data_roots=(roots,) if isinstance(roots, str) else tuple(map(str, roots)),
        overrides=((origin, settings),),
    )


def tasks_of(registry: Registry, spec: Spec, output: Path) -> list[Task]:
    """Plan every combination; nothing heavy is imported. Combinations that mean the same run appear once.

    :raises ClkError: when one does not fit and the file does not say ``unfit: skip``.
    """
    tasks: dict[str, Task] = {}
    for shown, values in combinations(spec):
        request = request_for(values, f"sweep {spec.name}")
        try:
            planned = plan(registry, request)
            refuse_without_effect(planned)
        except ClkError as error:
            if spec.unfit == "fail":
                named = ", ".join(f"{k}={v}" for k, v in shown.items())
                raise type(error)(
                    f"{error.what} (in the combination {named})",
                    where=error.where or spec.name,
                    fix=error.fix or "mend the file, or let it say 'unfit: skip'",
                ) from error
            tasks[repr(shown)] = Task(values=shown, folder=output, request=request, refused=error.what)
            continue
        key = identity(planned)
        tasks.setdefault(
            key,
            Task(
                values=shown,
                folder=output / _folder_name(planned, key),
                request=request,
                framework=framework_of(planned),
                arm={key: shown[key] for key, options in spec.grid.items() if isinstance(options, dict)},
            ),
        )
    return list(tasks.values())


def identity(planned: Plan) -> str:
    """A digest of everything a run's numbers depend on, as far as it is settled before the run."""
    return content_key(
        {
            "test": planned.name,
            "profile": planned.profile,
            "beside": planned.request.comparison,
            "pieces": {section: offer.name for section, (offer, _) in planned.pieces.items()},
            "metrics": [offer.name for offer in planned.metrics],
            "settings": {k: v for k, v in telling(planned.resolved.flat()).items() if k not in NEUTRAL},
        }
    )[:10]


def _folder_name(planned: Plan, key: str) -> str:
    offers = [planned.pieces[s][0] for s in ("dataset", "codec", "source") if s in planned.pieces]
    words = [planned.name.rpartition(":")[2], *(offer.record.name for offer in offers)]
    return re.sub(r"[^\w.+-]+", "-", "-".join(words))[:80] + f"-s{planned.options.seed}-{key}"


# ---- running --------------------------------------------------------------------------------------


def run_sweep(
    spec: Spec,
    tasks: Sequence[Task],
    *,
    options: Mapping[str, Any] | None = None,
    registry: Registry | None = None,
    tell: Callable[[Task, Mapping[str, Any]], None] = lambda task, outcome: None,
) -> list[dict[str, Any]]:
    """Run what is not finished, on the chosen executor.

    :param options: for the executor, e.g. ``{"address": "auto"}``.
    :param tell: told of each task as it ends, finished ones first.
    :return: status, error and seconds of each task, in order.
    """
    registry = registry or discover()
    outcomes: list[dict[str, Any]] = [{} for _ in tasks]
    waiting = []
    for index, task in enumerate(tasks):
        if task.refused:
            outcomes[index] = {"status": "refused", "error": task.refused}
        elif (found := outcome_of(task.folder))["status"] == "finished":
            outcomes[index] = found | {"skipped": True}
            _rename(task, spec)
        else:
            waiting.append(index)
            continue
        tell(task, outcomes[index])
    record = registry.find("executor", spec.executor)[0].record
    settings = {"threads": spec.threads, "gpus": spec.gpus, "retries": spec.retries, "slurm": spec.slurm}
    if waiting:
        executor = resolve(record.build)(settings | dict(options or {}))
        ended = executor.map([tasks[i].plain(spec) for i in waiting], spec.n_jobs)
        with contextlib.ExitStack() as stack:
            # A generator is closed even when this is left early: what runs then saves itself.
            stack.callback(getattr(ended, "close", lambda: None))
            for at, outcome in ended:
                task = tasks[waiting[at]]
                _fetch(task.folder, outcome.get("files", {}))
                outcomes[waiting[at]] = {key: value for key, value in outcome.items() if key != "files"}
                tell(task, outcomes[waiting[at]])
    return outcomes


def _rename(task: Task, spec: Spec) -> None:
    """A finished run is called what the file calls it now."""
    described = task.folder / "task.json"
    if described.exists() and read_json(described).get("arm") != dict(task.arm):
        write_json(described, task.plain(spec))


def _fetch(folder: Path, files: Mapping[str, str]) -> None:
    """Keep what a worker without our file system sent."""
    if not (folder / "run.json").exists():
        for name, text in files.items():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
