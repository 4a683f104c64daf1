"""Between gin and the settings: the only module that knows gin (spec 4, 6).

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
from cl_plugin_recall.settings import Recall

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

ELSEWHERE = ("base_folder_path", "n_classes", "dataset_mean", "test_type", "replay_source")
"""Parameters that the data set, the weight source, ``--test`` and ``--replay`` settle here."""

LEARNER_KEYS = tuple(a.name for a in attrs.fields(Recall) if a.name != "config")
PARAMETERS = (*LEARNER_KEYS, *PROTOCOL_KEYS, *ELSEWHERE)


def config_path(name: str) -> Path:
    """File of a shipped configuration.

    :raises UnknownName: with the nearest names.
    """
    if name.upper() not in CONFIGS:
        raise UnknownName.of("configuration", name, CONFIGS, where="--config")
    return Path(str(resources.files("cl_plugin_recall") / "configs" / f"{name.upper()}.gin"))


def read_bindings(config: str = "", files: Sequence[str | Path] = (), params: Sequence[str] = ()) -> dict[str, Any]:
    """Parameter -> value from a shipped configuration, then files, then single bindings, later ones winning.

    :raises BadSetting: for a file that gin cannot read, or an unknown parameter, with the nearest one.
    """
    import gin
    from gin import config_parser

    paths = ([config_path(config)] if config else []) + [Path(file) for file in files]
    for path in paths:
        if not path.is_file():
            raise BadSetting(f"gin file {path} does not exist", where="--gin-file")
    texts = [(str(path), path.read_text()) for path in paths]
    texts += [
        ("--gin-param", param if "TrainManager" in param.partition("=")[0] else f"TrainManager.{param}")
        for param in params
    ]
    found: dict[str, Any] = {}
    for origin, text in texts:
        try:
            statements = list(config_parser.ConfigParser(text, _Delegate()))
        except (SyntaxError, ValueError) as error:
            raise BadSetting(
                f"gin cannot read this: {str(error).splitlines()[0]}",
                where=origin,
                fix="--gin-param 'TrainManager.l2_decay = 5e-4'",
            ) from error
        for statement in statements:
            if isinstance(statement, config_parser.IncludeStatement):
                found |= read_bindings(files=[Path(origin).parent / statement.filename])
                continue
            if not isinstance(statement, config_parser.BindingStatement):
                continue
            owner, name = statement.selector, statement.arg_name
            if owner.rsplit(".", 1)[-1] != "TrainManager" or name not in PARAMETERS:
                near = difflib.get_close_matches(name or owner, PARAMETERS, n=2)
                hint = f"; did you mean {' or '.join(near)}?" if near else ""
                raise BadSetting(
                    f"unknown gin parameter {owner}.{name}{hint}",
                    where=origin,
                    fix="parameters are those of TrainManager in the shipped configurations",
                )
            found[name] = statement.value
    _ = gin
    return found


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


def as_gin(learner: Recall, protocols: tuple[str, str, str]) -> str:
    """Settings as a gin file that gives the same run: what the run folder keeps as ``operative.gin``.

    :param protocols: of step 0, helpers and later steps.
    """
    index = ".".join(
        str(getattr(learner, f"parameters_{part}_index")) for part in ("common", "first_step", "helper", "incremental")
    )
    lines = [f"# Parameter indices: P{index} (common.first step.helpers.incremental)"]
    for name in LEARNER_KEYS:
        value = getattr(learner, name)
        lines.append(f"TrainManager.{name} = {value!r}")
    lines += [f"TrainManager.{name} = {value!r}" for name, value in zip(PROTOCOL_KEYS, protocols, strict=True)]
    return "\n".join(lines) + "\n"
