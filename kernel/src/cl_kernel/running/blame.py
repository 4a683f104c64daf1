"""Which settings a piece could not be built with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from cl_kernel.contract.errors import BadSetting, ClkError
from cl_kernel.running.settings import Resolved, as_plain


@contextlib.contextmanager
def blamed(resolved: Resolved, section: str, piece: str) -> Iterator[None]:
    """A piece that fails to build with settings that somebody gave: say which, instead of a traceback.

    With nothing given, the error is the piece's own and stays as it is.

    :raises BadSetting: naming piece, settings and the reason.
    """
    try:
        yield
    except ClkError:
        raise
    except (ArithmeticError, LookupError, ValueError, TypeError, AttributeError, MemoryError, RuntimeError) as error:
        given = {
            key: origin
            for key, origin in resolved.origins.items()
            if key.split(".", 1)[0] == section
            and not origin.startswith(("default", "profile ", "test ", "comparison "))
        }
        if not given:
            raise
        values = as_plain(resolved.sections[section])
        told = ", ".join(f"{key} = {values[key.split('.', 1)[1]]!r}" for key in given)
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadSetting(
            f"{piece} cannot be built with {told}: {reason}",
            where=", ".join(dict.fromkeys(given.values())),
            fix="clk show TEST lists every setting with its meaning",
        ) from error
