"""What plugins offer: frozen records, heavy code named by string and loaded on first use.

A ``build`` string reads ``"package.module:function"``. Nothing here imports numpy or a deep-learning library,
so listing every plugin stays cheap.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from typing import Any

from attrs import Attribute, field, frozen

from cl_kernel.compatibility import renamed

SPEC_VERSION = 2
"""The hook contract this kernel speaks; it understands every earlier one. Within a version we only add."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-/]*\Z")
_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*\Z")


def _name(_: object, attribute: Attribute[str], value: str) -> None:
    if not _NAME.match(value):
        raise ValueError(f"{attribute.name}={value!r} is no name: letters, digits and _ . - / only")


def _target(_: object, attribute: Attribute[str], value: str) -> None:
    if not _TARGET.match(value):
        raise ValueError(f"{attribute.name}={value!r} does not read 'package.module:function'")


def _optional_target(owner: object, attribute: Attribute[str], value: str) -> None:
    if value:
        _target(owner, attribute, value)


def _settings_class(owner: object, attribute: Attribute[Any], value: type | str | None) -> None:
    if isinstance(value, str):
        _target(owner, attribute, value)


def _revision(_: object, attribute: Attribute[int], value: int) -> None:
    if value < 1:
        raise ValueError(f"{attribute.name}={value!r} is no revision: 1, 2, 3, ...")


def doc(
    text: str,
    *,
    source: str = "",
    unit: str = "",
    harmless: str = "",
    counted: str = "",
    only: str | tuple[str, ...] = (),
    when: Mapping[str, Any] | None = None,
    example: Any = None,
    unseen: str = "",
) -> dict[str, Any]:
    """Metadata of a settings field: what it means, its unit, and where in the paper its value comes from.

    Every setting counts when it is asked whether something made earlier may be used again, unless one of the last
    three says otherwise.

    :param harmless: why no result depends on the value, as ``"only how many images are decoded side by side"``.
    :param counted: by what its effect is counted instead, as ``"what the files hold"`` for a folder, or ``"the rows
        of each stage"`` for a class order.
    :param only: the phases that read it, as ``"streaming"``; artefacts of other phases do not depend on it.
    :param when: what other settings must be for this one to be read, ``{"optimizer": "sgd"}``; several values as a
        tuple, ``True`` for any that is not off, empty or zero, ``False`` for the opposite. Names are of the same
        section, or dotted; ``piece`` is the piece's own short name,
        ``memory``, ``source`` and ``model`` say whether there is one. A person who gives it otherwise is refused.
    :param unseen: why no short run on a plain machine can show its effect, as ``"arithmetic of CUDA devices"``.
    :param example: a value that makes a difference in a short run, where none can be guessed from the default.

    >>> from attrs import field
    >>> rate: float = field(default=0.1, metadata=doc("learning rate", source="sec. 4"))
    """
    phases = (only,) if isinstance(only, str) else tuple(only)
    said = {"harmless": harmless, "counted": counted, "only": phases, "when": dict(when or {}), "example": example}
    said |= {"unseen": unseen}
    return {
        "doc": text,
        "source": source,
        "unit": unit,
        **{key: value for key, value in said.items() if value not in ("", (), {}, None)},
    }


@frozen(kw_only=True)
class Plugin:
    """Who offers: shown by ``clk plugins``.

    :param everything: the runs of ``clk run --plugin NAME --all`` in an order that shares artefacts, each as an item of
        a sweep's ``list``: ``{"test": "JOINT", "config": "JOINT"}``. By default every test once.
    """

    name: str = field(validator=_name)
    summary: str
    paper: str = ""
    everything: tuple[Mapping[str, Any], ...] = ()
    spec: int = SPEC_VERSION


@frozen(kw_only=True)
class Asset:
    """A file or folder that has to come from outside: a data set, weights.

    :param files: paths below a data root that must exist for the asset to count as present.
    :param origin: where to get it, for people (an address or a sentence).
    """

    name: str = field(validator=_name)
    summary: str
    files: tuple[str, ...] = ()
    origin: str = ""


