"""From what was asked to what that means: pieces that fit each other, and settings with their origins.

Nothing heavy is imported or built here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from importlib import util
from pathlib import Path
from typing import Any

import attrs
from attrs import define, field, frozen

from cl_kernel.compatibility import renamed
from cl_kernel.contract.errors import BadSetting, ClkError, Mismatch, MissingAsset, UnknownName
from cl_kernel.contract.offers import Experiment
from cl_kernel.data.stream_options import StreamOptions
from cl_kernel.registry import Offer, Registry, resolve
from cl_kernel.running import settings as config
from cl_kernel.running import training
from cl_kernel.running.pieces import find_pieces
from cl_kernel.running.settings import Layer, Resolved, RunOptions, read_yaml

PIECES = ("dataset", "model", "replay", "learner", "metrics")
CONFIGURATIONS = ("config", "gin_file", "gin_param")
CHOICES = PIECES + CONFIGURATIONS
RUN_FLAGS = ("seed", "memory", "budget", "device", "on_bad_sample", "n_workers", "evaluate")
SHORT = {key: f"run.{key}" for key in ("seed", "memory", "budget", "device", "evaluate")}
NEUTRAL = frozenset(f"run.{key}" for key in ("plots", "checkpoint_every_s", "n_workers", "stop_at_step"))
"""Settings that change no number."""
OWN = "own"
"""Profile of data that the user gives: neither toy data nor a publication's."""


@renamed(beside="comparison")
@frozen(kw_only=True)
class Request:
    """What was asked for, in plain values: enough to do it again.

    :param overrides: layers (origin, dotted values) on top of the test's own, in order.
    :param comparison: label of a comparison run of the test, or empty for the run itself.
    :param alone: without the comparison runs of the test.
    """

    test: str = ""
    plugin: str = ""
    profile: str = ""
    data_roots: tuple[str, ...] = ()
    overrides: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    trackers: tuple[str, ...] = ()
    comparison: str = ""
    alone: bool = False


def read_request(raw: Mapping[str, Any]) -> Request:
    """A request from its JSON form; run folders of earlier releases say ``beside`` for ``comparison``."""
    raw = {("comparison" if key == "beside" else key): value for key, value in raw.items()}
    tuples = {key: tuple(raw[key]) for key in ("data_roots", "trackers")}
    return Request(**{**raw, **tuples, "overrides": tuple((origin, values) for origin, values in raw["overrides"])})


@renamed(beside="comparisons")
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
    comparisons: list[str] = field(factory=list)
    ignored: dict[str, str] = field(factory=dict)  # settings for every learner that this one has no use for: why

    @property
    def options(self) -> RunOptions:
        """Section ``run``."""
        options: RunOptions = self.resolved.sections["run"]
        return options

    def targets(self) -> list[str]:
        """``package.module:name`` of everything of plugins that the run calls."""
        offers = [*(offer for offer, _ in self.pieces.values()), *self.metrics]
        runs = [self.experiment.record.run] if self.experiment and self.experiment.record.run else []
        return [*(offer.record.build for offer in offers), *runs]


def make_request(
    test: str = "",
    *,
    plugin: str = "",
    profile: str = "",
    dataset: str = "",
    model: str = "",
    learner: str = "",
    replay: str = "",
    metrics: Sequence[str] = (),
    data_roots: Sequence[str | Path] = (),
    config_files: Sequence[Path] = (),
    config: str = "",
    gin_files: Sequence[str | Path] = (),
    gin_params: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    trackers: Sequence[str] = (),
    **run: Any,
) -> Request:
    """The request that ``clk run`` makes of its flags; the same names in Python.

    :param config: a named configuration of the learner; ``gin_files`` and ``gin_params`` are the user's own.
    :param settings: dotted names as for ``--set``, laid over everything but gin.
    :param run: any of ``seed``, ``memory``, ``budget``, ``device``, ``on_bad_sample``, ``n_workers``, ``evaluate``;
        None leaves the default.
    :raises BadSetting: for another name, or a settings file that cannot be read.
    """
    if unknown := set(run) - set(RUN_FLAGS):
        raise BadSetting(f"unknown {', '.join(sorted(unknown))}; known: {', '.join(RUN_FLAGS)}", where="ask")
    layers = [read_yaml(Path(path)) for path in config_files]
    named = {
        "dataset": dataset,
        "model": model,
        "learner": learner,
        "replay": replay,
        "metrics": list(metrics),
        "config": config,
        "gin_file": list(map(str, gin_files)),
        "gin_param": list(gin_params),
    }
    layers.append(Layer("command line", {kind: name for kind, name in named.items() if name}))
    layers += [Layer(f"--{k.replace('_', '-')}", {f"run.{k}": v}) for k, v in run.items() if v is not None]
    layers.append(Layer("--set", dict(settings or {})))
    return Request(
        test=test,
        plugin=plugin,
        profile=profile,
        data_roots=tuple(map(str, data_roots)),
        overrides=tuple((layer.origin, layer.values) for layer in layers if layer.values),
        trackers=tuple(trackers),
    )


