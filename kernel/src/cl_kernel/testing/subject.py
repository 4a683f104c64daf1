"""A plugin under test: what it offers, and runs of one of its tests, made once and looked at by many checks."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from attrs import define, evolve, field

from cl_kernel.contract.errors import ClkError, Interrupted
from cl_kernel.contract.stream import Stream
from cl_kernel.data.samples import subset
from cl_kernel.registry import Offer, Owner, Registry, discover, entry_points, resolve
from cl_kernel.running import build as building
from cl_kernel.running import loop as running
from cl_kernel.running.identify import identified
from cl_kernel.running.plan import Plan, Request, plan
from cl_kernel.running.session import Outcome, make_resources, run_plan
from cl_kernel.running.settings import flatten
from cl_kernel.storage.checkpoint import load_tree, save_tree
from cl_kernel.testing import borrowed
from cl_kernel.testing.watch import Watch, Watched


class Failed(Exception):
    """A check found a fault; the message is for the plugin's author."""


class NotApplicable(Exception):
    """The plugin has nothing that a check could look at."""


CHECKS: dict[str, Callable[[Subject], str | None]] = {}
"""Check name -> function; the docstring's first line says what must hold, the function what it saw if it says so."""


def check(function: Callable[[Subject], str | None]) -> Callable[[Subject], str | None]:
    """Add a check under the function's name."""
    CHECKS[function.__name__] = function
    return function


T = TypeVar("T")


class once(Generic[T]):
    """A property made once. If that fails, whoever asks first hears why, and for the others it does not apply."""

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make, self.__doc__ = make, make.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, subject: Any, owner: type | None = None) -> T:
        if (failed := subject.__dict__.get(f"{self._name} failed")) is not None:
            raise NotApplicable(failed)
        try:
            made = subject.__dict__[self._name] = self._make(subject)
        except NotApplicable as reason:
            subject.__dict__[f"{self._name} failed"] = str(reason)
            raise
        except Exception as error:
            subject.__dict__[f"{self._name} failed"] = f"already failed: {str(error)[:200]}"
            raise
        return made


@contextlib.contextmanager
def blame(what: str) -> Iterator[None]:
    """Turn any error inside into a failure that says what was being done."""
    try:
        yield
    except (Failed, NotApplicable):
        raise
    except Exception as error:
        raise Failed(f"{what}: {type(error).__name__}: {error}") from error


@define
class Seen:
    """What was watched while a run went on."""

    digest: str
    results: Mapping[str, Any]
    folder: Path
    ctx: Watched
    printed: str
    seconds: float
    rng_touched: bool
    left_behind: list[str]


