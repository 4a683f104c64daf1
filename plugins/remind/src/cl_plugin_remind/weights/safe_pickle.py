"""Pickle files of the authors' code, read without running anything in them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, ClassVar

from cl_kernel import BadInput, MissingAsset

ERRORS = (pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError, AttributeError, IndexError)
"""What a damaged file, or one of another form, raises."""


def read_pickle(path: Path, what: str) -> Any:
    """Dictionaries, lists, text, numbers and numpy arrays of a pickle; anything else in it is refused.

    :param what: for messages, as ``"buffer of REMIND"``.
    :raises MissingAsset: without the file. :raises BadInput: for a damaged file, or one that names other things.
    """
    if not path.is_file():
        raise MissingAsset(f"no {what}", where=str(path))
    try:
        with path.open("rb") as file:
            return _OnlyArrays(file).load()
    except _Refused as error:
        raise BadInput(f"the file names {error.args[0]}, which is no part of a {what}", where=str(path)) from error
    except (*ERRORS, ImportError, MemoryError, OverflowError) as error:
        raise BadInput(f"no {what}: {type(error).__name__}: {error}", where=str(path)) from error


class _Refused(Exception):
    """The pickle names something that is no array or container."""


class _OnlyArrays(pickle.Unpickler):
    ALLOWED: ClassVar[set[tuple[str, str]]] = {
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("collections", "defaultdict"),
        ("builtins", "list"),
        ("collections", "OrderedDict"),
        ("_codecs", "encode"),  # how protocols 0 to 2 write bytes
        *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
        *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
    }

    def find_class(self, module: str, name: str) -> Any:
        """Only the names above."""
        if (module, name) not in self.ALLOWED:
            raise _Refused(f"{module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)
