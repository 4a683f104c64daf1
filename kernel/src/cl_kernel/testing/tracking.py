"""Settings that note who reads them."""

from __future__ import annotations

import copy
import sys
from types import FrameType
from typing import Any

import attrs

_BOOKKEEPING = ("cl_kernel.running.settings", "cl_kernel.running.effects", "cl_kernel.storage.identity", __name__)


def tracked(settings: Any, read: set[str]) -> Any:
    """Equal settings of a class of the same name; names of fields that a piece reads are added to ``read``.

    What the kernel reads to write settings down or to identify them does not count.
    """
    cls = type(settings)
    names = {a.name for a in attrs.fields(cls)}

    def look(self: Any, name: str) -> Any:
        if name in names and not _keeps_books(sys._getframe(1)):
            read.add(name)
        return object.__getattribute__(self, name)

    body = {"__slots__": (), "__getattribute__": look, "__module__": cls.__module__, "__qualname__": cls.__qualname__}
    made = copy.copy(settings)
    try:
        object.__setattr__(made, "__class__", type(cls.__name__, (cls,), body))
    except TypeError:
        read |= names
    return made


def _keeps_books(frame: FrameType) -> bool:
    module = str(frame.f_globals.get("__name__", ""))
    code = frame.f_code
    evolves = module.startswith("attr.") and code.co_name == "evolve"
    return module in _BOOKKEEPING or evolves or code.co_filename.startswith("<attrs generated")
