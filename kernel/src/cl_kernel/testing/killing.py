"""Short runs of every learner of a plugin, killed and resumed: ``python -m cl_kernel.testing.killing``.

A process of its own, so that every run is a fork of one that has imported everything and started no thread. It reads
what a :class:`Subject` needs as JSON from standard input, and writes a line of JSON for each learner.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from cl_kernel.contract.errors import ClkError
from cl_kernel.registry import Offer
from cl_kernel.running import loop as running
from cl_kernel.running import settings as config
from cl_kernel.running.plan import Plan, Request, framework_of
from cl_kernel.running.session import run_plan
from cl_kernel.storage.run_folder import read_json
from cl_kernel.testing.short_runs import requests, short_plan
from cl_kernel.testing.subject import Failed, Subject

BATCHES = ("batch_size", "batch", "stream_batch")
"""Settings that say how many samples a step takes."""

ODD = 7
"""A batch that leaves a short last one in an epoch of most sizes."""

MOST_EPOCHS = 4
"""Ends of epochs that a learner is killed after, spread over the run."""

REFUSED = 2
"""Exit code of a run that cannot be made here, as without weights."""

IMPORTED = {"torch": ("torch", "torch._dynamo"), "tensorflow": ("tensorflow",)}
"""Framework -> what takes long to import; torch's optimisers import its compiler when the first is built."""


def look(subject: Subject, offer: Offer) -> dict[str, Any]:
    """A learner run whole, and again with a kill after the end of each epoch.

    :return: its name, steps and kills; no kills when no run could be put together.
    :raises Failed: when the two end differently.
    """
    whole, parts = (subject.folder / f"{kind}-{offer.name}".replace(":", "-") for kind in ("whole", "parts"))
    for request in requests(subject, "learner", offer):
        planned = short_plan(subject, request, odd_batches(subject, request))
        for module in IMPORTED.get(framework_of(planned), ()):
            importlib.import_module(module)
        code = _forked(lambda planned=planned: _execute(subject, planned, whole))  # type: ignore[misc]
        if code != REFUSED:
            _ended_well(code, f"{offer.name}: the run as it is")
            break
        shutil.rmtree(whole, ignore_errors=True)
    else:
        return {"learner": offer.name, "steps": 0, "kills": []}
    results = read_json(whole / "metrics.json")
    kills = kill_steps(planned, results)
    for k, step in enumerate(kills):
        code = _forked(lambda step=step, k=k: _execute(subject, planned, parts, resume=k > 0, kill_at=step))  # type: ignore[misc]
        if code != -signal.SIGKILL:
            _ended_well(code, f"{offer.name}: the run to be killed at step {step}")
            raise Failed(f"{offer.name}: to be killed at step {step} of {results['cost']['steps']}, the run ended")
    _ended_well(_forked(lambda: _execute(subject, planned, parts, resume=True)), f"{offer.name}: the run resumed")
    again = read_json(parts / "metrics.json")
    for what in ("state_digest", "digest"):
        if results[what] != again[what]:
            raise Failed(f"{offer.name}: killed at steps {', '.join(map(str, kills))}, it ends with another {what}")
    shutil.rmtree(whole)
    shutil.rmtree(parts)
    return {"learner": offer.name, "steps": results["cost"]["steps"], "kills": list(kills)}


def odd_batches(subject: Subject, request: Request) -> dict[str, Any]:
    """Batches that do not divide the stages, where the learner lets one choose."""
    for name in BATCHES:
        try:
            short_plan(subject, request, {f"learner.{name}": ODD})
        except ClkError:
            continue
        return {f"learner.{name}": ODD}
    return {}


def kill_steps(planned: Plan, results: Mapping[str, Any]) -> Sequence[int]:
    """The two steps after the end of each epoch, as sizes of stages and of a batch tell it, spread over the run.

    Killed before the first of them is saved, a run goes on from the end of the epoch; before the second, from the step
    after.
    """
    total, batch = int(results["cost"]["steps"]), batch_of(planned)
    sizes = [int(stage["n"]) for stage in results["identity"]["stages"].values()]
    n_epochs = max(1, round(total / sum(-(-n // batch) for n in sizes)))
    ends = list(accumulate(-(-n // batch) for n in sizes for _ in range(n_epochs)))
    ends = [ends[i] for i in sorted({round(k * (len(ends) - 1) / (MOST_EPOCHS - 1)) for k in range(MOST_EPOCHS)})]
    return sorted({step for step in (2, *(end + k for end in ends for k in (1, 2))) if 1 < step <= total})


def batch_of(planned: Plan) -> int:
    """How many samples a step of a plan takes, 1 if its learner does not say."""
    flat = config.as_plain(planned.resolved.sections["learner"]) if "learner" in planned.resolved.sections else {}
    return int(next((flat[name] for name in BATCHES if flat.get(name)), 1))


def _execute(subject: Subject, planned: Plan, folder: Path, *, resume: bool = False, kill_at: int = 0) -> None:
    if kill_at:
        running.StreamContext = _doomed(kill_at)  # type: ignore[misc]
    with subject.cache_named(folder.name):
        run_plan(subject.registry, planned, folder, resume=resume, comparisons=False)


def _doomed(kill_at: int) -> type[running.StreamContext]:
    class Doomed(running.StreamContext):
        """Saves itself at every step until it is killed."""

        def step(self, **values: Any) -> None:
            """As the base's."""
            if self.progress.steps + 1 == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            self._next_save = self._wake = 0.0
            super().step(**values)

    return Doomed


def _forked(work: Callable[[], None]) -> int:
    """Exit code of a fork of this process, negative for a signal."""
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 1
    try:
        work()
        code = 0
    except ClkError as error:
        sys.stderr.write(f"{error}\n")
        code = REFUSED
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _ended_well(code: int, what: str) -> None:
    if code:
        raise Failed(f"{what} ends with code {code}")


def main() -> None:
    """Look at every learner and say what was seen."""
    asked = json.load(sys.stdin)
    subject = Subject(asked["plugin"], Path(asked["folder"]), asked["test"], asked["settings"])
    for offer in subject.some("learner"):
        if asked["only"] and offer.record.name not in asked["only"]:
            continue
        try:
            seen = look(subject, offer)
        except (Failed, ClkError) as error:
            seen = {"learner": offer.name, "failed": str(error)}
        sys.stdout.write(json.dumps(seen) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
