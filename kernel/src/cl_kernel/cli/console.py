"""The only module that prints: tables to stdout, progress and log to stderr."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Sequence
from typing import Any

from attrs import define, field

from cl_kernel.contract import events
from cl_kernel.storage.files import plain

PLAIN_EVERY_S = 30.0
CROWDED = 1.7
"""A table that wants so many times the terminal's width is listed row by row: folded cells would be read by nobody."""


@define
class Console:
    """Results on stdout, as tables or (``as_json``) as one JSON document for machines."""

    as_json: bool = False

    def print(self, text: str = "") -> None:
        """A line for people; silent under ``--json``."""
        if not self.as_json:
            print(text)

    def say(self, text: str) -> None:
        """A line about what is happening, on stderr."""
        print(text, file=sys.stderr, flush=True)

    def json(self, content: Any) -> None:
        """The whole result for machines; silent without ``--json``."""
        if self.as_json:
            print(json.dumps(content, indent=1, default=plain))

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A table; numbers to the right, None as a dash. Silent under ``--json``."""
        if self.as_json:
            return
        from rich.box import SIMPLE_HEAD
        from rich.console import Console as RichConsole
        from rich.table import Table

        table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for k, column in enumerate(columns):
            numeric = any(isinstance(row[k], (int, float)) for row in rows)
            table.add_column(column, justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            table.add_row(*(_text(value) for value in row))
        tty = sys.stdout.isatty()
        screen = RichConsole(markup=False, highlight=False, width=None if tty else 160, no_color=not tty)
        if title:
            print(f"\n\x1b[1m{title}\x1b[0m" if tty else f"\n{title}")
        if _natural_width(columns, rows) > CROWDED * screen.width:
            print("\n".join(_listed(columns, rows)))
            return
        with screen.capture() as capture:
            screen.print(table)
        print("\n".join(line.rstrip() for line in capture.get().splitlines()))


def _natural_width(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> int:
    """Characters that a table takes with no cell folded; of long prose only what it takes on some lines."""
    cells = [[len(column), *(len(_text(row[k])) for row in rows)] for k, column in enumerate(columns)]
    return sum(min(max(lengths), 40) + 3 for lengths in cells)


def _listed(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Rows one below the other, a line for each column that has a value: for a terminal too narrow for the table."""
    width = max(map(len, columns))
    lines = []
    for row in rows:
        first, *rest = (_text(value) for value in row)
        lines += ["", first]
        lines += [
            f"  {column:<{width}}  {text}"
            for column, text in zip(columns[1:], rest, strict=True)
            if text not in ("", "-")
        ]
    return lines


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return "-" if value != value else f"{value:.3f}" if abs(value) < 100 else f"{value:,.1f}"
    return str(value)


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"


def size(nbytes: float) -> str:
    """Bytes as people say them."""
    for unit in ("B", "KB", "MB", "GB"):
        if nbytes < 1000 or unit == "GB":
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    raise AssertionError


@define
class LiveLine:
    """Progress on stderr: one refreshing line on a terminal, otherwise a plain line every half minute."""

    tty: bool = field(factory=lambda: sys.stderr.isatty())
    _n_stages: int = 0
    _stage: str = ""
    _phase: str = ""
    _left: int = 0
    _at: int = 0
    _shown: float = field(factory=time.monotonic)
    _reused: set[str] = field(factory=set)

    def __call__(self, event: events.Event) -> None:
        """Show an event."""
        match event:
            case events.RunStarted():
                self._n_stages = event.n_stages
                self._line(
                    f"{event.name}: profile {event.profile}, {event.n_stages} stages"
                    + (f", resumed at step {event.resumed_at}" if event.resumed_at else "")
                )
            case events.StageStarted():
                self._stage = f"stage {event.stage + 1}/{self._n_stages} {event.name}"
                self._phase, self._left = "", 0
                self._reused.clear()
                self._line(f"{self._stage}: {event.n_samples} samples")
            case events.PhaseStarted():
                self._phase, self._left, self._at = event.name, event.n_steps, -1
                self._line(f"{self._stage or 'run'}: {event.name}")
            case events.Progress():
                self._progress(event)
            case events.Scored() if event.label == "":
                first: dict[str, Any] = next(iter(event.summary.values()), {})
                text = ", ".join(f"{k} {_text(v)}" for k, v in list(first.items())[:3] if v is not None)
                self._line(f"{self._stage}: {text}")
            case events.Reused() if event.kind not in self._reused:
                self._reused.add(event.kind)  # all of them are in the event log
                self._line(f"reused {event.kind}: {event.path}")
            case events.Noted():
                self._line(event.text)
            case events.RunFailed() if self.tty:
                self._line("")  # ends the line that progress is written on; what went wrong is said by the command
            case _:
                pass

    def _progress(self, event: events.Progress) -> None:
        if self._at < 0:
            self._at = event.step
        now = time.monotonic()
        if not self.tty and now - self._shown < PLAIN_EVERY_S:
            return
        self._shown = now
        done = event.step - self._at
        eta = ""
        if self._left and event.rate > 0 and 0 < done <= self._left:  # the first rate has the start in it
            eta = f", {duration((self._left - done) / event.rate)} left"
        values = "".join(f", {k} {v:.4g}" for k, v in event.values.items())
        doing = f"{self._stage} {self._phase}".strip()
        text = f"{doing}: step {event.step}, {event.rate:.0f}/s{eta}{values}"
        if self.tty:
            print(f"\r\x1b[K{text[:150]}", end="", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def _line(self, text: str) -> None:
        print(f"\r\x1b[K{text}" if self.tty else text, file=sys.stderr, flush=True)


def log_to_stderr(verbose: bool) -> None:
    """Warnings, and with ``verbose`` everything, on stderr."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO if verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
    )
