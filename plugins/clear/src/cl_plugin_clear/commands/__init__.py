"""The curation pipeline on the command line: ``clk clear COMMAND``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol


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


Handler = Callable[[Namespace, Console], int]


def add_root(parser: ArgumentParser) -> None:
    """``--root``: the photo store."""
    parser.add_argument("--root", type=Path, required=True, metavar="DIR", help="photo store; may be moved at any time")


def numbers(text: str) -> list[int]:
    """``1,3-5`` -> [1, 3, 4, 5]."""
    found: list[int] = []
    for part in text.split(","):
        low, _, high = part.strip().partition("-")
        found += range(int(low), int(high or low) + 1)
    return found