def plan(registry: Registry, request: Request) -> Plan:
    """Find the pieces, check that they fit, resolve the settings. Nothing heavy is imported or built.

    :raises ClkError: naming the piece or setting that does not fit.
    """
    experiment, matched = _experiment(registry, request)
    record: Experiment | None = experiment.record if experiment else None
    profile = _profile(registry, record, request)
    of_test, asked = _of_test(record, profile, request, matched), _asked(record, request)
    chosen: dict[str, Any] = {}
    for layer in [*of_test, *asked]:
        chosen.update({key: value for key, value in layer.values.items() if key in CHOICES and value not in (None, "")})
    prefer = request.plugin or (experiment.plugin if experiment else "")
    pieces, metrics = ({}, []) if record is not None and record.run else find_pieces(registry, chosen, prefer)
    classes: dict[str, type | None] = {"run": RunOptions}
    if "learner" in pieces:
        classes |= {"stream": StreamOptions, "train": training.TrainOptions}
    piece_layers: list[Layer] = []
    for section, (offer, argument) in pieces.items():
        classes[section] = offer.record.settings
        for name in ("*", _or_tiny(profile, offer.record.profiles)):
            if values := offer.record.profiles.get(name):
                piece_layers.append(
                    Layer(f"profile {name} of {offer.name}", {f"{section}.{k}": v for k, v in values.items()})
                )
        if argument:
            if not offer.record.argument:
                raise BadSetting(f"{offer.name} takes no argument, but {argument!r} was given", where=f"--{section}")
            asked.append(Layer(f"{section} {argument}", {f"{section}.{offer.record.argument}": argument}))
    if record is not None and record.run:
        classes["experiment"] = record.options
    _nothing_ignored(request, record, profile, pieces)
    configured = _configurations(pieces, chosen, profile, bool(request.comparison))
    named, own = (_without(layer, _fixed(record, request)) for layer in configured)
    learner = pieces["learner"][0] if "learner" in pieces else None
    train, ignored = training.for_learner(asked, learner.name, learner.record.settings) if learner else (named, {})
    train = _without(train, _fixed(record, request))
    if learner and not request.comparison:
        training.check_heads(asked, learner.name, learner.record.settings)
    layers = [_without(layer, CHOICES) for layer in (*piece_layers, *of_test, named, train, *asked, own)]
    if request.comparison:
        its_own = f"comparison {request.comparison}"  # the test's settings may be of pieces that this run replaces
        layers = [layer if layer.origin == its_own else config.known_only(layer, classes) for layer in layers]
    resolved = _with_presets(classes, layers, pieces)
    if learner and (told := training.told_the_task(resolved)).values:
        layers = [*layers, told]
        resolved = _with_presets(classes, layers, pieces)
    if learner and (size := resolved.sections["stream"].online):
        resolved = _with_presets(classes, [*layers, training.once(resolved, learner.name, size)], pieces)
    name = record.name if record else chosen.get("learner", "run")
    comparisons = list(record.comparisons) if record and not request.comparison else []
    return Plan(request, str(name), profile, experiment, pieces, metrics, resolved, comparisons, ignored)


def comparison_plans(registry: Registry, planned: Plan) -> dict[str, Plan]:
    """The comparison runs of a run, planned: a setting of a piece that one of them replaces does not reach it.

    :raises ClkError: naming the comparison run that cannot be made as asked.
    """
    plans = {}
    for label in () if planned.request.alone else planned.comparisons:
        request = attrs.evolve(planned.request, comparison=label, profile=planned.profile)
        try:
            plans[label] = plan(registry, request)
        except ClkError as error:
            raise type(error)(
                f"comparison run {label!r}: {error.what}",
                where=error.where,
                fix=f"{error.fix}{'; or' if error.fix else ''} --no-comparisons",
            ) from error
    return plans


