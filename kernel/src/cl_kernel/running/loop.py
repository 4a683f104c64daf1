"""The life of one run: learn each stage, score every test set, record, checkpoint. Written once, framework-free."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from attrs import define, field

from cl_kernel.compatibility import renamed
from cl_kernel.contract import events
from cl_kernel.contract.errors import Diverged, Interrupted
from cl_kernel.contract.interfaces import Learner, Tree
from cl_kernel.contract.stream import Stage, Stream
from cl_kernel.memory import Memory
from cl_kernel.running import accuracy_matrix as matrix
from cl_kernel.running import budget
from cl_kernel.running.finite import Lookout
from cl_kernel.running.resources import Resources
from cl_kernel.running.scoring import Scorer, score
from cl_kernel.running.signals import handling_signals
from cl_kernel.storage.cache import Artefact, Cache
from cl_kernel.storage.checkpoint import digest_tree
from cl_kernel.storage.files import write_json
from cl_kernel.storage.run_folder import RunFolder, peak_memory

REPORT_EVERY_S = 1.0


@define
class Progress:
    """Where a run stands; saved with every checkpoint."""

    stage: int = 0
    steps: int = 0
    seconds: float = 0.0
    rows: list[dict[str, Any]] = field(factory=list)
    curve: list[dict[str, Any]] = field(factory=list)
    initial: dict[str, Any] | None = None


@renamed(site="resources")
@define(eq=False, repr=False, kw_only=True)  # signal.signal writes the repr of the handler it replaces
class RunContext:
    """What anything that runs may ask: seed, cache, folder, and a way to say what it is doing."""

    resources: Resources
    run: RunFolder
    emit: Callable[[events.Event], None]
    progress: Progress = field(factory=Progress)
    _last: tuple[float, int] = field(factory=lambda: (time.monotonic(), 0), init=False)
    _wake: float = field(factory=lambda: time.monotonic() + REPORT_EVERY_S, init=False)
    _signal: int = field(default=0, init=False)
    _diverged: str = field(default="", init=False)

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.resources.seed

    @property
    def cache(self) -> Cache:
        """Artefacts shared by runs."""
        return self.resources.cache

    def artefact(self, name: str, revision: int = 1, **parts: Any) -> Artefact:
        """Something that runs share; see :meth:`cl_kernel.running.resources.Resources.artefact`."""
        return self.resources.artefact(name, revision, **parts)

    @property
    def folder(self) -> Path:
        """The run folder; files of a learner's own go here."""
        return self.run.path

    def rng(self, *names: str | int) -> np.random.Generator:
        """A generator fixed by the run's seed and the names."""
        return self.resources.rng(*names)

    def phase(self, name: str, n_steps: int = 0) -> None:
        """Say what is done now, for the progress line; ``n_steps`` of it remain."""
        self.emit(events.PhaseStarted(stage=self.progress.stage, name=name, n_steps=n_steps))

    def step(self, **values: Any) -> None:
        """One step is done and the learner's state is consistent. A checkpoint may be taken here.

        :param values: losses and the like; device scalars are read only when a report is due.
        """
        self.progress.steps += 1
        if self._signal or time.monotonic() >= self._wake:
            self._tick(values)

    def note(self, text: str, **values: Any) -> None:
        """State something worth keeping in the log of the run."""
        self.emit(events.Noted(text=text, values=values))

    def bad_sample(self, what: str, error: Exception | str) -> None:
        """See :meth:`cl_kernel.running.resources.Resources.bad_sample`."""
        self.resources.bad_sample(what, error)

    def interrupt(self, signum: int, _frame: FrameType | None = None) -> None:
        """Ask to stop at the next step."""
        self._signal = signum

    def stop_if_asked(self) -> None:
        """Stop when a signal has arrived.

        :raises Interrupted: carrying the signal.
        """
        if self._signal:
            raise Interrupted(self._signal)

    def _report(self, values: Mapping[str, Any]) -> float:
        now = time.monotonic()
        then, steps = self._last
        rate = (self.progress.steps - steps) / max(now - then, 1e-9)
        self._last = (now, self.progress.steps)
        numbers = {name: float(value) for name, value in values.items()}
        self._diverged = next((name for name, value in numbers.items() if _lost(name, value)), "")
        self.emit(events.Progress(stage=self.progress.stage, step=self.progress.steps, rate=rate, values=numbers))
        return now

    def _tick(self, values: Mapping[str, Any]) -> None:
        self._wake = self._report(values) + REPORT_EVERY_S
        self._stop_if_diverged()
        self.stop_if_asked()

    def _stop_if_diverged(self) -> None:
        """Stop at a loss, or at what was learnt, that is no finite number.

        :raises Diverged: naming it and the step.
        """
        if self._diverged:
            raise Diverged(
                f"{self._diverged} is no finite number at step {self.progress.steps}, stage {self.progress.stage}",
                where=str(self.folder),
                fix="a smaller learning rate (clk show TEST lists the settings); the state at that step is saved",
            )