@renamed(needs="assets")
@frozen(kw_only=True)
class Dataset:
    """A stream by name. ``build(settings, resources) -> Stream``.

    :param task: what is asked, as ``"image -> class"``; learners say which they take.
    :param settings: attrs class with every setting and its default, or None.
    :param profiles: settings that differ by profile, e.g. ``{"tiny": {"n_train": 60}}``.
    :param assets: assets that must lie under a data root; empty: it works with nothing.
    :param argument: the setting that ``--dataset NAME:ARGUMENT`` fills.
    :param own: the data are the user's: its runs are called neither toy nor the publication's, profile ``own``.
    :param prepare: ``(settings, resources) -> Path``: converts raw files once; run by ``clk data prepare``.
    :param requires: import names that must be installed, checked without importing them.
    :param presets: ``(settings) -> Mapping``: settings that stand for others, as a row of a table of hyper-parameters:
        ``{"hyper": {"lr": 0.01}}`` when ``hyper`` chooses ``lr``. What was given as late as ``hyper`` or later stays.
    :param revision: raised when equal settings and data give another output than before, and only then: what was made
        from the piece is made anew.
    :param example: ``(folder) -> Mapping``: writes a small data set of the form that ``build`` reads into an empty
        folder and gives the dotted settings that name it, ``{"dataset.path": ...}``, or ``{"data_roots": [folder]}``;
        the conformance kit changes its bytes and settings.
    """

    name: str = field(validator=_name)
    summary: str
    task: str
    build: str = field(validator=_target)
    settings: type | None = None
    profiles: Mapping[str, Mapping[str, Any]] = field(factory=dict)
    assets: tuple[Asset, ...] = ()
    argument: str = ""
    own: bool = False
    prepare: str = field(default="", validator=_optional_target)
    requires: tuple[str, ...] = ()
    presets: str = field(default="", validator=_optional_target)
    revision: int = field(default=1, validator=_revision)
    example: str = field(default="", validator=_optional_target)


@renamed(needs="assets")
@frozen(kw_only=True)
class Model:
    """A network by name. ``build(settings, fields, n_outputs, resources) -> object`` of ``framework``.

    :param framework: ``"torch"``, ``"tensorflow"`` or ``"numpy"``; a learner takes one of them.
    :param takes: the field it reads, as ``"image"``; ``"*"`` for any.
    """

    name: str = field(validator=_name)
    summary: str
    framework: str
    build: str = field(validator=_target)
    takes: str = "image"
    settings: type | None = None
    profiles: Mapping[str, Mapping[str, Any]] = field(factory=dict)
    assets: tuple[Asset, ...] = ()
    argument: str = ""
    requires: tuple[str, ...] = ()
    presets: str = field(default="", validator=_optional_target)
    revision: int = field(default=1, validator=_revision)


@renamed(needs="assets")
@frozen(kw_only=True)
class Replay:
    """A piece of memory by name; ``--replay POLICY+CODEC``, or one source.

    :param kind: ``"policy"``: which examples are kept, ``build(settings, capacity) -> Policy``;
        ``"codec"``: how one is kept, ``build(settings, fields, resources) -> Codec``;
        ``"source"``: keeps nothing and draws or fetches examples of old classes,
        ``build(settings, resources) -> object``.
    :param framework: what a codec's arrays are; ``"numpy"`` fits every learner.
    :param stores: the field a codec can keep and the form it needs, e.g. ``"vector"`` or ``"map"``; ``"*"`` for any.
    """

    name: str = field(validator=_name)
    summary: str
    kind: str = field()
    build: str = field(validator=_target)
    framework: str = "numpy"
    stores: str = "*"
    settings: type | None = None
    profiles: Mapping[str, Mapping[str, Any]] = field(factory=dict)
    assets: tuple[Asset, ...] = ()
    argument: str = ""
    requires: tuple[str, ...] = ()
    revision: int = field(default=1, validator=_revision)

    @kind.validator
    def _check_kind(self, _: object, value: str) -> None:
        if value not in ("policy", "codec", "source"):
            raise ValueError(f"kind={value!r} is none of policy, codec, source")


@frozen(kw_only=True)
class Metric:
    """A score by name. ``build(settings, stream) -> Metric`` of :mod:`cl_kernel.contract.interfaces`.

    :param output: the prediction it reads (``"scores"``, ``"class"``, ``"mask"``, ``"answer"``).
    :param target: the sample field it compares with.
    :param higher_is_better: False for losses and distances.
    :param range: lowest and highest possible value.
    :param judges: whether right predictions score better than wrong ones; False for what only describes them, as
        entropy, calibration or the share of abstentions.
    """

    name: str = field(validator=_name)
    summary: str
    build: str = field(validator=_target)
    output: str = "scores"
    target: str = "class"
    higher_is_better: bool = True
    range: tuple[float, float] = (0.0, 1.0)
    judges: bool = True
    settings: type | None = None
    requires: tuple[str, ...] = ()
    revision: int = field(default=1, validator=_revision)