def _with_presets(
    classes: Mapping[str, type | None], layers: Sequence[Layer], pieces: Mapping[str, tuple[Offer, str]]
) -> Resolved:
    """Settings that stand for several others fill those in, unless somebody gave these as late or later."""
    resolved = config.resolve_settings(classes, layers)
    given = {"default": -1, **{layer.origin: at for at, layer in enumerate(layers)}}
    chosen: dict[int, dict[str, Any]] = {}
    for section, (offer, _) in pieces.items():
        if not (target := getattr(offer.record, "presets", "")):
            continue
        for by, values in resolve(target)(resolved.sections[section]).items():
            at = given[resolved.origins[f"{section}.{by}"]]
            for name, value in values.items():
                mine = given[resolved.origins[f"{section}.{name}"]]
                if mine < at or mine == -1:
                    chosen.setdefault(at, {})[f"{section}.{name}"] = (by, value)
    filled = [
        Layer(f"{section}.{by}", {key: value})
        for at in sorted(chosen)
        for key, (by, value) in chosen[at].items()
        for section in (key.split(".", 1)[0],)
    ]
    return config.resolve_settings(classes, [*layers, *filled]) if filled else resolved


def framework_of(planned: Plan) -> str:
    """``torch``, ``tensorflow`` or ``numpy``: what the run will import; an own ``run`` says it by what it requires."""
    if "learner" in planned.pieces:
        return str(planned.pieces["learner"][0].record.framework)
    required = planned.experiment.record.requires if planned.experiment else ()
    return next((name for name in required if name in ("torch", "tensorflow")), "numpy")


def check_installed(planned: Plan) -> None:
    """Refuse a run whose pieces need packages that are not here; planning and showing it need none of them.

    :raises MissingAsset: naming the piece and the packages.
    """
    offers = [*(offer for offer, _ in planned.pieces.values()), *planned.metrics]
    for offer in [*offers, *([planned.experiment] if planned.experiment else [])]:
        _require(offer)


def _require(offer: Offer) -> None:
    if missing := missing_packages(offer):
        raise MissingAsset(
            f"{offer.name} needs the package {', '.join(map(distribution, missing))}",
            where="this Python environment",
            fix=f"pip install {' '.join(map(distribution, missing))}",
        )


ON_THE_INDEX = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml", "cv2": "opencv-python-headless"}
ON_THE_INDEX |= {
    "gin": "gin-config",
    "tensorflow_hub": "tensorflow-hub",
    "tf_keras": "tf-keras",
    "open_clip": "open-clip-torch",
}
ON_THE_INDEX |= {"imageio_ffmpeg": "imageio-ffmpeg", "faiss": "faiss-cpu"}
"""Import name -> name on the package index, where the two differ."""


def distribution(module: str) -> str:
    """What to install for an import name."""
    return ON_THE_INDEX.get(module, module)


def missing_packages(offer: Offer) -> list[str]:
    """What an offer requires and is not installed."""
    return [module for module in offer.record.requires if not importable(module)]


def importable(module: str) -> bool:
    """Whether a package is installed; it is not imported."""
    try:
        return util.find_spec(module) is not None
    except ImportError:
        return False


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
    except UnknownName:
        for offer in mine:
            if offer.record.pattern and re.fullmatch(offer.record.pattern, request.test):
                return offer, Layer(f"--test {request.test}", {offer.record.pattern_key: request.test})
        if not request.plugin:
            raise
    else:
        if argument:
            raise BadSetting(
                f"test {offer.name} takes no argument, but {argument!r} was given", where=f"--test {request.test}"
            )
        if not request.plugin or offer.plugin == request.plugin:
            return offer, None
    raise UnknownName.of(
        "test",
        request.test,
        [offer.record.name for offer in mine],
        where=f"--plugin {request.plugin}",
        fix=f"clk list tests --plugin {request.plugin}",
    )


def _profile(registry: Registry, record: Experiment | None, request: Request) -> str:
    known = list(record.profiles) if record else []
    if request.profile:
        if known and request.profile not in (*known, OWN):
            raise UnknownName.of("profile", request.profile, known, where="--profile")
        return request.profile
    if any(offer.record.own for offer in _asked_datasets(registry, request)):
        return OWN
    with_data = [name for name in ("small", "paper") if name in known]
    return with_data[0] if request.data_roots and with_data else "tiny"


