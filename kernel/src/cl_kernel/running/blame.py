"""Which settings a piece could not be built with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from cl_kernel.contract.errors import BadInput, BadSetting, ClkError, Mismatch
from cl_kernel.running.settings import Resolved, as_plain

UNEXPECTED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What a builder raises that met a value it was not written for."""


@contextlib.contextmanager
def blamed(resolved: Resolved, section: str, piece: str) -> Iterator[None]:
    """A piece that fails to build with settings that somebody gave: say which, instead of a traceback.

    With nothing given, the error is the piece's own and stays as it is; a message of the piece's own that names none
    of them gets them as a remark.

    :raises ClkError: naming piece, settings and the reason.
    """
    try:
        yield
    except (BadInput, BadSetting, Mismatch) as error:
        given = _given(resolved, section)
        if not given or any(key.split(".", 1)[1] in str(error) for key in given):
            raise
        where = f"{error.where}{'; ' if error.where else ''}with {_told(resolved, given)}"
        raise type(error)(error.what, where=where, fix=error.fix) from error
    except ClkError:
        raise
    except UNEXPECTED as error:
        if not (given := _given(resolved, section)):
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadSetting(
            f"{piece} cannot be built with {_told(resolved, given)}: {reason}",
            where=", ".join(dict.fromkeys(given.values())),
            fix="clk show TEST lists every setting with its meaning",
        ) from error


def _given(resolved: Resolved, section: str) -> dict[str, str]:
    """Settings of a section that somebody gave, with how."""
    return {
        key: origin
        for key, origin in resolved.origins.items()
        if key.split(".", 1)[0] == section and not origin.startswith(("default", "profile ", "test ", "comparison "))
    }


def _told(resolved: Resolved, given: dict[str, str]) -> str:
    values = {key: as_plain(resolved.sections[section])[name] for key in given for section, name in [key.split(".", 1)]}
    return ", ".join(f"{key} = {value!r}" for key, value in values.items())
