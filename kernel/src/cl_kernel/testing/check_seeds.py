"""Checks that chance comes from the run's seed, all of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from cl_kernel.testing.subject import Failed, NotApplicable, Seen, Subject, check

FIXED = {"PCG64": "inc", "PCG64DXSM": "inc", "Philox": "key", "SFC64": "state", "MT19937": "key"}
"""Part of each generator's state that its seed decides; for the last two also how much was drawn."""


@check
def another_seed_other_results(subject: Subject) -> None:
    """Another seed gives another final state."""
    key = "state_digest" if subject.streams else "digest"
    if subject.run.results[key] == subject.other_seed.results[key]:
        raise Failed("seeds 0 and 1 end in the same state: the seed reaches nothing")


@check
def no_generator_has_a_fixed_seed(subject: Subject) -> None:
    """Generators in the learner's state, early and at the end, are others under another seed of the run."""
    early, late = _generators(subject.streamed)
    used = {where for where in late if late[where][0] != early.get(where, ("", ""))[0]}
    for mine, others in zip((early, late), _generators(subject.other_seed), strict=True):
        for where in sorted(used & mine.keys() & others.keys()):
            if mine[where][1] == others[where][1]:
                raise Failed(f"the generator {where} is the same under seeds 0 and 1: its seed is fixed")
    if not used:
        raise NotApplicable("keeps no generator in its state that it draws from")


@check
def the_order_of_samples_follows_the_seed(subject: Subject) -> None:
    """Shuffled training samples are read in another order under another seed of the run."""
    first, second = subject.streamed.ctx.watch, subject.other_seed.ctx.watch
    shuffled = [index for index, rows in first.orders.items() if _shuffled(rows)]
    if not shuffled:
        raise NotApplicable("reads its samples in the order they have")
    for index in shuffled:
        if first.orders[index] == second.orders.get(index):
            raise Failed(f"stage {index} is read in the same shuffled order under seeds 0 and 1: its seed is fixed")


def _generators(seen: Seen) -> list[dict[str, tuple[str, str]]]:
    return [dict(generators("state", tree)) for tree in (seen.ctx.early, seen.ctx.final)]


def _shuffled(rows: list[int]) -> bool:
    """Whether a hundred reads jump about; a few steps back are new epochs and streams."""
    steps = np.diff(rows)
    return len(rows) >= 20 and bool((steps < 0).mean() > 0.2)


def generators(where: str, tree: Any) -> Iterator[tuple[str, tuple[str, str]]]:
    """Path of each generator's state in a tree, the whole state, and what of it the seed decides."""
    if isinstance(tree, Mapping):
        if (name := tree.get("bit_generator")) in FIXED and isinstance(tree.get("state"), Mapping):
            yield where, (repr(tree), repr(tree["state"].get(FIXED[name])))
            return
        for key, value in tree.items():
            yield from generators(f"{where}.{key}", value)
    elif isinstance(tree, (list, tuple)):
        for k, value in enumerate(tree):
            yield from generators(f"{where}[{k}]", value)
    elif isinstance(tree, np.ndarray) and tree.dtype == np.uint8 and tree.shape in ((5056,), (16,)):
        yield where, (tree.tobytes().hex(),) * 2  # torch, on the host or on a device
