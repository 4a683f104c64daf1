"""Everything the command line does to runs, as functions: plan, run, resume, reproduce.

A :class:`Request` is what was asked, a :class:`Plan` what that means: pieces that fit each other and settings with
their origins.
"""

from __future__ import annotations

import fnmatch
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import util
from pathlib import Path
from typing import Any

import attrs
import yaml
from attrs import define, field, frozen

from cl_kernel import config, events
from cl_kernel.config import Layer, Resolved, RunOptions
from cl_kernel.errors import (
    BadSetting,
    ClkError,
    Interrupted,
    Mismatch,
    MissingAsset,
    RunConflict,
    UnknownName,
)
from cl_kernel.files import Cache, write_json, write_text
from cl_kernel.manager import Offer, Registry, resolve
from cl_kernel.outputs import RunFolder, environment, new_folder, read_json
from cl_kernel.records import Experiment
from cl_kernel.site import Parts, Site

PIECES = ("dataset", "model", "replay", "learner", "metrics")
ROOM_OF = {"policy": "memory", "codec": "memory", "source": "source"}


@frozen(kw_only=True)
class Request:
    """What was asked for, in plain values: enough to do it again.

    :param overrides: layers (origin, dotted values) on top of the test's own, in order.
    :param beside: label of a comparison run of the test, or empty for the run itself.
    """

    test: str = ""
    plugin: str = ""
    profile: str = ""
    data_roots: tuple[str, ...] = ()
    overrides: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    trackers: tuple[str, ...] = ()
    beside: str = ""


@define
class Plan:
    """Pieces that fit each other, with their settings."""

    request: Request
    name: str
    profile: str
    experiment: Offer | None
    pieces: dict[str, tuple[Offer, str]]
    metrics: list[Offer]
    resolved: Resolved
    beside: list[str] = field(factory=list)

    @property
    def options(self) -> RunOptions:
        """Section ``run``."""
        options: RunOptions = self.resolved.sections["run"]
        return options


@frozen
class Outcome:
    """A finished or interrupted run."""

    folder: Path
    results: Mapping[str, Any]
    beside: Mapping[str, Mapping[str, Any]]


# ---- planning -------------------------------------------------------------------------------------


def plan(registry: Registry, request: Request) -> Plan:
    """Find the pieces, check that they fit, resolve the settings. Nothing heavy is imported or built.

    :raises ClkError: naming the piece or setting that does not fit.
    """
    experiment, matched = _experiment(registry, request)
    record: Experiment | None = experiment.record if experiment else None
    profile = _profile(record, request)
    layers = _layers(record, profile, request, matched)
    chosen: dict[str, Any] = {}
    settings_layers = []
    for layer in layers:
        chosen.update(
            {key: value for key, value in layer.values.items() if key in PIECES and value not in (None, "")}
        )
        settings_layers.append(
            Layer(layer.origin, {k: v for k, v in layer.values.items() if k not in PIECES})
        )
    prefer = request.plugin or (experiment.plugin if experiment else "")
    pieces, metrics = ({}, []) if record is not None and record.run else _pieces(registry, chosen, prefer)
    classes: dict[str, type | None] = {"run": RunOptions}
    piece_layers: list[Layer] = []
    for section, (offer, argument) in pieces.items():
        classes[section] = offer.record.settings
        for name in ("*", profile):
            if values := offer.record.profiles.get(name):
                piece_layers.append(
                    Layer(
                        f"profile {profile} of {offer.name}", {f"{section}.{k}": v for k, v in values.items()}
                    )
                )
        if argument:
            if not offer.record.argument:
                raise BadSetting(
                    f"{offer.name} takes no argument, but {argument!r} was given", where=f"--{section}"
                )
            settings_layers.append(
                Layer(f"{section} {argument}", {f"{section}.{offer.record.argument}": argument})
            )
    if record is not None and record.run:
        classes["experiment"] = record.options
    resolved = config.resolve_settings(classes, [*piece_layers, *settings_layers])
    name = record.name if record else chosen.get("learner", "run")
    requires = [(offer.name, offer.record.requires) for offer, _ in pieces.values()]
    for owner, modules in [*requires, (name, record.requires if record else ())]:
        if missing := [module for module in modules if util.find_spec(module) is None]:
            raise MissingAsset(
                f"{owner} needs the package {', '.join(missing)}",
                where="this Python environment",
                fix=f"pip install {' '.join(missing)}",
            )
    beside = list(record.beside) if record and not request.beside else []
    return Plan(request, str(name), profile, experiment, pieces, metrics, resolved, beside)


