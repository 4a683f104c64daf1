"""Training samples found in what a learner holds on to.

Shapes: P probes, R rows of an array, D numbers of a sample.
"""

from __future__ import annotations

import functools
import types
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

N_PROBES = 64
MAX_OBJECTS = 200_000
ENOUGH = 8
"""From this many numbers on a sample is told by their sorted, stretched values: scaling and layout do not hide it."""


def find(learner: Any, stages: Sequence[Any], name: str, leave_out: Iterable[Any]) -> tuple[int, int, str]:
    """Look for samples of ``stages`` in everything reachable from a learner.

    :param name: the input field.
    :param leave_out: objects that may hold them; arrays reachable from these do not count.
    :return: how many of the probes were found, of how many, and the path to the first.
    """
    known: set[int] = set()
    for thing in leave_out:
        known |= {id(array) for _, array in arrays_in(thing, {*known, id(learner)})} | {id(thing)}
    probes = _told(_probes(stages, name))
    found, first = np.zeros(len(probes), bool), ""
    for where, array in arrays_in(learner, known):
        if array.dtype.kind not in "fiu" or not array.size or array.size % probes.shape[1]:
            continue
        hits = _hits(probes, array)
        first = first or (where if hits.any() else "")
        found |= hits
    return int(found.sum()), len(probes), first


def _probes(stages: Sequence[Any], name: str) -> np.ndarray:
    """Samples spread over the stages, [P, D]."""
    parts = []
    for samples in stages:
        rows = np.unique(np.linspace(0, len(samples) - 1, max(1, N_PROBES // len(stages))).astype(np.int64))
        parts.append(samples.take(rows, [name])[name].reshape(len(rows), -1))
    return np.concatenate(parts).astype(np.float64)


def _told(table: np.ndarray) -> np.ndarray:
    """What samples are told by: their numbers, or from :data:`ENOUGH` on sorted and stretched to 0 to 1."""
    if table.shape[1] < ENOUGH:
        return table
    ordered = np.sort(table, 1)
    low, high = ordered[:, :1], ordered[:, -1:]
    stretched: np.ndarray = (ordered - low) / np.maximum(high - low, 1e-12)
    return stretched


def _hits(probes: np.ndarray, array: np.ndarray) -> np.ndarray:
    """Which probes are among the rows that an array makes, bool [P]."""
    hits = np.zeros(len(probes), bool)
    rows = array.reshape(-1, probes.shape[1])
    for at in range(0, len(rows), 512):
        told = _told(rows[at : at + 512].astype(np.float64))
        for k, probe in enumerate(probes):
            if not hits[k]:
                near = np.abs(told[:, 0 :: max(1, len(probe) // 4)] - probe[0 :: max(1, len(probe) // 4)]).max(1) < 1e-3
                hits[k] = bool(near.any()) and bool((np.abs(told[near] - probe).max(1) < 1e-3).any())
    return hits


def arrays_in(root: Any, known: set[int]) -> Iterator[tuple[str, np.ndarray]]:
    """Arrays and tensors reachable through attributes, containers, partial functions and closures, with their path."""
    waiting, seen = deque([("learner", root)]), set(known)
    while waiting and len(seen) < MAX_OBJECTS:
        where, thing = waiting.popleft()
        if id(thing) in seen or isinstance(
            thing, (str, bytes, int, float, complex, type, types.ModuleType, type(None))
        ):
            continue
        seen.add(id(thing))
        if (array := _as_array(thing)) is not None:
            yield where, array
            if array.dtype == object:
                waiting.extend((where, item) for item in array.ravel()[:1000])
            continue
        waiting.extend(_inside(where, thing))


def _as_array(thing: Any) -> np.ndarray | None:
    if isinstance(thing, np.ndarray):
        return thing
    if all(hasattr(thing, name) for name in ("detach", "cpu", "numel")):
        try:
            return np.asarray(thing.detach().cpu().float().numpy())
        except (RuntimeError, TypeError):
            return None
    return None


def _inside(where: str, thing: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(thing, Mapping):
        yield from ((f"{where}[{key!r}]", value) for key, value in list(thing.items()))
    elif isinstance(thing, (list, tuple, set, frozenset, deque)):
        yield from ((f"{where}[{k}]", value) for k, value in enumerate(list(thing)))
    elif isinstance(thing, functools.partial):
        yield from ((where, value) for value in (thing.func, *thing.args, *thing.keywords.values()))
    elif isinstance(thing, types.MethodType):
        yield where, thing.__self__
    elif isinstance(thing, types.FunctionType):
        yield from ((where, cell.cell_contents) for cell in thing.__closure__ or () if _filled(cell))
    else:
        yield from _attributes(where, thing)


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _attributes(where: str, thing: Any) -> Iterator[tuple[str, Any]]:
    for name, value in list(getattr(thing, "__dict__", {}).items()):
        yield f"{where}.{name}", value
    for cls in type(thing).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__weakref__", "__dict__") and hasattr(thing, name):
                yield f"{where}.{name}", getattr(thing, name)
