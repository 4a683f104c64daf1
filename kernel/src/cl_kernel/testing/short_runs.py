"""Short runs that a piece takes part in, and what came of them, for checks of single settings."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from itertools import count, islice
from typing import Any

import attrs
import numpy as np

from cl_kernel.contract.errors import ClkError
from cl_kernel.contract.stream import Stream
from cl_kernel.data.samples import subset
from cl_kernel.registry import BUILTIN, Offer
from cl_kernel.running import loop as running
from cl_kernel.running import settings as config
from cl_kernel.running.build import build_stream
from cl_kernel.running.plan import Plan, Request, check_installed, make_request, plan
from cl_kernel.running.session import make_resources, run_plan
from cl_kernel.storage.checkpoint import digest_tree
from cl_kernel.testing.subject import Subject

QUICK = {"run.plots": False, "run.checkpoint_every_s": 10**6}
N_PREDICTED = 48
N_TESTS = 3
_folders = count()


def dataset_settings(subject: Subject, offer: Offer, changes: Mapping[str, Any], *, short: bool = True) -> Any:
    """Settings of a data set alone: profile ``tiny``, what makes the plugin's runs short, and ``changes``.

    :raises ClkError: for settings that it refuses.
    """
    if (cls := offer.record.settings) is None:
        return None
    layers = [config.Layer(f"profile {name}", _in("dataset", offer, name)) for name in ("*", "tiny")]
    if short:
        layers.append(config.known_only(config.Layer("short", _of("dataset", subject.settings)), {"dataset": cls}))
    layers.append(config.Layer("check", {key: v for key, v in changes.items() if key.startswith("dataset.")}))
    return config.resolve_settings({"dataset": cls}, layers).sections["dataset"]


def _in(section: str, offer: Offer, profile: str) -> dict[str, Any]:
    return {f"{section}.{key}": value for key, value in offer.record.profiles.get(profile, {}).items()}


def _of(section: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key.startswith(f"{section}.")}


def stream_of(subject: Subject, offer: Offer, settings: Any, roots: tuple[str, ...] = ()) -> Stream:
    """The stream of a data set.

    :raises ClkError: when it cannot be built.
    """
    request = Request(data_roots=roots)
    planned = Plan(request, offer.name, "tiny", None, {}, [], config.Resolved({"run": config.RunOptions()}, {}))
    with subject.cache_named("settings"):
        return build_stream(offer, settings, make_resources(subject.registry, planned, None, lambda _: None))


def held(stream: Stream, most: int = 400) -> str:
    """Digest of what a stream holds: stages, classes, samples, test sets."""
    sides = [*(stage.train for stage in stream.stages), stream.test]
    content: dict[str, Any] = {
        "stages": [[stage.name, list(map(int, stage.classes)), len(stage.train)] for stage in stream.stages],
        "names": list(stream.class_names),
        "sets": {name: np.asarray(rows) for name, rows in stream.test_sets.items()},
        "info": repr(dict(stream.info)),
    }
    for at, samples in enumerate(sides):
        rows = np.unique(np.linspace(0, len(samples) - 1, min(len(samples), most)).astype(np.int64))
        content[str(at)] = {name: _plain(array) for name, array in samples.take(rows).items()}
    return digest_tree(content)


def _plain(array: Any) -> Any:
    array = np.asarray(array)
    return array if array.dtype != object else repr([np.asarray(one).tolist() for one in array])


def requests(subject: Subject, kind: str, offer: Offer) -> Iterator[Request]:
    """Short runs with the piece: the plugin's tests that use it first, else runs put together around it."""
    found = list(islice(_tests_with(subject, offer), N_TESTS))
    yield from found
    if not found:
        yield from islice(_put_together(subject, kind, offer), N_TESTS)


def _tests_with(subject: Subject, offer: Offer) -> Iterator[Request]:
    plugin = subject.plugin
    names = [subject.test, *(o.record.name for o in subject.offers("test") if o.record.name != subject.test)]
    for name in dict.fromkeys(names):
        for label in ("", *_comparisons(subject, name)):
            request = Request(test=name, plugin=plugin, comparison=label)
            if (planned := possible(subject, request)) and _uses(planned, offer):
                yield planned.request
                break


def _comparisons(subject: Subject, name: str) -> list[str]:
    return [label for o in subject.offers("test") if o.record.name == name for label in o.record.comparisons]


def _uses(planned: Plan, offer: Offer) -> bool:
    return offer.name in {one.name for one, _ in planned.pieces.values()}