def _experiment(registry: Registry, request: Request) -> tuple[Offer | None, Layer | None]:
    if request.plugin:
        registry.owner(request.plugin)
    mine = [offer for offer in registry.all("test") if not request.plugin or offer.plugin == request.plugin]
    if not request.test:
        if not request.plugin:
            return None, None
        defaults = [offer for offer in mine if offer.record.default] or mine[:1]
        chooses = {key for _, values in request.overrides for key in values if key in ("dataset", "learner")}
        if {"dataset", "learner"} <= chooses or not defaults:
            return None, None
        return defaults[0], None
    try:
        offer, argument = registry.find("test", request.test, prefer=request.plugin)
        if request.plugin and offer.plugin != request.plugin:
            raise UnknownName.of(
                "test",
                request.test,
                [o.record.name for o in mine],
                where=f"--plugin {request.plugin}",
                fix=f"clk list tests --plugin {request.plugin}",
            )
        if argument:
            raise BadSetting(
                f"test {offer.name} takes no argument, but {argument!r} was given",
                where=f"--test {request.test}",
            )
        return offer, None
    except UnknownName:
        for offer in mine:
            if offer.record.pattern and re.fullmatch(offer.record.pattern, request.test):
                return offer, Layer(f"--test {request.test}", {offer.record.pattern_key: request.test})
        if request.plugin:
            raise UnknownName.of(
                "test",
                request.test,
                [o.record.name for o in mine],
                where=f"--plugin {request.plugin}",
                fix=f"clk list tests --plugin {request.plugin}",
            ) from None
        raise


def _profile(record: Experiment | None, request: Request) -> str:
    known = list(record.profiles) if record else []
    if request.profile:
        if known and request.profile not in known:
            raise UnknownName.of("profile", request.profile, known, where="--profile")
        return request.profile
    with_data = [name for name in ("small", "paper") if name in known]
    return with_data[0] if request.data_roots and with_data else "tiny"


def _layers(record: Experiment | None, profile: str, request: Request, matched: Layer | None) -> list[Layer]:
    layers = []
    if record is not None:
        layers.append(Layer(f"test {record.name}", config.flatten(record.settings)))
        layers.append(
            Layer(
                f"profile {profile} of test {record.name}", config.flatten(record.profiles.get(profile, {}))
            )
        )
        if matched is not None:
            layers.append(matched)
        if request.beside:
            layers.append(Layer(f"beside {request.beside}", config.flatten(record.beside[request.beside])))
    own = [Layer(origin, config.flatten(values)) for origin, values in request.overrides]
    if request.beside and record is not None:
        fixed = set(record.beside[request.beside])
        own = [
            Layer(layer.origin, {k: v for k, v in layer.values.items() if k not in fixed}) for layer in own
        ]
    return layers + own