@define(eq=False, slots=False)
class Subject:
    """One plugin, one of its tests, settings that make it short.

    :param test: the test to run; empty for the plugin's default one.
    :param settings: dotted values that make runs short.
    :param folder: an empty folder for runs.
    :param examples: short name of a data set -> function as its record's ``example``.
    :param only: short names of the pieces that checks of single settings look at; empty for all.
    """

    plugin: str
    folder: Path
    test: str = ""
    settings: Mapping[str, Any] = field(factory=dict)
    time_limit_s: float = 120.0
    examples: Mapping[str, Callable[[Path], Mapping[str, Any]]] = field(factory=dict)
    only: tuple[str, ...] = ()

    @once
    def registry(self) -> Registry:
        """The kernel, this plugin and the plugins that its distribution requires, nothing else."""
        return discover(only=self.allowed)

    @once
    def allowed(self) -> list[str]:
        """Names of the plugin and of those that its distribution requires, and they."""
        entries, found, waiting = list(entry_points()), [self.plugin], [self.plugin]
        while waiting:
            name = waiting.pop()
            dist = next((entry.dist for entry in entries if entry.name == name), None)
            required = {_normal(text) for text in (dist.requires if dist else None) or ()}
            more = [e.name for e in entries if e.dist and _normal(e.dist.name) in required and e.name not in found]
            found, waiting = [*found, *more], [*waiting, *more]
        return found

    @once
    def owner(self) -> Owner:
        """The plugin, loaded.

        :raises Failed: when it is absent or in quarantine, with the reason.
        """
        with blame("the plugin does not load"):
            return self.registry.owner(self.plugin)

    def offers(self, *kinds: str) -> list[Offer]:
        """What the plugin offers of these kinds, or of all."""
        owner = self.owner.name
        return [
            o for kind in kinds or tuple(self.registry.offers) for o in self.registry.offers[kind] if o.plugin == owner
        ]

    def some(self, *kinds: str) -> list[Offer]:
        """:meth:`offers`, or not applicable."""
        return self.offers(*kinds) or _nothing(f"offers no {' or '.join(kinds)}")

    @property
    def request(self) -> Request:
        """The run of the checks."""
        quick = {"run.plots": False, "run.checkpoint_every_s": 10**6, "run.n_workers": 0}
        values = {**quick, **self.pieces, **flatten(self.settings)}
        return Request(test=self.test, plugin=self.plugin, overrides=(("check", values),))

    @once
    def pieces(self) -> Mapping[str, Any]:
        """Pieces of the kernel that make a run of a plugin without a test of its own."""
        if self.test or self.offers("test"):
            return {}
        return borrowed.pieces(self.registry, self.offers, self.settings)

    def plan(self, **extra: Any) -> Plan:
        """The run of the checks with extra dotted settings."""
        request = self.request
        return plan(self.registry, evolve(request, overrides=(*request.overrides, ("check", extra))))

    @once
    def streams(self) -> bool:
        """Whether the test is a stream, not an experiment with its own run.

        :raises NotApplicable: when the plugin has no test and no pieces that make one.
        """
        if not self.test and not self.offers("test") and "dataset" not in {**self.pieces, **self.settings}:
            _nothing("offers no test to run, and no piece that fits the kernel's streams")
        with blame("the test cannot be planned"):
            planned = self.plan()
        return planned.experiment is None or not planned.experiment.record.run

    @once
    def run(self) -> Seen:
        """The test, run in this process under watch."""
        extra: dict[str, Any] = {"run.initial_scores": True} if self.streams else {}
        return self._watched("watched", **extra)

    @once
    def streamed(self) -> Seen:
        """:attr:`run`, of a stream."""
        return self.run if self.streams else _nothing("its test has its own run, without stages")

    @once
    def other_seed(self) -> Seen:
        """The same with another seed."""
        extra: dict[str, Any] = {"run.initial_scores": True} if self.streams else {}
        return self._watched("other", **{**extra, "run.seed": 1})

    @once
    def other_process(self) -> Mapping[str, Any]:
        """Results of the same run by the command line in a process of its own, with another number of workers."""
        values = {**self.request.overrides[0][1], "run.n_workers": 2}
        arguments = ["--plugin", self.plugin, "--no-comparisons", "--json", "--output", str(self.folder / "process")]
        arguments += ["--test", self.test] if self.test else []
        for key, value in values.items():
            arguments += ["--set", f"{key}={json.dumps(value)}"]
        done = self.command("run", *arguments)
        if done.returncode:
            raise Failed(f"clk run in a process of its own exits with {done.returncode}: {done.stderr.strip()[-600:]}")
        results: Mapping[str, Any] = json.loads((self.folder / "process" / "metrics.json").read_text())
        return results

    @once
    def resumed(self) -> Seen:
        """The same, stopped after the first step and again in the middle, resumed each time."""
        n_steps = sum(self.streamed.ctx.steps_of.values())
        if n_steps < 2:
            _nothing(f"its run has {n_steps} steps")
        stops = [1, *([n_steps // 2] if n_steps > 3 else [])]
        for k, stop in enumerate(stops):
            try:
                self._execute("resumed", resume=k > 0, **{"run.stop_at_step": stop})
            except Interrupted:
                continue
            raise Failed(f"asked to stop after step {stop}, the run went on to its end")
        return self._watched("resumed", resume=True)

    @once
    def other_test_data(self) -> Seen:
        """The same with other test samples: half of them, each twice."""
        assert self.streamed

        def halved(stream: Stream, *_: Any) -> Stream:
            return evolve(stream, test=subset(stream.test, np.arange(len(stream.test)) // 2))

        with self._streams_made_by(halved), blame("with half of the test samples"):
            return self._watched("halved", **{"run.initial_scores": True})

    @once
    def uneven(self) -> Seen:
        """Two stages whose sizes no batch divides: the first has a prime number of samples, the second three.

        :raises NotApplicable: when the plugin refuses such stages.
        """
        n_stages = len(self.streamed.ctx.stream.stages)

        def cut(stream: Stream, offer: Offer, settings: Any, resources: Any, *_: Any) -> Stream:
            sizes = [largest_prime(len(stream.stages[0].train)), 3]
            stages = [
                evolve(stage, train=subset(stage.train, np.arange(min(n, len(stage.train)))), identity=None)
                for stage, n in zip(stream.stages, sizes, strict=False)
            ]
            names = list(stream.test_sets)
            kept = names[: len(stages)] if len(names) == n_stages else names
            sets = {name: stream.test_sets[name] for name in kept}
            shorter = evolve(stream, stages=stages, test_sets=sets, identity=None)
            return identified(shorter, offer.name, offer.record.revision, settings, resources.files)

        try:
            with self._streams_made_by(cut):
                return self._watched("uneven")
        except Failed as error:
            if isinstance(error.__cause__, ClkError):
                _nothing(f"refuses stages of a few samples: {error.__cause__.what}")
            raise

    def stream(self, **extra: Any) -> Stream:
        """The test's data set, built anew."""
        if not self.streams:
            _nothing("its test has its own run, without stages")
        planned = self.plan(**extra)
        resources = make_resources(self.registry, planned, None, lambda _: None)
        with self.cache_named("stream"), blame("the data set cannot be built"):
            return building.build_stream(
                planned.pieces["dataset"][0],
                planned.resolved.sections.get("dataset"),
                resources,
                planned.resolved.sections.get("stream"),
            )

    def example(self, offer: Offer, folder: Path | None = None) -> Mapping[str, Any] | None:
        """Settings of a small data set of that form, written now into an empty folder; None when none can be."""
        write = self.examples.get(offer.record.name) or (offer.record.example and resolve(offer.record.example))
        if not write:
            return None
        folder = folder or self.folder / "examples" / offer.record.name
        folder.mkdir(parents=True, exist_ok=True)
        named: Mapping[str, Any] = write(folder)
        return named

    def environment(self) -> dict[str, str]:
        """Of processes of their own: this plugin alone, this process' import path, hashing as chance has it."""
        path = os.pathsep.join(dict.fromkeys([*os.environ.get("PYTHONPATH", "").split(os.pathsep), *sys.path]))
        own = {"CLK_PLUGINS": ",".join(self.allowed), "CLK_CACHE": str(self.folder / "cache" / "process")}
        return {**os.environ, **own, "PYTHONHASHSEED": "random", "PYTHONPATH": path}

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """``clk`` in a process of its own."""
        return subprocess.run(
            [sys.executable, "-m", "cl_kernel.cli.main", *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            env=self.environment(),
            timeout=10 * self.time_limit_s,
            check=False,
        )

    def _execute(self, name: str, *, resume: bool = False, **extra: Any) -> Outcome:
        with self.cache_named(name):
            return run_plan(self.registry, self.plan(**extra), self.folder / name, resume=resume, comparisons=False)

    @contextlib.contextmanager
    def cache_named(self, name: str) -> Iterator[None]:
        """A cache by name; a run that reuses another's artefacts takes other steps, so each has its own."""
        before = os.environ.get("CLK_CACHE")
        os.environ["CLK_CACHE"] = str(self.folder / "cache" / name)
        try:
            yield
        finally:
            if before is None:
                del os.environ["CLK_CACHE"]
            else:
                os.environ["CLK_CACHE"] = before

    @contextlib.contextmanager
    def _streams_made_by(self, change: Callable[..., Stream]) -> Iterator[None]:
        """Whoever builds a stream meanwhile gets ``change(stream, offer, settings, resources)``."""
        plain = building.build_stream
        building.build_stream = lambda *given: change(plain(*given), *given)
        try:
            yield
        finally:
            building.build_stream = plain

    def _watched(self, name: str, *, resume: bool = False, **extra: Any) -> Seen:
        made: list[Watched] = []
        watch = Watch()

        def make(**kwargs: Any) -> Watched:
            made.append(Watched(**kwargs).attend(watch))
            return made[-1]

        inside = self.folder / "cwd"
        inside.mkdir(exist_ok=True)
        plain, running.StreamContext = running.StreamContext, make  # type: ignore[misc, assignment]
        before, printed, started = _rng_state(), io.StringIO(), time.monotonic()
        try:
            with (
                self._streams_made_by(lambda stream, *_: watch.guard(stream)),
                contextlib.chdir(inside),
                contextlib.redirect_stdout(printed),
                blame("the run fails"),
            ):
                outcome = self._execute(name, resume=resume, **extra)
        finally:
            running.StreamContext = plain  # type: ignore[misc]
        watch.paused = True  # from here on the checks read
        if made:
            made[0].final = made[0].learner.state()
        return Seen(
            str(outcome.results["digest"]),
            outcome.results,
            outcome.folder,
            made[0] if made else _no_context(),
            printed.getvalue(),
            time.monotonic() - started,
            before != _rng_state(),
            sorted(str(path.relative_to(inside)) for path in inside.rglob("*")),
        )


def _normal(requirement: str) -> str:
    """The name in a requirement of the unconditional kind, as the index writes it; empty for one of an extra."""
    name = "" if "extra ==" in requirement else re.split(r"[\s<>=!~;\[(@]", requirement.strip(), maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def largest_prime(limit: int) -> int:
    """The largest prime that is not above ``limit``; ``limit`` itself below 3.

    >>> largest_prime(48)
    47
    """
    return next((n for n in range(limit, 2, -1) if all(n % k for k in range(2, int(n**0.5) + 1))), limit)


def round_trip(tree: Any, folder: Path) -> Any:
    """A state as it comes back from a checkpoint."""
    save_tree(folder / "round-trip.tree", tree)
    return load_tree(folder / "round-trip.tree")


def _rng_state() -> str:
    return repr((random.getstate(), np.random.get_state(legacy=False)))  # noqa: NPY002


def _no_context() -> Any:
    return None


def _nothing(why: str) -> Any:
    raise NotApplicable(why)
