"""A finished run goes on with further stages: what has to hold before anything in its folder changes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from cl_kernel.contract.errors import BadSetting, ClkError, RunConflict
from cl_kernel.contract.interfaces import Tree
from cl_kernel.contract.stream import Stream
from cl_kernel.running.build import Built
from cl_kernel.running.loop import take_up
from cl_kernel.running.plan import Request
from cl_kernel.running.scoring import score
from cl_kernel.storage.identity import differences
from cl_kernel.storage.run_folder import RunFolder, read_json

ORIGIN = "clk extend"
NEAR = 0.01
"""How far a score of an earlier test set may lie from the recorded one when a finished network is taken up."""


def longer_request(request: Request, settings: Mapping[str, Any], also: Mapping[str, Any]) -> Request:
    """The request of a run whose stream goes on.

    :param also: settings of other pieces that somebody answers for.
    :raises BadSetting: for a setting that is not the data set's, or when there is none.
    """
    if other := [name for name in settings if not name.startswith("dataset.")]:
        raise BadSetting(
            f"{', '.join(other)}: the stages to come are learnt as those before",
            where="clk extend --set",
            fix="give settings of the data set only, or start a new run",
        )
    if not settings:
        raise BadSetting(
            "nothing says which stages come next",
            where="clk extend",
            fix="--set dataset.KEY=VALUE, as dataset.directions=[right,left,up] (clk show RUN lists what it has)",
        )
    return attrs.evolve(request, overrides=(*request.overrides, (ORIGIN, {**settings, **also})))


def stages_and_more(request: Request) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings that :func:`longer_request` added last: the data set's, and others."""
    added = request.overrides[-1][1]
    both = ({k: v for k, v in added.items() if k.startswith("dataset.") == mine} for mine in (True, False))
    return next(both), next(both)


def check_finished(run: RunFolder) -> None:
    """Refuse a run that cannot go on.

    :raises RunConflict: saying what it is and how to go on.
    """
    status = run.status()
    if status != "finished":
        raise RunConflict(
            f"the run is {status}, not finished", where=str(run.path), fix=f"clk resume {run.path}, then extend it"
        )
    if "metrics" not in read_json(run.path / "metrics.json"):
        raise RunConflict("the run has no stages", where=str(run.path), fix="extend runs of a stream only")
    if not run.checkpoints():
        raise RunConflict("the run has no checkpoint left to go on from", where=str(run.path / "checkpoints"))


def check_begins_alike(folder: Path, stream: Stream) -> None:
    """The stages already learnt must be an equal beginning of the longer stream.

    :raises RunConflict: naming the stage that differs, and how.
    """
    stored = read_json(folder / "metrics.json")
    learnt, now = list(stored["stages"]), [stage.name for stage in stream.stages]
    if now[: len(learnt)] != learnt:
        raise RunConflict(
            f"the run has learnt {', '.join(learnt)}; the stream asked for begins {', '.join(now[: len(learnt)])}",
            where=str(folder),
            fix="keep the stages already learnt at the beginning, in their order",
        )
    if len(now) == len(learnt):
        raise RunConflict(
            f"the stream asked for has no stage beyond the {len(learnt)} that the run has learnt",
            where=str(folder),
            fix="add stages behind them",
        )
    kept = stored.get("identity", {}).get("stages", {})
    for stage in stream.stages[: len(learnt)]:
        if found := differences(kept.get(stage.name, {}), _plain(stage.identity.plain())):
            raise RunConflict(
                f"stage {stage.name!r} is another one now: {'; '.join(found[:5])}",
                where=str(folder),
                fix="change only settings that add stages, and give the data it began with (--data-root DIR)",
            )


def check_answers(folder: Path, built: Built, learner_name: str, state: Tree) -> None:
    """A learner that takes the state up must answer the earlier test sets as the run did at its end.

    :raises RunConflict: when it cannot take further stages.
    """
    try:
        take_up(built.learner, state, grows=True)
    except Exception as error:
        reason = error.what if isinstance(error, ClkError) else f"{type(error).__name__}: {error}"
        raise RunConflict(
            f"{learner_name} cannot take further stages: {reason}",
            where=str(folder),
            fix="start a new run over all stages",
        ) from error
    recorded = read_json(folder / "metrics.json")
    names = list(recorded["test_sets"])
    if missing := [name for name in names if name not in built.stream.test_sets]:
        raise RunConflict(f"the longer stream has no test set {missing[0]!r}", where=str(folder))
    now = score(built.learner, built.stream, built.scorers, names)["values"]
    for metric, values in now.items():
        for name, value in values.items():
            _near(folder, learner_name, f"{metric} on {name}", recorded["metrics"][metric]["sets"][-1][name], value)


def _near(folder: Path, learner: str, what: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for key, value in then.items():
        if value is not None and abs((now[key] or 0.0) - value) > NEAR:
            raise RunConflict(
                f"{learner} cannot take further stages: {what} was {value:.4f}, in the longer stream {now[key]:.4f}",
                where=str(folder),
                fix="start a new run over all stages",
            )


def _plain(value: Any) -> Any:
    """As it reads back from disk."""
    return json.loads(json.dumps(value))
