"""Checks of runs: complete, deterministic, resumable, honest."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from cl_kernel.storage.checkpoint import digest_tree
from cl_kernel.testing.check_leaks import fault
from cl_kernel.testing.subject import Failed, NotApplicable, Seen, Subject, blame, check, round_trip

FILES = ("run.json", "settings.yaml", "environment.json", "events.jsonl", "metrics.json")


def matrices(seen: Seen) -> dict[str, np.ndarray]:
    """Score matrix of each metric."""
    return {
        name: np.array([[math.nan if v is None else v for v in row] for row in table["matrix"]], float)
        for name, table in seen.results["metrics"].items()
    }


@check
def the_default_test_runs(subject: Subject) -> None:
    """The test runs to its end within the time limit."""
    assert subject.streams is not None
    if subject.run.seconds > subject.time_limit_s:
        raise Failed(f"the run took {subject.run.seconds:.0f} s, the limit is {subject.time_limit_s:.0f} s")


@check
def the_run_folder_is_complete(subject: Subject) -> None:
    """Settings, environment, events, metrics and, for a stream, checkpoint and scores are there."""
    seen = subject.run
    missing = [name for name in FILES if not (seen.folder / name).is_file()]
    if subject.streams:
        missing += [name for name in ("checkpoints/*.ckpt", "scores/*.tree") if not list(seen.folder.glob(name))]
    if missing:
        raise Failed(f"the run folder lacks {', '.join(missing)}")
    if not json.loads((seen.folder / "metrics.json").read_text()).get("finished"):
        raise Failed("metrics.json does not say that the run finished")


@check
def runs_write_their_folder_only(subject: Subject) -> None:
    """A run leaves nothing in the working directory."""
    if subject.run.left_behind:
        raise Failed(f"the run leaves {', '.join(subject.run.left_behind[:5])} in the working directory")


@check
def runs_print_nothing(subject: Subject) -> None:
    """Output is the kernel's: nothing is printed to stdout, where --json writes."""
    if subject.run.printed:
        raise Failed(f"the run prints {subject.run.printed[:80]!r}")


@check
def runs_leave_global_generators_alone(subject: Subject) -> None:
    """Neither ``random`` nor ``numpy.random`` is seeded or drawn from; generators are passed in."""
    if subject.run.rng_touched:
        raise Failed("the run changed the state of random or numpy.random; use ctx.rng and resources.rng")


@check
def every_test_set_is_scored(subject: Subject) -> None:
    """No score of a test set is missing after any stage."""
    for name, matrix in matrices(subject.streamed).items():
        if np.isnan(matrix).any():
            i, j = np.argwhere(np.isnan(matrix))[0]
            raise Failed(f"metric {name} has no value for test set {j} after stage {i}")


@check
def scores_lie_in_range(subject: Subject) -> None:
    """Every score lies within its metric's declared range."""
    ranges = {scorer.record.name: scorer.record.range for scorer in subject.streamed.ctx.scorers}
    for name, matrix in matrices(subject.streamed).items():
        low, high = ranges[name]
        if ((matrix < low) | (matrix > high)).any():
            raise Failed(f"metric {name} runs from {matrix.min():.3g} to {matrix.max():.3g}, declared {ranges[name]}")


@check
def learning_shows(subject: Subject) -> None:
    """Right after its stage a test set scores better than before any training, on average over stages."""
    seen = subject.streamed
    scorer = seen.ctx.scorers[0]
    matrix = next(iter(matrices(seen).values()))
    initial = seen.results["metrics"][scorer.record.name]["initial"]
    if matrix.shape[0] != matrix.shape[1] or initial is None:
        raise NotApplicable("has no test set for each stage")
    after, before = matrix.diagonal().mean(), np.mean(np.array(initial, float))
    if not (after > before if scorer.record.higher_is_better else after < before):
        raise Failed(f"{scorer.record.name} is {before:.3f} before training and {after:.3f} after each stage")


@check
def every_stage_takes_steps(subject: Subject) -> None:
    """``ctx.step()`` is called in every stage, so that a run can stop and resume there."""
    ctx = subject.streamed.ctx
    if idle := [stage.index for stage in ctx.stream.stages if not ctx.steps_of.get(stage.index)]:
        raise Failed(f"no ctx.step() in stages {idle}")


@check
def every_training_sample_is_used(subject: Subject) -> None:
    """No training sample is left out: stages that no batch divides, and one smaller than a batch, are read whole."""
    ctx = subject.uneven.ctx
    for index, counts in ctx.watch.counts.items():
        if not ctx.steps_of.get(index):
            raise Failed(f"a stage of {len(counts)} samples is learnt without a step: the last batch is dropped")
        if missed := int((counts == 0).sum()):
            raise Failed(f"of {len(counts)} samples of stage {index}, {missed} are never read: a batch is dropped")


@check
def same_seed_same_results(subject: Subject) -> None:
    """The command line in another process, with another number of workers and other hashing, gives the same."""
    _equal(subject, subject.run.results, subject.other_process, "another process")


@check
def resumed_runs_equal_uninterrupted_ones(subject: Subject) -> None:
    """Stopped after the first step and in the middle, and resumed, the run ends as if it had not stopped."""
    _equal(subject, subject.run.results, subject.resumed.results, "a resumed run")


@check
def states_are_copies(subject: Subject) -> None:
    """A state taken from a learner does not change while it learns on."""
    fault(subject, "alias")


@check
def states_survive_a_checkpoint(subject: Subject) -> None:
    """A state holds arrays and plain values only; written and read it is the same; loaded it is the same."""
    learner = subject.streamed.ctx.learner
    with blame("the learner's state"):
        state = learner.state()
        back = round_trip(state, subject.folder)
        equal = digest_tree(back) == digest_tree(round_trip(back, subject.folder))
        learner.load(back)
        again = learner.state()
    if not equal or digest_tree(round_trip(again, subject.folder)) != digest_tree(back):
        raise Failed("loaded from its own state, the learner has another state")


def _scores(results: Any) -> Any:
    return {name: table["matrix"] for name, table in results["metrics"].items()}


def _equal(subject: Subject, mine: Any, other: Any, what: str) -> None:
    if not subject.streams:
        if mine["digest"] != other["digest"]:
            raise Failed(f"{what} gives other results")
        return
    if _scores(mine) != _scores(other):
        raise Failed(f"{what} gives other scores: {_scores(other)} instead of {_scores(mine)}"[:400])
    if mine["state_digest"] != other["state_digest"]:
        raise Failed(f"{what} gives the same scores but another final state")
