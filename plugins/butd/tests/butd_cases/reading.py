"""Parameters of a golden case that remember whether a check looked at them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

DESCRIPTIVE = {"kind", "case", "file", "what", "note", "semantics", "invariant", "arrays", "tolerance", "packed_index"}
"""Entries that say what a case is and decide nothing."""


class Parameters(Mapping[str, Any]):
    """A case, or a part of it; :meth:`unread` names what no check asked for."""

    def __init__(self, values: Mapping[str, Any], *, ignored: set[str] = frozenset()) -> None:  # type: ignore[assignment]
        self._values = {k: Parameters(v) if isinstance(v, dict) else v for k, v in values.items() if k not in ignored}
        self._ignored = {k: v for k, v in values.items() if k in ignored}
        self._seen: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        if name in self._ignored:
            return self._ignored[name]
        value = self._values[name]
        self._seen.add(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def unread(self, prefix: str = "") -> list[str]:
        """Names, dotted."""
        found = []
        for name, value in self._values.items():
            if name not in self._seen:
                found.append(prefix + name)
            elif isinstance(value, Parameters):
                found += value.unread(f"{prefix}{name}.")
        return found


def said(case: Mapping[str, Any], pattern: str) -> float | None:
    """A number that a case's text states, where no parameter carries it."""
    found = re.search(pattern, str(case["what"]))
    return float(found[1]) if found else None