def _put_together(subject: Subject, kind: str, offer: Offer) -> Iterator[Request]:
    learners = [offer] if kind == "learner" else [*subject.offers("learner"), *_kernels(subject, "learner")]
    datasets = [o for o in subject.offers("dataset") if not o.record.assets] + _kernels(subject, "dataset")
    datasets = [offer] if kind == "dataset" else datasets
    named: dict[str, Any] = {} if kind in ("learner", "dataset") else {kind: offer.name}
    for learner in learners:
        for dataset in datasets:
            for more in _memories(learner) if kind == "learner" else ({},):
                request = make_request(learner=learner.name, dataset=dataset.name, **named, **more)
                if (planned := possible(subject, request)) and _uses(planned, offer):
                    yield planned.request
            if planned:
                break


def _memories(learner: Offer) -> tuple[dict[str, Any], ...]:
    """Without a memory and with one, for learners that may have one."""
    optional = "memory" in learner.record.accepts and not learner.record.defaults.get("replay")
    return ({}, {"replay": "clk:reservoir+clk:raw"}) if optional else ({},)


def _kernels(subject: Subject, kind: str) -> list[Offer]:
    return [o for o in subject.registry.offers[kind] if o.plugin == BUILTIN and subject.plugin != BUILTIN]


def possible(subject: Subject, request: Request, **changes: Any) -> Plan | None:
    """The plan of a short run, or None when it cannot be made here."""
    try:
        planned = short_plan(subject, request, changes)
        check_installed(planned)
    except ClkError:
        return None
    data, model = (planned.pieces.get(kind, (None, ""))[0] for kind in ("dataset", "model"))
    if data is None or data.record.assets or data.record.own:
        return None
    reads = "*" if model is None else model.record.takes
    return planned if reads == "*" or reads in data.record.task.partition("->")[0].split() else None


def short_plan(subject: Subject, request: Request, changes: Mapping[str, Any]) -> Plan:
    """The plan with what makes the plugin's runs short, as far as its pieces have such settings, and ``changes``.

    :raises ClkError: when that does not fit.
    """
    request = attrs.evolve(request, overrides=tuple(layer for layer in request.overrides if layer[0] != "check"))
    first = plan(subject.registry, request)
    classes = {section: type(settings) for section, settings in first.resolved.sections.items()}
    short = dict(config.known_only(config.Layer("check", subject.settings), classes).values)
    for drop in ((), ("dataset",), ("dataset", "model", "codec")):
        kept = {key: value for key, value in short.items() if key.split(".", 1)[0] not in drop}
        layer = ("check", {**QUICK, **kept, **changes})
        with contextlib.suppress(ClkError):
            return plan(subject.registry, attrs.evolve(request, overrides=(*request.overrides, layer)))
    return plan(subject.registry, attrs.evolve(request, overrides=(*request.overrides, ("check", dict(changes)))))


def outcome(subject: Subject, planned: Plan, cache: str = "settings") -> str:
    """Digest of what came of a run: scores, predictions, and the arrays of the learner's state.

    :raises ClkError: when the run is refused or fails for a reason that it names.
    """
    made: list[running.StreamContext] = []
    folder = subject.folder / f"short-{next(_folders)}"
    with subject.cache_named(cache), _seen(made):
        results = run_plan(subject.registry, attrs.evolve(planned), folder, comparisons=False).results
    try:
        if not made:
            return str(results["digest"])
        ctx = made[0]
        rows = np.arange(min(N_PREDICTED, len(ctx.stream.test)))
        predicted = [
            {name: _plain(values) for name, values in batch.items()}
            for batch in ctx.learner.predict(subset(ctx.stream.test, rows))
        ]
        return digest_tree({"results": results["digest"], "state": _arrays(ctx.learner.state()), "out": predicted})
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _seen(made: list[running.StreamContext]) -> Iterator[None]:
    plain = running.StreamContext
    make: Callable[..., running.StreamContext] = lambda **kwargs: made.append(plain(**kwargs)) or made[-1]  # type: ignore[func-returns-value]  # noqa: E731
    running.StreamContext = make  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        running.StreamContext = plain  # type: ignore[misc]


def _arrays(tree: Any) -> Any:
    """Arrays of a state; plain values, which may be settings themselves, are left out."""
    if isinstance(tree, Mapping):
        return {key: _arrays(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_arrays(value) for value in tree]
    return tree if getattr(tree, "ndim", 0) else None
