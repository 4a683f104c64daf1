"""How much a memory may hold: a number of examples, or bytes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from attrs import frozen

from cl_kernel.contract.errors import BadSetting

if TYPE_CHECKING:
    from cl_kernel.contract.interfaces import Codec

_UNITS = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_TEXT = re.compile(r"\s*([0-9][0-9_]*(?:\.[0-9]+)?)\s*([a-z]*)\s*\Z")
_FORMS = "write a number of examples (500), bytes (64KiB, 1.5MB) or all"


@frozen(kw_only=True)
class Capacity:
    """Exactly one of ``examples`` and ``nbytes``; neither means everything the stream has."""

    examples: int | None = None
    nbytes: int | None = None

    def slots(self, codec: Codec, n_examples: int = 0) -> int:
        """How many examples fit: what the codec shares (codebooks) and its slots stay within the bytes.

        :param n_examples: size of the stream, for a capacity of everything.
        :raises BadSetting: when not even one fits.
        """
        if self.examples is not None:
            return self.examples
        if self.nbytes is None:
            if n_examples < 1:
                raise BadSetting("a memory for everything needs a stream of known length", where="--memory all")
            return n_examples
        each = codec.bytes_per_example()
        if (room := self.nbytes - codec.nbytes) < each:
            raise BadSetting(
                f"{self.nbytes} bytes hold no example: one takes {each} bytes"
                + (f" and the codec itself {codec.nbytes}" if codec.nbytes else ""),
                where="--memory",
                fix=f"give at least {each + codec.nbytes}B",
            )
        return room // each


def parse_capacity(text: str | int) -> Capacity:
    """``500`` examples, ``64KiB`` or ``1.5MB`` bytes (k is 1000, Ki is 1024, any case), or ``all``.

    :raises BadSetting: for anything else, zero included.
    """
    plain = str(text).strip().lower()
    if plain == "all":
        return Capacity()
    match = _TEXT.match(plain)
    if match is None or isinstance(text, bool):
        raise BadSetting(f"memory {text!r} is no capacity", where="--memory", fix=_FORMS)
    number, unit = match[1].replace("_", ""), match[2]
    if unit and unit not in _UNITS:
        raise BadSetting(
            f"memory {text!r} has the unknown unit {unit!r}; known: B kB MB GB TB KiB MiB GiB TiB",
            where="--memory",
            fix=_FORMS,
        )
    if not unit and "." in number:
        raise BadSetting(f"memory {text!r} is no whole number of examples", where="--memory", fix=_FORMS)
    amount = round(float(number) * _UNITS[unit]) if "." in number else int(number) * _UNITS.get(unit, 1)
    if amount < 1:
        raise BadSetting(
            f"memory {text!r} keeps nothing", where="--memory", fix="give a size, or leave --memory and --replay out"
        )
    return Capacity(nbytes=amount) if unit else Capacity(examples=amount)
