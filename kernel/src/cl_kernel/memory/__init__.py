"""Replay memories: a policy (who stays) x a codec (how it is kept) over preallocated slots."""

from cl_kernel.memory.capacity import Capacity, parse_capacity
from cl_kernel.memory.memory import Memory, build_memory
from cl_kernel.memory.raw import RawCodec
from cl_kernel.memory.slots import GroupTables, SlotGroups, without_replacement

__all__ = [
    "Capacity",
    "GroupTables",
    "Memory",
    "RawCodec",
    "SlotGroups",
    "build_memory",
    "parse_capacity",
    "without_replacement",
]
