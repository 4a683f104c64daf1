"""What a user can do wrong, each with a message that says what, where and the way out.

The command line turns a :class:`ClkError` into one message and exit code 2; anything else is a bug and
keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ClkError(Exception):
    """Something a user can mend.

    :param what: what is wrong, with the value.
    :param where: the file, row, key or flag it came from.
    :param fix: what to do next, if possible a command to paste.
    """

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(
            "\n".join(line for line in (what, where and f"  where: {where}", fix and f"  try:   {fix}") if line)
        )


class UnknownName(ClkError, LookupError):
    """A name that nobody offers."""

    @classmethod
    def of(cls, kind: str, name: str, known: Iterable[str], *, where: str = "", fix: str = "") -> UnknownName:
        """Build the message with the nearest known names."""
        known = sorted(set(known))
        near = nearest(name, known)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known) or 'none'}"
        return cls(f"unknown {kind} {name!r}; {hint}", where=where, fix=fix)


class DuplicateName(ClkError):
    """Two owners of one name."""


class BrokenPlugin(ClkError):
    """A plugin in quarantine was asked for."""


class BadSetting(ClkError, ValueError):
    """A setting of the wrong type, range or name."""


class BadInput(ClkError, ValueError):
    """Data that cannot be used: the message names the file, row or key."""


class MissingAsset(ClkError, FileNotFoundError):
    """A data set or weight file that is not where it was looked for."""


class Mismatch(ClkError, TypeError):
    """Pieces that do not fit each other."""


class RunConflict(ClkError):
    """A run folder that another process holds, or that cannot be used for what was asked."""


class BadCheckpoint(ClkError):
    """A checkpoint that is damaged or does not belong to this run."""


class Diverged(ClkError, ArithmeticError):
    """A loss or a prediction is no finite number any more."""


class Interrupted(BaseException):
    """SIGINT or SIGTERM arrived and the run saved itself; carries the signal number."""

    def __init__(self, signum: int) -> None:
        self.signum = signum
        super().__init__(signum)


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Up to two known names that look like ``name``, best first, whatever the case."""
    by_lower = {k.lower(): k for k in known}
    return [by_lower[m] for m in difflib.get_close_matches(name.lower(), by_lower, n=2, cutoff=0.6)]
