"""Every learner goes on exactly where it stopped, at the places that are easy to get wrong."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from cl_kernel.contract.errors import ClkError, Interrupted
from cl_kernel.running import settings as config
from cl_kernel.running.plan import Plan, Request
from cl_kernel.running.session import run_plan
from cl_kernel.testing.short_runs import requests, short_plan
from cl_kernel.testing.subject import Failed, Subject, check

BATCHES = ("batch_size", "batch", "stream_batch")
"""Settings that say how many samples a step takes."""

ODD = 7
"""A batch that leaves a short last one in an epoch of most sizes."""

MOST_STOPS = 5


@check
def every_learner_resumes_after_each_epoch(subject: Subject) -> str:
    """Stopped at the step after the end of each epoch, short last batch included, every learner ends the same."""
    n_stops, looked, missed = 0, [], []
    for offer in subject.some("learner"):
        if subject.only and offer.record.name not in subject.only:
            continue
        request = next(requests(subject, "learner", offer), None)
        if request is None:
            missed.append(offer.name)
            continue
        n_stops += _look(subject, offer.name, request)
        looked.append(offer.name)
    more = f"; no run could be put together for {', '.join(missed)}" if missed else ""
    return f"{len(looked)} learners, {n_stops} stops{more}"


def _look(subject: Subject, name: str, request: Request) -> int:
    odd = _odd_batches(subject, request)
    whole = _run(subject, request, odd, f"whole-{name}")
    stops = _stops(subject, request, odd, whole)
    folder = subject.folder / f"parts-{name}".replace(":", "-")
    for k, stop in enumerate(stops):
        try:
            _execute(subject, request, {**odd, "run.stop_at_step": stop}, folder, resume=k > 0)
        except Interrupted:
            continue
        raise Failed(f"{name}: asked to stop after step {stop}, the run went on to its end")
    parts = _execute(subject, request, odd, folder, resume=True)
    for what in ("state_digest", "digest"):
        if whole[what] != parts[what]:
            raise Failed(f"{name}: stopped after steps {', '.join(map(str, stops))}, it ends with another {what}")
    shutil.rmtree(folder)
    return len(stops)


def _odd_batches(subject: Subject, request: Request) -> dict[str, Any]:
    """Batches that do not divide the stages, where the learner lets one choose."""
    for name in BATCHES:
        try:
            short_plan(subject, request, {f"learner.{name}": ODD})
        except ClkError:
            continue
        return {f"learner.{name}": ODD}
    return {}


def _stops(subject: Subject, request: Request, odd: Mapping[str, Any], whole: Mapping[str, Any]) -> Sequence[int]:
    """Steps after the ends of epochs, as sizes of stages and of a batch tell them; spread over the run."""
    total = int(whole["cost"]["steps"])
    planned = short_plan(subject, request, odd)
    batch = next(iter(odd.values()), 0) or _batch(planned)
    sizes = whole["sizes"]
    ends, at = [], 0
    n_epochs = max(1, round(total / sum(-(-n // batch) for n in sizes)))
    for n in sizes:
        for _ in range(n_epochs):
            at += -(-n // batch)
            ends += [at, at + 1]
    found = sorted({stop for stop in [1, *ends] if 0 < stop < total})
    if len(found) <= MOST_STOPS:
        return found
    return [found[round(i * (len(found) - 1) / (MOST_STOPS - 1))] for i in range(MOST_STOPS)]


def _batch(planned: Plan) -> int:
    flat = config.as_plain(planned.resolved.sections["learner"]) if "learner" in planned.resolved.sections else {}
    return int(next((flat[name] for name in BATCHES if flat.get(name)), 1))


def _run(subject: Subject, request: Request, odd: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    folder = subject.folder / name.replace(":", "-")
    results = _execute(subject, request, odd, folder, resume=False)
    shutil.rmtree(folder)
    stages = results["identity"]["stages"]
    return {**results, "sizes": [int(stage["n"]) for stage in stages.values()]}


def _execute(
    subject: Subject, request: Request, changes: Mapping[str, Any], folder: Any, *, resume: bool
) -> Mapping[str, Any]:
    planned = short_plan(subject, request, changes)
    with subject.cache_named(folder.name):
        return run_plan(subject.registry, planned, folder, resume=resume, comparisons=False).results
