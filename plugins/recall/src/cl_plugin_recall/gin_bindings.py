"""Between gin and the settings: the only module that knows gin.

The reference binds everything on ``TrainManager``; so do the shipped configurations and a user's own files.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import attrs

from cl_kernel import BadSetting, UnknownName
from cl_plugin_recall.experiments import LEARNER_PROFILES
from cl_plugin_recall.settings import Recall, Training

CONFIGS = (
    "OVERLAPPED",
    "DISJOINT",
    "SEQUENTIAL",
    "FINE_TUNING",
    "FINE_TUNING_DISJOINT",
    "FINE_TUNING_DISJOINT_NO_MIX",
    "FINE_TUNING_OVERLAPPED",
    "FINE_TUNING_OVERLAPPED_NO_MIX",
    "JOINT",
)
"""The nine shipped configurations."""

PROTOCOL_KEYS = {
    "dataset_type_first_step": "dataset.protocol_first",
    "dataset_type_helpers": "dataset.protocol_helpers",
    "dataset_type_incremental": "dataset.protocol",
}
"""Parameters of the reference that say how the stream is cut."""

ELSEWHERE: dict[str, tuple[Any, str]] = {
    "base_folder_path": (".", "--output FOLDER and --data-root FOLDER say where things lie"),
    "n_classes": (21, "the data set says how many classes there are"),
    "dataset_mean": ([104.00698793, 116.66876762, 122.67891434], "--set model.weight_source=... sets the mean"),
    "test_type": (None, "--test NAME"),
    "replay_source": (None, "--replay gan, flickr, folder:PATH or none"),
}
"""Parameters that are settled elsewhere here: the shipped configurations' value, and where."""

LEARNER_KEYS = tuple(a.name for a in attrs.fields(Recall) if a.name != "config")
PARAMETERS = (*LEARNER_KEYS, *PROTOCOL_KEYS, *ELSEWHERE)


def config_path(name: str) -> Path:
    """File of a shipped configuration.

    :raises UnknownName: with the nearest names.
    """
    if name.upper() not in CONFIGS:
        raise UnknownName.of("configuration", name, CONFIGS, where="--config")
    return Path(str(resources.files("cl_plugin_recall") / "configs" / f"{name.upper()}.gin"))


def read_bindings(
    config: str = "", files: Sequence[str | Path] = (), params: Sequence[str] = (), within: Sequence[Path] = ()
) -> dict[str, Any]:
    """Parameter -> value from a shipped configuration, then files, then single bindings, later ones winning.

    :param within: files that include these.
    :raises BadSetting: for a file that gin cannot read, or an unknown parameter, with the nearest one; for a parameter
        that is settled elsewhere, a binding of a scope, or a file that includes itself.
    """
    import tokenize

    from gin import config_parser

    paths = ([config_path(config)] if config else []) + [Path(file) for file in files]
    for path in paths:
        if not path.is_file():
            raise BadSetting(f"gin file {path} does not exist", where="--gin-file")
    texts = [(str(path), _text(path)) for path in paths]
    texts += [
        ("--gin-param", param if "TrainManager" in param.partition("=")[0] else f"TrainManager.{param}")
        for param in params
    ]
    found: dict[str, Any] = {}
    for origin, text in texts:
        try:
            statements = list(config_parser.ConfigParser(text, _Delegate()))
        except (SyntaxError, ValueError, tokenize.TokenError, IndexError, TypeError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise BadSetting(
                f"gin cannot read this: {reason}", where=origin, fix="--gin-param 'TrainManager.l2_decay = 5e-4'"
            ) from error
        for statement in statements:
            if isinstance(statement, config_parser.IncludeStatement):
                found |= _included(Path(origin), statement.filename, within)
                continue
            if not isinstance(statement, config_parser.BindingStatement):
                continue
            if statement.scope:
                raise BadSetting(
                    f"gin binding of a scope: {statement.scope}/{statement.selector}.{statement.arg_name}",
                    where=origin,
                    fix=f"one run has one value: TrainManager.{statement.arg_name} = {statement.value!r}",
                )
            owner, name = statement.selector, statement.arg_name
            if owner.rsplit(".", 1)[-1] != "TrainManager" or name not in PARAMETERS:
                near = difflib.get_close_matches(name or owner, PARAMETERS, n=2)
                hint = f"; did you mean {' or '.join(near)}?" if near else ""
                raise BadSetting(
                    f"unknown gin parameter {owner}.{name}{hint}",
                    where=origin,
                    fix="parameters are those of TrainManager in the shipped configurations",
                )
            if name in ELSEWHERE and statement.value != ELSEWHERE[name][0]:
                raise BadSetting(
                    f"gin parameter TrainManager.{name} = {statement.value!r} has no effect here",
                    where=origin,
                    fix=f"leave it out: {ELSEWHERE[name][1]}",
                )
            found[name] = statement.value
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BadSetting(f"gin file cannot be read: {error}", where=str(path)) from error


def _included(origin: Path, name: str, within: Sequence[Path]) -> dict[str, Any]:
    path = origin.parent / name
    if path.resolve() in (*within, origin.resolve()):
        raise BadSetting(f"gin file {name} includes itself", where=str(origin), fix="take the include out")
    return read_bindings(files=[path], within=(*within, origin.resolve()))


class _Delegate:
    """Configurable references and macros are not used by these files."""

    def configurable_reference(self, scoped_name: str, evaluate: bool) -> Any:
        raise ValueError(f"references such as @{scoped_name} are not supported here")

    def macro(self, name: str) -> Any:
        raise ValueError(f"macros such as %{name} are not supported here")


def as_settings(bindings: Mapping[str, Any], *, config: str = "") -> dict[str, Any]:
    """Gin parameters as dotted settings of the data set and the learner."""
    dotted: dict[str, Any] = {}
    for name, value in bindings.items():
        if name in PROTOCOL_KEYS:
            dotted[PROTOCOL_KEYS[name]] = value
        elif name in LEARNER_KEYS:
            dotted[f"learner.{name}"] = value
    if config:
        dotted["learner.config"] = config.upper()
    return dotted


def configurations(name: str, gin_files: Sequence[str], gin_params: Sequence[str], profile: str) -> dict[str, Any]:
    """What ``--config``, ``--gin-file`` and ``--gin-param`` of a run mean for its settings.

    A configuration's schedule is for the paper's data and network, so another profile keeps its own; replay or none,
    inpainting or none, and how the data is cut are the configuration's everywhere.
    """
    bindings = read_bindings(name, gin_files, gin_params)
    if name:
        scheduled = LEARNER_PROFILES.get(profile, {})
        bindings = {k: v for k, v in bindings.items() if k not in scheduled or (k.startswith("interleave") and v == 0)}
    return as_settings(bindings, config=name)


def as_gin(learner: Training, protocols: tuple[str, str, str]) -> str:
    """Settings as a gin file that gives the same run: what the run folder keeps as ``operative.gin``.

    :param protocols: of step 0, helpers and later steps.
    """
    index = ".".join(
        str(getattr(learner, f"parameters_{part}_index", 0))
        for part in ("common", "first_step", "helper", "incremental")
    )
    lines = [f"# Parameter indices: P{index} (common.first step.helpers.incremental)"]
    for name in (name for name in LEARNER_KEYS if hasattr(learner, name)):
        value = getattr(learner, name)
        lines.append(f"TrainManager.{name} = {value!r}")
    lines += [f"TrainManager.{name} = {value!r}" for name, value in zip(PROTOCOL_KEYS, protocols, strict=True)]
    return "\n".join(lines) + "\n"
