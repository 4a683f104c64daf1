"""What ``--config``, gin files and gin parameters of a run mean for its settings.

A shipped configuration fills what neither the profile nor the user changed; a user's own gin files and parameters
come on top of everything. The data set is built before the learner, so the run's choice reaches it through
:func:`remember`, which the hook ``clk_configure`` calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import attrs

_RUN: dict[str, Any] = {}
_Settings = TypeVar("_Settings")


def remember(settings: Mapping[str, Any]) -> None:
    """Keep the gin-related choices of the run that is about to be built."""
    _RUN.clear()
    _RUN.update({name: settings.get(f"learner.{name}", "") for name in ("config", "gin_file", "gin_param")})


def apply_configuration(settings: _Settings, section: str, chosen: Mapping[str, str]) -> _Settings:
    """Settings of a section with the gin choices laid in."""
    if not any(chosen.get(name) for name in ("config", "gin_file", "gin_param")):
        return settings
    from cl_plugin_recall.gin_bindings import as_settings, read_bindings

    shipped = as_settings(read_bindings(chosen["config"]), config=chosen["config"]) if chosen.get("config") else {}
    files = [part.strip() for part in chosen.get("gin_file", "").split(",") if part.strip()]
    params = [part.strip() for part in chosen.get("gin_param", "").split(";") if part.strip()]
    own = as_settings(read_bindings(files=files, params=params)) if files or params else {}
    defaults = {a.name: a.default for a in attrs.fields(type(settings))}
    changes: dict[str, Any] = {}
    for dotted, value in shipped.items():
        head, name = dotted.split(".", 1)
        if head == section and name in defaults and getattr(settings, name) == defaults[name]:
            changes[name] = value
    changes |= {
        name: value
        for dotted, value in own.items()
        for head, name in [dotted.split(".", 1)]
        if head == section and name in defaults
    }
    return attrs.evolve(settings, **changes)


def with_configuration(settings: _Settings) -> _Settings:
    """Data set settings under the choices of the current run."""
    return apply_configuration(settings, "dataset", _RUN)


def learner_configuration(settings: Any) -> Any:
    """Learner settings under their own gin choices."""
    return apply_configuration(
        settings, "learner", {name: getattr(settings, name) for name in ("config", "gin_file", "gin_param")}
    )