@renamed(site="resources")
@define(eq=False, repr=False, kw_only=True)
class StreamContext(RunContext):
    """What a learner may ask of a run while it learns; none of it inside its arithmetic."""

    stream: Stream
    learner: Learner
    scorers: Sequence[Scorer]
    memories: Sequence[Memory] = ()
    checkpoint_every_s: float = 60.0
    evaluate_all: bool = True
    initial_scores: bool = False
    stop_at_step: int = 0
    budget: int = 0
    checkpoint_bytes: int = 0
    _began: float = field(factory=time.monotonic, init=False)
    _next_save: float = field(default=0.0, init=False)
    _lookout: Lookout = field(factory=Lookout, init=False)

    def __attrs_post_init__(self) -> None:
        self._next_save = self._began + self.checkpoint_every_s
        self._wake = min(self._wake, self._next_save)

    # ---- for learners -----------------------------------------------------------------------------
    @property
    def stages(self) -> Sequence[Stage]:
        """All stages of the stream; joint learners look back at those up to the current one."""
        return self.stream.stages

    def step(self, **values: Any) -> None:
        """One step is done and the learner's state is consistent. A checkpoint may be taken here.

        :param values: losses and the like; device scalars are read only when a report is due.
        """
        self.progress.steps += 1
        if self.progress.steps == self.stop_at_step:
            self._signal = signal.SIGINT
        if self._signal or time.monotonic() >= self._wake:
            self._tick(values)

    def evaluate(self, label: str, sets: Sequence[str] | None = None) -> dict[str, float | None]:
        """Score inside a stage, for learning curves; not part of the accuracy matrix.

        :return: test set -> value of the first metric.
        """
        scored = self.score(sets or self.due_sets())
        record = {"stage": self.progress.stage, "step": self.progress.steps, "label": label, **scored["values"]}
        self.progress.curve.append(record)
        row = _first(scored, self.scorers)
        self.emit(events.Scored(stage=self.progress.stage, label=label, row=row, summary=scored["seen"]))
        return row

    # ---- for the loop -----------------------------------------------------------------------------
    def stop_if_asked(self) -> None:
        """Between stages: save and stop when a signal has arrived.

        :raises Interrupted: carrying the signal.
        """
        if self._signal:
            self.save()
            raise Interrupted(self._signal)

    def save(self) -> None:
        """Write a checkpoint now."""
        started = time.monotonic()
        progress = self.progress
        loop = {
            "stage": progress.stage,
            "steps": progress.steps,
            "seconds": self.elapsed(),
            "rows": progress.rows,
            "curve": progress.curve,
            "initial": progress.initial,
            "skipped": dict(self.resources.skipped),
            "n_stages": len(self.stream.stages),
        }
        path, nbytes = self.run.save_checkpoint(progress.steps, {"learner": self.learner.state(), "loop": loop})
        self.checkpoint_bytes = nbytes
        now = time.monotonic()
        self._next_save = now + max(self.checkpoint_every_s, 5 * (now - started))
        self.emit(events.CheckpointSaved(path=str(path.name), nbytes=nbytes, seconds=now - started))

    def restore(self, tree: Tree) -> None:
        """Take over a checkpoint."""
        loop = tree["loop"]
        self.progress = Progress(
            loop["stage"], loop["steps"], loop["seconds"], loop["rows"], loop["curve"], loop["initial"]
        )
        self.resources.skipped.update(loop["skipped"])
        n_stages = len(self.stream.stages)
        take_up(self.learner, tree["learner"], grows=loop.get("n_stages", n_stages) < n_stages)
        self._last = (time.monotonic(), self.progress.steps)

    def elapsed(self) -> float:
        """Seconds spent on this run, earlier attempts included."""
        return self.progress.seconds + time.monotonic() - self._began

    def score(self, sets: Sequence[str], stage: int | None = None, keep: Path | None = None) -> dict[str, Any]:
        """Score test sets in one pass over their samples; see :func:`score`."""
        return score(self.learner, self.stream, self.scorers, sets, stage, keep)

    def due_sets(self) -> list[str]:
        """Test sets that are scored now: all, or those of the stages begun so far."""
        names = list(self.stream.test_sets)
        if self.evaluate_all or len(names) != len(self.stream.stages):
            return names
        return names[: self.progress.stage + 1]

    def _tick(self, values: Mapping[str, Any]) -> None:
        now = self._report(values)
        self._diverged = self._diverged or self._lookout.look(self.learner)
        if self._diverged:
            self.save()
        self._stop_if_diverged()
        self.stop_if_asked()
        if now >= self._next_save:
            self.save()
        self._wake = min(time.monotonic() + REPORT_EVERY_S, self._next_save)


