"""The curation pipeline on the command line: ``clk clear COMMAND``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cl_kernel.console import Console

Handler = Callable[[Namespace, "Console"], int]


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