def _pieces(
    registry: Registry, chosen: Mapping[str, Any], prefer: str
) -> tuple[dict[str, tuple[Offer, str]], list[Offer]]:
    for kind in ("dataset", "learner"):
        if not chosen.get(kind):
            raise BadSetting(
                f"no {kind} chosen",
                where="clk run",
                fix=f"give --test NAME, or --{kind} NAME (clk list {kind}s)",
            )
    learner, extra = registry.find("learner", str(chosen["learner"]), prefer=prefer)
    if extra:
        raise BadSetting(
            f"learner {learner.name} takes no argument, but {extra!r} was given", where="--learner"
        )
    pieces: dict[str, tuple[Offer, str]] = {
        "dataset": registry.find("dataset", str(chosen["dataset"]), prefer=prefer),
        "learner": (learner, ""),
    }
    record, task = learner.record, pieces["dataset"][0].record.task
    if not any(fnmatch.fnmatchcase(task, pattern) for pattern in record.takes):
        raise Mismatch(
            f"learner {learner.name} takes {' or '.join(record.takes)}, but data set "
            f"{pieces['dataset'][0].name} asks {task}",
            where="--learner/--dataset",
            fix="clk list learners",
        )
    given = {kind: chosen.get(kind) for kind in ("model", "replay")}
    wanted = {kind: given[kind] or record.defaults.get(kind, "") for kind in given}
    if wanted["model"] and wanted["model"] != "none":
        pieces["model"] = registry.find(
            "model", str(wanted["model"]), prefer=learner.plugin if not given["model"] else prefer
        )
        _room(learner, "model", pieces["model"][0], bool(given["model"]))
        if pieces["model"][0].record.framework != record.framework:
            raise Mismatch(
                f"model {pieces['model'][0].name} is {pieces['model'][0].record.framework}, learner {learner.name} "
                f"is {record.framework}",
                where="--model/--learner",
                fix="clk list models",
            )
    if wanted["replay"] and wanted["replay"] != "none":
        for text in _split_replay(str(wanted["replay"])):
            offer, argument = registry.find(
                "replay", text, prefer=learner.plugin if not given["replay"] else prefer
            )
            kind = offer.record.kind
            if kind in pieces:
                raise Mismatch(
                    f"two pieces of kind {kind}: {pieces[kind][0].name} and {offer.name}",
                    where="--replay",
                    fix="--replay POLICY+CODEC",
                )
            _room(learner, ROOM_OF[kind], offer, bool(given["replay"]))
            if offer.record.framework not in ("numpy", record.framework):
                raise Mismatch(
                    f"{kind} {offer.name} is {offer.record.framework}, learner {learner.name} is {record.framework}",
                    where="--replay/--learner",
                )
            pieces[kind] = (offer, argument)
        if ("policy" in pieces) != ("codec" in pieces):
            default = {"policy": "clk:reservoir", "codec": "clk:raw"}
            for kind in ("policy", "codec"):
                if kind not in pieces:
                    pieces[kind] = registry.find("replay", default[kind])
        if "source" in pieces and "policy" in pieces:
            raise Mismatch("a source keeps nothing, so it takes no policy or codec", where="--replay")
    names = chosen.get("metrics") or record.metrics
    names = [names] if isinstance(names, str) else list(names)
    metrics = [
        registry.find("metric", part, prefer=learner.plugin)[0] for name in names for part in name.split(",")
    ]
    return pieces, metrics


def _split_replay(text: str) -> list[str]:
    _, colon, path = text.partition(":")
    if colon and ("/" in path or path.startswith(".")):
        return [text]
    return text.split("+")


def _room(learner: Offer, room: str, offer: Offer, given: bool) -> None:
    if room not in learner.record.rooms:
        has = ", ".join(learner.record.rooms) or "none"
        raise Mismatch(
            f"learner {learner.name} has no room for a {room}, but {offer.name} was "
            f"{'given' if given else 'its default'}; its rooms: {has}",
            where="--replay" if room != "model" else "--model",
            fix="clk list learners",
        )


# ---- running --------------------------------------------------------------------------------------


