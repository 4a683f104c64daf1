"""Bytes of everything that a method keeps beyond its network: examples, old networks, importances, prototypes.

A learner says with ``holds() -> {what: bytes}`` what it keeps beside its memories, and with ``reserve() -> bytes`` how
much that comes to in the whole run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cl_kernel.contract.errors import BadSetting
from cl_kernel.contract.interfaces import Codec
from cl_kernel.memory.capacity import Capacity, parse_capacity

WHERE = "--budget"


def budget_of(text: str) -> int:
    """Bytes of ``2MB``, ``64KiB``.

    :raises BadSetting: for a number without a unit, for ``all`` and for what is no size.
    """
    try:
        nbytes = parse_capacity(text).nbytes
    except BadSetting:
        nbytes = None
    if nbytes is None:
        raise BadSetting(f"a budget of {text!r} is no number of bytes", where=WHERE, fix="--budget 2MB")
    return nbytes


def what_is_left(room: int, reserve: int, each: int, codec: Codec, name: str) -> Capacity:
    """How many examples fit beside what a learner keeps elsewhere.

    :param room: bytes left. :param each: bytes kept elsewhere for each example.
    :raises BadSetting: when not even one fits.
    """
    one = codec.bytes_per_example() + each
    if (n := (room - codec.nbytes) // one) < 1:
        elsewhere = f", {name} keeps {reserve} bytes beside its memory" if reserve else ""
        raise BadSetting(
            f"the budget holds no example: one takes {one} bytes{elsewhere}",
            where=WHERE,
            fix=f"at least {reserve + codec.nbytes + one}B",
        )
    return Capacity(examples=n)


def held(learner: Any, memories: Sequence[Any]) -> dict[str, int]:
    """Bytes by what they are: the examples of all memories, and what the learner says."""
    examples = sum(memory.nbytes for memory in memories)
    own = learner.holds() if hasattr(learner, "holds") else {}
    return ({"examples": examples} if memories else {}) | dict(own)


def within(learner: Any, memories: Sequence[Any], budget: int, name: str) -> None:
    """Refuse a run that would pass its budget, before anything is learnt.

    :raises BadSetting: naming what it needs.
    """
    if not hasattr(learner, "holds"):
        raise BadSetting(
            f"learner {name} does not say what it keeps beside its memory, so it cannot be held to a budget",
            where=WHERE,
            fix="--memory SIZE limits its memory alone",
        )
    reserve = learner.reserve() if hasattr(learner, "reserve") else 0
    examples = sum(memory.nbytes for memory in memories)
    if (needed := reserve + examples) > budget:
        raise BadSetting(
            f"learner {name} keeps {needed} bytes beyond its network by the end, the budget is {budget}",
            where=WHERE,
            fix=f"at least {needed}B",
        )


def check(kept: dict[str, int], budget: int, stage: int) -> None:
    """After a stage: nothing has grown beyond the budget.

    :raises BadSetting: naming what has.
    """
    if budget and (total := sum(kept.values())) > budget:
        told = ", ".join(f"{what} {size}" for what, size in kept.items())
        raise BadSetting(f"{total} bytes are kept after stage {stage}, the budget is {budget} ({told})", where=WHERE)
