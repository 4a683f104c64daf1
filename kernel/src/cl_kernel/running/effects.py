"""Settings that are read only when others have certain values; giving one that is not read is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from cl_kernel.contract.errors import BadSetting
from cl_kernel.running.plan import Plan

NOT_A_PERSON = ("default", "profile ", "test ", "comparison ", "--config ")
"""How origins begin of values that nobody gave for this run."""


PIECES = {"memory": ("policy", "codec"), "source": ("source",), "model": ("model",)}
"""Names in ``when`` that ask for a piece."""


def holds(value: Any, wanted: Any) -> bool:
    """Whether a setting has a value that ``when`` asks for."""
    if isinstance(wanted, bool):
        return bool(value) is wanted
    return value in wanted if isinstance(wanted, tuple) else bool(value == wanted)


def unmet(planned: Plan, section: str, when: Mapping[str, Any]) -> dict[str, Any]:
    """The conditions of a setting of ``section`` that do not hold in a plan, name -> values wanted."""
    flat, missing = planned.resolved.flat(), {}
    for name, wanted in when.items():
        value: Any
        if name in PIECES:
            value = any(section in planned.pieces for section in PIECES[name])
        elif name == "piece":
            value = planned.pieces[section][0].record.name if section in planned.pieces else ""
        else:
            key = name if "." in name else f"{section}.{name}"
            if key not in flat:
                continue
            settings = planned.resolved.sections[key.split(".", 1)[0]]
            value = getattr(settings, key.split(".", 1)[1])
        if not holds(value, wanted):
            missing[name] = wanted
    return missing


def refuse_without_effect(planned: Plan) -> None:
    """Refuse a setting that a person gave, other than the default, and that nothing would read.

    :raises BadSetting: naming the setting, its value, and what it takes for it to be read.
    """
    for section, settings in planned.resolved.sections.items():
        for attribute in attrs.fields(type(settings)):
            key = f"{section}.{attribute.name}"
            when, origin = attribute.metadata.get("when"), planned.resolved.origins[key]
            if not when or origin.startswith(NOT_A_PERSON) or ".gin" in origin or f"{section}." in origin:
                continue
            value = getattr(settings, attribute.name)
            if value != attribute.default and (missing := unmet(planned, section, when)):
                raise BadSetting(
                    f"{key} = {value!r} would have no effect: it is read only with {_told(section, missing)}",
                    where=origin,
                    fix="leave it out, or set what it needs; clk show lists every setting with its meaning",
                )


def _told(section: str, missing: Mapping[str, Any]) -> str:
    lines = []
    for name, wanted in missing.items():
        key = section if name == "piece" else name if "." in name or name in PIECES else f"{section}.{name}"
        if isinstance(wanted, bool):
            lines.append(
                f"{key} {'set' if wanted else 'off'}" if name not in PIECES else f"{'a' if wanted else 'no'} {name}"
            )
        else:
            lines.append(f"{key} = {' or '.join(map(str, wanted if isinstance(wanted, tuple) else (wanted,)))}")
    return " and ".join(lines)