def take_up(learner: Learner, state: Tree, *, grows: bool) -> None:
    """Load a state; that of a shorter stream passes through the learner's own ``grow`` first, where it has one."""
    grow = getattr(learner, "grow", None)
    learner.load(grow(state) if grows and grow is not None else state)


def _lost(name: str, value: float) -> bool:
    return "loss" in name.lower() and not math.isfinite(value)


def run_stream(ctx: StreamContext, resume: Tree | None = None) -> dict[str, Any]:
    """Learn and score every stage, from the beginning or from a checkpoint.

    :return: the results, as they are written to ``metrics.json``.
    """
    stream, run = ctx.stream, ctx.run
    if resume is not None:
        ctx.restore(resume)
    elif ctx.initial_scores:
        ctx.progress.initial = ctx.score(list(stream.test_sets))["values"]
    progress = ctx.progress
    ctx.cache.pause = ctx.stop_if_asked
    with handling_signals(ctx.interrupt):
        while progress.stage < len(stream.stages):
            stage = stream.stages[progress.stage]
            started = time.monotonic()
            ctx.emit(events.StageStarted(stage=stage.index, name=stage.name, n_samples=len(stage.train)))
            ctx.learner.learn(stage, ctx)
            budget.check(budget.held(ctx.learner, ctx.memories), ctx.budget, stage.index)
            scored = ctx.score(ctx.due_sets(), stage.index, run.path / "scores" / f"stage-{stage.index:03d}.tree")
            progress.rows.append(scored)
            progress.stage += 1
            ctx.emit(
                events.Scored(stage=stage.index, label="", row=_first(scored, ctx.scorers), summary=scored["seen"])
            )
            ctx.emit(events.StageEnded(stage=stage.index, seconds=time.monotonic() - started))
            write_json(run.path / "metrics.json", results(ctx, finished=False))
            if progress.stage < len(stream.stages):
                ctx.stop_if_asked()
                if time.monotonic() >= ctx._next_save:
                    ctx.save()
        ctx.save()
    content = results(ctx, finished=True)
    if (finish := getattr(ctx.learner, "finish", None)) is not None:
        finish(ctx)
    write_json(run.path / "metrics.json", content)
    return content


