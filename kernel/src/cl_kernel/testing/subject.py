"""A plugin under test: what it offers, and runs of one of its tests, made once and looked at by many checks."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from attrs import define, evolve, field

from cl_kernel.contract.errors import Interrupted
from cl_kernel.contract.stream import Stream
from cl_kernel.registry import Offer, Owner, Registry, discover, resolve
from cl_kernel.running import loop as running
from cl_kernel.running.build import build_stream
from cl_kernel.running.plan import Plan, Request, plan
from cl_kernel.running.session import Outcome, make_resources, run_plan
from cl_kernel.running.settings import flatten
from cl_kernel.storage.checkpoint import digest_tree, load_tree, save_tree


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


class _Guard:
    """Samples that tell when they are read."""

    def __init__(self, base: Any, told: Callable[[], None]) -> None:
        self._base, self._told = base, told

    def __getattr__(self, name: str) -> Any:
        return getattr(self._base, name)

    def __len__(self) -> int:
        return len(self._base)

    def take(self, rows: np.ndarray, fields: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """As the base."""
        self._told()
        taken: dict[str, np.ndarray] = self._base.take(rows, fields)
        return taken


class Watched(running.StreamContext):
    """A context that notes what a learner does: test data read, later stages read, memory, states."""

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self.faults: dict[str, str] = {}
        self.steps_of: dict[int, int] = {}
        self._scoring = False
        self._kept: tuple[Any, str] | None = None
        self._guard(self.stream, "test", self._test_read)
        for stage in self.stream.stages:
            self._guard(stage, "train", partial(self._train_read, stage.index))

    def _guard(self, owner: Any, name: str, told: Callable[[], None]) -> None:
        object.__setattr__(owner, name, _Guard(getattr(owner, name), told))  # the record is frozen

    def _test_read(self) -> None:
        if not self._scoring and self.progress.stage < len(self.stream.stages):  # afterwards ``finish`` may look
            self.faults.setdefault("test", f"test samples were read while learning stage {self.progress.stage}")

    def _train_read(self, index: int) -> None:
        if index > self.progress.stage and not self._scoring:
            self.faults.setdefault("future", f"samples of stage {index} were read in stage {self.progress.stage}")

    def score(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As the context; test data may be read."""
        self._scoring = True
        try:
            return super().score(*args, **kwargs)
        finally:
            self._scoring = False

    def step(self, **values: Any) -> None:
        """As the context, looking around first."""
        stage = self.progress.stage
        self.steps_of[stage] = n = self.steps_of.get(stage, 0) + 1
        for memory in self.memories:
            if len(memory) > memory.capacity:
                self.faults.setdefault("capacity", f"{len(memory)} examples in {memory.capacity} slots")
            if memory.budget is not None and memory.nbytes > memory.budget:
                self.faults.setdefault("bytes", f"{memory.nbytes} bytes of a budget of {memory.budget}")
        if n == 2 and self._kept is None:
            tree = self.learner.state()
            self._kept = (tree, digest_tree(tree))
        elif n in (3, 6) and self._kept is not None and digest_tree(self._kept[0]) != self._kept[1]:
            self.faults.setdefault("alias", f"a state changed {n - 2} steps after it was taken")
        super().step(**values)


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
        """The kernel and this plugin alone."""
        return discover(only=[self.plugin])

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
        quick = {"run.plots": False, "run.checkpoint_every_s": 10**6}
        return Request(test=self.test, plugin=self.plugin, overrides=(("check", {**quick, **flatten(self.settings)}),))

    def plan(self, **extra: Any) -> Plan:
        """The run of the checks with extra dotted settings."""
        request = self.request
        return plan(self.registry, evolve(request, overrides=(*request.overrides, ("check", extra))))

    @once
    def streams(self) -> bool:
        """Whether the test is a stream, not an experiment with its own run.

        :raises NotApplicable: when the plugin has no test and no pieces that make one.
        """
        if not self.test and not self.offers("test") and "dataset" not in self.settings:
            _nothing("offers no test to run")
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
        values = {**self.request.overrides[0][1], "run.n_workers": 0}
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

    def stream(self, **extra: Any) -> Stream:
        """The test's data set, built anew."""
        if not self.streams:
            _nothing("its test has its own run, without stages")
        planned = self.plan(**extra)
        resources = make_resources(self.registry, planned, None, lambda _: None)
        with self.cache_named("stream"), blame("the data set cannot be built"):
            return build_stream(planned.pieces["dataset"][0], planned.resolved.sections.get("dataset"), resources)

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
        own = {"CLK_PLUGINS": self.plugin, "CLK_CACHE": str(self.folder / "cache" / "process")}
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

    def _watched(self, name: str, *, resume: bool = False, **extra: Any) -> Seen:
        made: list[Watched] = []

        def make(**kwargs: Any) -> Watched:
            made.append(Watched(**kwargs))
            return made[-1]

        inside = self.folder / "cwd"
        inside.mkdir(exist_ok=True)
        plain, running.StreamContext = running.StreamContext, make  # type: ignore[misc, assignment]
        before, printed, started = _rng_state(), io.StringIO(), time.monotonic()
        try:
            with contextlib.chdir(inside), contextlib.redirect_stdout(printed), blame("the run fails"):
                outcome = self._execute(name, resume=resume, **extra)
        finally:
            running.StreamContext = plain  # type: ignore[misc]
        if made:
            made[0]._scoring = True  # from here on the checks read
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
