"""Everything the command line does to runs, as functions: execute a plan, resume a run, reproduce one."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import yaml
from attrs import frozen

from cl_kernel.compatibility import renamed
from cl_kernel.contract import events
from cl_kernel.contract.errors import ClkError, Interrupted, MissingAsset, RunConflict
from cl_kernel.contract.stream import Stream
from cl_kernel.registry import Registry, discover, resolve
from cl_kernel.running import settings as config
from cl_kernel.running.budget import budget_of
from cl_kernel.running.build import Built, build
from cl_kernel.running.effects import refuse_without_effect
from cl_kernel.running.plan import (
    Plan,
    Request,
    check_installed,
    comparable,
    comparison_plans,
    make_request,
    missing_packages,
    plan,
    read_request,
)
from cl_kernel.running.resources import Resources
from cl_kernel.storage.cache import Cache
from cl_kernel.storage.files import write_json, write_text
from cl_kernel.storage.identity import differences, record, recorded, same_or_refuse
from cl_kernel.storage.run_folder import RunFolder, comparison_folder, environment, new_folder, read_json
from cl_kernel.storage.source import code_of

Listener = Callable[[events.Event], None]


@renamed(beside="comparisons")
@frozen
class Outcome:
    """A finished or interrupted run."""

    folder: Path
    results: Mapping[str, Any]
    comparisons: Mapping[str, Mapping[str, Any]]


def default_cache() -> Path:
    """``$CLK_CACHE``, else ``clk`` in the user's cache folder."""
    if named := os.environ.get("CLK_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clk"


def make_resources(registry: Registry, planned: Plan, folder: Path | None, emit: Listener) -> Resources:
    """Seed, device, roots and cache of a plan."""
    options = planned.options
    roots = []
    for text in planned.request.data_roots:
        root = Path(text).expanduser()
        if not root.is_dir():
            raise MissingAsset(
                f"data root {text} is no folder", where="--data-root", fix="clk data list says what is needed"
            )
        roots.append(root.resolve())
    cache = Cache(
        default_cache(),
        lambda kind, path: emit(events.Reused(kind=kind, path=str(path))),
        lambda kind, path: emit(events.Noted(text=f"another process makes {kind}: waiting for it", values={})),
        user="" if folder is None else str(folder.resolve()),
    )
    return Resources(
        seed=options.seed,
        profile=planned.profile,
        device=options.device,
        roots=tuple(roots),
        cache=cache,
        n_workers=options.n_workers,
        on_bad_sample=options.on_bad_sample,
        folder=folder,
        locator=registry.locate,
        identity=options.identity,
        features=options.features,
        augment=getattr(planned.resolved.sections.get("stream"), "augment", ()),
    )


def run(
    test: str = "",
    *,
    output: Path | None = None,
    comparisons: bool = True,
    listen: Sequence[Listener] = (),
    **asked: Any,
) -> Outcome:
    """``clk run`` as one call: ``launch("ADD_ONE_FIVE_TIMES", plugin="recall", seed=1, settings={"learner.lr": 0.1})``.

    :param asked: see :func:`cl_kernel.running.plan.ask`.
    """
    registry = discover()
    return run_plan(
        registry, plan(registry, make_request(test, **asked)), output, listen=listen, comparisons=comparisons
    )


def run_plan(
    registry: Registry,
    planned: Plan,
    folder: Path | None = None,
    *,
    resume: bool = False,
    listen: Sequence[Listener] = (),
    base: Path = Path("runs"),
    comparisons: bool = True,
    n_comparisons: int = 0,
) -> Outcome:
    """Run a plan, and the comparison runs of its test, in a run folder.

    :param folder: the run folder; None for a new one below ``base``.
    :param resume: go on from the newest whole checkpoint.
    :param comparisons: make the comparison runs too.
    :param n_comparisons: that many comparison runs on toy data at once, each in a process of its own, while this
        run goes on; others follow it one by one.
    :raises Interrupted: after a signal; the run has saved itself.
    """
    if not comparisons:
        planned = attrs.evolve(planned, request=attrs.evolve(planned.request, alone=True))
    compared = comparison_plans(registry, planned)
    for one in (planned, *compared.values()):
        check_installed(one)
    if not resume and not planned.request.comparison:
        refuse_without_effect(planned)
    if folder is None:
        folder = new_folder(base, f"{planned.name}-{planned.profile}-s{planned.options.seed}")
    run = RunFolder(folder)
    run.hold()
    try:
        if not resume and (folder / "run.json").exists() and not _nothing_done(run):
            raise RunConflict(
                "the folder already holds a run",
                where=str(folder),
                fix=f"clk resume {folder}, or give --output another folder",
            )
        others = {label: (comparison_folder(folder, label), other.request) for label, other in compared.items()}
        plain = {label: (place, attrs.asdict(request)) for label, (place, request) in others.items()}
        results: Mapping[str, Any]
        companions = registry.companions(plain, n_comparisons if planned.profile == "tiny" else 0, listen)
        with companions or contextlib.nullcontext():
            if resume and run.info.get("status") == "finished":
                results = read_json(folder / "metrics.json")
            else:
                hearing: Sequence[Listener] = [*listen, companions] if companions else listen
                results = _one(registry, planned, run, resume, hearing, list(others))
            while companions and (label := companions.take()) is not None:
                _compared(registry, *others[label], listen)
            if companions:
                companions.wait()
        return Outcome(folder, results, {label: _compared(registry, *other, listen) for label, other in others.items()})
    finally:
        run.release()


def _nothing_done(run: RunFolder) -> bool:
    """A run that failed before its first checkpoint may be started again in its folder."""
    return run.info.get("status") == "failed" and not run.checkpoints()


def _compared(registry: Registry, folder: Path, request: Request, listen: Sequence[Listener]) -> Mapping[str, Any]:
    """The results of a comparison run, which is made or finished here if it is not yet."""
    again = (folder / "run.json").exists()
    if again and read_json(folder / "run.json").get("status") == "finished":
        return read_json(folder / "metrics.json")
    folder.mkdir(parents=True, exist_ok=True)
    return run_plan(registry, plan(registry, request), folder, resume=again, listen=listen).results


def _one(
    registry: Registry,
    planned: Plan,
    run: RunFolder,
    resume: bool,
    listen: Sequence[Listener],
    comparisons: Sequence[str],
) -> Mapping[str, Any]:
    from cl_kernel.running import loop as running

    always = [offer for offer in registry.all("tracker") if offer.record.default and not missing_packages(offer)]
    asked = [registry.find("tracker", name)[0] for name in planned.request.trackers]
    trackers = [resolve(offer.record.build)(run.path) for offer in dict.fromkeys([*always, *asked])]

    def emit(event: events.Event) -> None:
        for tell in (*trackers, *listen):
            tell(event)
        registry.emit(event, run.path)

    if planned.profile == "tiny":
        # Too small for threads, which then mostly wait for each other; and numbers should not depend on the cores.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    started = time.monotonic()
    plain = {section: config.as_plain(settings) for section, settings in planned.resolved.sections.items()}
    pieces = {section: offer.name for section, (offer, _) in planned.pieces.items()}
    run.update(
        status="running",
        test=planned.name,
        profile=planned.profile,
        seed=planned.options.seed,
        pieces=pieces,
        plugin=planned.experiment.plugin if planned.experiment else "",
        label=planned.request.comparison,
        comparisons=list(comparisons),
        metrics=[offer.name for offer in planned.metrics],
        expected=comparable(planned),
        request=attrs.asdict(planned.request),
        started=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    )
    write_text(run.path / "settings.yaml", _settings_text(planned, plain))
    write_json(run.path / "environment.json", environment(registry.versions(), code_of(planned.targets())))
    registry.configure(planned.resolved.flat())
    resources = make_resources(registry, planned, run.path, emit)
    try:
        record = planned.experiment.record if planned.experiment else None
        if record is not None and record.run:
            activity = running.RunContext(resources=resources, run=run, emit=emit)
            emit(events.RunStarted(name=planned.name, profile=planned.profile, n_stages=0))
            results = running.run_experiment(activity, resolve(record.run), planned.resolved.sections.get("experiment"))
        else:
            results = _stream(planned, run, resources, emit, resume)
    except BaseException as error:
        reason = f"signal {error.signum}" if isinstance(error, Interrupted) else f"{type(error).__name__}: {error}"
        run.update(status="interrupted" if isinstance(error, Interrupted) else "failed", reason=reason)
        emit(events.RunFailed(reason=reason))
        raise
    run.update(status="finished", ended=time.strftime("%Y-%m-%dT%H:%M:%S%z"), digest=results["digest"])
    tables: Mapping[str, Any] = results.get("metrics", {})
    summary = next(iter(tables.values()))["summary"] if tables else {}
    emit(events.RunEnded(digest=results["digest"], summary=summary, seconds=time.monotonic() - started))
    return results


def _stream(planned: Plan, run: RunFolder, resources: Resources, emit: Listener, resume: bool) -> dict[str, Any]:
    from cl_kernel.running import loop as running

    options = planned.options
    built = build(planned, resources)
    for text in resources.said:
        emit(events.Noted(text=text, values={}))
    stream = built.stream
    _same_data(run.path, stream, resume)
    ctx = running.StreamContext(
        resources=resources,
        stream=stream,
        learner=built.learner,
        scorers=built.scorers,
        run=run,
        emit=emit,
        memories=built.memories,
        checkpoint_every_s=options.checkpoint_every_s,
        evaluate_all=options.evaluate == "all",
        initial_scores=options.initial_scores,
        stop_at_step=options.stop_at_step,
        budget=budget_of(options.budget) if options.budget else 0,
    )
    checkpoint = run.load_checkpoint() if resume else None
    emit(
        events.RunStarted(
            name=planned.name,
            profile=planned.profile,
            n_stages=len(stream.stages),
            resumed_at=checkpoint[1]["loop"]["steps"] if checkpoint else 0,
        )
    )
    results = running.run_stream(ctx, checkpoint[1] if checkpoint else None)
    results["data"] = {"name": stream.name, "fingerprint": stream.fingerprint}
    results["identity"] = {
        "stream": stream.identity.plain(),
        "stages": {stage.name: stage.identity.plain() for stage in stream.stages},
    }
    write_json(run.path / "metrics.json", results)
    return results


def _same_data(folder: Path, stream: Stream, resume: bool) -> None:
    """Keep what the data are; refuse to go on with others."""
    if resume and (began := recorded(folder)) is not None and stream.fingerprint == stream.identity.key:
        same_or_refuse(
            began,
            stream.identity,
            what="the data",
            where=folder,
            fix="give the data it began with (--data-root DIR), or start a new run",
        )
    record(folder, stream.identity)


def _settings_text(planned: Plan, plain: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [f"# {planned.name}, profile {planned.profile}; after each value: where it came from"]
    for section, values in plain.items():
        lines.append(f"{section}:")
        for name, value in values.items():
            text = yaml.safe_dump({name: value}, default_flow_style=True, width=10**6).strip()[1:-1]
            lines.append(f"  {text}  # {planned.resolved.origins[f'{section}.{name}']}")
        if not values:
            lines[-1] += " {}"
    return "\n".join(lines) + "\n"


def request_of(folder: Path, data_roots: Sequence[Path | str] = ()) -> Request:
    """What a run folder's run was asked to do.

    :param data_roots: where the data lie now; empty: where they lay.
    :raises RunConflict: when the folder holds no run.
    """
    return requests_of(folder, data_roots)[-1]


def requests_of(folder: Path, data_roots: Sequence[Path | str] = ()) -> list[Request]:
    """The same for a run that was extended: what it was first asked to do, then each longer request."""
    stored = read_json(folder / "run.json")
    try:
        asked = [*(end["request"] for end in stored.get("extensions", ())), stored["request"]]
    except KeyError as error:
        raise RunConflict("run.json names no request", where=str(folder)) from error
    moved = {"data_roots": [str(root) for root in data_roots]} if data_roots else {}
    return [read_request({**raw, "profile": raw["profile"] or stored["profile"], **moved}) for raw in asked]


def resume(
    registry: Registry,
    folder: Path,
    *,
    data_roots: Sequence[Path | str] = (),
    listen: Sequence[Listener] = (),
    n_comparisons: int = 0,
) -> Outcome:
    """Go on with an interrupted run, bit for bit as if it had not stopped.

    :param data_roots: where the data lie now; empty: where they lay.
    :raises RunConflict: when the data are others than those that the run began with.
    """
    planned = plan(registry, request_of(folder, data_roots))
    return run_plan(registry, planned, folder, resume=True, listen=listen, n_comparisons=n_comparisons)


def ended(planned: Plan, resources: Resources, folder: Path) -> Built:
    """A finished run's pieces, the learner as it stood after the last stage.

    :param planned: the run's own plan, or one that differs in what the learner does not read.
    :raises RunConflict: when the run is not finished, or its last checkpoint is gone.
    """
    run = RunFolder(folder)
    status = run.info.get("status")
    checkpoint = run.load_checkpoint() if status == "finished" else None
    if checkpoint is None:
        why = "has no checkpoint left" if status == "finished" else f"is {status}"
        raise RunConflict(f"the run {why}", where=str(folder), fix=f"clk resume {folder}")
    built = build(planned, resources)
    built.learner.load(checkpoint[1]["learner"])
    return built


def extend(
    registry: Registry,
    folder: Path,
    settings: Mapping[str, Any],
    *,
    also: Mapping[str, Any] | None = None,
    data_roots: Sequence[Path | str] = (),
    listen: Sequence[Listener] = (),
    comparisons: bool = True,
    n_comparisons: int = 0,
) -> Outcome:
    """Go on with a finished run over further stages of its stream; its comparison runs go on, too.

    The stages already learnt must be an equal beginning of the longer stream. Nothing in the folder changes before
    that, and that the learner can take further stages, has been seen. Killed inside, :func:`resume` goes on.

    :param settings: of the data set, dotted, as ``{"dataset.directions": ["right", "left", "up"]}``.
    :param also: settings of other pieces, for a plugin's command that knows what they do to the stages learnt.
    :raises RunConflict: when the run is not finished, the stages differ, or the learner has no room for more.
    """
    from cl_kernel.running.extend import longer_request

    asked = longer_request(request_of(folder, data_roots), settings, also or {})
    planned = plan(registry, asked if comparisons else attrs.evolve(asked, alone=True))
    compared = comparison_plans(registry, planned)
    places = {label: comparison_folder(folder, label) for label in compared}
    plans = [(places[label], other) for label, other in compared.items() if (places[label] / "run.json").exists()]
    with contextlib.ExitStack() as held:
        ends = [(held.enter_context(_held(place)), one) for place, one in [*plans, (folder, planned)]]
        identities = [_longer(registry, run, one) for run, one in ends]
        for (run, one), identity in zip(ends, identities, strict=True):
            record(run.path, identity)
            run.go_on(attrs.asdict(one.request))
    return run_plan(registry, planned, folder, resume=True, listen=listen, n_comparisons=n_comparisons)


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[RunFolder]:
    run = RunFolder(folder)
    run.hold()
    try:
        yield run
    finally:
        run.release()


def _longer(registry: Registry, run: RunFolder, planned: Plan) -> Any:
    """The identity of the longer stream, of which the run is found to be a beginning."""
    from cl_kernel.running.extend import check_answers, check_begins_alike, check_finished

    check_finished(run)
    check_installed(planned)
    registry.configure(planned.resolved.flat())
    built = build(planned, make_resources(registry, planned, None, lambda event: None))
    check_begins_alike(run.path, built.stream)
    found = run.load_checkpoint()
    assert found is not None
    check_answers(run.path, built, planned.pieces["learner"][0].name, found[1]["learner"])
    return built.stream.identity


def reproduce(
    registry: Registry,
    folder: Path,
    output: Path | None = None,
    *,
    data_roots: Sequence[Path | str] = (),
    base: Path = Path("runs"),
    listen: Sequence[Listener] = (),
) -> tuple[Outcome, list[str]]:
    """Run a finished run again and compare.

    :param data_roots: where the data lie now; empty: where they lay.
    :return: the new run, and what differs: parts of the results' identity first, then the digests; empty when equal.
    """
    stored = read_json(folder / "metrics.json")
    if not stored.get("finished"):
        raise ClkError(
            "the run is not finished, so there is nothing to compare with",
            where=str(folder),
            fix=f"clk resume {folder}",
        )
    from cl_kernel.running.extend import stages_and_more

    first, *longer = requests_of(folder, data_roots)
    again = run_plan(registry, plan(registry, first), output, base=base, listen=listen, comparisons=False)
    for request in longer:
        settings, also = stages_and_more(request)
        again = extend(
            registry, again.folder, settings, also=also, data_roots=data_roots, listen=listen, comparisons=False
        )
    changed = [key for key in ("digest", "state_digest") if stored.get(key) != again.results.get(key)]
    data = differences(stored.get("identity", {}), again.results.get("identity", {})) if "identity" in stored else []
    return again, [*(f"data: {line}" for line in data), *changed]