def default_cache() -> Path:
    """``$CLK_CACHE``, else ``clk`` in the user's cache folder."""
    if named := os.environ.get("CLK_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clk"


def make_site(
    registry: Registry, planned: Plan, folder: Path | None, emit: Callable[[events.Event], None]
) -> Site:
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
    cache = Cache(default_cache(), lambda kind, path: emit(events.Reused(kind=kind, path=str(path))))
    return Site(
        seed=options.seed,
        profile=planned.profile,
        device=options.device,
        roots=tuple(roots),
        cache=cache,
        n_workers=options.n_workers,
        on_bad_sample=options.on_bad_sample,
        folder=folder,
        locator=registry.locate,
    )


def execute(
    registry: Registry,
    planned: Plan,
    folder: Path | None = None,
    *,
    resume: bool = False,
    listen: Sequence[Callable[[events.Event], None]] = (),
    base: Path = Path("runs"),
    beside: bool = True,
) -> Outcome:
    """Run a plan, and the comparison runs of its test, in a run folder.

    :param folder: the run folder; None for a new one below ``base``.
    :param resume: go on from the newest whole checkpoint.
    :raises Interrupted: after a signal; the run has saved itself.
    """
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
        results: Mapping[str, Any]
        if resume and run.info.get("status") == "finished":
            results = read_json(folder / "metrics.json")
        else:
            results = _one(registry, planned, run, resume, listen)
        others = {}
        for label in planned.beside if beside else ():
            others[label] = _beside(
                registry, planned, folder / "beside" / label.replace(" ", "-"), label, listen
            )
        return Outcome(folder, results, others)
    finally:
        run.release()


def _nothing_done(run: RunFolder) -> bool:
    """A run that failed before its first checkpoint may be started again in its folder."""
    return run.info.get("status") == "failed" and not run.checkpoints()


def _beside(
    registry: Registry,
    planned: Plan,
    folder: Path,
    label: str,
    listen: Sequence[Callable[[events.Event], None]],
) -> Mapping[str, Any]:
    again = (folder / "run.json").exists()
    if again and read_json(folder / "run.json").get("status") == "finished":
        return read_json(folder / "metrics.json")
    other = plan(registry, attrs.evolve(planned.request, beside=label, profile=planned.profile))
    folder.mkdir(parents=True, exist_ok=True)
    return execute(registry, other, folder, resume=again, listen=listen).results


def _one(
    registry: Registry,
    planned: Plan,
    run: RunFolder,
    resume: bool,
    listen: Sequence[Callable[[events.Event], None]],
) -> Mapping[str, Any]:
    from cl_kernel import run as running

    trackers = [
        resolve(registry.find("tracker", name)[0].record.build)(run.path)
        for name in ("jsonl", *planned.request.trackers)
    ]

    def emit(event: events.Event) -> None:
        for tell in (*trackers, *listen):
            tell(event)
        registry.emit(event, run.path)

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
        label=planned.request.beside,
        metrics=[offer.name for offer in planned.metrics],
        expected=_comparable(planned),
        request=attrs.asdict(planned.request),
        started=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    )
    write_text(run.path / "settings.yaml", _settings_text(planned, plain))
    write_json(run.path / "environment.json", environment(registry.versions()))
    registry.configure(planned.resolved.flat())
    site = make_site(registry, planned, run.path, emit)
    try:
        record = planned.experiment.record if planned.experiment else None
        if record is not None and record.run:
            activity = running.Activity(site=site, run=run, emit=emit)
            emit(events.RunStarted(name=planned.name, profile=planned.profile, n_stages=0))
            results = running.run_activity(
                activity, resolve(record.run), planned.resolved.sections.get("experiment")
            )
        else:
            results = _stream(planned, run, site, emit, resume)
    except BaseException as error:
        reason = (
            f"signal {error.signum}" if isinstance(error, Interrupted) else f"{type(error).__name__}: {error}"
        )
        run.update(status="interrupted" if isinstance(error, Interrupted) else "failed", reason=reason)
        emit(events.RunFailed(reason=reason))
        raise
    run.update(status="finished", ended=time.strftime("%Y-%m-%dT%H:%M:%S%z"), digest=results["digest"])
    tables: Mapping[str, Any] = results.get("metrics", {})
    summary = next(iter(tables.values()))["summary"] if tables else {}
    emit(events.RunEnded(digest=results["digest"], summary=summary, seconds=time.monotonic() - started))
    if planned.options.plots and util.find_spec("matplotlib") is not None and results.get("metrics"):
        from cl_kernel.plots import draw_run

        draw_run(run.path, results)
    return results


def _comparable(planned: Plan) -> list[dict[str, Any]]:
    """Published figures that this run may stand beside: same profile, nothing changed that changes results."""
    harmless = {"run.seed", "run.device", "run.n_workers", "run.checkpoint_every_s", "run.plots"}
    changed = {key for layer in _layers(None, "", planned.request, None) for key in layer.values} - harmless
    if planned.experiment is None or planned.request.beside or changed:
        return []
    expected = planned.experiment.record.expected
    return [attrs.asdict(figure) for figure in expected if figure.profile == planned.profile]