def run_experiment(activity: RunContext, body: Callable[..., Mapping[str, Any]], settings: Any) -> dict[str, Any]:
    """Run an experiment that is no stream.

    :return: what it gave, with a digest of it and its cost.
    """
    started = time.monotonic()
    with handling_signals(activity.interrupt):
        content = dict(body(activity, settings))
    digest = digest_tree({key: value for key, value in content.items() if key != "cost"})
    content |= {"finished": True, "digest": digest, "skipped": dict(activity.resources.skipped)}
    content["cost"] = {
        **content.get("cost", {}),
        "seconds": round(time.monotonic() - started, 3),
        "steps": activity.progress.steps,
        "peak_bytes": peak_memory(),
    }
    write_json(activity.folder / "metrics.json", content)
    return content


def results(ctx: StreamContext, *, finished: bool) -> dict[str, Any]:
    """Accuracy matrices, summaries and cost of a run so far."""
    stream, progress = ctx.stream, ctx.progress
    names = list(stream.test_sets)
    tables = {}
    for scorer in ctx.scorers:
        metric = scorer.record.name
        R = np.array([[_value(row["values"][metric].get(name)) for name in names] for row in progress.rows], float)
        R = R.reshape(len(progress.rows), len(names))
        initial = (
            None
            if progress.initial is None
            else np.array([_value(progress.initial[metric].get(name)) for name in names], float)
        )
        tables[metric] = {
            "matrix": [_plain(row) for row in R],
            "initial": None if initial is None else _plain(initial),
            "summary": matrix.summary(R, initial) if len(R) and R.shape[1] == len(stream.stages) == len(R) else {},
            "seen": [row["seen"][metric] for row in progress.rows],
            "sets": [row["values"][metric] for row in progress.rows],
        }
    content = {
        "finished": finished,
        "stages": [stage.name for stage in stream.stages],
        "classes": [list(stage.classes) for stage in stream.stages],
        "test_sets": names,
        "metrics": tables,
        "curve": progress.curve,
        "skipped": dict(ctx.resources.skipped),
    }
    if finished:
        content["digest"] = digest_tree(content)
        content["state_digest"] = digest_tree(ctx.learner.state())
    content["test_sizes"] = [len(stream.test_sets[name]) for name in names]
    if aware := task_aware(progress.rows, names):
        content["task_aware"] = aware
    content["cost"] = {
        "seconds": round(ctx.elapsed(), 3),
        "steps": progress.steps,
        "peak_bytes": peak_memory(),
        "checkpoint_bytes": ctx.checkpoint_bytes,
        **memory_cost(ctx.memories),
        "kept": budget.held(ctx.learner, ctx.memories),
        **(price() if (price := getattr(ctx.learner, "cost", None)) is not None else {}),
    }
    return content


def task_aware(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """The accuracy matrix with answers among the classes of each test set's stage, by metric; empty without one."""
    tables = {}
    for metric in rows[0].get("task_aware", {}) if rows else ():
        values = [row.get("task_aware", {}).get(metric, {}) for row in rows]
        R = np.array([[_value(row.get(name)) for name in names] for row in values], float)
        tables[metric] = {
            "matrix": [[None if np.isnan(v) else v for v in row] for row in R.tolist()],
            "summary": matrix.summary(R) if R.shape[0] == R.shape[1] else {},
        }
    return tables


def memory_cost(memories: Sequence[Memory]) -> dict[str, int]:
    """Bytes and examples of the replay memories of a run."""
    return {
        "memory_bytes": sum(memory.nbytes for memory in memories),
        "memory_examples": sum(len(memory) for memory in memories),
        "memory_capacity": sum(memory.capacity for memory in memories),
    }


def _first(scored: Mapping[str, Any], scorers: Sequence[Scorer]) -> dict[str, float | None]:
    return {name: next(iter(values.values())) for name, values in scored["values"][scorers[0].record.name].items()}


def _plain(row: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else value for value in row.tolist()]


def _value(values: Mapping[str, float | None] | None) -> float:
    first = None if values is None else next(iter(values.values()))
    return float("nan") if first is None else first