@renamed(rooms="accepts")
@frozen(kw_only=True)
class Learner:
    """A method by name. ``build(settings, setup) -> Learner`` of :mod:`cl_kernel.contract.interfaces`.

    :param takes: task patterns, ``"image -> class"``; ``*`` matches anything.
    :param accepts: which pieces it takes: any of ``"model"``, ``"memory"``, ``"source"``; another piece is refused
        before the run.
    :param defaults: the pieces it takes when none is named, e.g. ``{"model": "mlp", "replay": "reservoir"}``.
    :param metrics: metric names recorded when none is named; the first fills the accuracy matrix.
    :param looks_back: why samples of earlier stages are read again or held outside a memory, as ``"the upper bound"``;
        empty: they are not.
    :param configurations: ``(name, gin_files, gin_params, profile) -> Mapping`` of dotted settings, for learners that
        have named configurations (``--config``, laid over the test's) or read gin (``--gin-file``, ``--gin-param``,
        laid over everything).
    :param settings: attrs class with every setting and its default, or ``"package.module:Class"``, imported when asked
        for, so that the class can stand beside the method.
    """

    name: str = field(validator=_name)
    summary: str
    build: str = field(validator=_target)
    takes: tuple[str, ...]
    framework: str = "numpy"
    accepts: tuple[str, ...] = field(default=())
    defaults: Mapping[str, str] = field(factory=dict)
    metrics: tuple[str, ...] = ("accuracy",)
    looks_back: str = ""
    configurations: str = field(default="", validator=_optional_target)
    _settings: type | str | None = field(default=None, validator=_settings_class)
    profiles: Mapping[str, Mapping[str, Any]] = field(factory=dict)
    requires: tuple[str, ...] = ()
    presets: str = field(default="", validator=_optional_target)
    revision: int = field(default=1, validator=_revision)

    @accepts.validator
    def _check_accepts(self, _: object, value: tuple[str, ...]) -> None:
        if unknown := set(value) - {"model", "memory", "source"}:
            raise ValueError(f"accepts={sorted(unknown)} are none of model, memory, source")

    @property
    def settings(self) -> type | None:
        """The settings class; one named by string is imported now."""
        if not isinstance(self._settings, str):
            return self._settings
        module, _, name = self._settings.partition(":")
        found: type = getattr(importlib.import_module(module), name)
        return found


@frozen(kw_only=True)
class Expected:
    """A published figure, checked against its source; printed only with runs that are its experiment."""

    metric: str
    value: float
    profile: str = "paper"
    where: str = ""


@renamed(beside="comparisons")
@frozen(kw_only=True)
class Experiment:
    """What ``--test NAME`` runs: pieces and settings by dotted name, or an own ``run``.

    :param aliases: other names, as ``"3"`` and ``"15-1"``.
    :param settings: dotted values shared by all profiles: ``{"dataset": "recall:voc", "learner.lr": 0.1}``. The
        undotted keys ``dataset``, ``learner``, ``model``, ``replay``, ``metrics`` choose pieces.
    :param profiles: the same by profile name; a profile that chooses a data set with ``assets`` wants data.
    :param comparisons: runs made along with this one, label -> dotted values on top. One called ``offline`` or
        ``joint`` is the upper bound that Omega divides by.
    :param run: ``(ctx, settings) -> Mapping``: an experiment that is no stream; ``options`` is its settings class.
    :param pattern: a regular expression; a test name that matches and that nobody offers literally becomes this
        experiment with the setting ``pattern_key`` set to the text (``15-1`` -> ``dataset.structure``).
    """

    name: str = field(validator=_name)
    summary: str
    aliases: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(factory=dict)
    profiles: Mapping[str, Mapping[str, Any]] = field(factory=dict)
    comparisons: Mapping[str, Mapping[str, Any]] = field(factory=dict)
    expected: tuple[Expected, ...] = ()
    run: str = field(default="", validator=_optional_target)
    options: type | None = None
    pattern: str = ""
    pattern_key: str = ""
    default: bool = False
    requires: tuple[str, ...] = ()


@frozen(kw_only=True)
class Command:
    """An extra subcommand: ``clk PLUGIN NAME``. ``build(parser) -> (namespace, console) -> int | None``."""

    name: str = field(validator=_name)
    summary: str
    build: str = field(validator=_target)
    requires: tuple[str, ...] = ()


@frozen(kw_only=True)
class Tracker:
    """Where progress and scores go. ``build(folder) -> (event) -> None``.

    :param default: tracks every run, where what it requires is installed; others only when ``--tracker`` names them.
    """

    name: str = field(validator=_name)
    summary: str
    build: str = field(validator=_target)
    default: bool = False
    requires: tuple[str, ...] = ()


@frozen(kw_only=True)
class Executor:
    """Where the tasks of a sweep run. ``build(options) -> Executor`` of :mod:`cl_kernel.contract.interfaces`."""

    name: str = field(validator=_name)
    summary: str
    build: str = field(validator=_target)
    requires: tuple[str, ...] = ()