def _stream(
    planned: Plan, run: RunFolder, site: Site, emit: Callable[[events.Event], None], resume: bool
) -> dict[str, Any]:
    from cl_kernel import run as running

    options, pieces = planned.options, planned.pieces
    sections = planned.resolved.sections
    stream = resolve(pieces["dataset"][0].record.build)(sections.get("dataset"), site)
    stream.check()
    _fields_fit(planned, stream)
    memories: list[Any] = []
    parts = Parts(
        stream=stream,
        site=site,
        model=_model_factory(planned, site) if "model" in pieces else None,
        memory=_memory_factory(planned, site, sum(len(stage.train) for stage in stream.stages), memories)
        if "codec" in pieces
        else None,
        source=resolve(pieces["source"][0].record.build)(sections.get("source"), site)
        if "source" in pieces
        else None,
    )
    learner = resolve(pieces["learner"][0].record.build)(sections.get("learner"), parts)
    scorers = [
        running.Scorer(
            offer.record,
            resolve(offer.record.build)(offer.record.settings() if offer.record.settings else None, stream),
        )
        for offer in planned.metrics
    ]
    ctx = running.Context(
        site=site,
        stream=stream,
        learner=learner,
        scorers=scorers,
        run=run,
        emit=emit,
        memories=memories,
        checkpoint_every_s=options.checkpoint_every_s,
        evaluate_all=options.evaluate == "all",
        initial_scores=options.initial_scores,
        stop_at_step=options.stop_at_step,
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
    write_json(run.path / "metrics.json", results)
    return results


def _fields_fit(planned: Plan, stream: Any) -> None:
    if "model" in planned.pieces:
        model = planned.pieces["model"][0]
        if model.record.takes != "*" and model.record.takes not in stream.spec:
            raise Mismatch(
                f"model {model.name} reads {model.record.takes!r}, but data set {stream.name} has "
                f"{', '.join(stream.spec)}",
                where="--model/--dataset",
                fix="clk list models",
            )
    for offer in planned.metrics:
        if offer.record.target not in stream.test.spec:
            raise Mismatch(
                f"metric {offer.name} compares with {offer.record.target!r}, but data set {stream.name} has "
                f"{', '.join(stream.test.spec)}",
                where="--metric/--dataset",
                fix="clk list metrics",
            )


def _model_factory(planned: Plan, site: Site) -> Callable[[Mapping[str, Any], int], Any]:
    offer = planned.pieces["model"][0]
    return lambda fields, n_outputs: resolve(offer.record.build)(
        planned.resolved.sections.get("model"), fields, n_outputs, site
    )


def _memory_factory(
    planned: Plan, site: Site, n_samples: int, made: list[Any]
) -> Callable[[Mapping[str, Any]], Any]:
    def build(fields: Mapping[str, Any]) -> Any:
        from cl_kernel.memory import build_memory

        sections = planned.resolved.sections
        codec = resolve(planned.pieces["codec"][0].record.build)(sections.get("codec"), fields, site)
        policy = partial(resolve(planned.pieces["policy"][0].record.build), sections.get("policy"))
        capacity = planned.options.memory or str(
            planned.pieces["learner"][0].record.defaults.get("memory", "200")
        )
        memory = build_memory(policy, codec, capacity, site.rng("memory", len(made)), n_examples=n_samples)
        made.append(memory)
        return memory

    return build


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


def request_of(folder: Path) -> Request:
    """What a run folder's run was asked to do.

    :raises RunConflict: when the folder holds no run.
    """
    stored = read_json(folder / "run.json")
    try:
        raw = dict(stored["request"])
    except KeyError as error:
        raise RunConflict("run.json names no request", where=str(folder)) from error
    raw["data_roots"] = tuple(raw["data_roots"])
    raw["trackers"] = tuple(raw["trackers"])
    raw["overrides"] = tuple((origin, values) for origin, values in raw["overrides"])
    raw["profile"] = raw["profile"] or stored["profile"]
    return Request(**raw)


def resume(
    registry: Registry, folder: Path, *, listen: Sequence[Callable[[events.Event], None]] = ()
) -> Outcome:
    """Go on with an interrupted run, bit for bit as if it had not stopped."""
    return execute(registry, plan(registry, request_of(folder)), folder, resume=True, listen=listen)


def reproduce(
    registry: Registry,
    folder: Path,
    output: Path | None = None,
    *,
    base: Path = Path("runs"),
    listen: Sequence[Callable[[events.Event], None]] = (),
) -> tuple[Outcome, list[str]]:
    """Run a finished run again and compare.

    :return: the new run, and what differs (empty: the digests are equal).
    """
    stored = read_json(folder / "metrics.json")
    if not stored.get("finished"):
        raise ClkError(
            "the run is not finished, so there is nothing to compare with",
            where=str(folder),
            fix=f"clk resume {folder}",
        )
    again = execute(
        registry, plan(registry, request_of(folder)), output, base=base, listen=listen, beside=False
    )
    differences = [key for key in ("digest", "state_digest") if stored.get(key) != again.results.get(key)]
    return again, differences
