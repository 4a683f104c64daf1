"""The curation pipeline on the command line: ``clk clear COMMAND``."""

from __future__ import annotations

import math
from argparse import ArgumentParser, ArgumentTypeError, BooleanOptionalAction, Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

Made = TypeVar("Made")
Number = TypeVar("Number", int, float)


class Console(Protocol):
    """Where results go: the kernel's console."""

    def print(self, text: str = "") -> None:
        """A line for people."""

    def say(self, text: str) -> None:
        """A line about what is happening."""

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A table."""

    def json(self, content: Any) -> None:
        """The whole result for machines."""


def show_statuses(console: Console, counts: Mapping[str, int]) -> None:
    """Table of the rows of each status, with what it says."""
    from cl_plugin_clear.curation.records import MEANINGS

    rows = [(name, counts[name], meaning) for name, meaning in MEANINGS.items() if counts.get(name)]
    console.table("rows by status", ("status", "rows", "meaning"), rows)


def statuses(text: str) -> list[str]:
    """``http,decode`` -> those; only statuses that a row can have."""
    from cl_plugin_clear.curation.records import MEANINGS

    found = [part.strip() for part in text.split(",") if part.strip()]
    if unknown := [name for name in found if name not in MEANINGS]:
        raise ArgumentTypeError(f"no status {unknown[0]!r}; there are: {', '.join(MEANINGS)}")
    return found


Handler = Callable[[Namespace, Console], int]


def add_root(parser: ArgumentParser) -> None:
    """``--root``: the photo store."""
    parser.add_argument("--root", type=Path, required=True, metavar="DIR", help="photo store; may be moved at any time")


def whole(low: int = 0) -> Callable[[str], int]:
    """Reader of a flag that is a whole number of at least ``low``."""
    return lambda text: _bounded(text, int, low, math.inf)


def real(low: float = 0.0, below: float = math.inf) -> Callable[[str], float]:
    """Reader of a flag that is a number of at least ``low`` and less than ``below``."""
    return lambda text: _bounded(text, float, low, below)


def _bounded(text: str, kind: Callable[[str], Number], low: float, below: float) -> Number:
    try:
        value = kind(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is no {'whole ' if kind is int else ''}number") from None
    if not math.isfinite(value):
        raise ArgumentTypeError(f"{text} is no finite number")
    if not low <= value < below:
        bound = f"at least {low:g}" + (f" and less than {below:g}" if below < math.inf else "")
        raise ArgumentTypeError(f"{text} is not {bound}")
    return value


def numbers(text: str) -> list[int]:
    """``1,3-5`` -> [1, 3, 4, 5]."""
    found: list[int] = []
    for part in text.split(","):
        low, _, high = part.strip().partition("-")
        if not low.isdecimal() or not (high or low).isdecimal() or int(high or low) < int(low):
            raise ArgumentTypeError(f"{text!r} does not read like 0,3-5")
        found += range(int(low), int(high or low) + 1)
    return found


def add_settings(parser: ArgumentParser, settings: type) -> None:
    """A flag for each setting of a class, with its default and what it says of itself."""
    import attrs

    for field in attrs.fields(settings):
        kind: dict[str, Any] = {"type": type(field.default)}
        if isinstance(field.default, bool):
            kind = {"action": BooleanOptionalAction}
        elif isinstance(field.default, float):
            kind = {"type": real(-math.inf)}
        elif isinstance(field.default, tuple):
            kind = {"type": lambda text: tuple(numbers(text))}
        flag = "--" + field.name.replace("_", "-")
        parser.add_argument(flag, default=field.default, help=field.metadata["doc"], **kind)


def settings_of(args: Namespace, settings: type[Made]) -> Made:
    """What the flags of :func:`add_settings` say.

    :raises BadSetting: for a value out of range, naming its flag.
    """
    import attrs

    from cl_kernel import BadSetting

    try:
        return settings(**{field.name: getattr(args, field.name) for field in attrs.fields(settings)})
    except ValueError as error:  # of a validator: "'epochs' must be >= 1: 0"
        what = str(error.args[0])
        raise BadSetting(what, where="--" + what.split("'")[1].replace("_", "-")) from error
