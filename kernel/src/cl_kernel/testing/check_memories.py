"""Checks of the replay memory of a run."""

from __future__ import annotations

from cl_kernel.testing.check_leaks import fault
from cl_kernel.testing.subject import Failed, NotApplicable, Subject, blame, check


@check
def memories_keep_within_capacity(subject: Subject) -> None:
    """No memory holds more examples or bytes than it may, at any step."""
    if not subject.streamed.ctx.memories:
        raise NotApplicable("keeps no memory in its test")
    fault(subject, "capacity")
    fault(subject, "bytes")


@check
def memories_give_back_what_they_took(subject: Subject) -> None:
    """Examples drawn from the memory have the fields they were added with, and state their bytes exactly."""
    memories = [memory for memory in subject.streamed.ctx.memories if len(memory)]
    if not memories:
        raise NotApplicable("keeps no memory in its test")
    for memory in memories:
        allocated = memory.nbytes - memory.codec.nbytes
        if allocated != memory.capacity * memory.codec.bytes_per_example():
            raise Failed(
                f"the codec states {memory.codec.bytes_per_example()} bytes an example, "
                f"{memory.capacity} slots take {allocated}"
            )
        with blame("drawing from the memory"):
            drawn = memory.take(memory.draw(min(4, len(memory))))
        if short := [name for name, array in drawn.items() if len(array) != min(4, len(memory))]:
            raise Failed(f"drawn examples have {', '.join(short)} of another length")


@check
def memories_are_filled(subject: Subject) -> None:
    """A memory that was offered more than it holds is full, or as full as its policy says it can be."""
    memories = subject.streamed.ctx.memories
    if not memories:
        raise NotApplicable("keeps no memory in its test")
    for memory in memories:
        full = getattr(memory.policy, "full", memory.capacity)
        if memory.seen >= 2 * memory.capacity and len(memory) < full:
            raise Failed(f"{memory.seen} examples were offered, but of {full} slots {len(memory)} are filled")


@check
def memories_are_replayed(subject: Subject) -> None:
    """What the memory keeps is drawn while learning."""
    ctx = subject.streamed.ctx
    kept = [memory for memory in ctx.memories if len(memory)]
    if not kept:
        raise NotApplicable("keeps no memory in its test")
    if not ctx.drawn and not getattr(ctx.learner, "replays", False):
        raise Failed(f"{sum(map(len, kept))} examples are kept and none was ever drawn")
