"""Replay memories: a policy (which examples are kept) x a codec (how one is kept) over preallocated slots."""

from cl_kernel.memory.capacity import Capacity, parse_capacity
from cl_kernel.memory.memory import Memory, build_memory

__all__ = ["Capacity", "Memory", "build_memory", "parse_capacity"]


def __getattr__(name: str) -> object:
    from cl_kernel.compatibility import moved_name

    return moved_name(__name__, name)