def _asked_datasets(registry: Registry, request: Request) -> list[Offer]:
    names = [str(values["dataset"]) for _, values in request.overrides if values.get("dataset")]
    return [offer for name in names[-1:] for offer, _ in registry.candidates("dataset", name, prefer=request.plugin)]


def _or_tiny(profile: str, known: Mapping[str, Any]) -> str:
    """One's own data take the sizes of the profile ``tiny`` where a piece has none of its own for them."""
    return "tiny" if profile == OWN and OWN not in known else profile


def _nothing_ignored(
    request: Request, record: Experiment | None, profile: str, pieces: Mapping[str, tuple[Offer, str]]
) -> None:
    """Refuse what was asked for and would have no effect: a profile nobody has, a capacity without a memory."""
    known = {"tiny", "paper", OWN, *(name for offer, _ in pieces.values() for name in offer.record.profiles)}
    if record is None and profile not in known:
        raise UnknownName.of("profile", profile, known - {"*"}, where="--profile")
    asked = any(values.get("run.memory") for origin, values in request.overrides if origin in ("--memory", "--set"))
    if asked and not request.comparison and pieces and "codec" not in pieces:
        raise Mismatch(
            f"a memory size was given, but learner {pieces['learner'][0].name} runs without a memory",
            where="--memory",
            fix="give --replay POLICY+CODEC (clk list replays), or leave --memory out",
        )


def _of_test(record: Experiment | None, profile: str, request: Request, matched: Layer | None) -> list[Layer]:
    if record is None:
        return []
    inner = _or_tiny(profile, record.profiles)
    layers = [
        Layer(f"test {record.name}", config.flatten(record.settings)),
        Layer(f"profile {profile} of test {record.name}", config.flatten(record.profiles.get(inner, {}))),
    ]
    if matched is not None:
        layers.append(matched)
    if request.comparison:
        layers.append(Layer(f"comparison {request.comparison}", config.flatten(record.comparisons[request.comparison])))
    return layers


def _asked(record: Experiment | None, request: Request) -> list[Layer]:
    fixed = _fixed(record, request)
    return [_without(Layer(origin, config.flatten(values)), fixed) for origin, values in request.overrides]


def _fixed(record: Experiment | None, request: Request) -> Collection[str]:
    """What a comparison run keeps whatever was asked of the run it is compared with: what it says, and the pieces whose
    settings it names.
    """
    if not record or not request.comparison:
        return ()
    own = record.comparisons[request.comparison]
    return {*own, *(key.split(".", 1)[0] for key in own if "." in key), "run.stop_at_step"}


def _without(layer: Layer, fixed: Collection[str]) -> Layer:
    return Layer(layer.origin, {key: value for key, value in layer.values.items() if key not in fixed})


def _configurations(
    pieces: Mapping[str, tuple[Offer, str]], chosen: Mapping[str, Any], profile: str, comparison: bool
) -> tuple[Layer, Layer]:
    """The learner's named configuration and the user's own gin, as layers."""
    name, files, params = (chosen.get(key, "") for key in CONFIGURATIONS)
    if not (name or files or params):
        return Layer("--config", {}), Layer("--gin-file", {})
    learner = pieces["learner"][0] if "learner" in pieces else None
    if learner is None or not learner.record.configurations:
        if comparison:
            return Layer("--config", {}), Layer("--gin-file", {})
        raise BadSetting(
            f"{learner.name if learner else 'this test'} has no named configurations and reads no gin",
            where="--config, --gin-file, --gin-param",
            fix="give settings with --set KEY=VALUE or --config-file FILE",
        )
    _require(learner)
    read = resolve(learner.record.configurations)
    files, params = ([text] if isinstance(text, str) and text else list(text) for text in (files, params))
    return (
        Layer(f"--config {name}", read(name, (), (), profile) if name else {}),
        Layer(", ".join([*files, *(["--gin-param"] if params else [])]), read("", files, params, profile)),
    )


def comparable(planned: Plan) -> list[dict[str, Any]]:
    """Published figures that this run may stand beside: same profile, nothing changed that changes results."""
    harmless = {"run.seed", "run.device", "run.n_workers", "run.checkpoint_every_s", "run.plots"}
    changed = {key for layer in _asked(None, planned.request) for key in layer.values} - harmless
    if planned.experiment is None or planned.request.comparison or changed:
        return []
    expected = planned.experiment.record.expected
    return [attrs.asdict(figure) for figure in expected if figure.profile == planned.profile]
