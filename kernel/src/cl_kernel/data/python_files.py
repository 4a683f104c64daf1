"""Callables of one's own by name: ``FILE.py:CALLABLE`` or ``package.module:CALLABLE``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cl_kernel.contract.errors import BadInput, BadSetting, MissingAsset, UnknownName


def load_callable(text: str, *, where: str) -> Callable[..., Any]:
    """What ``text`` names.

    :raises ClkError: for a file, module or callable that is not there, or cannot be loaded.
    """
    place, _, name = text.rpartition(":")
    if not place or not name:
        raise BadSetting(f"{text!r} does not read FILE.py:CALLABLE or MODULE:CALLABLE", where=where)
    module = load_module(place)
    found = getattr(module, name, None)
    if not callable(found):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UnknownName.of("callable", name, known, where=place)
    made: Callable[..., Any] = found
    return made


def load_module(place: str) -> Any:
    """A Python file by path, or a module by name.

    :raises MissingAsset: when there is neither. :raises BadInput: when it cannot be run.
    """
    if not place.endswith(".py"):
        try:
            return importlib.import_module(place)
        except ImportError as error:
            raise MissingAsset(f"no module {place!r}: {error}", where="this Python environment") from error
        except Exception as error:
            raise BadInput(f"cannot be run: {type(error).__name__}: {error}", where=place) from error
    path = Path(place).expanduser().resolve()
    if not path.is_file():
        raise MissingAsset(f"no file {path.name}", where=str(path))
    spec = importlib.util.spec_from_file_location(f"_clk_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made
    try:
        spec.loader.exec_module(made)
    except Exception as error:
        raise BadInput(f"cannot be run: {type(error).__name__}: {error}", where=str(path)) from error
    return made
